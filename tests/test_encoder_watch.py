from __future__ import annotations

import io
import json
import os
import re
import time
import zipfile

import numpy as np
import pytest

from agent import encoder_check
from agent.adapters.telemetry import Telemetry
from agent.adapters.tflite import load_encoder, load_picture_encoder
from agent.bundle import contents, find_bundle, load_bundle, version_of_bundle
from agent.encoder_check import attempt, check_encoder, check_in_process
from agent.encoder_versions import KEPT_VERSIONS, EncoderVersions, put_back
from agent.encoder_watch import LOOK_S, EncoderWatch, NewVersion, mark_of
from agent.errors import BundleError
from tests.brokers import wait_until
from tests.encoder_versions import BAD, DEADLY_ENDS, GOOD, MODEL, make_deadly, make_version, seal, version_in
from tests.eye_versions import eye


class Loader:
    """Stands for the keeper: says what was asked for, and finds what it is told to find."""

    def __init__(self):
        self.asked, self.error = [], None

    def __call__(self, name):
        self.asked.append(name)
        if self.error is not None:
            raise self.error
        return NewVersion(name, None, None, {})


@pytest.fixture
def telemetry():
    return Telemetry(1, 256_000_000)


def refused(telemetry):
    return telemetry.registry.get_sample_value("redshank_bundles_refused_total")


@pytest.fixture
def loader():
    return Loader()


@pytest.fixture
def watched(tmp_path, loader, telemetry):
    path = make_version(tmp_path / "pump")
    woken = []
    watch = EncoderWatch(lambda: [str(path)], loader, lambda: woken.append(True), telemetry)
    return watch, path, woken


def test_a_bundle_is_loaded_once_it_has_lain_still(watched, loader):
    watch, path, woken = watched
    now = 100.0
    for _ in range(3):
        watch.look(now := now + LOOK_S)
    assert loader.asked == []
    make_version(path, GOOD)
    watch.look(now := now + LOOK_S)
    (path / "vectors.npz").touch()  # it is still being copied
    watch.look(now := now + LOOK_S)
    assert loader.asked == []
    watch.look(now + LOOK_S / 2)  # too soon
    assert loader.asked == []
    watch.look(now := now + LOOK_S)
    wait_until(lambda: woken)
    watch.look(now := now + LOOK_S)  # what was found waits for the worker
    assert loader.asked == [str(path)]
    assert watch.take().name == str(path)
    assert watch.take() is None
    for _ in range(3):
        watch.look(now := now + LOOK_S)
    assert loader.asked == [str(path)]


@pytest.mark.parametrize("error", [BundleError("damaged"), ZeroDivisionError("oh")])
def test_what_is_refused_is_told_once_and_tried_again_when_it_changes(watched, loader, telemetry, caplog, error):
    watch, path, woken = watched
    loader.error = error
    make_version(path, BAD)
    now = 0.0
    for _ in range(5):
        watch.look(now := now + LOOK_S)
        wait_until(lambda: not watch._busy)
    assert (loader.asked, refused(telemetry), woken, watch.take()) == ([str(path)], 1.0, [], None)
    assert f"the one in use stays: {error}" in caplog.text
    loader.error = None
    make_version(path, GOOD)
    for _ in range(2):
        watch.look(now := now + LOOK_S)
    wait_until(lambda: woken)
    assert len(loader.asked) == 2


def test_a_bundle_is_known_by_its_files(tmp_path):
    path = make_version(tmp_path / "pump")
    before = mark_of(path)
    assert mark_of(path) == before
    os.utime(path / MODEL, (1, 1))
    assert mark_of(path) != before
    with zipfile.ZipFile(tmp_path / "pump.zip", "w") as archive:
        archive.writestr("manifest.json", "{}")
    assert len(mark_of(tmp_path / "pump.zip")) == 1
    assert mark_of(tmp_path / "none") == ()
    assert mark_of(tmp_path / "\0") == ()


