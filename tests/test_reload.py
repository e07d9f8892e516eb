from __future__ import annotations

import threading

import pytest

from agent.adapters.telemetry import Telemetry
from agent.config import load_configuration
from agent.errors import BundleError, ConfigurationError, Problem
from agent.reconfiguration import EntryChange, Fate
from agent.reload import MAX_PROBLEMS, Prepared, Reloader, ReloadOutcome, fixed_problems
from tests.brokers import wait_until


class Source:
    """What `prepare` finds, and how often it was asked; it waits where it is told to."""

    def __init__(self):
        self.found = Prepared(None, {}, {})
        self.asked = 0
        self.may_go = threading.Event()
        self.may_go.set()

    def __call__(self):
        self.asked += 1
        self.may_go.wait(10)
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@pytest.fixture
def source():
    return Source()


@pytest.fixture
def telemetry():
    return Telemetry(1, 256_000_000)


@pytest.fixture
def woken():
    return threading.Event()


@pytest.fixture
def reloader(source, telemetry, woken):
    return Reloader(source, woken.set, telemetry)


def counted(telemetry, outcome):
    return telemetry.registry.get_sample_value("redshank_configuration_reloads_total", {"outcome": outcome})


def reload(reloader):
    done = reloader.done
    reloader.asked = True
    reloader.look()
    wait_until(lambda: reloader.done > done)


def test_nothing_is_read_unless_asked_for(reloader, source):
    reloader.look()
    assert (source.asked, reloader.reloading, reloader.take()) == (0, False, None)


def test_what_is_prepared_waits_for_the_worker_and_counts_when_it_is_applied(reloader, source, telemetry, woken):
    reloader.asked = True
    reloader.look()
    assert woken.wait(10)
    assert reloader.reloading
    assert reloader.take() is source.found
    assert reloader.take() is None
    before = reloader.loaded_at
    reloader.apply([EntryChange("pump", Fate.CHANGED, 1)], reconnects=True)
    assert (reloader.generation, reloader.done, reloader.reloading) == (2, 1, False)
    assert reloader.last.streams == [EntryChange("pump", Fate.CHANGED, 1)]
    assert reloader.loaded_at > before
    assert counted(telemetry, "applied") == 1.0
    loaded = telemetry.registry.get_sample_value("redshank_configuration_loaded_timestamp_seconds")
    assert loaded == reloader.loaded_at


@pytest.mark.parametrize(
    "error", [ConfigurationError([Problem("f:1 a", "b", "c")]), BundleError("no such bundle"), ZeroDivisionError("oh")]
)
def test_what_cannot_be_applied_is_logged_counted_and_over(reloader, source, telemetry, caplog, error):
    source.found = error
    reload(reloader)
    assert reloader.last.outcome is ReloadOutcome.REFUSED
    assert reloader.last.problems == [str(error)]
    assert f"the configuration is kept as it was: {error}" in caplog.text
    assert (reloader.generation, counted(telemetry, "refused")) == (1, 1.0)
    assert telemetry.registry.get_sample_value("redshank_configuration_last_reload_successful") == 0.0
    source.found = Prepared(None, {}, {})
    reloader.asked = True
    reloader.look()
    wait_until(lambda: reloader.take() is not None)
    reloader.apply([], reconnects=False)
    assert telemetry.registry.get_sample_value("redshank_configuration_last_reload_successful") == 1.0


def test_thousands_of_problems_are_not_all_told(reloader, source):
    source.found = ConfigurationError([Problem(f"f:{line}", "b", "c") for line in range(1000)])
    reload(reloader)
    assert len(reloader.last.problems) == MAX_PROBLEMS + 1
    assert reloader.last.problems[-1] == "and 900 more"


def test_what_is_asked_for_meanwhile_is_done_next_and_once(reloader, source):
    source.found = BundleError("no")
    source.may_go.clear()
    reloader.asked = True
    for _ in range(3):
        reloader.look()
        reloader.asked = True
    wait_until(lambda: source.asked == 1)
    source.may_go.set()
    wait_until(lambda: reloader.done == 1)
    reloader.look()
    wait_until(lambda: reloader.done == 2)
    reloader.look()
    assert (source.asked, reloader.reloading) == (2, False)


def test_what_only_a_restart_changes_is_named(tmp_path):
    def read(text):
        path = tmp_path / "redshank.yaml"
        path.write_text(text + "\nstreams: [{name: a, topic: a, encoder: none}]")
        return load_configuration(path)

    old = read("agent: {id: pi, max_streams: 5}")
    assert fixed_problems("f", old, read("agent: {id: pi, max_streams: 6}\ncommands: {enabled: true}")) == []
    new = read(
        "agent: {id: pc, state_dir: /s, topic_prefix: x}\nmetrics: {listen: '127.0.0.1:1', credentials_file: /c}"
    )
    found = list(map(str, fixed_problems("f", old, new)))
    assert [one.split(":")[0] for one in found] == [
        "f agent.id", "f agent.state_dir", "f agent.topic_prefix", "f metrics.listen",
        "f metrics.credentials_file",
    ]  # fmt: skip
    assert found[0] == "f agent.id: expected 'pi' as at the start, found 'pc'; restart the agent to change it"
