from __future__ import annotations

import base64
import json
import shutil
import sys
import zipfile

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from agent import cli
from agent.bundle import ENCODERS, find_bundle, load_bundle, sign_bundle
from agent.config import load_configuration
from agent.errors import BundleError, ConfigurationError, SigningError
from agent.signing import SIGNATURE, check_signature, generate_key, is_key, sign
from converter.cli import main as convert
from tests.test_bundle import MODEL, SHIPPED, bundle, edit, zipped  # noqa: F401  fixtures

OTHER = "ed25519:" + base64.b64encode(bytes(range(32))).decode()


@pytest.fixture
def key(tmp_path):
    return tmp_path / "signing.key"


@pytest.fixture
def public(key):
    return generate_key(key)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("top", ["", "sensor-small/"])
def test_a_bundle_that_a_trusted_key_signed_is_loaded(bundle, key, public, tmp_path, packed, top):  # noqa: F811
    path = zipped(bundle, tmp_path / "b.zip", top) if packed else bundle
    with pytest.raises(BundleError, match=r"expected a signature of one of encoders\.trusted_keys .* found none"):
        load_bundle(path, [public])
    assert sign_bundle(path, key) == public
    assert sign_bundle(path, key) == public  # again
    assert load_bundle(path, [OTHER, public]).manifest == load_bundle(SHIPPED).manifest
    with pytest.raises(BundleError, match="found one of another key"):
        load_bundle(path, [OTHER])


def test_a_manifest_that_was_changed_behind_its_signature_is_refused(bundle, edit, key, public):  # noqa: F811
    sign_bundle(bundle, key)
    edit(licence="anybody's")
    with pytest.raises(BundleError, match="of another manifest"):
        load_bundle(bundle, [public])


@pytest.mark.parametrize("spoiled", [b"", b"ed25519:", b"ed25519:!!", b"\xff" * 99, b"ed25519:" + b"A" * 88])
def test_what_is_no_signature_is_refused(bundle, public, spoiled):  # noqa: F811
    (bundle / SIGNATURE).write_bytes(spoiled)
    with pytest.raises(BundleError, match="another key"):
        load_bundle(bundle, [public])


def test_a_signature_of_the_same_bytes_for_something_else_is_none(bundle, public, key):  # noqa: F811
    manifest = (bundle / "manifest.json").read_bytes()
    plain = load_pem_private_key(key.read_bytes(), None).sign(manifest)
    with pytest.raises(BundleError):
        check_signature(bundle, manifest, base64.b64encode(plain), [public])


def test_a_malicious_model_is_not_loaded_whoever_signed_the_bundle(bundle, key, public):  # noqa: F811
    sign_bundle(bundle, key)
    (bundle / MODEL).write_bytes(b"TFL3" + bytes(1000))
    for trusted in ([], [public]):
        with pytest.raises(BundleError, match=rf"{MODEL}: expected sha256 .*, found .*; the file was changed"):
            load_bundle(bundle, trusted)
    with pytest.raises(BundleError):
        sign_bundle(bundle, key)  # nor is it signed


def test_what_came_with_the_package_needs_no_signature_and_the_same_elsewhere_does(bundle, public):  # noqa: F811
    assert find_bundle("sensor-small", [public]).path == ENCODERS / "sensor-small"
    with pytest.raises(BundleError, match="found none"):
        find_bundle(str(bundle), [public])


@pytest.mark.parametrize("text", ["", "ed25519:", OTHER[:-4], OTHER.removeprefix("ed25519:"), "ed25519:" + "!" * 44])
def test_what_is_no_key_is_a_problem_of_the_configuration(tmp_path, text):
    assert is_key(OTHER)
    assert not is_key(text)
    path = tmp_path / "redshank.yaml"
    path.write_text(f"encoders: {{trusted_keys: ['{OTHER}', '{text}']}}\nstreams: [{{name: a, topic: a}}]\n")
    with pytest.raises(ConfigurationError, match=r":1 encoders\.trusted_keys\[1\]: expected a public key"):
        load_configuration(path)


def test_the_commands_make_keys_sign_and_refuse(bundle, tmp_path, capsys):  # noqa: F811
    key, path = tmp_path / "k", tmp_path / "redshank.yaml"
    assert convert(["keygen", str(key)]) == 0
    public = capsys.readouterr().out.strip()
    assert (is_key(public), key.stat().st_mode & 0o777) == (True, 0o600)
    assert convert(["keygen", str(key)]) == 1  # a key is not overwritten
    path.write_text(f"encoders: {{trusted_keys: ['{public}']}}\nstreams: [{{name: a, topic: a, encoder: {bundle}}}]\n")
    assert cli.main(["check", str(path)]) == 78
    assert "trusted_keys" in capsys.readouterr().err
    assert convert(["sign", str(bundle), "--key", str(key)]) == 0
    assert f"{public} checks it" in capsys.readouterr().out
    assert cli.main(["check", str(path)]) == 0
    (tmp_path / "rubbish").write_text("rubbish")
    (tmp_path / "rubbish").chmod(0o600)
    assert convert(["sign", str(bundle), "--key", str(tmp_path / "rubbish")]) == 78
    key.chmod(0o644)
    assert convert(["sign", str(bundle), "--key", str(key)]) == 78
    err = capsys.readouterr().err
    assert "expected a private key made by `redshank-convert keygen`, found something else" in err
    assert "with mode 644; chmod 600 it" in err


def test_without_the_extra_one_sentence_says_what_to_install(bundle, key, public, monkeypatch):  # noqa: F811
    for name in [one for one in sys.modules if one.startswith("cryptography")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for attempt in (
        lambda: load_bundle(bundle, [public]),
        lambda: generate_key(key.with_name("another")),
        lambda: sign(b"", key),
    ):
        with pytest.raises(SigningError) as caught:
            attempt()
        assert str(caught.value).endswith("which is not installed; pip install 'redshank[signing]'")
    load_bundle(bundle)  # without keys nothing is asked for


def test_a_zip_keeps_what_else_is_in_it(bundle, key, public, tmp_path):  # noqa: F811
    path = zipped(bundle, tmp_path / "b.zip")
    sign_bundle(path, key)
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == sorted([*(one.name for one in bundle.iterdir()), SIGNATURE])
        assert json.loads(archive.read("manifest.json"))["name"] == "sensor-small"
    shutil.rmtree(bundle)
    assert load_bundle(path, [public]).manifest.name == "sensor-small"