def test_a_model_that_does_not_reproduce_its_vectors_is_refused(tmp_path):
    for change in (0, GOOD):
        bundle = load_bundle(make_version(tmp_path / str(change), change))
        check_encoder(bundle, load_encoder(bundle))
    bad = load_bundle(make_version(tmp_path / "bad", BAD))
    with pytest.raises(BundleError, match=r"own test vectors to come out again .* found 0\.\d+ and 0\.\d+"):
        check_encoder(bad, load_encoder(bad))


@pytest.mark.parametrize("name", ["sensor-small", "efficientnet-lite0"])
def test_what_came_with_the_package_passes_in_a_process_of_its_own(name):
    check_in_process(find_bundle(name))


def test_a_model_that_does_not_reproduce_its_pictures_is_refused():
    eyes = {name: load_bundle(eye(name)) for name in ("first", "second")}
    for one in eyes.values():
        check_encoder(one, load_picture_encoder(one))
    with pytest.raises(BundleError, match=r"own test vectors to come out again .*cosine of pooled"):
        check_encoder(eyes["first"], load_picture_encoder(eyes["second"]))
    with pytest.raises(BundleError, match=r"something else .*pictures \(3, 96, 96\) for inputs \(224, 224, 3\)"):
        check_encoder(eyes["first"], load_picture_encoder(find_bundle("efficientnet-lite0")))


def test_a_model_that_ends_its_process_is_refused(tmp_path):
    bundle = load_bundle(make_deadly(tmp_path / "pump"))
    with pytest.raises(BundleError, match=DEADLY_ENDS):
        check_in_process(bundle)


def test_what_is_wrong_with_a_bundle_is_told_as_it_was_found(tmp_path):
    bundle = load_bundle(make_version(tmp_path / "pump", BAD))
    with pytest.raises(BundleError) as told:
        check_in_process(bundle)
    with pytest.raises(BundleError) as found:
        attempt(bundle)
    assert str(told.value) == str(found.value)
    assert "expected its own test vectors to come out again" in str(told.value)


def test_a_bundle_for_no_runtime_of_this_device_is_refused(tmp_path):
    path = make_version(tmp_path / "pump")
    manifest = json.loads((path / "manifest.json").read_bytes())
    manifest["variants"][0]["runtimes"] = ["another"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="found variants for another"):
        attempt(load_bundle(path))


def test_a_check_that_does_not_end_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(encoder_check, "_PATIENCE_S", 0.01)
    with pytest.raises(BundleError, match="expected an answer within 0 s, found none"):
        check_in_process(load_bundle(make_version(tmp_path / "pump")))


class Encoder:
    shape, length, dim, runtime = (64, 2), 64, 32, "none"


def sealed(path, vectors):
    """Put other vectors into a bundle, and their digest into its manifest."""
    seal(path, "vectors.npz", vectors)
    return load_bundle(path)


def packed(**entries):
    """Return a .npz with these entries; bytes lie there as they are."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            array = io.BytesIO()
            if not isinstance(content, bytes):
                np.save(array, content)
            archive.writestr(f"{name}.npy", content if isinstance(content, bytes) else array.getvalue())
    return file.getvalue()


def header(shape):
    """Return the beginning of a .npy file, which claims a shape and has nothing of it."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()


def spoiled():
    """Return a .npz whose first entry does not unpack."""
    content = bytearray(packed(inputs=np.arange(5000.0)))
    content[60:90] = bytes(30)
    return bytes(content)


