"""The MQTT client: paho behind one adapter. Nothing else in this project imports paho."""

from agent.adapters.mqtt.broker import BrokerSettings, Protocol
from agent.adapters.mqtt.client import MqttClient
from agent.adapters.mqtt.ears import Ears, Hearing
from agent.adapters.mqtt.events import Command, MqttEvents, Token
from agent.adapters.mqtt.topics import Topics

__all__ = ["BrokerSettings", "Command", "Ears", "Hearing", "MqttClient", "MqttEvents", "Protocol", "Token", "Topics"]
