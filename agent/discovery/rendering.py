"""The proposal as a configuration that a person reads: YAML with a comment above each entry.

Of payloads only names and numbers are shown, never texts: they may be private. Whatever stands in a topic or a field's
name cannot end a comment or a scalar.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import yaml

from agent.adapters.payload import Compression
from agent.discovery import estimate
from agent.discovery.fields import Role
from agent.discovery.forms import Kind, column

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.discovery.entry import Entry, FieldSummary
    from agent.discovery.estimate import Costs, Estimate
    from agent.discovery.heard import Heard
    from agent.discovery.proposal import LeftOut, Proposal

_PLAIN: Final = re.compile(r"[A-Za-z0-9_+/][A-Za-z0-9_./+-]*")
_PLAIN_ALONE: Final = re.compile(r"[A-Za-z0-9_+/](?:[A-Za-z0-9_./+{}:-]*[A-Za-z0-9_./+{}-])?(?:/#)?")  # not in a list
_NOT_TEXT: Final = re.compile(r"(?:null|Null|NULL|true|True|TRUE|false|False|FALSE)")
_SHOWN: Final = 100  # characters of a topic or name in a comment
_EXAMPLES: Final = 5  # topics that are named where something is left out
_FIELDS_SHOWN: Final = 40
_WIDTH: Final = 118
_LONGEST_KEY: Final = 16
_SPANS: Final = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"))


def render(proposal: Proposal, heard: Heard, *, broker: dict[str, Any], listened_s: float, costs: Costs) -> str:
    """Return the file. `broker` holds the keys of its section, in order; a value None is written as a comment."""
    parts = [estimate.of_entry(entry, costs) for entry in proposal.entries]
    whole = estimate.of_all(parts, costs)
    lines = _head(heard, str(broker["url"]), listened_s, len(parts), whole)
    lines += ["", *_agent(proposal, whole), "", *_broker(broker), "", "streams:"]
    for entry, part in zip(proposal.entries, parts, strict=True):
        lines += [*_about(entry, part, costs.learnt(entry)), *_entry(entry), ""]
    lines += _left_out(proposal.left_out, heard)
    return "\n".join(lines).rstrip() + "\n"


def scalar(text: str, *, plain: re.Pattern[str] = _PLAIN) -> str:
    """Return a text as YAML that is read as that text again; quoted where it is not `plain`."""
    if plain.fullmatch(text) is not None and _NOT_TEXT.fullmatch(text) is None:
        return text
    dumped: str = yaml.safe_dump(text, default_style='"', width=float("inf"), allow_unicode=True)
    return dumped.rstrip("\n")


def shown(text: str) -> str:
    """Return a text fit for a comment: one line, without control characters, not too long."""
    clean = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
    return clean if len(clean) <= _SHOWN else f"{clean[:_SHOWN]}..."


def span(seconds: float) -> str:
    """Return a time as a person says it: `10 s`, `2.5 h`."""
    for size, unit in _SPANS:
        if seconds >= size:
            return f"{seconds / size:.2g} {unit}" if seconds / size < 10 else f"{seconds / size:.0f} {unit}"  # noqa: PLR2004
    return "less than 1 ms"


def megabytes(count: float) -> str:
    """Return a size as a person says it."""
    return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"  # noqa: PLR2004


def plural(count: int, noun: str, many: str = "") -> str:
    """Return a count with its noun."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def _wrapped(text: str, indent: str = "", *, hanging: bool = False) -> list[str]:
    """Return a comment in lines of bounded width; `hanging`: all but the first are set in."""
    lines, current = [], ""
    for word in text.split(" "):
        if current and len(indent) + 2 + len(current) + 1 + len(word) > _WIDTH:
            lines.append(f"{indent}# {current}")
            current = f"  {word}" if hanging else word
        else:
            current = f"{current} {word}" if current else word
    return [*lines, f"{indent}# {current}"]