def alone(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("vectors", "found"),
    [
        (b"rubbish", "BadZipFile"),
        (packed(inputs=np.zeros((1, 64, 2)))[:-30], "BadZipFile"),
        (spoiled(), "error|BadZipFile"),
        (alone(np.zeros((5, 64, 2))), "BadZipFile"),
        (packed(inputs=np.zeros((5, 64, 2))), "KeyError"),
        (packed(inputs=b"rubbish"), "ValueError"),
        (packed(inputs=np.zeros(()), **{"rows.embedding": np.zeros((5, 32))}), "TypeError"),
        (packed(inputs=np.array(["a"])), "no numbers"),
        (packed(inputs=np.zeros(2, "f4,f4")), "no numbers"),
        (packed(inputs=header((10**15, 64, 2))), "ValueError|MemoryError"),
        (packed(inputs=bytes(65 * 1024 * 1024)), "more than 67108864"),
        (packed(inputs=np.zeros(20_000_000, np.int8)), "of 20000000 numbers"),
    ],
)
def test_vectors_that_are_none_are_refused(tmp_path, vectors, found):
    path = make_version(tmp_path / "pump")
    with pytest.raises(BundleError, match=rf"expected held-out inputs .* something else \(.*({found})"):
        check_encoder(sealed(path, vectors), Encoder())


@pytest.mark.parametrize("shape", [(64, 2), (0, 64, 2), (3, 64, 3)])
def test_vectors_of_another_encoder_are_refused(tmp_path, shape):
    vectors = packed(inputs=np.zeros(shape), **{"rows.embedding": np.zeros((shape[0], 32))})
    with pytest.raises(BundleError, match=rf"expected inputs \(64, 2\), found {re.escape(str(shape))}"):
        check_encoder(sealed(make_version(tmp_path / "pump"), vectors), Encoder())


@pytest.mark.parametrize("shape", [(3, 31), (2, 32)])
def test_vectors_that_no_encoder_of_this_kind_gives_are_refused(tmp_path, shape):
    vectors = packed(inputs=np.zeros((3, 64, 2)), **{"rows.embedding": np.zeros(shape)})
    bundle = sealed(make_version(tmp_path / "pump"), vectors)
    with pytest.raises(
        BundleError, match=rf"expected rows embedding \(3, 32\), found embedding {re.escape(str(shape))}"
    ):
        check_encoder(bundle, load_encoder(bundle))


@pytest.mark.parametrize("shape", [(64, 3), (1000, 2)])
def test_windows_that_no_stream_gives_are_refused(tmp_path, shape):
    encoder = Encoder()
    encoder.shape, encoder.length = shape, shape[0]
    with pytest.raises(BundleError, match="expected windows of at most 999 readings x 2"):
        check_encoder(load_bundle(make_version(tmp_path / "pump")), encoder)


def kept_in(folder):
    (folder / "state").mkdir()
    return EncoderVersions(folder / "state")


def used(versions, path, change):
    """Use a version, some time after the one before."""
    versions.keep(str(path), load_bundle(make_version(path, change)))
    for age, one in enumerate(versions.paths(str(path))):
        os.utime(one, (1e9 - age, 1e9 - age))


def test_the_last_versions_are_kept_the_one_used_last_first(tmp_path):
    path, versions = tmp_path / "pump", kept_in(tmp_path)
    digests = []
    for change in (0, 1, 2, GOOD):
        used(versions, path, change)
        digests.append(version_in(path))
    name = str(path)
    assert versions.has(name, load_bundle(path))
    found = [load_bundle(one).manifest.variants[0].sha256[:12] for one in versions.paths(name)]
    assert found == digests[: -KEPT_VERSIONS - 1 : -1]
    used(versions, path, 1)  # the one before comes back: nothing is written anew
    assert [load_bundle(one).manifest.variants[0].sha256[:12] for one in versions.paths(name)] == [
        digests[1], digests[3], digests[2],
    ]  # fmt: skip
    before = [one.stat().st_mtime_ns for one in versions.paths(name)]
    versions.keep(name, load_bundle(path))
    assert [one.stat().st_mtime_ns for one in versions.paths(name)] == before
    assert versions.paths("another") == []


def test_a_clock_that_was_set_back_changes_nothing_of_the_order(tmp_path):
    path, versions = tmp_path / "pump", kept_in(tmp_path)
    ahead = time.time() + 1e6
    for change in range(KEPT_VERSIONS):
        used(versions, path, change)
    for age, one in enumerate(versions.paths(str(path))):
        os.utime(one, (ahead - age, ahead - age))
    versions.keep(str(path), load_bundle(make_version(path, GOOD)))
    newest = versions.paths(str(path))[0]
    assert version_of_bundle(newest) == version_of_bundle(path)
    versions.keep(str(path), load_bundle(make_version(path, 1)))  # one that is kept already
    assert version_of_bundle(versions.paths(str(path))[0]) == version_of_bundle(path)
    assert versions.paths(str(path))[1] == newest
    assert newest.stat().st_mtime > ahead


