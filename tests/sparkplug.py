"""An edge node for tests: its messages are encoded by Google's protobuf, on a schema made here from Eclipse Tahu's."""

from __future__ import annotations

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# Field: number, type, whether it is repeated; of sparkplug_b.proto, what a node of sensors sends.
_TEXT, _WORD, _HALF, _FLAG, _FLOAT, _DOUBLE, _BYTES = "STRING", "UINT64", "UINT32", "BOOL", "FLOAT", "DOUBLE", "BYTES"
_MESSAGES = {
    "PropertyValue": {
        "type": (1, _HALF), "is_null": (2, _FLAG), "int_value": (3, _HALF), "long_value": (4, _WORD),
        "float_value": (5, _FLOAT), "double_value": (6, _DOUBLE), "boolean_value": (7, _FLAG),
        "string_value": (8, _TEXT),
    },
    "PropertySet": {"keys": (1, _TEXT, True), "values": (2, "PropertyValue", True)},
    "Metric": {
        "name": (1, _TEXT), "alias": (2, _WORD), "timestamp": (3, _WORD), "datatype": (4, _HALF),
        "is_historical": (5, _FLAG), "is_transient": (6, _FLAG), "is_null": (7, _FLAG),
        "properties": (9, "PropertySet"),
        "int_value": (10, _HALF), "long_value": (11, _WORD), "float_value": (12, _FLOAT), "double_value": (13, _DOUBLE),
        "boolean_value": (14, _FLAG), "string_value": (15, _TEXT), "bytes_value": (16, _BYTES),
    },
    "Payload": {
        "timestamp": (1, _WORD), "metrics": (2, "Metric", True), "seq": (3, _WORD),
        "uuid": (4, _TEXT), "body": (5, _BYTES),
    },
}  # fmt: skip
INT8, INT32, INT64, UINT16, FLOAT, DOUBLE, BOOLEAN, STRING, DATE_TIME = 1, 3, 4, 6, 9, 10, 11, 12, 13
_VALUES = {FLOAT: "float_value", DOUBLE: "double_value", BOOLEAN: "boolean_value", STRING: "string_value"}


def _classes():
    file = descriptor_pb2.FileDescriptorProto(name="sparkplug.proto", package="tests", syntax="proto2")
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, *repeated) in fields.items():
            made = message.field.add(name=field, number=number)
            made.label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            if kind in _MESSAGES:
                made.type, made.type_name = kinds.TYPE_MESSAGE, f".tests.{kind}"
            else:
                made.type = getattr(kinds, f"TYPE_{kind}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return [message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tests.{name}")) for name in _MESSAGES]


PropertyValue, PropertySet, Metric, Payload = _classes()


def metric(name=None, value=None, datatype=DOUBLE, *, alias=None, sends_type=True, quality=None, **more):
    """Return one metric as Tahu encodes it; without a value it is null."""
    made = Metric(**{key: one for key, one in {"name": name, "alias": alias, **more}.items() if one is not None})
    if sends_type:
        made.datatype = datatype
    if value is None:
        made.is_null = True
    elif datatype in _VALUES:
        setattr(made, _VALUES[datatype], bool(value) if datatype == BOOLEAN else value)
    elif datatype in {INT64, DATE_TIME}:
        made.long_value = value % (1 << 64)
    else:
        made.int_value = value % (1 << 32)
    if quality is not None:
        made.properties.keys.extend(["engUnit", "Quality"])
        made.properties.values.extend([PropertyValue(string_value="C"), PropertyValue(type=INT32, int_value=quality)])
    return made


class EdgeNode:
    """Builds a node's messages: (topic, payload), with its sequence numbers."""

    def __init__(self, group="plant", name="line1"):
        self.group, self.name = group, name
        self.seq, self.session = 0, -1

    def birth(self, at, metrics=()):
        self.session += 1
        self.seq = 0
        number = metric("bdSeq", self.session, INT64)
        rebirth = metric("Node Control/Rebirth", 0, BOOLEAN)
        return self.message("NBIRTH", at, [number, rebirth, *metrics])

    def death(self, session=None):
        number = metric("bdSeq", self.session if session is None else session, INT64)
        return self.topic("NDEATH"), Payload(metrics=[number]).SerializeToString()

    def message(self, kind, at, metrics, device=None):
        made = Payload(metrics=list(metrics), seq=self.seq)
        if at is not None:
            made.timestamp = round(at * 1000)
        self.seq = (self.seq + 1) % 256
        return self.topic(kind, device), made.SerializeToString()

    def topic(self, kind, device=None):
        return "/".join(["spBv1.0", self.group, kind, self.name, *([device] if device else [])])
