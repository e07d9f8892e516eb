"""From YAML text to settings types: strict, every problem at once, each with its line.

Scalars are YAML 1.2's: `NO` and `0123` stay the text that was written. A key is the field's name without its unit
(`period_s` is written `period`), and durations, sizes and budgets are words that a person writes.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Callable
from typing import Any, Final

import msgspec
import yaml

from agent.core.quiet import QuietSpan
from agent.core.types import Budget, Change, Settings
from agent.errors import Problem

MAX_DEPTH: Final = 20
MAX_NODES: Final = 100_000  # an anchor that is used again counts each time
LARGEST: Final = 1e15  # a setting, in seconds, bytes or whatever it counts
DURATIONS: Final = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
SIZES: Final = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
SPANS: Final = {
    "second": 1.0,
    "minute": 60.0,
    "hour": 3600.0,
    "day": 86400.0,
    "week": 604800.0,
    "month": 2629746.0,
    "year": 31556952.0,
}
_QUANTITY: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")
_BUDGET: Final = re.compile(r"(\d+(?:\.\d+)?)\s+per\s+(?:(\d+)\s+)?([a-z]+?)s?")
_CHANGE: Final = re.compile(r"(\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|\.\d+)\s*(%?)")
_QUIET: Final = re.compile(r"(\d\d?):([0-5]\d)\s*-\s*(\d\d?):([0-5]\d)")
_DAY_MINUTES: Final = 1440
_UNSPEAKABLE: Final = re.compile("[\0\ud800-\udfff]")  # neither MQTT nor a path can have these
_TEXT: Final = msgspec.inspect.StrType()
_UNIT_SUFFIXES: Final = ("_s", "_bytes")
EXAMPLES: Final = {
    "duration": "a duration such as 500ms, 30s, 5m or 1d",
    "size": "a size such as 1MB or 256MiB",
}


class _Loader(yaml.SafeLoader):
    """Only composes; resolves plain scalars as the YAML 1.2 core schema does."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def _finite(digits: str) -> float:
    """Return a number. Raises ValueError where it is larger than any setting."""
    number = float(digits)
    if abs(number) > LARGEST:
        raise ValueError(digits)
    return number


def parse_duration(text: str) -> float:
    """Return seconds. Raises ValueError."""
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or match[2] not in DURATIONS:
        raise ValueError(text)
    return _finite(match[1]) * DURATIONS[match[2]]


def parse_size(text: str) -> int:
    """Return bytes. Raises ValueError."""
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or match[2] not in SIZES:
        raise ValueError(text)
    return int(_finite(match[1]) * SIZES[match[2]])


def parse_budget(text: str) -> Budget:
    """Return the budget that words such as `1 per week` or `1 per 1000 decisions` name. Raises ValueError."""
    match = _BUDGET.fullmatch(text.strip())
    if match is None:
        raise ValueError(text)
    count, per = _finite(match[1]), _finite(match[2] or "1")
    if count <= 0 or per <= 0:
        raise ValueError(text)
    if match[3] == "decision":
        return Budget(count=count, per_decisions=per, text=text.strip())
    if match[3] not in SPANS:
        raise ValueError(text)
    return Budget(count=count, per_s=per * SPANS[match[3]], text=text.strip())


def parse_change(text: str) -> Change:
    """Return the change that `0.5` (in the unit of the value) or `10 %` (of what is usual) names. Raises ValueError."""
    match = _CHANGE.fullmatch(text.strip())
    if match is None:
        raise ValueError(text)
    amount = _finite(match[1])
    return Change(amount=amount / 100.0, relative=True) if match[2] else Change(amount=amount)


def parse_quiet_span(text: str) -> QuietSpan:
    """Return the span of the day that words such as `22:00-06:00` name; it may end at 24:00. Raises ValueError."""
    match = _QUIET.fullmatch(text.strip())
    if match is None:
        raise ValueError(text)
    begin, end = 60 * int(match[1]) + int(match[2]), 60 * int(match[3]) + int(match[4])
    if begin >= _DAY_MINUTES or end > _DAY_MINUTES or begin == end:
        raise ValueError(text)
    return QuietSpan(begin=begin, end=end)