def test_the_one_before_is_the_last_used_one_that_does_not_lie_there(tmp_path):
    path, versions = tmp_path / "pump", kept_in(tmp_path)
    with pytest.raises(BundleError, match=r"expected an earlier version in .*, found none"):
        versions.previous(str(path))
    used(versions, path, 0)
    first = version_of_bundle(path)
    used(versions, path, GOOD)
    second = version_of_bundle(path)
    assert version_of_bundle(versions.previous(str(path)).path) == first
    make_version(path, BAD)
    assert version_of_bundle(versions.previous(str(path)).path) == second
    (path / "manifest.json").unlink()
    assert version_of_bundle(versions.previous(str(path)).path) == second


@pytest.mark.parametrize("content", [b'{"schema": 2, "na', b'{"schema": "2"}', b"\xff", b"", None])
def test_a_bundle_that_is_just_being_replaced_is_not_kept(tmp_path, content):
    path, versions = tmp_path / "pump", kept_in(tmp_path)
    bundle = load_bundle(make_version(path))
    if content is None:
        (path / "manifest.json").unlink()
    else:
        (path / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json: expected"):
        versions.keep(str(path), bundle)
    with pytest.raises(BundleError, match=r"manifest\.json: expected it as it was loaded, found none"):
        contents(bundle)


def test_a_bundle_that_was_changed_since_it_was_loaded_is_not_kept(tmp_path):
    path, versions = tmp_path / "pump", kept_in(tmp_path)
    bundle = load_bundle(make_version(path))
    make_version(path, GOOD)
    with pytest.raises(BundleError, match="as it was loaded, found another version"):
        versions.keep(str(path), bundle)
    assert versions.paths(str(path)) == []


@pytest.mark.parametrize("there", ["folder", "link", "zip", "nothing"])
def test_a_bundle_is_put_back_whatever_lies_there(tmp_path, there):
    kept, versions = make_version(tmp_path / "kept"), kept_in(tmp_path)
    versions.keep("x", load_bundle(kept))
    bundle = load_bundle(versions.paths("x")[0])
    folder = tmp_path / "encoders"
    folder.mkdir()
    path = folder / "pump"
    if there == "folder":
        make_version(path, GOOD)
    elif there == "link":
        path.symlink_to(make_version(folder / "real", GOOD))
    elif there == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("manifest.json", "{}")
    before = os.umask(0o027)
    try:
        put_back(bundle, path)
    finally:
        os.umask(before)
    assert version_of_bundle(path) == version_of_bundle(kept)
    assert load_bundle(path).manifest == bundle.manifest
    assert path.is_file() == (there == "zip")
    assert path.is_symlink() == (there == "link")
    assert sorted(one.name for one in folder.iterdir()) == sorted({"pump"} | ({"real"} if there == "link" else set()))
    assert (path.stat().st_mode & 0o777) == (0o640 if there == "zip" else 0o750)


def test_what_cannot_be_put_back_leaves_what_was_there(tmp_path, monkeypatch):
    versions = kept_in(tmp_path)
    versions.keep("x", load_bundle(make_version(tmp_path / "kept")))
    path = make_version(tmp_path / "encoders" / "pump", GOOD)
    there = version_of_bundle(path)
    rename = type(path).rename

    def fail(self, target):
        if self.name == "new":
            raise OSError("no room")
        return rename(self, target)

    monkeypatch.setattr(type(path), "rename", fail)
    with pytest.raises(OSError, match="no room"):
        put_back(load_bundle(versions.paths("x")[0]), path)
    assert version_of_bundle(path) == there
    assert [one.name for one in path.parent.iterdir()] == ["pump"]
