from __future__ import annotations

import pytest

from agent import encoder_keeper
from agent.adapters.store import Store
from agent.adapters.telemetry import Telemetry
from agent.bundle import find_bundle, version_of_bundle
from agent.config import load_configuration
from agent.disk import Disk
from agent.encoder_keeper import EncoderKeeper
from agent.errors import BundleError
from tests.encoder_versions import GOOD, make_deadly, make_version


class Kept:
    """A keeper with what it needs: the configuration names the bundle at `path`, or `name`."""

    def __init__(self, folder, name=None):
        self.path = folder / "encoders" / "pump"
        self.name = name or str(self.path)
        self.file = folder / "redshank.yaml"
        self.configure()
        self.telemetry = Telemetry(1, 256_000_000)
        self.store = Store(folder / "state")
        self.disk = Disk(self.store, self.telemetry)
        self.start()

    def configure(self, more=""):
        self.file.write_text(f"""
broker: {{url: "mqtt://localhost"}}
streams:
  - {{name: pump, topic: plant/a, channels: [temp], encoder: {self.name}}}
{more}""")
        self.configuration = load_configuration(self.file)

    def start(self):
        self.keeper = EncoderKeeper(lambda: self.configuration, self.store, self.disk, self.telemetry, lambda: None)

    def begin(self):
        """Start with what lies there, and keep it; return its version."""
        self.start()
        found = self.keeper.find(self.name)
        self.keeper.keep_found()
        return version_of_bundle(found.path)

    @property
    def versions(self):
        return [version_of_bundle(one) for one in self.keeper._versions.paths(self.name)]

    @property
    def refused(self):
        return self.telemetry.registry.get_sample_value("redshank_bundles_refused_total")


@pytest.fixture
def make_kept(tmp_path):
    made = []

    def make(name=None):
        made.append(Kept(tmp_path, name))
        return made[-1]

    yield make
    for one in made:
        one.store.close()


@pytest.fixture
def checked(monkeypatch):
    """Return what was tried in a process of its own."""
    found = []
    check = encoder_keeper.check_in_process

    def note(bundle):
        found.append(bundle.path)
        check(bundle)

    monkeypatch.setattr(encoder_keeper, "check_in_process", note)
    return found


def test_only_what_was_not_used_before_is_tried_at_a_start(make_kept, checked):
    kept = make_kept()
    make_version(kept.path)
    kept.begin()
    assert checked == [kept.path]
    kept.begin()
    assert checked == [kept.path]
    second = version_of_bundle(make_version(kept.path, GOOD))
    assert kept.begin() == second
    assert checked == [kept.path] * 2


def test_what_came_with_the_package_is_not_tried_at_a_start(make_kept, checked):
    kept = make_kept("sensor-small")
    kept.begin()
    kept.begin()
    assert (checked, kept.refused) == ([], 0.0)


def test_a_start_goes_on_with_the_last_version_that_can_be_read(make_kept, caplog):
    kept = make_kept()
    make_version(kept.path)
    first = kept.begin()
    make_version(kept.path, GOOD)
    kept.begin()
    kept.keeper._versions.paths(kept.name)[0].write_bytes(b"damaged")
    make_deadly(kept.path)
    assert kept.begin() == first
    assert "its process ended with" in caplog.text
    assert "an earlier version cannot be gone on with" in caplog.text
    assert kept.refused == 1.0


@pytest.mark.parametrize("error", [ZeroDivisionError("oh"), BundleError("damaged"), TypeError("no")])
def test_a_start_goes_on_with_what_was_used_before_whatever_a_new_bundle_raises(make_kept, monkeypatch, caplog, error):
    kept = make_kept()
    make_version(kept.path)
    first = kept.begin()

    def fail(bundle):
        del bundle
        raise error

    monkeypatch.setattr(encoder_keeper, "check_in_process", fail)
    make_version(kept.path, GOOD)
    assert kept.begin() == first
    assert kept.refused == 1.0
    assert f"the one in use stays: {error}" in caplog.text


def test_where_nothing_was_used_before_a_bad_bundle_ends_the_start(make_kept):
    kept = make_kept()
    make_deadly(kept.path)
    with pytest.raises(BundleError, match="its process ended with"):
        kept.begin()


def test_a_bundle_that_is_just_being_replaced_is_no_trouble_of_the_disk(make_kept, caplog):
    kept = make_kept()
    make_version(kept.path)
    bundle = find_bundle(kept.name)
    for spoil in (lambda: (kept.path / "manifest.json").write_bytes(b"{"), (kept.path / "manifest.json").unlink):
        spoil()
        kept.keeper.keep(kept.name, bundle)
        assert not kept.disk.troubled
    assert caplog.text.count("this version could not be kept") == 2
    assert kept.versions == []
