"""One fuzzing process: `python -m tests.fuzz.one TARGET LIBFUZZER_ARGUMENTS`. Needs the extra `fuzz`."""

from __future__ import annotations

import logging
import os
import sys
import warnings

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import atheris

MESSAGE = ["agent.pipeline", "agent.stream", "agent.alert_message", "agent.core", "agent.adapters.mqtt.frames"]
WATCHED = {  # whose branches steer the fuzzer, where that is not all decoders
    "pictures": ["agent.adapters.pictures", "PIL"],
    "camera": ["agent.adapters.pictures", "agent.picture_stream", "PIL", *MESSAGE],
    "messages": ["agent.adapters.payload", *MESSAGE],
    "active": ["agent.adapters.payload", *MESSAGE],
    "frames": ["agent.adapters.mqtt", "paho.mqtt.properties"],
    "commands": ["agent.commands", "agent.settings_builder", *MESSAGE],
    "configuration": ["agent.config", "agent.settings_builder", "yaml"],
    "state": ["agent.adapters.store", "agent.app", *MESSAGE],
    "manifest": ["agent.bundle"],
    "signed": ["agent.bundle", "agent.signing", "base64"],
    "zip": ["agent.bundle", "zipfile"],
    "recording": ["agent.adapters.recording", "csv"],
}
DECODERS = ["agent.adapters.payload", "csv", "json", "datetime", "cbor2"]

if __name__ == "__main__":
    target = sys.argv[1]
    with atheris.instrument_imports(include=WATCHED.get(target, DECODERS)):
        from tests.fuzz.targets import TARGETS
    warnings.simplefilter("error")  # as pytest has it: a warning is a finding
    logging.disable()
    run = TARGETS[target]()
    atheris.Setup([sys.argv[0], *sys.argv[2:]], run)
    atheris.Fuzz()
