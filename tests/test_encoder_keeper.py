from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from agent import encoder_keeper
from agent.adapters.mqtt.topics import Topics
from agent.adapters.store import Store
from agent.adapters.telemetry import SilentObserver, Telemetry
from agent.adapters.tflite import available_runtimes, load_encoder
from agent.bundle import find_bundle, load_bundle, sign_bundle, version_of_bundle
from agent.config import load_configuration
from agent.disk import Disk
from agent.encoder_keeper import EncoderKeeper
from agent.encoder_versions import KEPT_VERSIONS
from agent.errors import BundleError
from agent.pipeline import Pipeline
from agent.signing import generate_key
from tests.encoder_versions import DEADLY_ENDS, GOOD, MODEL, make_deadly, make_version
from tests.eye_versions import put_eye


class Kept:
    """A keeper with what it needs: the configuration names the bundle at `path`, or `name`."""

    def __init__(self, folder, name=None):
        self.path = folder / "encoders" / "pump"
        self.name = name or str(self.path)
        self.used = {self.name: set()}
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
        self.keeper = EncoderKeeper(
            lambda: self.configuration,
            self.store,
            self.disk,
            self.telemetry,
            lambda: None,
            lambda name: self.used[name],
        )

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


def test_versions_of_encoders_of_pictures_are_kept_as_well(make_kept, checked, tmp_path):
    kept = make_kept(str(put_eye(tmp_path / "encoders" / "eye.zip", "first")))
    kept.file.write_text(f"streams: [{{name: gate, topic: gate, kind: image, encoder: {kept.name}}}]")
    kept.configuration = load_configuration(kept.file)
    first = kept.begin()
    assert kept.begin() == first
    assert checked == [Path(kept.name)]
    put_eye(Path(kept.name), "second")
    assert kept.keeper.load(kept.name).encoder.shape == (64, 64, 3)
    assert kept.begin() != first
    Path(kept.name).write_bytes(b"damaged")
    assert kept.begin() == kept.versions[0]
    assert kept.versions[1:] == [first]


def test_a_bundle_of_another_kind_than_its_streams_is_refused(make_kept):
    kept = make_kept()
    make_version(kept.path)
    first = kept.begin()
    shutil.rmtree(kept.path)
    put_eye(kept.path, "first")
    with pytest.raises(BundleError, match="an encoder of sensor windows, found kind 'image'"):
        kept.keeper.load(kept.name)
    assert kept.begin() == first
    assert kept.refused == 1.0


def test_an_encoder_with_which_nothing_of_a_picture_would_be_left_is_refused(make_kept, tmp_path):
    kept = make_kept(str(put_eye(tmp_path / "encoders" / "eye.zip", "first")))
    ignored = "[[[0, 0], [0.97, 0], [0.97, 1], [0, 1]]]"
    kept.file.write_text(
        f"streams: [{{name: gate, topic: gate, kind: image, encoder: {kept.name}, ignore: {ignored}}}]"
    )
    kept.configuration = load_configuration(kept.file)
    with pytest.raises(BundleError, match=r"stream gate cannot be looked at with it.*half of it"):
        kept.keeper.load(kept.name)


def test_a_start_goes_on_with_the_last_version_that_can_be_read(make_kept, caplog):
    kept = make_kept()
    make_version(kept.path)
    first = kept.begin()
    make_version(kept.path, GOOD)
    kept.begin()
    kept.keeper._versions.paths(kept.name)[0].write_bytes(b"damaged")
    make_deadly(kept.path)
    assert kept.begin() == first
    assert DEADLY_ENDS in caplog.text
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
    with pytest.raises(BundleError, match=DEADLY_ENDS):
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


def test_versions_that_streams_have_are_kept_however_old(make_kept):
    kept = make_kept()
    versions = []
    for change in range(KEPT_VERSIONS + 2):
        versions.append(version_of_bundle(make_version(kept.path, change)))
        bundle = load_bundle(kept.path)
        if not change:
            kept.used[kept.name] = {bundle.manifest.variants[0].sha256}
        kept.keeper.keep(kept.name, bundle)
    assert kept.versions == [*versions[: -KEPT_VERSIONS - 1 : -1], versions[0]]
    kept.used[kept.name] = set()
    kept.keeper.keep(kept.name, bundle)
    assert kept.versions == versions[: -KEPT_VERSIONS - 1 : -1]


