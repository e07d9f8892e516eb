"""The JSON Schema of the configuration, made of the types that read it, so that editors complete and check the file.

It takes what the loader takes, but for `true` and `false` as text, which are more likely a mistake. What only the
loader finds are checks across keys, names and topics.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from msgspec import inspect

from agent.config import LEAST, MOST, POSITIVE, Configuration
from agent.core.quiet import QuietSpan
from agent.core.types import Budget, Change, Settings
from agent.settings_builder import DURATIONS, EXAMPLES, SIZES, SPANS, WORDS, key_of

_NUMBER: Final = r"\d+(\.\d+)?"
_PATTERNS: Final = {
    "duration": rf"^\s*{_NUMBER}\s*({'|'.join(DURATIONS)})\s*$",
    "size": rf"^\s*{_NUMBER}\s*({'|'.join(SIZES)})\s*$",
}
_WORD_PATTERNS: Final[dict[type, str]] = {
    Budget: rf"^\s*{_NUMBER}\s+per\s+(\d+\s+)?({'|'.join(SPANS)}|decision)s?\s*$",
    Change: r"^\s*(\d+(\.\d*)?([eE][-+]?\d+)?|\.\d+)\s*%?\s*$",
    QuietSpan: r"^\s*([01]?\d|2[0-3]):[0-5]\d\s*-\s*(([01]?\d|2[0-3]):[0-5]\d|24:00)\s*$",
}
_ABOVE_ZERO: Final = r"(?!\s*[0.]+\s*[A-Za-z])"  # behind the beginning of a pattern
_TEXT: Final = ["string", "number"]  # what looks like a number is taken as it is written


def schema_text() -> str:
    """Return the schema as JSON, one line for each value, so that changes can be read."""
    return msgspec.json.format(msgspec.json.encode(schema()), indent=2).decode() + "\n"


def schema() -> dict[str, Any]:
    """Return the schema, draft 2020-12."""
    definitions: dict[str, Any] = {}
    root = _reference(Configuration, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Redshank's configuration",
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


def _reference(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return a reference to a settings type, which is defined at its first mention."""
    name = kind.__name__
    if name not in definitions:
        definitions[name] = _object(kind, definitions)
    return {"$ref": f"#/$defs/{name}"}


def _object(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    config = kind.__struct_config__
    if config.tag_field is not None:
        properties[config.tag_field] = {"const": config.tag}
    fields = msgspec.structs.fields(kind)
    for field in fields:
        made = _typed(inspect.type_info(field.type), definitions)
        if field.name in POSITIVE.get(kind, ()):
            made = _positive(made)
        for word, limits in (("minimum", LEAST), ("maximum", MOST)):
            limit = limits.get(kind, {}).get(field.name)
            for one in made.get("anyOf", [made]) if limit is not None else ():
                if one.get("type") == "integer":
                    one[word] = limit
        properties[key_of(field.name)] = made | _default(field)
    required = [key_of(field.name) for field in fields if field.required]
    made = {"description": _sentence(kind), "type": "object", "properties": properties, "additionalProperties": False}
    return made | ({"required": required} if required else {})


def _typed(info: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if isinstance(info, inspect.UnionType):
        types = [one for one in info.types if not isinstance(one, inspect.NoneType)]
        if any(isinstance(one, inspect.EnumType) for one in types):
            return {"anyOf": [_typed(one, definitions) for one in types]}
        if len(types) > 1:
            return _tagged(types, definitions)
        made = _typed(types[0], definitions)
        return {"anyOf": [made, {"type": "null"}]} if len(types) < len(info.types) else made
    word = (info.extra or {}).get("parse") if isinstance(info, inspect.Metadata) else None
    if word is not None:
        return {"description": _capital(EXAMPLES[word]), "type": "string", "pattern": _PATTERNS[word]}
    if isinstance(info, inspect.Metadata):
        info = info.type
    match info:
        case inspect.StructType(cls=kind) if kind in _WORD_PATTERNS:
            made = {"description": _capital(WORDS[kind][1]), "type": "string", "pattern": _WORD_PATTERNS[kind]}
            return made | ({"type": ["string", "number"], "minimum": 0} if kind is Change else {})
        case inspect.StructType(cls=kind):
            return _reference(kind, definitions)
        case inspect.ListType() | inspect.VarTupleType():
            return {"type": "array", "items": _typed(info.item_type, definitions)}
        case inspect.DictType():
            return {"type": "object", "additionalProperties": _typed(info.value_type, definitions)}
        case inspect.EnumType(cls=kind):
            words = [str(member.value) for member in kind]
            return {"enum": [*words, *(int(word) for word in words if word.isdecimal())]}  # `protocol: 5` is a number
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.IntType():
            return {"type": "integer"}
        case inspect.FloatType():
            return {"type": "number"}
        case _:
            return {"type": _TEXT}


def _tagged(types: list[Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return what chooses by the tag; the first type is that without one."""
    made = _reference(types[0].cls, definitions)
    for one in reversed(types[1:]):
        chosen = {"properties": {one.tag_field: {"const": one.tag}}, "required": [one.tag_field]}
        made = {"if": chosen, "then": _reference(one.cls, definitions), "else": made}
    tags = {"enum": [one.tag for one in types], "default": types[0].tag}
    return {"type": "object", "properties": {types[0].tag_field: tags}, **made}


def _positive(made: dict[str, Any]) -> dict[str, Any]:
    """Return the schema without zero."""
    if "anyOf" in made:
        return {"anyOf": [_positive(one) if one != {"type": "null"} else one for one in made["anyOf"]]}
    if "pattern" not in made:
        return made | {"exclusiveMinimum": 0}
    return made | {"pattern": made["pattern"].replace("^", "^" + _ABOVE_ZERO, 1)}


def _default(field: msgspec.structs.FieldInfo) -> dict[str, Any]:
    """Return the default, where it is a word or a number that can be written as it is."""
    value = field.default
    annotated = inspect.type_info(field.type)
    word = (annotated.extra or {}).get("parse") if isinstance(annotated, inspect.Metadata) else None
    if word is not None:
        return {"default": _written(value, DURATIONS if word == "duration" else SIZES)}
    if isinstance(value, str | int | float) and value != "":
        return {"default": value}
    return {}


def _written(value: float, units: dict[str, Any]) -> str:
    """Return a duration or size as a person writes it, in the largest unit of which it is a whole number."""
    whole = [unit for unit, size in units.items() if size == 1 or (value and value % size == 0)]
    unit = max(whole, key=units.__getitem__)
    return f"{value / units[unit]:g}{unit}"


def _sentence(kind: type[Settings]) -> str:
    """Return the first sentence of what the type says of itself."""
    return re.split(r"(?<=\.)\s", (kind.__doc__ or "").strip(), maxsplit=1)[0]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
