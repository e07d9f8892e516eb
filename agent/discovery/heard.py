"""What was heard on each topic, gathered in bounded memory however much comes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from agent.discovery.fields import FieldStatistics, Role
from agent.discovery.forms import Form, Kind, look
from agent.discovery.sparkplug import SparkplugHeard

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agent.discovery.fields import Scalar
    from agent.ports import InboundMessage

_MAX_FORMS: Final = 8  # of one topic: more than one is left out anyway
_LONGEST_TOPIC: Final = 512  # bytes
_LONGEST_NAME: Final = 200  # characters of a field's path
_PICTURES_DECODED: Final = 3  # of each topic: they take milliseconds


_NAMELESS: Final = frozenset({"state", "value", "val", "data", "raw", "current_value"})  # a level that says nothing


class Limits(msgspec.Struct, frozen=True):
    """How much is kept: topics, messages of a topic that are looked into, fields of all topics together."""

    topics: int = 20_000
    messages: int = 500
    fields: int = 100_000


class TopicHeard:
    """One topic. Times are seconds since the epoch; `looked` counts the messages whose payload was looked into."""

    __slots__ = (
        "documents", "fields", "first_at", "forms", "json_too", "largest", "last_at", "levels", "looked",
        "messages", "retained", "topic", "unborn", "unseen",
    )  # fmt: skip

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.levels = tuple(topic.split("/"))
        self.messages = self.retained = self.looked = self.documents = self.json_too = 0
        self.largest = 0  # payload, bytes
        self.unborn = 0  # messages of Sparkplug whose names no birth had told
        self.unseen = 0  # values of fields that were too many, or whose names no configuration may hold
        self.first_at = self.last_at = 0.0
        self.forms: Counter[Form] = Counter()
        self.fields: dict[str, FieldStatistics] = {}

    @property
    def period_s(self) -> float | None:
        """Return the mean time between two messages, None where fewer than two came."""
        return (self.last_at - self.first_at) / (self.messages - 1) if self.messages > 1 else None

    @property
    def quantity(self) -> str:
        """Return the level of the topic that says what a plain value is."""
        return next((one for one in reversed(self.levels) if one.lower() not in _NAMELESS), self.levels[-1])

    def role(self, name: str) -> Role:
        """Return what a field is; a plain value is called as its topic is."""
        plain = self.plain and name == "value"
        return self.fields[name].role(self.quantity.replace(".", "_") if plain else name)

    @property
    def plain(self) -> bool:
        """Tell whether plain numbers came."""
        return any(form.kind is Kind.VALUE for form in self.forms)

    @property
    def form(self) -> Form | None:
        """Return how all payloads looked into are written, None if they are not of one form."""
        forms = self.forms.copy()
        forms.pop(Form(Kind.NO_VALUE), None)
        if len(forms) <= 1:
            return next(iter(forms), Form(Kind.NO_VALUE))
        values, documents = Form(Kind.VALUE), Form(Kind.JSON)
        if set(forms) == {values, documents} and self.json_too == forms[values]:
            return documents
        return None


class Heard:
    """All topics. `beyond` counts messages of topics that were too many or too long to be kept."""

    def __init__(self, limits: Limits = Limits()) -> None:  # noqa: B008  frozen
        self.limits = limits
        self.topics: dict[str, TopicHeard] = {}
        self.messages = self.retained = self.beyond = self.fields = self.fields_beyond = self.not_looked = 0
        self.oversized: Counter[str] = Counter()
        self._sparkplug = SparkplugHeard()

    def take(self, messages: Iterable[InboundMessage]) -> None:
        """Note messages, in order."""
        for message in messages:
            self.messages += not message.retained
            self.retained += message.retained
            heard = self._topic(message.topic)
            if heard is None:
                self.beyond += 1
            elif message.payload:
                self._note(heard, message)

    def too_large(self, topic: str) -> None:
        """Note a message that was too large to be taken."""
        if topic in self.oversized or len(self.oversized) < self.limits.topics:
            self.oversized[topic] += 1

    def _topic(self, topic: str) -> TopicHeard | None:
        heard = self.topics.get(topic)
        if heard is None and len(self.topics) < self.limits.topics and len(topic.encode()) <= _LONGEST_TOPIC:
            heard = self.topics[topic] = TopicHeard(topic)
        return heard

    def _note(self, heard: TopicHeard, message: InboundMessage) -> None:
        at = message.received_at
        if message.retained:
            heard.retained += 1
        else:
            heard.messages += 1
            heard.first_at = heard.first_at or at
            heard.last_at = at
        heard.largest = max(heard.largest, len(message.payload))
        if heard.looked >= self.limits.messages:
            self.not_looked += 1
            return
        pictures = heard.forms[Form(Kind.PICTURE)]
        if pictures >= _PICTURES_DECODED and pictures == heard.looked:
            self.not_looked += 1
            return
        heard.looked += 1
        if self._sparkplug.concerns(heard.topic):
            for values in self._sparkplug.take(heard, message):
                heard.documents += 1
                self._gather(heard, values, frozenset(), at)
            return
        seen = look(message.payload, at)
        if seen.form in heard.forms or len(heard.forms) < _MAX_FORMS:
            heard.forms[seen.form] += 1
        heard.json_too += seen.json_too
        heard.largest = max(heard.largest, seen.unpacked)
        heard.documents += len(seen.rows)
        for row in seen.rows:
            self._gather(heard, row, seen.unaddressable, at)

    def _gather(self, heard: TopicHeard, row: Mapping[str, Scalar], unaddressable: frozenset[str], at: float) -> None:
        for name, value in row.items():
            field = heard.fields.get(name)
            if field is None:
                if self.fields >= self.limits.fields or len(name) > _LONGEST_NAME or "\0" in name:
                    heard.unseen += 1
                    self.fields_beyond += 1
                    continue
                self.fields += 1
                field = heard.fields[name] = FieldStatistics(addressable=name not in unaddressable)
            field.take(value, at)
