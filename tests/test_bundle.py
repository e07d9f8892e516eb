from __future__ import annotations

import hashlib
import json
import shutil
import zipfile

import pytest

from agent.bundle import ENCODERS, VECTORS, find_bundle, installed_bundles, load_bundle, read_file, read_model
from agent.errors import BundleError

SHIPPED = ENCODERS / "sensor-small"
MODEL = "sensor-small.int8.tflite"


@pytest.fixture
def bundle(tmp_path):
    """Return a copy of the shipped bundle, to be spoiled."""
    return shutil.copytree(SHIPPED, tmp_path / "copy")


@pytest.fixture
def edit(bundle):
    """Return a function that changes keys of the copy's manifest."""
    path = bundle / "manifest.json"

    def change(**keys):
        path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))

    return change


def variant(**keys):
    return {**json.loads((SHIPPED / "manifest.json").read_text())["variants"][0], **keys}


def test_every_installed_bundle_is_whole_and_named_like_its_folder():
    found = installed_bundles()
    assert "sensor-small" in [bundle.manifest.name for bundle in found]
    assert [bundle.manifest.name for bundle in found] == sorted(bundle.path.name for bundle in found)


def test_a_bundle_is_found_by_name_and_by_path(bundle):
    assert find_bundle("sensor-small").path == SHIPPED
    copy = find_bundle(f"{bundle}")
    assert copy.path == bundle
    assert copy.manifest == find_bundle("sensor-small").manifest


def test_a_model_is_read_as_the_manifest_describes_it():
    bundle = find_bundle("sensor-small")
    (one,) = bundle.manifest.variants
    assert hashlib.sha256(read_model(bundle, one)).hexdigest() == one.sha256


@pytest.mark.parametrize("name", ["sensor-smal", "", "..", "no\0name", "/nowhere/at/all", "./"])
def test_an_unknown_name_is_an_error_that_lists_what_is_installed(name):
    with pytest.raises(BundleError, match=r"manifest\.json: expected .* found none .*installed: .*sensor-small"):
        find_bundle(name)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"schema": 2}', b"\xff\xfe", b'{"schema": 2, "x": "\xff"}']
)
def test_what_is_not_a_manifest_is_an_error_that_names_the_file(bundle, content):
    (bundle / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"copy/manifest\.json: expected a manifest, found something else"):
        load_bundle(bundle)


@pytest.mark.parametrize("key", ["name", "input", "features", "outputs", "files", "variants"])
def test_a_manifest_without_a_key_is_an_error_that_names_the_key(bundle, key):
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest[key]
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=rf"manifest\.json: .*{key}"):
        load_bundle(bundle)


@pytest.mark.parametrize("version", [0, 1, "1", None])
def test_another_schema_is_an_error_that_says_which(bundle, edit, version):
    edit(schema=version)
    with pytest.raises(BundleError, match=rf"manifest\.json: expected schema 2, found {version!r}; build .* again"):
        load_bundle(bundle)


@pytest.mark.parametrize("variants", [[], [variant(signatures={})], [variant(), variant(signatures={})]])
def test_a_manifest_that_offers_nothing_to_call_is_an_error(bundle, edit, variants):
    edit(variants=variants)
    with pytest.raises(BundleError, match=r"manifest\.json: expected at least one variant, each with a signature"):
        load_bundle(bundle)


def test_a_missing_model_is_an_error_that_names_the_file(bundle):
    (bundle / MODEL).unlink()
    with pytest.raises(BundleError, match=rf"copy/{MODEL}: expected a model, found none \(No such file"):
        load_bundle(bundle)


def test_every_variant_is_checked_not_only_the_first(bundle, edit):
    edit(variants=[variant(), variant(file="other.tflite")])
    with pytest.raises(BundleError, match=r"other\.tflite: expected a model, found none"):
        load_bundle(bundle)


@pytest.mark.parametrize("position", [0, 1000, -1])
def test_one_flipped_bit_in_a_model_is_an_error_that_names_both_digests(bundle, position):
    path = bundle / MODEL
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    found = hashlib.sha256(content).hexdigest()[:12]
    wanted = variant()["sha256"][:12]
    with pytest.raises(BundleError, match=rf"{MODEL}: expected sha256 {wanted}\.\.\., found {found}\.\.\."):
        load_bundle(bundle)


