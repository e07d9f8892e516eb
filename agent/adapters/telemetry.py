"""Every metric, in a registry of our own. docs/metrics.md lists them; a test compares."""

from __future__ import annotations

import logging
from importlib.metadata import version
from time import monotonic, perf_counter, time
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.core.alerting import AlertTransition
    from agent.core.types import F32, Assessment
    from agent.ports import Encoder, PictureEncoder, Scored

logger = logging.getLogger(__name__)

_SAME_S: Final = 60.0
_STEPPED_S: Final = 5e-5  # less means that a batch had been stepped already
_MAX_COMPLAINTS: Final = 1000
_FAST: Final = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)


class Telemetry:
    """Counts for Prometheus; fulfils agent.ports.Observer."""

    def __init__(self, streams_max: int) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"redshank_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"redshank_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"redshank_{name}", text, buckets=_FAST, registry=registry)

        self.messages_received = counter("messages_received_total", "Messages taken from the broker")
        self.messages_rejected = counter("messages_rejected_total", "Messages or samples dropped", ("reason",))
        self.queue_length = gauge("queue_length", "Messages waiting to be processed")
        self.frames_dropped = counter(
            "frames_dropped_total", "Pictures not looked at: they came too soon, or a newer one came"
        )
        self.queue_dropped = counter("queue_dropped_total", "QoS 0 messages dropped because the queue was full")
        self.windows_encoded = counter("windows_encoded_total", "Decisions made", ("stream",))
        self.encode_seconds = histogram("encode_seconds", "Time of one call of the encoder")
        self.score_seconds = histogram("score_seconds", "Time to score and learn, of a batch")
        self.end_to_end_seconds = histogram("end_to_end_seconds", "Arrival of a message to its decision")
        self.score = gauge("score", "Latest score, -log10 of a p-value", ("stream",))
        self.p_value = gauge("p_value", "Latest p-value", ("stream",))
        self.reference_size = gauge("reference_size", "Windows in the reference", ("stream",))
        self.stream_phase = gauge("stream_phase", "1 for the phase the stream is in", ("stream", "phase"))
        self.alerts = counter("alerts_total", "Alerts raised", ("stream", "severity"))
        self.alert_firing = gauge("alert_firing", "1 while an alert fires", ("stream",))
        self.budget_rate = gauge(
            "false_alarm_budget_rate", "Alerts for each decision that the budget allows", ("stream",)
        )
        self.budget_promised = gauge("false_alarms_promised", "Alerts that the budget allowed so far", ("stream",))
        self.budget_observed = gauge("false_alarms_observed", "Unconfirmed anomaly alerts so far", ("stream",))
        self.budget_ratio = gauge("false_alarm_budget_ratio", "Alerts so far over alerts promised", ("stream",))
        self.commands = counter("commands_total", "Operators' commands", ("command", "outcome"))
        self.reloads = counter(
            "configuration_reloads_total", "Reloads of the configuration that were asked for", ("outcome",)
        )
        for outcome in ("applied", "refused"):
            self.reloads.labels(outcome)
        self.reload_successful = gauge(
            "configuration_last_reload_successful", "0 while the file that was last read is not the one in force"
        )
        self.reload_successful.set(1)
        self.configuration_loaded = gauge(
            "configuration_loaded_timestamp_seconds", "When the configuration in force was read"
        )
        self.configuration_loaded.set(time())
        self.broker_deaf = counter("broker_deaf_total", "Connections given up because the broker did not answer")
        self.broker_connected = gauge("broker_connected", "1 while the broker has accepted us")
        self.reconnects = counter("reconnects_total", "Connections made after the first")
        self.outbox_length = gauge("outbox_length", "Alert messages that the broker has yet to take")
        self.outbox_dropped = counter("outbox_dropped_total", "Alert messages dropped because the outbox was full")
        self.snapshot_seconds = histogram("snapshot_seconds", "Time to write the snapshots of all streams")
        self.snapshot_age = gauge("snapshot_age_seconds", "Time since the last snapshot")
        self.state_bytes = counter("state_bytes_written_total", "Bytes written to the state directory")
        self.streams = gauge("streams", "Streams being watched")
        self.streams_max = gauge("streams_max", "Cap on the number of streams")
        self.streams_max.set(streams_max)
        info = gauge("build_info", "1, labelled with the version", ("version",))
        info.labels(version("redshank")).set(1)
        self._complaints: dict[tuple[str, str], float] = {}

    def rejected(self, topic: str, reason: str) -> None:
        """Count a dropped payload or sample; log it at most once a minute per reason and topic."""
        self.messages_rejected.labels(reason).inc()
        now = monotonic()
        if now - self._complaints.get((topic, reason), -_SAME_S) >= _SAME_S:
            if len(self._complaints) >= _MAX_COMPLAINTS:
                self._complaints.clear()
            self._complaints[topic, reason] = now
            logger.warning("dropped a message on %s: %s", topic, reason)

    def timed_encode(self, encoder: Encoder, windows: F32) -> F32:
        """Call the encoder and measure how long it takes."""
        begun = perf_counter()
        embedded = encoder.encode(windows)
        self.encode_seconds.observe(perf_counter() - begun)
        return embedded

    def timed_run(self, encoder: PictureEncoder, pictures: F32) -> list[F32]:
        """Call an encoder of pictures and measure how long it takes."""
        begun = perf_counter()
        outputs = encoder.run(pictures)
        self.encode_seconds.observe(perf_counter() - begun)
        return outputs

    def dropped(self) -> None:
        """Count a picture that was not looked at."""
        self.frames_dropped.inc()

    def timed_step(self, step: Iterator[Assessment]) -> Assessment:
        """Take the next assessment; the first of a batch takes the time of all, and is measured."""
        begun = perf_counter()
        assessment = next(step)
        took = perf_counter() - begun
        if took > _STEPPED_S:
            self.score_seconds.observe(took)
        return assessment

    def decided(self, stream: str, assessment: Scored, received_at: float) -> None:
        """Note a decision."""
        self.windows_encoded.labels(stream).inc()
        self.score.labels(stream).set(assessment.score)
        if assessment.p_value is not None:
            self.p_value.labels(stream).set(assessment.p_value)
        self.end_to_end_seconds.observe(max(0.0, time() - received_at))

    def transitioned(self, stream: str, transition: AlertTransition, severity: str, *, firing: bool) -> None:
        """Note an alert's transition."""
        raised = transition.event.value == "raised"
        if raised:
            self.alerts.labels(stream, severity).inc()
        self.alert_firing.labels(stream).set(float(firing))
        logger.warning("%s: alert %s %s (%s)", stream, transition.id, transition.event.value, transition.kind.value)

    def forget(self, stream: str) -> None:
        """Tell nothing more of a stream that is no longer watched."""
        for one in (
            self.windows_encoded,
            self.score,
            self.p_value,
            self.reference_size,
            self.stream_phase,
            self.alerts,
            self.alert_firing,
            self.budget_rate,
            self.budget_promised,
            self.budget_observed,
            self.budget_ratio,
        ):
            one.remove_by_labels({"stream": stream})

    def commanded(self, command: str, outcome: str) -> None:
        """Count an operator's command."""
        self.commands.labels(command, outcome).inc()
        logger.info("command %s: %s", command, outcome)


class SilentObserver:
    """Counts nothing: a replay."""

    def rejected(self, topic: str, reason: str) -> None:
        """Ignore it."""

    def timed_encode(self, encoder: Encoder, windows: F32) -> F32:
        """Call the encoder."""
        return encoder.encode(windows)

    def timed_run(self, encoder: PictureEncoder, pictures: F32) -> list[F32]:
        """Call the encoder."""
        return encoder.run(pictures)

    def dropped(self) -> None:
        """Ignore it."""

    def timed_step(self, step: Iterator[Assessment]) -> Assessment:
        """Take the next assessment."""
        return next(step)

    def decided(self, stream: str, assessment: Scored, received_at: float) -> None:
        """Ignore it."""

    def transitioned(self, stream: str, transition: AlertTransition, severity: str, *, firing: bool) -> None:
        """Ignore it."""

    def commanded(self, command: str, outcome: str) -> None:
        """Ignore it."""
