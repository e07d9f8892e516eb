"""Fixtures for every test, and what the end of a run says about tests that were skipped."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

# Before numpy is loaded, as agent/cli.py does: on busy cores threads of small matrices only wait for one another.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
from hypothesis import settings
from jsonschema import Draft202012Validator, FormatChecker

from agent.app import with_defaults
from agent.config import load_configuration
from tests.brokers import INSTALL_MOSQUITTO, MOSQUITTO, Authority, Mosquitto

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.config import Configuration

FAIL_ON_SKIP = "REDSHANK_FAIL_ON_SKIP"

# A shell without job control starts what runs in the background with it ignored; what tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("redshank", deadline=None)  # how long a busy machine takes says nothing about a law
settings.load_profile("redshank")


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Configuration]:
    """Return a function that reads a configuration of these streams, and more for its agent."""

    def read(streams: str, agent: str = "") -> Configuration:
        path = tmp_path / "redshank.yaml"
        path.write_text(f"agent: {{id: pi{agent}}}\nstreams:{streams}")
        return with_defaults(load_configuration(path))

    return read


@pytest.fixture
def make_mosquitto(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    """Return a function that makes brokers of our own; it takes Mosquitto's options, and starts them."""
    if MOSQUITTO is None:
        pytest.skip(f"Mosquitto is not installed: {INSTALL_MOSQUITTO}")
    brokers: list[Mosquitto] = []

    def make(**options: object) -> Mosquitto:
        broker = Mosquitto(tmp_path / f"broker{len(brokers)}", **options)  # type: ignore[arg-type]
        brokers.append(broker)
        broker.start()
        return broker

    yield make
    for broker in brokers:
        broker.kill()


@pytest.fixture
def mosquitto(make_mosquitto: Callable[..., Mosquitto]) -> Mosquitto:
    """Return a broker that lets anyone in and keeps nothing over a restart."""
    return make_mosquitto()


@pytest.fixture(scope="session")
def schema() -> Draft202012Validator:
    """Return the schema of alert messages."""
    content = json.loads((Path(__file__).parents[1] / "docs" / "schemas" / "alert-v1.json").read_text())
    Draft202012Validator.check_schema(content)
    return Draft202012Validator(content, format_checker=FormatChecker())


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Return a test CA."""
    return Authority(tmp_path_factory.mktemp("authority"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what was skipped, and the command that would have helped."""
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        return
    terminalreporter.section("not tested")
    for name in sorted({report.nodeid for report in skipped}):
        terminalreporter.line(name)
    if any(INSTALL_MOSQUITTO in str(report.longrepr) for report in skipped):
        terminalreporter.line(f"These tests need a real MQTT broker. Install one with: {INSTALL_MOSQUITTO}")
    if os.environ.get(FAIL_ON_SKIP):
        terminalreporter.line(f"{FAIL_ON_SKIP} is set: skipped tests fail this run", red=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if something was skipped and FAIL_ON_SKIP is set, as it is in CI."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter is not None and bool(reporter.stats.get("skipped"))
    if skipped and os.environ.get(FAIL_ON_SKIP) and session.exitstatus in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
