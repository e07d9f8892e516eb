from __future__ import annotations

import hashlib
import json
import shutil
import tracemalloc
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


def flip(path):
    """Flip one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def zipped(bundle, path, top="", method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in bundle.iterdir():
            archive.write(file, f"{top}{file.name}")
    return path


def claim(path, name, size):
    """Let a zip's directory say that one of its files has another size."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry, start = archive.getinfo(name), archive.start_dir
    place = content.index(name.encode(), start) - 46 + 24  # of the size, in the directory's record of this file
    assert int.from_bytes(content[place : place + 4], "little") == entry.file_size
    content[place : place + 4] = size.to_bytes(4, "little")
    path.write_bytes(content)


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


@pytest.mark.parametrize("name", [VECTORS, "PROVENANCE.md", MODEL])
@pytest.mark.parametrize("as_zip", [False, True], ids=["folder", "zip"])
def test_one_flipped_bit_in_any_file_of_a_folder_or_a_zip_is_an_error_that_names_it(bundle, tmp_path, name, as_zip):
    flip(bundle / name)
    path = zipped(bundle, tmp_path / "x.zip") if as_zip else bundle
    with pytest.raises(BundleError, match=rf"^{path}/{name}: expected sha256 .* is corrupt: install the bundle again"):
        load_bundle(path)


@pytest.mark.parametrize("as_zip", [False, True], ids=["folder", "zip"])
def test_a_listed_file_that_is_missing_is_an_error_that_names_it(bundle, tmp_path, as_zip):
    (bundle / VECTORS).unlink()
    path = zipped(bundle, tmp_path / "x.zip") if as_zip else bundle
    with pytest.raises(BundleError, match=rf"^{path}/vectors\.npz: expected a file, found none"):
        load_bundle(path)


@pytest.mark.parametrize("name", ["../copy/vectors.npz", "/etc/hostname"])
def test_a_listed_file_outside_its_bundle_is_refused(bundle, edit, name):
    edit(files={name: "0" * 64})
    with pytest.raises(BundleError, match="a file must lie in the bundle itself"):
        load_bundle(bundle)


def test_every_file_of_an_installed_bundle_but_manifest_and_report_has_a_digest():
    for bundle in installed_bundles():
        listed = {*bundle.manifest.files, *(variant.file for variant in bundle.manifest.variants)}
        assert {path.name for path in bundle.path.iterdir()} == {"manifest.json", "report.json", *listed}


def test_a_file_that_the_manifest_does_not_list_cannot_be_read(bundle):
    (bundle / "notes.txt").write_text("not listed")
    with pytest.raises(BundleError, match=r"notes\.txt: expected it in the manifest's files, found vectors\.npz, "):
        read_file(load_bundle(bundle), "notes.txt")


@pytest.mark.parametrize("outputs", [[], [{"name": "a", "shape": [32]}, {"name": "b", "shape": [8]}]])
def test_a_variant_with_another_number_of_outputs_is_an_error(bundle, edit, outputs):
    edit(outputs=outputs)
    with pytest.raises(BundleError, match=rf"expected the quantization of {len(outputs)} outputs in every variant"):
        load_bundle(bundle)


@pytest.mark.parametrize("count", [0, 2])
def test_one_variant_with_another_number_of_outputs_than_the_manifest_is_an_error(bundle, edit, count):
    edit(variants=[variant(), variant(outputs=count * variant()["outputs"])])
    with pytest.raises(BundleError, match="expected the quantization of 1 outputs in every variant; build the bundle"):
        load_bundle(bundle)


@pytest.mark.parametrize("top", ["", "sensor-small/", "any name at all/"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_is_as_good_as_its_folder(bundle, tmp_path, monkeypatch, top, method):
    zipped(bundle, tmp_path / "x.zip", top, method)
    monkeypatch.chdir(tmp_path)
    found, folder = find_bundle("./x.zip"), load_bundle(bundle)
    assert found.manifest == folder.manifest
    for variant in folder.manifest.variants:
        assert read_model(found, variant) == read_model(folder, variant)
    for name in folder.manifest.files:
        assert read_file(found, name) == read_file(folder, name)


def test_a_zip_whose_folder_lies_in_another_folder_is_an_error(bundle, tmp_path):
    path = zipped(bundle, tmp_path / "x.zip", "a/b/")
    with pytest.raises(
        BundleError, match=rf"^{path}/manifest\.json: expected an encoder bundle's manifest, found none"
    ):
        load_bundle(path)


def test_a_zip_that_lacks_a_model_is_an_error_that_names_it(bundle, tmp_path):
    (bundle / MODEL).unlink()
    with pytest.raises(BundleError, match=rf"x\.zip/{MODEL}: expected a model, found none"):
        load_bundle(zipped(bundle, tmp_path / "x.zip"))


@pytest.mark.parametrize("spoil", [lambda _: b"", lambda _: b"PK no zip", lambda whole: whole[: len(whole) // 2]])
def test_what_is_no_whole_zip_is_an_error_that_names_it(bundle, tmp_path, spoil):
    path = zipped(bundle, tmp_path / "x.zip")
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(
        BundleError, match=rf"^{path}/manifest\.json: expected .* found none \(File is not a zip file\)"
    ):
        load_bundle(path)


@pytest.mark.parametrize(("name", "what"), [("manifest.json", "manifest"), (VECTORS, "a file"), (MODEL, "a model")])
def test_a_file_of_a_zip_that_claims_to_be_too_large_is_not_unpacked(bundle, tmp_path, name, what):
    path = zipped(bundle, tmp_path / "x.zip")
    claim(path, name, 2**30)
    with pytest.raises(
        BundleError, match=rf"^{path}/{name}: expected .*{what}, found none \(1073741824 bytes, more than 536870912\)"
    ):
        load_bundle(path)


def test_a_file_of_a_zip_that_is_larger_than_it_claims_is_not_unpacked_whole(bundle, tmp_path):
    (bundle / VECTORS).write_bytes(bytes(100_000_000))
    path = zipped(bundle, tmp_path / "x.zip")
    claim(path, VECTORS, 1000)
    tracemalloc.start()
    with pytest.raises(BundleError, match=rf"^{path}/vectors\.npz: expected a file, found none \(Bad CRC-32"):
        load_bundle(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_that_is_packed_in_another_way_is_an_error_that_says_so(bundle, tmp_path, method):
    path = zipped(bundle, tmp_path / "x.zip", "", method)
    with pytest.raises(BundleError, match=rf"^{path}/manifest\.json: .* \(packed by method {method}, .*deflate"):
        load_bundle(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_damaged_zip_is_an_error_or_as_good_as_before_wherever_the_damage_is(bundle, tmp_path, method):
    whole, manifest = zipped(bundle, tmp_path / "x.zip", "", method).read_bytes(), load_bundle(bundle).manifest
    path = tmp_path / "damaged.zip"
    refused = 0
    for place in [*range(0, len(whole), 1999), *range(len(whole) - 600, len(whole), 7)]:  # its directory is at its end
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            assert load_bundle(path).manifest == manifest
        except BundleError as error:
            assert f"{path}" in f"{error}"  # noqa: PT017  not every damage matters
            refused += 1
    assert refused > 50
