"""What is allowed but probably not meant: the warnings of `redshank check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.adapters.http import is_loopback
from agent.adapters.mqtt.broker import UNVERIFIED, CertificateCheck, endpoint
from agent.adapters.payload import Format
from agent.config import ImageSettings, SensorSettings
from agent.core.budget import share
from agent.core.calibration import beyond_support
from agent.core.pace import ABOUT, BUSY_PER_S, Steps, pace
from agent.credentials import check_secret_file
from agent.errors import ConfigurationError

if TYPE_CHECKING:
    from agent.config import Configuration

_ABOUT_ALL: Final = 1.001  # times the agent's budget: rounding is no doubt


def warnings(configuration: Configuration) -> list[str]:
    """Return one sentence for each doubt."""
    found = [
        f"stream {stream.name}: of a shared subscription this agent gets a part of each stream's messages, unless the "
        "broker shares by topic; each agent learns from its part alone"
        for stream in configuration.streams
        if stream.topic.startswith("$share/")
    ]
    whole = configuration.agent.false_alarms
    stated_per_s = 0.0
    for stream in configuration.streams:
        if isinstance(stream, ImageSettings):
            interval_s = stream.every_s or 1.0
        else:
            interval_s = _stride(stream) * (_period_s(stream) or 1.0)
            if interval_s * BUSY_PER_S * ABOUT < 1.0:
                found.append(
                    f"stream {stream.name}: decides {1.0 / interval_s:,.0f} times a second for each topic, and each "
                    f"decision costs a small device a few milliseconds; {_remedy(stream)}"
                )
        budget = stream.alert.budget_for(stream.mode)
        if stream.alert.false_alarms is not None:
            stated_per_s += budget.rate_per_s(interval_s)
        elif whole is not None:
            budget = share(whole, len(configuration.streams))
        if beyond_support(budget.rate_per_decision(interval_s)):
            found.append(
                f"stream {stream.name}: {budget.text} with a decision every {interval_s:g} s is rarer "
                "than its past scores can support; raise stride, or allow more"
            )
    if whole is not None:
        times = stated_per_s / whole.rate_per_s(1.0)
        if times > _ABOUT_ALL:
            found.append(
                f"agent.false_alarms {whole.text}: the streams' own budgets allow {times:.3g} times as many; "
                "lower them, or raise it"
            )
    metrics = configuration.metrics
    if metrics.cert_file is None and not is_loopback(metrics.address[0]):
        found.append(f"metrics.listen {metrics.listen}: passwords and tokens come in clear text; set cert_file for TLS")
    broker = configuration.broker
    if broker.verify_certificate is CertificateCheck.NEVER:
        found.append(UNVERIFIED)
    address = endpoint(broker.url)
    if not address.tls and not is_loopback(address.host) and broker.username is not None:
        found.append(f"broker.url {broker.url}: the password goes over the network in clear text; use TLS")
    if broker.password_file is not None and not Path(broker.password_file).is_file():
        found.append(f"broker.password_file {broker.password_file}: no such file yet")
    return found


def _period_s(stream: SensorSettings) -> float | None:
    """Return the time between two readings, None where it is not configured."""
    if stream.format is Format.RAW and stream.period_s is None and stream.raw.sample_rate is not None:
        return 1.0 / stream.raw.sample_rate
    return stream.period_s


def _stride(stream: SensorSettings) -> int:
    """Return the grid steps between decisions; where they hang on a rate that is not known, those of a slow stream."""
    if stream.stride is not Steps.AUTO:
        return stream.stride
    period_s = _period_s(stream)
    return 1 if period_s is None else pace(period_s)


def _remedy(stream: SensorSettings) -> str:
    if stream.stride is not Steps.AUTO:
        return "raise stride, or leave it out"
    return f"if that is too much for yours, set stride to more than the {_stride(stream)} that auto comes to"


def strides(configuration: Configuration) -> list[str]:
    """Return a line for each stream that decides less often than at each reading, because of its known rate."""
    lines = []
    for stream in configuration.streams:
        if isinstance(stream, SensorSettings) and stream.stride is Steps.AUTO and _stride(stream) > 1:
            steps, rate = _stride(stream), 1.0 / (_period_s(stream) or 1.0)
            lines.append(
                f"stream {stream.name}: stride comes to {steps} of {rate:,.6g} readings a second: "
                f"{rate / steps:.3g} decisions a second"
            )
    return lines


def check_secret_files(configuration: Configuration) -> None:
    """Raise ConfigurationError if others can read or change a file that holds a secret."""
    broker, metrics = configuration.broker, configuration.metrics
    files = {
        "broker.password_file": broker.password_file,
        "broker.key_file": broker.key_file or broker.cert_file,
        "metrics.credentials_file": metrics.credentials_file,
        "metrics.key_file": metrics.key_file or metrics.cert_file,
    }
    problems = []
    for where, path in files.items():
        try:
            if path is not None:
                check_secret_file(path, where)
        except ConfigurationError as error:
            problems += error.problems
    if problems:
        raise ConfigurationError(problems)
