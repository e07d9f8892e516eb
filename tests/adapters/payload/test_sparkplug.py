from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.adapters.payload import PayloadRejected, RejectReason
from agent.adapters.payload import sparkplug as module
from agent.adapters.payload.sparkplug import MessageType, SparkplugNodes, address, may_be_watched
from tests.sparkplug import BOOLEAN, DATE_TIME, DOUBLE, FLOAT, INT8, INT32, INT64, STRING, UINT16, EdgeNode, metric

NOW = 1_700_000_000.0


class Heard:
    """What the agent makes of a node's messages."""

    def __init__(self, *, sees_all=True, max_nodes=10):
        self.nodes = SparkplugNodes(lambda _: sees_all, max_nodes)

    def __call__(self, message, at=NOW):
        topic, content = message
        self.last = self.nodes.read(topic, content, at, 1_000_000)
        return self.last.readings

    def reason(self, message):
        with pytest.raises(PayloadRejected) as caught:
            self(message)
        return caught.value.reason


PUMP = [
    metric("temp", 20.5, FLOAT, alias=1),
    metric("count", -7, INT32, alias=2),
    metric("running", 1, BOOLEAN, alias=3),
    metric("since", 1_600_000_000_000, DATE_TIME, alias=4),
    metric("name", "pump", STRING, alias=5),
    metric("broken", None, DOUBLE, alias=6),
]


@pytest.fixture
def node():
    return EdgeNode()


@pytest.fixture
def heard(node):
    made = Heard()
    with pytest.raises(PayloadRejected):  # its own metrics are controls
        made(node.birth(NOW))
    (born,) = made(node.message("DBIRTH", NOW, PUMP, "pump"))
    assert (born.at, born.values, born.gone, born.is_birth) == (
        NOW,
        {"temp": 20.5, "count": -7, "running": 1},
        ("broken",),
        True,
    )
    return made


def data(node, *metrics, at=NOW + 1, device="pump"):
    return node.message("DDATA", at, metrics, device)


def test_data_is_named_by_the_aliases_of_the_birth(heard, node):
    (found,) = heard(
        data(node, metric(alias=2, value=-9, datatype=INT32, sends_type=False), metric(alias=1, value=None))
    )
    assert (found.at, found.values, found.gone, found.is_birth) == (NOW + 1, {"count": -9.0}, ("temp",), False)
    assert not heard.last.is_behind_gap


@pytest.mark.parametrize(
    ("datatype", "value"),
    [(INT8, -5), (INT32, -(2**31)), (INT64, -3), (INT64, 2**62), (UINT16, 65535), (BOOLEAN, False), (FLOAT, 0.5)],
)
def test_every_kind_of_number(heard, node, datatype, value):
    (found,) = heard(data(node, metric("x", value, datatype)))
    assert found.values == {"x": float(value)}


def test_what_the_node_does_not_trust_is_missing(heard, node):
    (found,) = heard(data(node, metric("temp", 1.0, quality=0), metric("flow", 2.0, quality=192)))
    assert (found.values, found.gone) == ({"flow": 2.0}, ("temp",))


def test_a_buffer_that_is_sent_at_once_becomes_several_readings(heard, node):
    buffered = [metric(alias=1, value=float(i), datatype=FLOAT, timestamp=round((NOW + i) * 1000)) for i in (2, 0, 1)]
    found = heard(data(node, *buffered, at=NOW + 3), NOW + 3)
    assert [(one.at, one.values["temp"]) for one in found] == [(NOW, 0.0), (NOW + 1, 1.0), (NOW + 2, 2.0)]


def test_history_is_not_the_present(heard, node):
    old = metric("temp", 1.0, is_historical=True)
    assert heard.reason(data(node, old)) is RejectReason.LATE
    (found,) = heard(data(node, old, metric("flow", 2.0)))
    assert found.values == {"flow": 2.0}


def test_names_that_were_never_born(heard, node):
    assert heard.reason(data(node, metric(alias=9, value=1.0))) is RejectReason.NO_BIRTH
    assert heard.reason(data(node, metric(alias=1, value=1.0), device="fan")) is RejectReason.NO_BIRTH
    assert heard.reason(data(node, metric("x", 3, INT32, sends_type=False))) is RejectReason.NO_BIRTH
    assert heard.reason(data(node, metric(value=1.0))) is RejectReason.NO_BIRTH
    assert heard.reason(data(node, metric(alias=5, value="x", datatype=STRING))) is RejectReason.NO_VALUES
    (found,) = heard(data(node, metric("own name", 1.0), device="fan"))
    assert found.values == {"own name": 1.0}


def test_a_gap_in_the_sequence_is_told_once_and_the_data_behind_it_counts(heard, node):
    node.seq += 3
    assert heard(data(node, metric(alias=1, value=2.0, datatype=FLOAT)))[0].values == {"temp": 2.0}
    assert heard.last.is_behind_gap
    message = data(node, metric(alias=1, value=3.0, datatype=FLOAT))
    heard(message)
    assert not heard.last.is_behind_gap
    assert heard.reason(message) is RejectReason.DUPLICATE


def test_sequence_numbers_begin_again_behind_255(heard, node):
    for _ in range(300):
        heard(data(node, metric(alias=1, value=2.0, datatype=FLOAT)))
        assert not heard.last.is_behind_gap