def test_what_cannot_be_kept_is_kept_later(make_kept, monkeypatch):
    kept = make_kept()
    first = version_of_bundle(make_version(kept.path))
    kept.begin()
    second = version_of_bundle(make_version(kept.path, GOOD))
    with monkeypatch.context() as patched:

        def fail(*_):
            raise OSError(28, "No space left on device")

        patched.setattr(type(kept.keeper._versions), "_write", fail)
        kept.keeper.keep(kept.name, load_bundle(kept.path))
        assert (kept.versions, kept.disk.troubled) == ([first], True)
    kept.keeper.keep_left()
    assert kept.versions == [second, first]
    kept.keeper._versions.paths(kept.name)[0].unlink()
    kept.keeper.keep_left()  # nothing is left to do
    assert kept.versions == [first]


def test_a_start_removes_what_no_stream_names_and_what_is_half_written(make_kept):
    kept = make_kept()
    first = version_of_bundle(make_version(kept.path))
    kept.begin()
    folder = kept.store.directory / "encoders"
    kept.keeper._versions.keep("/another", load_bundle(kept.path))
    (folder / "0123-4567.new").touch()
    (folder / "notes.txt").touch()
    assert len(list(folder.iterdir())) == 4
    kept.begin()
    assert kept.versions == [first]
    assert sorted(one.name for one in folder.iterdir()) == sorted(
        ["notes.txt", *(one.name for one in kept.keeper._versions.paths(kept.name))]
    )


def test_a_bundle_that_is_signed_later_is_kept_with_its_signature(make_kept, tmp_path):
    kept = make_kept()
    make_version(kept.path)
    first = kept.begin()
    key = tmp_path / "signing.key"
    public = generate_key(key)
    sign_bundle(kept.path, key)
    assert kept.begin() == first
    kept.configure(f"encoders: {{trusted_keys: ['{public}']}}")
    make_version(kept.path, GOOD)
    (kept.path / "manifest.sig").unlink()
    assert kept.begin() == first
    assert kept.refused == 1.0


def test_a_kept_version_of_what_came_with_the_package_needs_no_signature(make_kept, tmp_path, monkeypatch):
    kept = make_kept("sensor-small")
    kept.configure(f"encoders: {{trusted_keys: ['{generate_key(tmp_path / 'signing.key')}']}}")
    first = kept.begin()

    def fail(name, trusted):
        raise BundleError(f"{name} is damaged, by {len(trusted)} keys")

    monkeypatch.setattr(encoder_keeper, "find_bundle", fail)
    assert kept.begin() == first
    kept_model = load_bundle(kept.keeper._versions.paths("sensor-small")[0]).manifest.variants[0].sha256
    found = list(kept.keeper._load_kept("sensor-small", kept_model, available_runtimes()[0]))
    assert [one.name for one in found] == ["sensor-small"]


def test_a_stream_goes_on_with_the_variant_that_its_snapshot_is_of(make_kept):
    kept = make_kept()
    make_version(kept.path)
    manifest = json.loads((kept.path / "manifest.json").read_bytes())
    other = bytes(make_version(kept.path.with_name("other"), GOOD).joinpath(MODEL).read_bytes())
    (kept.path / "other.tflite").write_bytes(other)
    added = {"file": "other.tflite", "sha256": hashlib.sha256(other).hexdigest()}
    manifest["variants"].append({**manifest["variants"][0], **added})
    (kept.path / "manifest.json").write_text(json.dumps(manifest))
    kept.begin()
    runtime = available_runtimes()[0]
    bundle = load_bundle(kept.path)
    first, second = (load_encoder(bundle, runtime, name) for name in (MODEL, "other.tflite"))
    pipeline = Pipeline(kept.configuration, {kept.name: first}, Topics("redshank", "pi"), SilentObserver())
    stream = pipeline.stream_of("plant/a")
    told = stream.signature_with(second)
    assert kept.keeper.former(stream, told).file == "other.tflite"
    assert kept.keeper.former(stream, told) is kept.keeper.former(stream, told)
    assert kept.keeper.former(stream, {**told, "encoder": "0123 1.0 0"}) is None
    assert kept.keeper.former(stream, {**told, "runtime": "another 1.0"}) is None
    assert kept.keeper.former(stream, {**told, "stride": 9}) is None
