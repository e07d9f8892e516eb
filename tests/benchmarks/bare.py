"""The ceiling: a paho subscriber whose callback does nothing.

`python -m tests.benchmarks.bare PORT QOS SECONDS` prints `ready`, and after SECONDS of messages (the first second is
not counted) how many it took per second. With QoS 1 it acknowledges each by hand, as one must that processes first.
"""

from __future__ import annotations

import sys
import time

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties


def main() -> None:
    port, qos, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5, manual_ack=bool(qos))
    counted = 0

    def on_message(_client, _data, _message):
        nonlocal counted
        counted += 1

    def on_message_to_acknowledge(_client, _data, message):
        nonlocal counted
        counted += 1
        client.ack(message.mid, message.qos)

    client.on_message = on_message_to_acknowledge if qos else on_message
    client.on_subscribe = lambda *_: print("ready", flush=True)
    properties = Properties(PacketTypes.CONNECT)
    properties.ReceiveMaximum = 1000
    client.connect("127.0.0.1", port, properties=properties)
    client.subscribe("bench/#", qos=qos)
    client.loop_start()
    while not counted:
        time.sleep(0.01)
    time.sleep(1.0)
    before, begun = counted, time.monotonic()
    time.sleep(seconds)
    seconds = time.monotonic() - begun
    print(f"{(counted - before) / seconds:.0f}", flush=True)


if __name__ == "__main__":
    main()