def test_where_not_all_of_a_node_is_watched_no_gap_is_told(node):
    heard = Heard(sees_all=False)
    node.birth(NOW)
    heard(node.message("DBIRTH", NOW, PUMP, "pump"))
    node.seq += 1
    heard(data(node, metric(alias=1, value=2.0, datatype=FLOAT)))
    assert not heard.last.is_behind_gap


def test_deaths(heard, node):
    assert heard.reason(node.message("DDEATH", NOW, [], "pump")) is RejectReason.DEATH
    assert heard.reason(data(node, metric(alias=1, value=1.0))) is RejectReason.NO_BIRTH
    heard(node.message("DBIRTH", NOW, PUMP, "pump"))
    assert heard.reason(node.death(session=7)) is RejectReason.LATE  # of an earlier session
    heard(data(node, metric(alias=1, value=1.0)))
    assert heard.reason(node.death()) is RejectReason.DEATH
    assert heard.nodes.changed == {"plant/line1": None}
    assert heard.reason(data(node, metric(alias=1, value=1.0))) is RejectReason.NO_BIRTH
    assert heard.reason(node.death()) is RejectReason.DEATH
    assert heard.reason(node.message("DDEATH", NOW, [], "pump")) is RejectReason.DEATH


def test_with_a_node_s_birth_its_devices_are_to_be_born_again(heard, node):
    (found,) = heard(node.birth(NOW, [metric("load", 0.5)]))
    assert found.values == {"load": 0.5}
    assert heard.reason(data(node, metric(alias=1, value=1.0))) is RejectReason.NO_BIRTH


def test_a_restart_needs_no_births(heard, node):
    again = Heard()
    again.nodes.restore([*heard.nodes.changed.items(), ("plant/other", b"damaged")])
    assert again(data(node, metric(alias=1, value=2.0, datatype=FLOAT)))[0].values == {"temp": 2.0}
    node.seq += 1
    again(data(node, metric(alias=1, value=2.0, datatype=FLOAT)))
    assert again.last.is_behind_gap
    assert again.reason(node.death()) is RejectReason.DEATH


def test_times(heard, node):
    warm = metric(alias=1, value=2.0, datatype=FLOAT)
    assert heard(data(node, warm, at=None))[0].at == NOW
    assert heard.reason(data(node, warm, at=NOW + 4000)) is RejectReason.FUTURE
    fan = [metric("speed", 1.0, alias=1)]
    assert heard.reason(node.message("DBIRTH", NOW + 4000, fan, "fan")) is RejectReason.FUTURE
    assert heard(data(node, warm, device="fan"))[0].values == {"speed": 2.0}  # the birth counts nonetheless


def test_births_are_bounded(monkeypatch, heard, node):
    monkeypatch.setattr(module, "MAX_KNOWN", 10)
    many = [metric(f"m{index}", 1.0) for index in range(8)]
    assert heard.reason(node.message("DBIRTH", NOW, many, "fan")) is RejectReason.TOO_MANY_ELEMENTS
    few = Heard(max_nodes=1)
    few(EdgeNode(name="a").birth(NOW, [metric("x", 1.0)]))
    assert few.reason(EdgeNode(name="b").birth(NOW, [metric("x", 1.0)])) is RejectReason.TOO_MANY_STREAMS
    few(EdgeNode(name="a").birth(NOW, [metric("x", 1.0)]))


def test_too_large_messages(node):
    topic, content = node.birth(NOW)
    with pytest.raises(PayloadRejected, match="too_large"):
        SparkplugNodes(lambda _: True, 1).read(topic, content, NOW, len(content) - 1)


@pytest.mark.parametrize(
    ("topic", "known"),
    [
        ("spBv1.0/g/NDATA/n", True),
        ("spBv1.0/g/DDATA/n/d", True),
        ("spBv1.0/g/DDATA/n", False),
        ("spBv1.0/g/NDATA/n/d", False),
        ("spBv1.0/g/NCMD/n", False),
        ("spBv1.0/g/DCMD/n/d", False),
        ("spBv1.0/STATE/scada", False),
        ("spBv1.0/g/DDATA/n/d/e", False),
        ("spAv1.0/g/NDATA/n", False),
        ("", False),
    ],
)
def test_whom_a_topic_is_about(topic, known):
    assert (address(topic) is not None) is known


@pytest.mark.parametrize(
    ("pattern", "good"),
    [
        ("spBv1.0/#", True),
        ("spBv1.0/g/#", True),
        ("spBv1.0/g/+/n/#", True),
        ("spBv1.0/g/+/n/d", True),
        ("spBv1.0/g/DDATA/n/d", False),
        ("spBv1.0/g", False),
        ("#", False),
        ("plant/#", False),
    ],
)
def test_births_and_data_have_to_come_together(pattern, good):
    assert may_be_watched(pattern) is good


@settings(max_examples=100)
@given(messages=st.lists(st.tuples(st.sampled_from(MessageType), st.binary(max_size=60)), max_size=5))
def test_nothing_that_arrives_raises_anything_but_a_rejection(messages):
    node = EdgeNode()
    heard = Heard()
    for kind, content in messages:
        try:
            found = heard((node.topic(kind, "d" if kind[0] == "D" else None), content))
        except PayloadRejected:
            continue
        for one in found:
            assert all(abs(value) < float("inf") for value in one.values.values())
