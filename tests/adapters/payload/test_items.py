from __future__ import annotations

import cbor2
import msgspec
from hypothesis import given
from hypothesis import strategies as st

from agent.adapters.payload.items import cbor_items, msgpack_items

TREE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=300)
    | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=40) | st.dictionaries(st.text(max_size=40), inner, max_size=20),
    max_leaves=30,
)


def items(tree):
    if isinstance(tree, dict):
        return 1 + sum(1 + items(one) for one in tree.values())
    return 1 + sum(map(items, tree)) if isinstance(tree, list) else 1


@given(tree=TREE)
def test_items_are_counted_as_they_are_written(tree):
    assert msgpack_items(msgspec.msgpack.encode(tree), 10**9) == items(tree)
    assert cbor_items(cbor2.dumps(tree), 10**9) == items(tree)


@given(data=st.binary(max_size=300), most=st.integers(0, 50))
def test_whatever_the_bytes_no_more_than_asked_for_are_counted(data, most):
    for count in (msgpack_items, cbor_items):
        assert 0 <= count(data, most) <= min(len(data), most + 1)


def test_extensions_and_long_ones_are_items_too():
    long = [bytes(70_000), "x" * 70_000, msgspec.msgpack.Ext(5, bytes(300)), msgspec.msgpack.Ext(5, bytes(8))]
    assert msgpack_items(msgspec.msgpack.encode(long), 100) == 5
    assert cbor_items(bytes.fromhex("9f5f4101ffc101ff"), 100) == 7  # of indefinite length, and tagged
