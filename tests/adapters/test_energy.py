from __future__ import annotations

import pytest

from agent.adapters import energy
from agent.adapters.energy import find_meter


def put(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")
    return folder


def test_a_device_without_counters_and_sensors_tells_nothing(tmp_path):
    assert find_meter(tmp_path) == (None, "this device does not tell")


def test_what_all_processors_counted_is_added_and_what_lies_within_them_is_not(tmp_path):
    zones = tmp_path / "powercap"
    first = put(zones / "intel-rapl:0", name="package-0", energy_uj=1_000_000, max_energy_range_uj=10_000_000)
    second = put(zones / "intel-rapl:1", name="package-1", energy_uj=9_000_000, max_energy_range_uj=10_000_000)
    core = put(zones / "intel-rapl:0:0", name="core", energy_uj=0, max_energy_range_uj=10_000_000)
    put(zones / "intel-rapl:2", name="psys", energy_uj=0, max_energy_range_uj=10_000_000)
    meter, source = find_meter(tmp_path)
    assert source == "RAPL, package-0 and package-1"
    meter.begin()
    put(first, energy_uj=3_500_000)
    put(second, energy_uj=500_000)  # it has begun anew
    put(core, energy_uj=2_000_000)
    meter.sample()
    assert meter.joules() == pytest.approx(2.5 + 1.5)
    meter.begin()
    assert meter.joules() == 0


def test_a_counter_that_only_root_may_read_is_named(tmp_path, monkeypatch):
    put(tmp_path / "powercap" / "intel-rapl:0", name="package-0", energy_uj=1)

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(energy, "_number", denied)
    assert find_meter(tmp_path) == (None, "only root may read RAPL, package-0")


def test_of_the_counters_of_a_device_those_of_sockets_hold_what_cores_used(tmp_path):
    device = put(tmp_path / "hwmon" / "hwmon0", name="amd_energy", energy1_input=0, energy1_label="Ecore000")
    put(device, energy2_input=5_000_000, energy2_label="Esocket0")
    meter, source = find_meter(tmp_path)
    assert source == "amd_energy, Esocket0"
    meter.begin()
    put(device, energy1_input=1_000_000, energy2_input=8_000_000)
    assert meter.joules() == pytest.approx(3.0)


def test_of_the_sensors_of_power_the_one_that_shows_most_is_what_the_board_takes(tmp_path, monkeypatch):
    put(tmp_path / "hwmon" / "hwmon0", name="gpu", power1_input=400_000)
    board = put(tmp_path / "hwmon" / "hwmon1", name="ina226", power1_input=2_000_000)
    put(tmp_path / "hwmon" / "hwmon2", name="broken", power1_input="none")
    now = [100.0]
    monkeypatch.setattr(energy, "monotonic", lambda: now[0])
    meter, source = find_meter(tmp_path)
    assert source == "ina226, power1_input"
    meter.begin()
    put(board, power1_input=4_000_000)
    now[0] += 0.01
    meter.sample()  # too soon
    now[0] += 0.99
    meter.sample()  # 1 s of 3 W
    now[0] += 1.0
    put(board, power1_input=6_000_000)
    assert meter.joules() == pytest.approx(3.0 + 5.0)  # 1 s of 5 W