@pytest.mark.parametrize("file", ["../copy/sensor-small.int8.tflite", "/etc/hostname", "."])
def test_a_model_outside_its_bundle_is_refused(bundle, edit, file):
    edit(variants=[variant(file=file)])
    with pytest.raises(BundleError, match="a model must lie in the bundle itself"):
        load_bundle(bundle)


@pytest.mark.parametrize("file", ["", ".."])
def test_a_folder_is_no_model(bundle, edit, file):
    edit(variants=[variant(file=file)])
    with pytest.raises(BundleError, match="expected a model, found none"):
        load_bundle(bundle)


def test_every_other_file_is_checked_too(bundle):
    with (bundle / VECTORS).open("r+b") as file:
        file.seek(1000)
        file.write(b"x")
    with pytest.raises(BundleError, match=r"copy/vectors\.npz: expected sha256 .* is corrupt"):
        load_bundle(bundle)
    (bundle / VECTORS).unlink()
    with pytest.raises(BundleError, match=r"copy/vectors\.npz: expected a file, found none"):
        load_bundle(bundle)


def test_a_file_that_the_manifest_does_not_list_cannot_be_read(bundle):
    (bundle / "notes.txt").write_text("not listed")
    with pytest.raises(BundleError, match=r"notes\.txt: expected it in the manifest's files, found vectors\.npz, "):
        read_file(load_bundle(bundle), "notes.txt")


@pytest.mark.parametrize("outputs", [[], [{"name": "a", "shape": [32]}, {"name": "b", "shape": [8]}]])
def test_a_variant_with_another_number_of_outputs_is_an_error(bundle, edit, outputs):
    edit(outputs=outputs)
    with pytest.raises(BundleError, match=rf"expected the quantization of {len(outputs)} outputs in every variant"):
        load_bundle(bundle)


def zipped(bundle, path, top):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in bundle.iterdir():
            archive.write(file, f"{top}{file.name}")
    return path


@pytest.mark.parametrize("top", ["", "sensor-small/"])
def test_a_zip_is_as_good_as_its_folder(bundle, tmp_path, top):
    found = find_bundle(f"{zipped(bundle, tmp_path / 'x.zip', top)}")
    folder = load_bundle(bundle)
    assert found.manifest == folder.manifest
    for variant in folder.manifest.variants:
        assert read_model(found, variant) == read_model(folder, variant)
    assert read_file(found, VECTORS) == read_file(folder, VECTORS)


def test_a_changed_file_in_a_zip_is_an_error(bundle, tmp_path):
    with (bundle / MODEL).open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=rf"x\.zip/{MODEL}: expected sha256"):
        find_bundle(f"{zipped(bundle, tmp_path / 'x.zip', '')}")


def test_a_zip_that_is_none_or_lacks_something_is_an_error(bundle, tmp_path):
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"PK no zip")
    with pytest.raises(
        BundleError, match=r"broken\.zip/manifest\.json: expected an encoder bundle's manifest, found none"
    ):
        find_bundle(f"{broken}")
    (bundle / MODEL).unlink()
    with pytest.raises(BundleError, match=rf"x\.zip/{MODEL}: expected a model, found none"):
        find_bundle(f"{zipped(bundle, tmp_path / 'x.zip', '')}")


def test_a_file_of_a_zip_that_is_too_large_is_refused_before_it_is_unpacked(bundle, tmp_path, monkeypatch):
    path = zipped(bundle, tmp_path / "x.zip", "")
    monkeypatch.setattr("agent.bundle.MAX_FILE_BYTES", 50_000)
    with pytest.raises(BundleError, match=r"x\.zip/.*: expected .* found none \(\d+ bytes, more than 50000\)"):
        find_bundle(f"{path}")


def test_a_damaged_zip_is_an_error_wherever_the_damage_is(bundle, tmp_path):
    content = zipped(bundle, tmp_path / "x.zip", "").read_bytes()
    for place in range(50, len(content), 1999):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        (tmp_path / "damaged.zip").write_bytes(damaged)
        try:
            find_bundle(f"{tmp_path / 'damaged.zip'}")
        except BundleError:
            continue
