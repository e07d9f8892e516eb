"""How much energy this device says it has used: RAPL's counters, or a sensor of hwmon. Many devices tell nothing.

What is told is of the whole processor, or of the whole board, whoever used it. Units of the files: microjoules and
microwatts (Linux: Documentation/power/powercap/powercap.rst, Documentation/hwmon/sysfs-interface.rst).
"""

from __future__ import annotations

from pathlib import Path
from time import monotonic
from typing import Final, Protocol

_CLASSES: Final = Path("/sys/class")
_MICRO: Final = 1e-6
_SAMPLED_S: Final = 0.05  # at least, between two looks at a sensor of power: one on a slow bus takes a millisecond


class EnergyMeter(Protocol):
    """What tells energy. `source` names it for a person."""

    source: str

    def begin(self) -> None:
        """Count from here on. Raises OSError or ValueError if it no longer tells anything."""
        ...

    def sample(self) -> None:
        """Look again, if it is time to; called often."""
        ...

    def joules(self) -> float:
        """Return what was used since `begin`."""
        ...


class CountedEnergy:
    """Counters of energy, in microjoules; each begins anew behind its range (None: it does not within any test)."""

    def __init__(self, source: str, counters: list[tuple[Path, int | None]]) -> None:
        self.source = source
        self._counters = counters
        self._begun: list[int] = []

    def begin(self) -> None:
        """Count from here on."""
        self._begun = [_number(path) for path, _ in self._counters]

    def sample(self) -> None:
        """Do nothing: a counter misses nothing."""

    def joules(self) -> float:
        """Return what was used since `begin`."""
        used = 0
        for (path, whole), begun in zip(self._counters, self._begun, strict=True):
            passed = _number(path) - begun
            used += passed + (whole or 0) if passed < 0 else passed
        return used * _MICRO


class SampledPower:
    """A sensor of power, in microwatts, taken for what lies between two looks at it."""

    def __init__(self, source: str, path: Path) -> None:
        self.source = source
        self._path = path
        self._joules = self._seen_at = self._watts = 0.0

    def begin(self) -> None:
        """Count from here on."""
        self._joules, self._seen_at, self._watts = 0.0, monotonic(), _number(self._path) * _MICRO

    def sample(self) -> None:
        """Look again, if it is time to."""
        if monotonic() - self._seen_at >= _SAMPLED_S:
            self._look()

    def joules(self) -> float:
        """Return what was used since `begin`."""
        self._look()
        return self._joules

    def _look(self) -> None:
        watts, now = _number(self._path) * _MICRO, monotonic()
        self._joules += (now - self._seen_at) * (watts + self._watts) / 2
        self._seen_at, self._watts = now, watts


def find_meter(classes: Path = _CLASSES) -> tuple[EnergyMeter | None, str]:
    """Return what tells energy here, None if nothing does, and its name or the reason.

    Counters of whole processors come first, then other counters, then the sensor that shows the most power: what others
    show is a part of that.
    """
    denied = ""
    for meter in (*_packages(classes / "powercap"), *_counters(classes / "hwmon"), *_sensors(classes / "hwmon")):
        try:
            meter.begin()
            meter.joules()
        except PermissionError:
            denied = denied or meter.source
        except (OSError, ValueError):
            continue
        else:
            return meter, meter.source
    return None, f"only root may read {denied}" if denied else "this device does not tell"


def _packages(folder: Path) -> list[EnergyMeter]:
    """Return RAPL's counters of all processors as one; zones within a processor are parts of it."""
    zones = [zone for zone in sorted(folder.glob("intel-rapl:*")) if _text(zone / "name").startswith("package")]
    if not zones:
        return []
    counters = [(zone / "energy_uj", _range(zone / "max_energy_range_uj")) for zone in zones]
    return [CountedEnergy(f"RAPL, {' and '.join(_text(zone / 'name') for zone in zones)}", counters)]


def _counters(folder: Path) -> list[EnergyMeter]:
    found: list[EnergyMeter] = []
    for device in sorted(folder.glob("hwmon*")):
        files = sorted(device.glob("energy*_input"))
        sockets = [one for one in files if "socket" in _text(_label(one)).lower()]  # what cores use is a part of that
        used = sockets or files[:1]
        if used:
            names = " and ".join(_text(_label(one)) or one.name for one in used)
            found.append(CountedEnergy(f"{_text(device / 'name')}, {names}", [(one, None) for one in used]))
    return found


def _sensors(folder: Path) -> list[EnergyMeter]:
    files = sorted(folder.glob("hwmon*/power*_input"), key=_shown, reverse=True)
    return [SampledPower(f"{_text(one.parent / 'name')}, {_text(_label(one)) or one.name}", one) for one in files]


def _label(path: Path) -> Path:
    return path.with_name(path.name.replace("_input", "_label"))


def _shown(path: Path) -> int:
    try:
        return _number(path)
    except (OSError, ValueError):
        return -1


def _range(path: Path) -> int | None:
    try:
        return _number(path)
    except (OSError, ValueError):
        return None


def _number(path: Path) -> int:
    return int(path.read_text())


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""
