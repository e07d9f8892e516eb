"""The MQTT client: paho behind one adapter. Topics of this agent are named here and nowhere else."""

from __future__ import annotations

from enum import StrEnum

from agent.core.types import Duration, Settings


class Protocol(StrEnum):
    """MQTT version spoken to the broker."""

    V5 = "5"
    V311 = "3.1.1"


class BrokerSettings(Settings):
    """Where the broker is and how we prove who we are. The password itself is never part of the settings."""

    url: str = "mqtt://localhost:1883"
    protocol: Protocol = Protocol.V5
    session_expiry_s: Duration = 86400.0
    keepalive_s: Duration = 30.0
    client_id: str = ""  # default: "redshank-" and the agent's id
    username: str | None = None
    password_file: str | None = None
    password_env: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    receive_maximum: int = 1000
