"""The cost benchmark counts what it says it counts."""

from __future__ import annotations

import numpy as np

from tests.benchmarks.budget.streams import normal_stream
from tests.benchmarks.competitors import RunningGaussian
from tests.benchmarks.cost import Method, Ours, Theirs, clone, deep_bytes, summary


class Node:
    __slots__ = ("parent", "value")

    def __init__(self, value, parent=None):
        self.value, self.parent = value, parent


def test_memory_is_that_of_everything_that_hangs_on_an_object_once():
    array = np.zeros(1000)
    assert 8000 < deep_bytes(array) < 8200
    assert 8000 < deep_bytes({"a": array, "b": [array, array]}) < 9000
    assert 8000 < deep_bytes(array[:10]) < 8500  # what a view holds
    top = Node(array)
    assert 8000 < deep_bytes(Node(None, top)) < 8500
    assert deep_bytes(Node) == 0


def test_a_copy_goes_its_own_way():
    class Local:  # cannot be pickled
        def __init__(self):
            self.values = [1]

    for one in (Local(), RunningGaussian()):
        copied = clone(one)
        assert type(copied) is type(one)
        assert copied is not one
    copied = clone(first := Local())
    copied.values.append(2)
    assert first.values == [1]


def test_both_sides_take_the_rows_behind_their_warm_up():
    values = np.stack([normal_stream("daily", number, 3600) for number in range(5)])
    theirs = Theirs(Method(RunningGaussian, "", 1100, streams=5, rows=3), values)
    assert theirs.round() > 0.0
    assert theirs.row == 1103
    assert len({id(one) for one in theirs._detectors}) == 5
    ours = Ours(values)
    begun = ours.row
    assert ours.references == 1000
    spent = ours.round()  # asserts that every sample was decided
    assert spent > 0.0
    assert ours.row == begun + ours.rows
    made = summary({"Redshank": [spent], "other": [2 * spent]}, {"Redshank": ("", 2048), "other": ("", 1024)})
    assert "| 2.00 | 1 KiB |" in made
