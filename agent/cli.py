"""The commands and their exit codes: 0; 1 unexpected; 2 usage; 69 broker refused us; 78 configuration or bundle."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final

from agent.errors import (
    BundleError,
    ConfigurationError,
    RecordingError,
    RedshankError,
    RefusedError,
    SigningError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.ports import InboundMessage

# Both before numpy is imported. Matrices here are small: more threads only wait for one another, which costs a core.
# Arrays grow by lanes: huge pages would be a third full and cost 2 MB.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("NUMPY_MADVISE_HUGEPAGE", "0")

DEFAULT_CONFIG: Final = Path("/etc/redshank/redshank.yaml")
EXIT_REFUSED: Final = 69
EXIT_CONFIGURATION: Final = 78
RECORDERS_SESSION_S: Final = 60.0
MIN_TRIAL_S: Final = 0.001
MAX_TRIAL_S: Final = 60.0


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    top = argparse.ArgumentParser(
        prog="redshank", description="Watches MQTT streams and alerts on what is unlike their past."
    )
    top.add_argument("--version", action="version", version=f"redshank {version('redshank')}")
    top.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    commands = top.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="the daemon")
    run.add_argument("--config", type=Path, default=DEFAULT_CONFIG)
    check = commands.add_parser("check", help="validate a configuration; prints every problem with its line")
    check.add_argument("file", type=Path, nargs="?")
    check.add_argument("--schema", action="store_true", help="print the JSON Schema of the configuration, for editors")
    check.add_argument(
        "--draw", type=Path, metavar="PICTURE", help="draw region, tiles and ignored areas over a picture"
    )
    check.add_argument("--stream", help="the stream of pictures to draw for")
    check.add_argument("--out", type=Path, default=Path("drawn.png"), help="where to draw; default: %(default)s")
    status = commands.add_parser("status", help="a live table of the running agent's streams")
    status.add_argument("--config", type=Path, default=DEFAULT_CONFIG)
    status.add_argument("--once", action="store_true", help="print it once; so does a pipe")
    status.add_argument("--json", action="store_true", help="print the agent's answer as it is, once")
    reload = commands.add_parser("reload", help="let the running agent apply its changed configuration")
    reload.add_argument("--config", type=Path, default=DEFAULT_CONFIG)
    _add_discover(commands)
    record = commands.add_parser("record", help="record what arrives, for replay")
    record.add_argument("--config", type=Path, default=DEFAULT_CONFIG)
    record.add_argument("--out", type=Path, required=True)
    record.add_argument("--seconds", type=float, help="stop after so long; default: until interrupted")
    replay = commands.add_parser("replay", help="run recorded data through the same pipeline")
    prime = commands.add_parser("prime", help="learn recorded data that is known to be normal, to start active")
    for one in (replay, prime):
        one.add_argument("recording", type=Path, help="JSONL as recorded, CSV, or a folder of pictures")
        one.add_argument("--config", type=Path, default=DEFAULT_CONFIG)
        one.add_argument("--stream", help="the stream that a CSV file or a folder belongs to")
        one.add_argument("--time-column", default="time", help="the CSV file's time column")
    prime.add_argument("--state", type=Path, help="the state directory to fill; default: that of the configuration")
    replay.add_argument("--scores", type=Path, help="write one row per decision (.csv)")
    replay.add_argument("--alerts", type=Path, help="write the alert messages (.jsonl)")
    replay.add_argument(
        "--report", type=Path, metavar="FILE.html", help="draw values or pictures, scores, alerts, other budgets"
    )
    replay.add_argument("--state", type=Path, help="start from this state directory, and leave the new state there")
    demo = commands.add_parser("demo", help="watch this machine, provoke a disturbance, show the alert")
    demo.add_argument("--broker", metavar="URL", help="use this broker; default: start Mosquitto, else amqtt")
    demo.add_argument("--forever", action="store_true", help="keep watching, provoke nothing")
    demo.add_argument("--images", action="store_true", help="watch a camera's pictures instead")
    demo.add_argument(
        "--picture",
        type=Path,
        metavar="FILE",
        help="write a picture of what was shown (.svg); with --images of the pictures (.png, .jpg)",
    )
    credential = commands.add_parser(
        "credential", help="make a line of metrics.credentials_file: of a password that is asked for, or of a new token"
    )
    credential.add_argument("scheme", choices=["basic", "bearer"])
    credential.add_argument("name", help="basic: the user name; bearer: what tells tokens apart in the file")
    credential.add_argument("--token", type=Path, metavar="FILE", help="bearer: new file for the token, for Prometheus")
    _add_encoders(commands)
    return top


def _add_encoders(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    encoders = commands.add_parser(
        "encoders",
        help="measure encoders on this very device, and write down which variant, runtime and threads are best",
    )
    encoders.add_argument(
        "bundle", nargs="*", help="names or paths; default: those installed, with --config those in it"
    )
    encoders.add_argument("--config", type=Path, help=f"with --write, default: {DEFAULT_CONFIG}")
    encoders.add_argument("--write", action="store_true", help="write the best down, for the agent's next start")
    encoders.add_argument("--state", type=Path, metavar="DIR", help="write it there; default: what --config says")
    encoders.add_argument("--threads", type=int, metavar="N", help="try up to so many; default: all cores, at most 4")
    encoders.add_argument(
        "--seconds", type=float, default=1.0, help="for calls of one size of one combination; default: %(default)g"
    )
    encoders.add_argument(
        "--rollback", metavar="NAME", help="put the version back that the agent used before, and measure nothing"
    )
    encoders.add_argument("--json", action="store_true", help="print all that was found, for programs")


def _add_discover(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    discover = commands.add_parser("discover", help="listen to a broker, then print a configuration for what was heard")
    discover.add_argument("--broker", metavar="URL", default="mqtt://localhost:1883", help="default: %(default)s")
    discover.add_argument("--seconds", type=float, default=60.0, help="how long to listen; default: %(default)g")
    discover.add_argument(
        "--topic", metavar="FILTER", action="append", help="listen to this topic filter; may be repeated; default: #"
    )
    discover.add_argument("--write", type=Path, metavar="FILE", help="write it there instead of printing it")
    discover.add_argument("--force", action="store_true", help="overwrite FILE if it is there")
    discover.add_argument("--protocol", choices=["5", "3.1.1"], default="5")
    discover.add_argument("--username")
    discover.add_argument("--password-file", metavar="FILE", help="with the password in it")
    discover.add_argument("--password-env", metavar="VARIABLE", help="with the password in it")
    discover.add_argument("--ca-file", metavar="FILE", help="CA certificates; default: the system's")
    discover.add_argument("--cert-file", metavar="FILE", help="our own certificate")
    discover.add_argument("--key-file", metavar="FILE", help="its key; default: in --cert-file")


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = parser().parse_args(arguments)
    logging.basicConfig(
        stream=sys.stderr, level=options.log_level.upper(), format="%(levelname)s %(name)s: %(message)s"
    )
    try:
        code: int = _COMMANDS[options.command](options)
    except RefusedError as error:
        sys.stderr.write(f"{error}; check broker.username and broker.password_file\n")
        return EXIT_REFUSED
    except (ConfigurationError, BundleError, SigningError) as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIGURATION
    except RecordingError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except RedshankError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return code


def _run(options: argparse.Namespace) -> int:
    from agent.adapters.allocator import return_memory  # noqa: PLC0415  the runtime is loaded only where it is needed
    from agent.app import Agent  # noqa: PLC0415  as above
    from agent.config import load_configuration  # noqa: PLC0415  as above

    return_memory()
    agent = Agent(load_configuration(options.config), options.config)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: agent.stop())
    signal.signal(signal.SIGHUP, lambda *_: agent.reload())
    agent.run()
    return 0


def _check(options: argparse.Namespace) -> int:
    if options.schema:
        from agent.configuration_schema import schema_text  # noqa: PLC0415  as above

        sys.stdout.write(schema_text())
        return 0
    if options.file is None:
        parser().error("check: expected a configuration file or --schema, found neither")
    from agent.app import load_encoders  # noqa: PLC0415  as above
    from agent.checks import check_secret_files, strides, warnings  # noqa: PLC0415  as above
    from agent.config import load_configuration  # noqa: PLC0415  as above
    from agent.memory_estimate import doubts, estimate, told  # noqa: PLC0415  as above

    configuration = load_configuration(options.file)
    encoders = load_encoders(configuration)
    check_secret_files(configuration)
    memory = estimate(configuration, encoders)
    for warning in [*warnings(configuration), *doubts(memory)]:
        sys.stdout.write(f"warning: {warning}\n")
    if options.draw is not None:
        from agent.adapters.payload import PayloadRejected  # noqa: PLC0415  as above
        from agent.adapters.picture_drawing import draw  # noqa: PLC0415  as above
        from agent.config import ImageSettings  # noqa: PLC0415  as above
        from agent.replay import one_of  # noqa: PLC0415  as above

        settings = one_of(configuration, options.stream, ImageSettings, "--draw")
        try:
            drawn = draw(options.draw.read_bytes(), settings)
        except PayloadRejected as error:
            sys.stderr.write(
                f"{options.draw}: expected a picture that can be decoded, of at most {settings.max_pixels} pixels, "
                f"found one that the agent rejects as `{error.reason.value}`\n"
            )
            return 2
        options.out.write_bytes(drawn)
        sys.stdout.write(f"{options.out}: what stream {settings.name} looks at\n")
    for line in [*strides(configuration), *told(memory)]:
        sys.stdout.write(f"{line}\n")
    count = len(configuration.streams)
    sys.stdout.write(f"{options.file}: good, {count} {'stream' if count == 1 else 'streams'}\n")
    return 0


def _status(options: argparse.Namespace) -> int:
    from agent.config import whereabouts  # noqa: PLC0415  as above
    from agent.remote import RemoteAgent  # noqa: PLC0415  as above
    from agent.status_view import show  # noqa: PLC0415  as above

    agent = RemoteAgent(*whereabouts(options.config))  # a file that was refused must not keep one from looking
    if options.json:
        import msgspec  # noqa: PLC0415  as above

        sys.stdout.write(msgspec.json.format(msgspec.json.encode(agent.status())).decode() + "\n")
    else:
        show(agent, once=options.once)
    return 0


def _reload(options: argparse.Namespace) -> int:
    from agent.config import load_configuration  # noqa: PLC0415  as above
    from agent.remote import RemoteAgent  # noqa: PLC0415  as above

    configuration = load_configuration(options.config)
    agent = RemoteAgent(configuration.agent.state_dir, configuration.metrics)
    result = agent.reload(options.config)
    for problem in result.problems:
        sys.stderr.write(f"{problem}\n")
    if result.problems:
        sys.stderr.write("the agent refused this configuration and keeps the one that it had\n")
        return EXIT_CONFIGURATION
    for change in result.streams:
        sys.stdout.write(f"{change}\n")
    if result.reconnects:
        sys.stdout.write("the agent connects anew\n")
    return 0


def _discover(options: argparse.Namespace) -> int:
    from agent.adapters.mqtt import BrokerSettings, Protocol  # noqa: PLC0415  as above
    from agent.discover import discover, write  # noqa: PLC0415  as above
    from agent.topic_pattern import valid_filter  # noqa: PLC0415  as above

    filters = options.topic or ["#"]
    for name in filters:
        if not valid_filter(name):
            parser().error(
                f"discover: expected an MQTT topic filter (+ alone in a level, # alone and last), found {name!r}"
            )
    if not options.seconds > 0:
        parser().error(f"discover: expected more than 0 seconds, found {options.seconds:g}")
    taken = f"{options.write}: expected no such file, found one; --force overwrites it"
    if options.write is not None and options.write.exists() and not options.force:
        parser().error(taken)
    broker = BrokerSettings(
        url=options.broker,
        protocol=Protocol(options.protocol),
        username=options.username,
        password_file=options.password_file,
        password_env=options.password_env,
        ca_file=options.ca_file,
        cert_file=options.cert_file,
        key_file=options.key_file,
    )
    text = discover(broker, seconds=options.seconds, filters=filters)
    if options.write is None:
        sys.stdout.write(text)
        return 0
    try:
        write(options.write, text, force=options.force)
    except FileExistsError:
        parser().error(taken)
    sys.stderr.write(f"{options.write}: written; `redshank check {options.write}` looks at it\n")
    return 0


def _record(options: argparse.Namespace) -> int:
    import msgspec  # noqa: PLC0415  as above

    from agent.adapters.mqtt import MqttClient, MqttEvents  # noqa: PLC0415  as above
    from agent.adapters.recording import line_of, open_to_append  # noqa: PLC0415  as above
    from agent.app import subscriptions_of, with_defaults  # noqa: PLC0415  as above
    from agent.config import load_configuration  # noqa: PLC0415  as above

    configuration = with_defaults(load_configuration(options.config))
    # A client of its own beside the agent's, whose session does not gather messages long after the recording.
    broker, name = configuration.broker, f"{configuration.agent.id}-recorder"
    broker = msgspec.structs.replace(
        broker,
        client_id=f"{broker.client_id}-recorder" if broker.client_id else "",
        session_expiry_s=min(broker.session_expiry_s, RECORDERS_SESSION_S),
    )
    stop = threading.Event()
    counted = 0

    with open_to_append(options.out) as file:

        class Recorder(MqttEvents):
            refused: RefusedError | None = None

            def on_messages(self, messages: Sequence[InboundMessage]) -> None:
                nonlocal counted
                file.writelines(line_of(message) for message in messages)
                file.flush()
                counted += len(messages)
                client.acknowledge_many(messages)

            def on_refused(self, error: RefusedError) -> None:
                self.refused = error
                stop.set()

        recorder = Recorder()
        client = MqttClient(
            broker,
            agent_id=name,
            subscriptions=subscriptions_of(configuration),
            events=recorder,
            topic_prefix=configuration.agent.topic_prefix,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        client.start()
        until = monotonic() + options.seconds if options.seconds is not None else None
        while not stop.wait(0.2):
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{counted} messages")
            if until is not None and monotonic() >= until:
                break
        client.stop()
        if recorder.refused is not None:
            raise recorder.refused
    begin = "\r" if sys.stderr.isatty() else ""
    sys.stderr.write(f"{begin}{counted} messages in {options.out}\n")
    return 0


def _replay(options: argparse.Namespace) -> int:
    from agent.config import load_configuration  # noqa: PLC0415  as above
    from agent.replay import replay  # noqa: PLC0415  as above
    from agent.report import Report  # noqa: PLC0415  as above

    if options.report is not None:
        try:
            from agent.report_page import page  # noqa: PLC0415  needs the extra
        except ModuleNotFoundError as error:
            sys.stderr.write(f"{error.name} is not installed; pip install 'redshank[report]'\n")
            return EXIT_CONFIGURATION
    configuration = load_configuration(options.config)
    report = None
    if options.report is not None:
        report = Report()
        options.report.open("a").close()  # what cannot be written is told before the replay
    summary = replay(
        options.recording,
        configuration,
        stream=options.stream,
        time_column=options.time_column,
        scores=options.scores,
        alerts=options.alerts,
        state=options.state,
        progress=sys.stderr.isatty(),
        tap=report,
    )
    if report is not None:
        options.report.write_text(page(report, summary, options.recording.name), encoding="utf-8")
    for alert in summary.alerts:
        sys.stdout.write(f"{alert['at']} {alert['event']} {alert['id']} {alert['message']}\n")
    raised = sum(alert["event"] == "raised" for alert in summary.alerts)
    sys.stdout.write(
        f"{summary.streams} streams, {summary.decisions} decisions, {raised} alerts raised; "
        f"rejected: {summary.rejections}\n"
    )
    return 0


def _prime(options: argparse.Namespace) -> int:
    from agent.config import load_configuration  # noqa: PLC0415  as above
    from agent.replay import replay  # noqa: PLC0415  as above

    configuration = load_configuration(options.config)
    state = options.state or Path(configuration.agent.state_dir)
    summary = replay(
        options.recording,
        configuration,
        stream=options.stream,
        time_column=options.time_column,
        state=state,
        progress=sys.stderr.isatty(),
        prime=True,
    )
    for name, references in summary.learnt.items():
        sys.stdout.write(f"{name}: active, {references} references\n")
    left = summary.streams - len(summary.learnt)
    sys.stdout.write(
        f"{state}: {summary.streams} streams primed, {left} still learning; rejected: {summary.rejections}\n"
    )
    return 0


def _demo(options: argparse.Namespace) -> int:
    try:
        if options.images:
            from agent.demo_images import demo_images as demo  # noqa: PLC0415  needs the extra
        else:
            from agent.demo import demo  # noqa: PLC0415  needs the extra
    except ModuleNotFoundError as error:
        sys.stderr.write(f"{error.name} is not installed; pip install 'redshank[demo]'\n")
        return EXIT_CONFIGURATION
    return demo(broker_url=options.broker, forever=options.forever, picture=options.picture)


def _roll_back(options: argparse.Namespace) -> int:
    from agent.config import load_configuration  # noqa: PLC0415  as above
    from agent.encoder_loading import named_encoders  # noqa: PLC0415  as above
    from agent.encoder_versions import EncoderVersions, put_back  # noqa: PLC0415  as above

    configuration = load_configuration(options.config or DEFAULT_CONFIG)
    name = options.rollback
    named = sorted({one for one, _ in named_encoders(configuration) if "/" in one})
    if name not in named:
        raise BundleError(
            f"--rollback: expected an encoder that the configuration names by a path "
            f"({', '.join(named) or 'it names none'}), found {name!r}"
        )
    versions = EncoderVersions(options.state or Path(configuration.agent.state_dir))
    bundle = versions.previous(name, configuration.encoders.trusted_keys)
    put_back(bundle, Path(name))
    sys.stdout.write(f"{name}: the version of {bundle.path.name} is back; a running agent takes it up by itself\n")
    return 0


def _encoders(options: argparse.Namespace) -> int:
    if options.rollback is not None:
        return _roll_back(options)
    from agent.bundle import find_bundle, installed_bundles  # noqa: PLC0415  as above
    from agent.encoder_choice import prepare, write_choices  # noqa: PLC0415  as above
    from agent.encoder_trial import MAX_THREADS, cores  # noqa: PLC0415  as above
    from agent.encoders_view import as_json, lines, measure  # noqa: PLC0415  as above

    if not MIN_TRIAL_S <= options.seconds <= MAX_TRIAL_S:
        parser().error(f"encoders: expected {MIN_TRIAL_S:g} to {MAX_TRIAL_S:g} seconds, found {options.seconds:g}")
    most = min(cores(), MAX_THREADS) if options.threads is None else options.threads
    if not 1 <= most <= cores():
        parser().error(f"encoders: expected 1 to {cores()} threads, found {most}")
    names, state = options.bundle, options.state
    if options.config is not None or (options.write and state is None):
        from agent.config import load_configuration  # noqa: PLC0415  as above
        from agent.encoder_loading import named_encoders  # noqa: PLC0415  as above

        configuration = load_configuration(options.config or DEFAULT_CONFIG)
        names = names or sorted(name for name, _ in named_encoders(configuration))
        state = state or Path(configuration.agent.state_dir)
        bundles = [find_bundle(name, configuration.encoders.trusted_keys) for name in names]
    else:
        bundles = [find_bundle(name) for name in names] or installed_bundles()
    if options.write:
        prepare(state)
    found = []
    for one in measure(bundles, range(1, most + 1), options.seconds):
        found.append(one)
        if not options.json:
            sys.stdout.write("".join(f"{line}\n" for line in lines(one)))
            sys.stdout.flush()
    if options.json:
        sys.stdout.write(as_json(found).decode() + "\n")
    if options.write:
        written = write_choices(state, [one.choice for one in found])
        sys.stderr.write(f"{written}: written; the agent heeds it at its next start\n")
    return int(any(trial.error is not None for one in found for trial in one.trials))


def _credential(options: argparse.Namespace) -> int:
    import getpass  # noqa: PLC0415  as above
    import secrets  # noqa: PLC0415  as above

    from agent.adapters.http_access import MIN_SECRET_CHARACTERS, line_of  # noqa: PLC0415  as above

    if (options.token is None) != (options.scheme == "basic"):
        parser().error("credential: expected --token FILE with bearer, and only there")
    if options.token is not None:
        secret = secrets.token_urlsafe(32)
    else:
        secret = getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    try:
        line = line_of(options.scheme, options.name, secret)
    except ValueError:
        parser().error(
            "credential: expected a name without blanks and colons, and a password of at least "
            f"{MIN_SECRET_CHARACTERS} characters"
        )
    if options.token is not None:
        with os.fdopen(os.open(options.token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secret)
    sys.stdout.write(f"{line}\n")
    return 0


_COMMANDS: Final = {
    "run": _run,
    "check": _check,
    "status": _status,
    "reload": _reload,
    "discover": _discover,
    "record": _record,
    "replay": _replay,
    "prime": _prime,
    "demo": _demo,
    "credential": _credential,
    "encoders": _encoders,
}

if __name__ == "__main__":
    sys.exit(main())