def _head(heard: Heard, url: str, listened_s: float, entries: int, whole: Estimate) -> list[str]:
    limits = heard.limits
    learning = (
        "" if whole.learning_s is None else f" All of them decide about {span(whole.learning_s)} after the start."
    )
    lines = _wrapped(
        f"Proposed by `redshank discover`. In {span(listened_s)} {plural(heard.messages, 'message')} came from "
        f"{shown(url)}, and {heard.retained:,} that it had kept (retained), on {plural(len(heard.topics), 'topic')}."
    )
    lines += _wrapped(
        f"Below are {plural(entries, 'entry', 'entries')} for {plural(whole.streams, 'stream')} with "
        f"{plural(whole.channels, 'channel')} and {whole.rate_per_s:.3g} messages/s. They take about "
        f"{megabytes(whole.bytes)}, the program included.{learning}"
    )
    lines += _wrapped(
        "Next: read it, strike what you do not want, `redshank check FILE`, `redshank run --config FILE`."
    )
    if heard.beyond:
        lines += _wrapped(
            f"Not all was looked at: {plural(heard.beyond, 'message')} came on further topics; {limits.topics:,} are "
            "looked at in one run. `--topic` names a part of them."
        )
    if heard.not_looked:
        lines += _wrapped(
            f"Of a topic the first {limits.messages} payloads were read, of pictures 3; {heard.not_looked:,} more were "
            "only counted."
        )
    if heard.fields_beyond:
        lines += _wrapped(f"Not all fields were looked at: {limits.fields:,} are in one run.")
    return lines


def _agent(proposal: Proposal, whole: Estimate) -> list[str]:
    day = estimate.alarms_per_day(whole)
    lines = ["agent:", f"  false_alarms: {day} per day        # for all streams together"]
    memory, streams = estimate.memory_limit_bytes(whole), estimate.max_streams(whole)
    payload = estimate.max_payload_bytes(proposal.entries)
    if memory is not None:
        lines.append(f"  memory_limit: {memory // 1_000_000}MB       # the default, 256MB, is too little for so many")
    if streams is not None:
        lines.append(f"  max_streams: {streams}")
    if payload is not None:
        lines.append(f"  max_payload: {payload // 1_000_000}MB         # twice the largest that came")
    return lines


def _broker(broker: dict[str, Any]) -> list[str]:
    lines = ["broker:"]
    for key, value in broker.items():
        if value is None:
            lines.append(
                f"  # {key}: /etc/redshank/password   # a file with the password in it; or password_env: VARIABLE"
            )
        else:
            lines.append(f"  {key}: {scalar(str(value), plain=_PLAIN_ALONE)}")
    return lines


def _about(entry: Entry, part: Estimate, learnt: int) -> list[str]:
    count = len(entry.topics)
    every = "once each while listening" if entry.period_s is None else f"about every {span(entry.period_s)}"
    first = shown(entry.topics[0].topic)
    which = first if count == 1 else f"{plural(count, 'topic')} such as {first}"
    lines = _wrapped(f"{which}: {entry.form.kind.value}, {every}, {part.rate_per_s:.3g} messages/s together.", "  ")
    watched = [one for one in entry.fields if one.role.watched]
    lines += _table(watched[:_FIELDS_SHOWN], entry)
    if len(watched) > _FIELDS_SHOWN:
        lines.append(f"  #   and {plural(len(watched) - _FIELDS_SHOWN, 'field')} more")
    for role in Role:
        names = [shown(one.name) for one in entry.fields if one.role is role]
        if names and not role.watched:
            lines += _wrapped(f"Not watched, {role.value}: {_listed(names, 12)}.", "  ")
    if entry.time is None and any(one.role is Role.TIME for one in entry.fields):
        lines += _wrapped(
            "The time of arrival counts: the payloads' own is not always there, not new, or not about now.", "  "
        )
    if entry.unborn:
        lines += _wrapped(
            f"In {plural(entry.unborn, 'message')} metrics were named by aliases that no birth certificate had told. "
            "The agent knows them from the next birth on: ask for a rebirth from your host application.",
            "  ",
        )
    if entry.harmless:
        lines += _wrapped(
            f"Also matches {plural(len(entry.harmless), 'topic')} without numbers, such as "
            f"{shown('/'.join(entry.harmless[0]))}: their messages are rejected and counted.",
            "  ",
        )
    learning = (
        f"it takes as long as {learnt} messages take" if part.learning_s is None else f"about {span(part.learning_s)}"
    )
    lines += _wrapped(f"Learning: {learning}. Memory: about {megabytes(part.bytes)}.", "  ")
    return lines


