"""Every metric, in a registry of our own. docs/metrics.md lists them; a test compares."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from importlib.metadata import version
from time import monotonic, perf_counter, time
from typing import TYPE_CHECKING, Final

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from agent.core.alerting import AlertEvent
from agent.core.types import StreamPhase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client import Metric
    from prometheus_client.metrics import MetricWrapperBase

    from agent.core.alerting import AlertTransition
    from agent.core.types import F32, U8, Assessment
    from agent.ports import Encoder, PictureEncoder, Scored, Watched

logger = logging.getLogger(__name__)

_SAME_S: Final = 60.0
_SHOWN: Final = 200  # characters of a topic in a log
_CONTROL: Final = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")
_STEPPED_S: Final = 5e-5  # less means that a batch had been stepped already
_SET_S: Final = 86400.0
_MAX_COMPLAINTS: Final = 1000
_FAST: Final = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)


disable_created_metrics()  # type: ignore[no-untyped-call]  # one more series for each counter, which nobody asks for


class Tally(msgspec.Struct):
    """What happened in a stream since the start."""

    decisions: int = 0
    alerts: int = 0
    score: float | None = None
    p_value: float | None = None


def printable(topic: str) -> str:
    """Return a topic as it may stand in a log: on one line, and not too long."""
    shown = topic if len(topic) <= _SHOWN else f"{topic[:_SHOWN]}..."
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", shown)


class StreamFigures(Collector):
    """The figures of every stream, read when Prometheus asks: of thousands of streams most have not changed."""

    def __init__(self) -> None:
        self.streams: Callable[[], Iterable[Watched]] = list
        self.tallies: defaultdict[str, Tally] = defaultdict(Tally)

    def collect(self) -> Iterable[Metric]:
        """Return every family, also while there are no streams."""

        def counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
            return CounterMetricFamily(f"redshank_{name}", text, labels=["stream", *labels])

        def gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"redshank_{name}", text, labels=["stream", *labels])

        families = (
            decisions := counter("windows_encoded_total", "Decisions made"),
            score := gauge("score", "Latest score, -log10 of a p-value"),
            p_value := gauge("p_value", "Latest p-value"),
            threshold := gauge("score_threshold", "Score from which a decision counts as odd"),
            size := gauge("reference_size", "Windows in the reference"),
            phases := gauge("stream_phase", "1 for the phase the stream is in", "phase"),
            alerts := counter("alerts_total", "Alerts raised", "severity"),
            firing := gauge("alert_firing", "1 while an alert fires"),
            rate := gauge("false_alarm_budget_rate", "Alerts for each decision that the budget allows"),
            promised := gauge("false_alarms_promised", "Alerts that the budget allowed so far"),
            observed := gauge("false_alarms_observed", "Unconfirmed anomaly alerts so far"),
            ratio := gauge("false_alarm_budget_ratio", "Alerts so far over alerts promised"),
        )
        for stream in self.streams():
            name, budget, phase = [stream.name], stream.budget, stream.phase
            tally = self.tallies.get(stream.name) or Tally()
            decisions.add_metric(name, tally.decisions)
            if tally.score is not None:
                score.add_metric(name, tally.score)
                threshold.add_metric(name, budget.threshold)
            if tally.p_value is not None:
                p_value.add_metric(name, tally.p_value)
            size.add_metric(name, stream.reference_fill)
            for one in StreamPhase:
                phases.add_metric([stream.name, one.value], float(phase is one))
            alerts.add_metric([stream.name, stream.severity.value], tally.alerts)
            firing.add_metric(name, float(stream.firing))
            rate.add_metric(name, budget.rate)
            promised.add_metric(name, budget.promised)
            observed.add_metric(name, budget.events)
            ratio.add_metric(name, budget.ratio)
        return families


class Telemetry:
    """Counts for Prometheus; fulfils agent.ports.Observer. Of the closed set of reasons each is told from the start."""

    def __init__(self, streams_max: int, memory_limit_bytes: int, reasons: Iterable[str] = ()) -> None:
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
        self.encode_seconds = histogram("encode_seconds", "Time of one call of the encoder")
        self.score_seconds = histogram("score_seconds", "Time to score and learn, of a batch")
        self.end_to_end_seconds = histogram("end_to_end_seconds", "Arrival of a message to its decision")
        self.bundles_refused = counter(
            "bundles_refused_total", "Encoder bundles refused, at a reload or when they were replaced"
        )
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
        self.trouble = gauge("trouble", "1 while there is this trouble around the agent", ("trouble",))
        self.broker_deaf = counter("broker_deaf_total", "Connections given up because the broker did not answer")
        self.broker_hearing = gauge(
            "broker_hearing", "1 for what is known of whether the broker delivers, by our own echo", ("hearing",)
        )
        self.echo_seconds = gauge("echo_seconds", "Time that the last echo took to the broker and back")
        self.worker_idle = gauge("worker_idle_seconds", "Time since the worker last moved, at this moment")
        self.broker_held_back = counter(
            "broker_held_back_seconds_total", "Time in which the broker had to keep messages back for us"
        )
        self.broker_dropped = counter(
            "broker_dropped_total", "Messages that the broker says it dropped, for whichever client"
        )
        self.broker_connected = gauge("broker_connected", "1 while the broker has accepted us")
        self.broker_fallback = gauge("broker_fallback", "1 while another broker than the first one serves us")
        self.reconnects = counter("reconnects_total", "Connections made after the first")
        self.outbox_length = gauge("outbox_length", "Alert messages that the broker has yet to take")
        self.outbox_dropped = counter("outbox_dropped_total", "Alert messages dropped because the outbox was full")
        self.snapshot_seconds = histogram("snapshot_seconds", "Time to write the snapshots of all streams")
        self.snapshot_age = gauge("snapshot_age_seconds", "Time since the last snapshot")
        self.state_bytes = counter("state_bytes_written_total", "Bytes written to the state directory")
        self.state_errors = counter("state_write_errors_total", "Writes to the state directory that failed")
        self.streams = gauge("streams", "Streams being watched")
        self.streams_behind = gauge(
            "streams_behind", "Streams that still decide with an earlier version of their encoder"
        )
        self.streams_max = gauge("streams_max", "Cap on the number of streams")
        self.streams_max.set(streams_max)
        gauge("memory_limit_bytes", "agent.memory_limit").set(memory_limit_bytes)
        info = gauge("build_info", "1, labelled with the version", ("version",))
        info.labels(version("redshank")).set(1)
        for reason in reasons:
            self.messages_rejected.labels(reason)
        ProcessCollector(registry=registry)
        self._figures = StreamFigures()
        registry.register(self._figures)
        self._complaints: set[tuple[str, str]] = set()  # in this minute
        self._complained_from = -_SAME_S

    def totals(self) -> dict[str, int]:
        """Return the figures that the agent's state topic tells, summed over labels."""
        told = {
            "messages_received": self.messages_received,
            "messages_rejected": self.messages_rejected,
            "queue_length": self.queue_length,
            "queue_dropped": self.queue_dropped,
            "outbox_length": self.outbox_length,
            "outbox_dropped": self.outbox_dropped,
            "reconnects": self.reconnects,
            "streams_behind": self.streams_behind,
        }
        return {name: round(_total(metric)) for name, metric in told.items()}

    def watch(self, streams: Callable[[], Iterable[Watched]]) -> None:
        """Tell of these streams at each scrape; called in the thread that serves it."""
        self._figures.streams = streams

    def rejected(self, topic: str, reason: str) -> None:
        """Count a dropped payload or sample; log it once in each minute per reason and topic, if those are not many."""
        self.messages_rejected.labels(reason).inc()
        now = monotonic()
        if now - self._complained_from >= _SAME_S:
            self._complained_from = now
            self._complaints.clear()
        if len(self._complaints) < _MAX_COMPLAINTS and (shown := printable(topic), reason) not in self._complaints:
            self._complaints.add((shown, reason))
            logger.warning("dropped a message on %s: %s", shown, reason)

    def timed_encode(self, encoder: Encoder, windows: F32) -> F32:
        """Call the encoder and measure how long it takes."""
        begun = perf_counter()
        embedded = encoder.encode(windows)
        self.encode_seconds.observe(perf_counter() - begun)
        return embedded

    def timed_run(self, encoder: PictureEncoder, pictures: U8) -> list[F32]:
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
        tally = self._figures.tallies[stream]
        tally.decisions += 1
        tally.score = assessment.score
        if assessment.p_value is not None:
            tally.p_value = assessment.p_value
        took_s = time() - received_at
        if took_s < _SET_S:  # else the clock was set meanwhile, and one observation would spoil the sum for ever
            self.end_to_end_seconds.observe(max(0.0, took_s))

    def transitioned(self, stream: str, transition: AlertTransition) -> None:
        """Note an alert's transition."""
        if transition.event is AlertEvent.RAISED:
            self._figures.tallies[stream].alerts += 1
        logger.warning("%s: alert %s %s (%s)", stream, transition.id, transition.event.value, transition.kind.value)

    def forget(self, stream: str) -> None:
        """Tell nothing more of a stream that is no longer watched."""
        self._figures.tallies.pop(stream, None)

    def commanded(self, command: str, outcome: str) -> None:
        """Count an operator's command."""
        self.commands.labels(command, outcome).inc()
        if outcome != "limited":  # else whoever sends too many fills the log
            logger.info("command %s: %s", command, outcome)


def _total(metric: MetricWrapperBase) -> float:
    samples = [sample for family in metric.collect() for sample in family.samples]
    return sum(sample.value for sample in samples if not sample.name.endswith("_created"))


class SilentObserver:
    """Counts nothing: a replay."""

    def rejected(self, topic: str, reason: str) -> None:
        """Ignore it."""

    def timed_encode(self, encoder: Encoder, windows: F32) -> F32:
        """Call the encoder."""
        return encoder.encode(windows)

    def timed_run(self, encoder: PictureEncoder, pictures: U8) -> list[F32]:
        """Call the encoder."""
        return encoder.run(pictures)

    def dropped(self) -> None:
        """Ignore it."""

    def timed_step(self, step: Iterator[Assessment]) -> Assessment:
        """Take the next assessment."""
        return next(step)

    def decided(self, stream: str, assessment: Scored, received_at: float) -> None:
        """Ignore it."""

    def transitioned(self, stream: str, transition: AlertTransition) -> None:
        """Ignore it."""

    def commanded(self, command: str, outcome: str) -> None:
        """Ignore it."""