# Settings that are written as words: their parser, and what is expected.
WORDS: Final[dict[type, tuple[Callable[[str], Settings], str]]] = {
    Budget: (parse_budget, "a budget such as `1 per week` or `1 per 1000 decisions`"),
    Change: (parse_change, "a number of at least 0 such as 0.5, or a share of the usual value such as 10 %"),
    QuietSpan: (parse_quiet_span, "a span of the day such as 22:00-06:00"),
}


def key_of(field: str) -> str:
    """Return the YAML key of a settings field: its name without the unit."""
    for suffix in _UNIT_SUFFIXES:
        if field.endswith(suffix):
            return field[: -len(suffix)]
    return field


class Builder:
    """Builds one settings object from one file, collecting problems on the way."""

    def __init__(self, file: str, content: bytes) -> None:
        self.problems: list[Problem] = []
        self.made: dict[str, Settings] = {}  # by path: everything that could be built, whatever else is wrong
        self._file = file
        self._lines: dict[str, int] = {}
        self._root: yaml.Node | None = None
        self._nodes = 0
        try:
            self._root = yaml.compose(content.decode(), Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else 1
            self.problems.append(Problem(f"{file}:{line}", "YAML", str(error.problem or error.context)))
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            self.problems.append(Problem(f"{file}:1", "YAML in UTF-8", str(error).splitlines()[0]))

    def where(self, path: str) -> str:
        """Return FILE:LINE KEY of a value, or of the nearest thing around it."""
        known = path
        while known and known not in self._lines:
            known = known[: max(known.rfind("."), known.rfind("["), 0)]
        return f"{self._file}:{self._lines.get(known, 1)} {path}"

    def build(self, kind: type[Settings]) -> Any:
        """Return the settings, or None if there are problems."""
        if self._root is None:
            if not self.problems:
                self.problems.append(Problem(f"{self._file}:1", "a configuration", "an empty file"))
            return None
        made = self._struct(kind, self._root, "", 0)
        return None if self.problems else made

    def complain(self, path: str, expected: str, found: object, remedy: str = "") -> None:
        """Note a problem with the value at `path`."""
        self.problems.append(Problem(self.where(path), expected, str(found), remedy))

    def _struct(self, kind: Any, node: yaml.Node, path: str, depth: int) -> Any:
        self._lines.setdefault(path, node.start_mark.line + 1)
        if not isinstance(node, yaml.MappingNode) or depth > MAX_DEPTH:
            self.complain(path, "keys and values", _found(node))
            return None
        before = len(self.problems)
        fields = {key_of(f.name): f for f in msgspec.structs.fields(kind)}
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            inner = f"{path}.{key}" if path else key
            first = self._lines.get(inner)
            self._lines[inner] = key_node.start_mark.line + 1
            if key == kind.__struct_config__.tag_field:
                continue  # it has chosen this type
            if key not in fields:
                near = difflib.get_close_matches(key, fields, 1)
                remedy = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(fields)}"
                self.complain(inner, "a known key", repr(key), remedy)
            elif fields[key].name in values:
                self.complain(inner, "each key once", f"a second {key!r} (the first is in line {first})")
            else:
                values[fields[key].name] = self._value(fields[key].type, value_node, inner, depth + 1)
        missing = [key for key, f in fields.items() if f.required and f.name not in values]
        for key in missing:
            self.complain(f"{path}.{key}" if path else key, "a value", "none", f"add `{key}:`")
        if len(self.problems) > before:
            return None
        made: Settings = kind(**values)
        self.made[path] = made
        return made

    def _value(self, annotation: Any, node: yaml.Node, path: str, depth: int) -> Any:
        info = msgspec.inspect.type_info(annotation)
        return self._typed(info, node, path, depth)

    def _typed(self, info: Any, node: yaml.Node, path: str, depth: int) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            if self._nodes == MAX_NODES + 1:
                self.complain(path, f"at most {MAX_NODES} values", "more", "an anchor counts each time it is used")
            return None
        if isinstance(info, msgspec.inspect.UnionType):
            types = [one for one in info.types if not isinstance(one, msgspec.inspect.NoneType)]
            if len(types) < len(info.types) and node.tag.endswith(":null"):
                return None
            if any(isinstance(one, msgspec.inspect.EnumType) for one in types):
                return self._number_or_word(types, node, path)
            info = types[0] if len(types) == 1 else self._tagged(types, node, path)
            if info is None:
                return None
        word = (info.extra or {}).get("parse") if isinstance(info, msgspec.inspect.Metadata) else None
        if word is not None:
            parse = parse_duration if word == "duration" else parse_size
            return self._word(parse, EXAMPLES[word], node, path)
        if isinstance(info, msgspec.inspect.Metadata):
            info = info.type
        if isinstance(info, msgspec.inspect.StructType):
            if info.cls in WORDS:
                return self._word(*WORDS[info.cls], node, path)
            return self._struct(info.cls, node, path, depth)
        if isinstance(info, msgspec.inspect.ListType | msgspec.inspect.VarTupleType):
            if not isinstance(node, yaml.SequenceNode):
                self.complain(path, "a list", _found(node))
                return None
            items = [
                self._typed(info.item_type, one, f"{path}[{index}]", depth) for index, one in enumerate(node.value)
            ]
            return items if isinstance(info, msgspec.inspect.ListType) else tuple(items)
        if isinstance(info, msgspec.inspect.DictType):
            if not isinstance(node, yaml.MappingNode):
                self.complain(path, "keys and values", _found(node))
                return None
            return {
                str(self._scalar(_TEXT, key, f"{path}.{key.value!s:.100}")): self._typed(
                    info.value_type, one, f"{path}.{key.value!s:.100}", depth
                )
                for key, one in node.value
            }
        return self._scalar(info, node, path)

    def _tagged(self, types: list[Any], node: yaml.Node, path: str) -> Any:
        """Return the type that the tag's key chooses, the first where there is none; None after a complaint."""
        by_tag = {str(one.tag): one for one in types}
        field = types[0].tag_field
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.value == field:
                if isinstance(value, yaml.ScalarNode) and value.value in by_tag:
                    return by_tag[value.value]
                self._lines[f"{path}.{field}"] = key.start_mark.line + 1
                self.complain(f"{path}.{field}", f"one of {', '.join(by_tag)}", _found(value))
                return None
        return types[0]

    def _number_or_word(self, types: list[Any], node: yaml.Node, path: str) -> Any:
        """Return a number, or the word of an enumeration that may stand in its place."""
        number, word = types
        words = [str(member.value) for member in word.cls]
        chosen = isinstance(node, yaml.ScalarNode) and node.value in words
        return self._scalar(word if chosen else number, node, path, f" or {', '.join(words)}")

    def _word(self, parse: Any, expected: str, node: yaml.Node, path: str) -> Any:
        try:
            return parse(str(node.value))
        except ValueError:
            self.complain(path, expected, _found(node))
            return None

    def _scalar(self, info: Any, node: yaml.Node, path: str, otherwise: str = "") -> Any:
        self._lines.setdefault(path, node.start_mark.line + 1)
        text = node.value
        if isinstance(node, yaml.ScalarNode):
            if isinstance(info, msgspec.inspect.StrType) and not node.tag.endswith(":null"):
                if _UNSPEAKABLE.search(text):
                    self.complain(path, "text without NUL and halves of surrogate pairs", ascii(text))
                    return None
                return text
            if isinstance(info, msgspec.inspect.EnumType):
                words = [str(member.value) for member in info.cls]
                if text in words:
                    return info.cls(text)
                self.complain(path, f"one of {', '.join(words)}", _found(node))
                return None
            if isinstance(info, msgspec.inspect.BoolType) and node.tag.endswith(":bool"):
                return text.lower() == "true"
            with contextlib.suppress(ValueError):  # a number of very many digits, too
                if isinstance(info, msgspec.inspect.IntType) and node.tag.endswith(":int"):
                    _finite(text)
                    return int(text)
                if isinstance(info, msgspec.inspect.FloatType) and node.tag.endswith((":int", ":float")):
                    return _finite(text)
        names = {
            "StrType": "text",
            "IntType": "a whole number",
            "FloatType": "a number",
            "BoolType": "true or false",
        }
        self.complain(path, names.get(type(info).__name__, "a value") + otherwise, _found(node))
        return None


def _found(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return repr(node.value) if node.value else "nothing"
    return "a list" if isinstance(node, yaml.SequenceNode) else "keys and values"