def _table(fields: list[FieldSummary], entry: Entry) -> list[str]:
    whole = len(entry.topics) if entry.joined is None and entry.form.kind is not Kind.SPARKPLUG else entry.streams
    what = "topics" if whole == len(entry.topics) else "devices"
    names = [shown(one.name) for one in fields]
    width = max(map(len, names), default=0)
    lines = []
    for name, one in zip(names, fields, strict=True):
        found = one.statistics
        moved = f"{found.low:.6g} to {found.high:.6g}" if found.high > found.low else f"always {found.low:.6g}"
        missing = 1.0 - min(1.0, one.share)
        notes = [moved]
        notes += [f"missing in {100 * missing:.0f} %"] if missing >= 0.005 else []  # noqa: PLR2004  half a percent
        notes += [f"in {one.topics} of {whole} {what}"] if one.topics < whole else []
        notes += ["counts up: watched as a rate"] if one.role is Role.COUNTER else []
        lines.append(f"  #   {name:{width}}  {', '.join(notes)}")
    return lines


def _entry(entry: Entry) -> list[str]:
    lines = [f"  - name: {scalar(entry.name)}", f"    topic: {scalar(entry.pattern, plain=_PLAIN_ALONE)}"]
    if entry.pictures:
        lines.append("    kind: image")
    lines.append(f"    format: {entry.format}")
    if entry.form.compression is not Compression.NONE:
        lines.append(f"    compression: {entry.form.compression.value}")
    if entry.form.path:
        lines.append(f"    path: {scalar(entry.form.path)}")
    if entry.form.delimiter and entry.form.delimiter != ",":
        lines.append(f"    delimiter: {scalar(entry.form.delimiter)}")
    if entry.form.columns and not entry.form.header:
        lines.append(f"    columns: {_list(map(column, range(entry.form.columns)))}")
    for key, names in (("channels", entry.channels), ("ignore_channels", entry.ignored), ("counters", entry.counters)):
        if names:
            lines.append(f"    {key}: {_list(names)}")
    if entry.text_numbers:
        lines.append("    text_numbers: parse")
    if entry.time is not None:
        lines.append(f"    time: {{path: {scalar(entry.time.path)}, unit: {entry.time.unit.value}}}")
    if entry.every_s is not None:
        lines.append(f"    every: {entry.every_s:g}s")
    if entry.silence_s is not None:
        lines.append(f"    # silence: {{after: {entry.silence_s}s}}   # to be told when one falls silent")
    return lines


def _list(names: Iterable[str], indent: str = "      ") -> str:
    """Return a list, in lines of bounded width if it is long."""
    words = list(map(scalar, names))
    whole = f"[{', '.join(words)}]"
    if len(whole) + len(indent) + _LONGEST_KEY <= _WIDTH:
        return whole
    lines, current = [], ""
    for word in words:
        if current and len(indent) + len(current) + len(word) + 2 > _WIDTH:
            lines.append(current)
            current = ""
        current += f"{word}, "
    return f"[\n{indent}" + f"\n{indent}".join(line.rstrip() for line in [*lines, current.rstrip(", ")]) + "\n    ]"


def _listed(names: list[str], limit: int) -> str:
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more:,} more" if more > 0 else "")


def _left_out(left: list[LeftOut], heard: Heard) -> list[str]:
    lines = []
    for one in sorted(left, key=lambda one: -len(one.topics)):
        topics = [shown(topic.topic) for topic in sorted(one.topics, key=lambda topic: topic.topic)]
        lines += _wrapped(
            f"- {one.reason} ({plural(len(topics), 'topic')}): {_listed(topics, _EXAMPLES)}", hanging=True
        )
    if heard.oversized:
        topics = [shown(topic) for topic in sorted(heard.oversized)]
        lines += _wrapped(
            f"- larger than broker.max_message_size ({plural(len(topics), 'topic')}): {_listed(topics, _EXAMPLES)}",
            hanging=True,
        )
    return ["# Left out, and why:", *lines] if lines else []
