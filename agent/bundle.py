"""Encoder bundles: a folder, or a zip of it, with manifest, models, held-out vectors, and where weights are from."""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

import msgspec

from agent.errors import BundleError
from agent.signing import SIGNATURE, check_signature, sign

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEMA_VERSION: Final = 2
ENCODERS: Final = Path(__file__).parent / "encoders"
MANIFEST: Final = "manifest.json"
VECTORS: Final = "vectors.npz"
MAX_FILE_BYTES: Final = 512 * 1024 * 1024  # of a bundle; a zip may claim anything
_DAMAGED: Final = (zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, EOFError, LookupError, OverflowError)
_PACKED: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others unpack without bounds


class Quantization(msgspec.Struct, frozen=True):
    """real = scale x (integer - zero_point)."""

    scale: float
    zero_point: int


class Tensor(msgspec.Struct, frozen=True):
    """A tensor of the encoder without its batch dimension.

    An output [dim] is an embedding of one part; one of [rows, columns, dim] is a map of patches.
    """

    name: str
    shape: list[int]


class Variant(msgspec.Struct, frozen=True):
    """One model file: its precision, its signatures with their fixed batch sizes, and where it may run.

    `runtimes` are those on which its embeddings were proven. `input` is None where the model takes float32. `outputs`
    has the int8 grid on which each embedding is kept; where the model is full int8, it is the model's own.
    """

    file: str
    sha256: str
    precision: str
    runtimes: list[str]
    input: Quantization | None
    outputs: list[Quantization]
    signatures: dict[str, int]


class Manifest(msgspec.Struct, frozen=True):
    """What is in a bundle.

    `features` names the input's last axis. `files` has the sha256 of every other file but the manifest and the report.
    """

    schema: int
    name: str
    kind: str
    input: Tensor
    features: list[str]
    outputs: list[Tensor]
    preprocessing: str
    licence: str
    files: dict[str, str]
    variants: list[Variant]


class Bundle(msgspec.Struct, frozen=True):
    """A folder, or a zip of it, and its manifest."""

    path: Path
    manifest: Manifest


def load_bundle(path: Path, trusted: Sequence[str] = ()) -> Bundle:
    """Read a bundle's manifest and check every file against its digest.

    With `trusted` keys one of them must have signed it. Raises BundleError if anything is missing, corrupt, or of
    another schema version.
    """
    where = path / MANIFEST
    try:
        raw = _content(path, MANIFEST)
    except (OSError, ValueError) as error:  # a path may hold what no path can hold
        raise BundleError(
            f"{where}: expected an encoder bundle's manifest, found none "
            f"({getattr(error, 'strerror', None) or error}); installed: {', '.join(_installed())}"
        ) from error
    if trusted:
        check_signature(path, raw, signature_of(path), trusted)
    try:
        version = msgspec.json.decode(raw, type=dict).get("schema")
        if version != SCHEMA_VERSION:
            raise BundleError(
                f"{where}: expected schema {SCHEMA_VERSION}, found {version!r}; "
                "build the bundle again with this version's redshank-convert"
            )
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{where}: expected a manifest, found something else: {error}; install it again") from error
    if not manifest.variants or not all(variant.signatures for variant in manifest.variants):
        raise BundleError(
            f"{where}: expected at least one variant, each with a signature, found none; build the bundle again"
        )
    if not manifest.outputs or any(len(one.outputs) != len(manifest.outputs) for one in manifest.variants):
        raise BundleError(
            f"{where}: expected the quantization of {len(manifest.outputs)} outputs in every variant; "
            "build the bundle again"
        )
    bundle = Bundle(path, manifest)
    for variant in manifest.variants:
        read_model(bundle, variant)
    for name in manifest.files:
        read_file(bundle, name)
    return bundle


def read_model(bundle: Bundle, variant: Variant) -> bytes:
    """Return a variant's model, checked against its digest. Raises BundleError."""
    return _checked(bundle, variant.file, variant.sha256, "a model")


def read_file(bundle: Bundle, name: str) -> bytes:
    """Return a file that the manifest lists, checked against its digest. Raises BundleError."""
    listed = bundle.manifest.files.get(name)
    if listed is None:
        raise BundleError(
            f"{bundle.path / name}: expected it in the manifest's files, found "
            f"{', '.join(bundle.manifest.files) or 'none'}; build the bundle again"
        )
    return _checked(bundle, name, listed, "a file")


def _checked(bundle: Bundle, name: str, sha256: str, what: str) -> bytes:
    where = bundle.path / name
    if PurePosixPath(name).name != name:
        raise BundleError(f"{bundle.path}: {what} must lie in the bundle itself, found {name!r}")
    try:
        content = _content(bundle.path, name)
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{where}: expected {what}, found none ({getattr(error, 'strerror', None) or error}); "
            "install the bundle again"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise BundleError(
            f"{where}: expected sha256 {sha256[:12]}..., found {found[:12]}...; the file was changed or "
            "is corrupt: install the bundle again"
        )
    return content


def _content(path: Path, name: str) -> bytes:
    """Return what a file of a folder or a zip holds. Raises OSError, or ValueError where that cannot be told."""
    if not path.is_file():
        return (path / name).read_bytes()
    try:
        return _of_zip(path, name)
    except _DAMAGED as error:
        raise ValueError(str(error)) from error


def _of_zip(path: Path, name: str) -> bytes:
    """Return what a file of a zip holds; the zip may have the folder itself at its top."""
    with zipfile.ZipFile(path) as archive:
        inside = {PurePosixPath(entry.filename): entry for entry in archive.infolist() if not entry.is_dir()}
        tops = [top.parent for top in inside if top.name == MANIFEST and len(top.parts) <= 2]  # noqa: PLR2004  one folder
        entry = inside.get(tops[0] / name if tops else PurePosixPath(name))
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        if entry.file_size > MAX_FILE_BYTES:
            raise ValueError(f"{entry.file_size} bytes, more than {MAX_FILE_BYTES}")
        if entry.compress_type not in _PACKED:
            raise ValueError(f"packed by method {entry.compress_type}, which is neither stored nor deflated")
        with archive.open(entry) as file:
            return file.read(entry.file_size)  # a bound also for what holds more than it claims


def installed_bundles() -> list[Bundle]:
    """Return the bundles that came with the package, by name."""
    return [load_bundle(ENCODERS / name) for name in _installed()]


def _installed() -> list[str]:
    return sorted(manifest.parent.name for manifest in ENCODERS.glob(f"*/{MANIFEST}"))


def find_bundle(name: str, trusted: Sequence[str] = ()) -> Bundle:
    """Return the bundle of that name, or at that path. Raises BundleError.

    With `trusted` keys one of them must have signed it, if it did not come with the package: who could change that one
    could change this program as well.
    """
    return load_bundle(path_of(name), trusted if "/" in name else ())


def path_of(name: str) -> Path:
    """Return where the bundle of that name lies."""
    return Path(name) if "/" in name else ENCODERS / name


def version_of_bundle(path: Path) -> str:
    """Return the sha256 of a bundle's manifest, which has those of all other files. Raises BundleError."""
    try:
        return hashlib.sha256(_content(path, MANIFEST)).hexdigest()
    except (OSError, ValueError) as error:
        raise BundleError(f"{path / MANIFEST}: expected an encoder bundle's manifest, found none ({error})") from error


def contents(bundle: Bundle) -> dict[str, bytes]:
    """Return the files that a bundle consists of, the manifest first; each is what the manifest says.

    Raises BundleError.
    """
    where = bundle.path / MANIFEST
    try:
        manifest, signature = _content(bundle.path, MANIFEST), signature_of(bundle.path)
        same = msgspec.json.decode(manifest, type=Manifest) == bundle.manifest
    except (OSError, ValueError, msgspec.DecodeError) as error:  # it is just being replaced
        raise BundleError(f"{where}: expected it as it was loaded, found none ({error})") from error
    if not same:
        raise BundleError(f"{where}: expected it as it was loaded, found another version")
    files = {MANIFEST: manifest} | ({SIGNATURE: signature} if signature is not None else {})
    files |= {one.file: read_model(bundle, one) for one in bundle.manifest.variants}
    return files | {name: read_file(bundle, name) for name in bundle.manifest.files}


def sign_bundle(path: Path, key_file: Path) -> str:
    """Put a signature into a bundle, folder or zip, whose files are all right; return the key that checks it.

    Raises BundleError, SigningError, and OSError if it cannot be written.
    """
    load_bundle(path)
    signature, public = sign(_content(path, MANIFEST), key_file)
    if not path.is_file():
        (path / SIGNATURE).write_bytes(signature)
        return public
    with zipfile.ZipFile(path) as archive:
        entries = [(entry, archive.read(entry)) for entry in archive.infolist()]
    top = next(PurePosixPath(entry.filename).parent for entry, _ in entries if entry.filename.endswith(MANIFEST))
    beside = path.with_name(f"{path.name}.new")
    with zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, content in entries:
            if PurePosixPath(entry.filename) != top / SIGNATURE:
                archive.writestr(entry, content)
        archive.writestr(str(top / SIGNATURE), signature)
    beside.replace(path)
    return public


def signature_of(path: Path) -> bytes | None:
    """Return the signature that lies in a bundle, None if there is none; it is not checked."""
    try:
        return _content(path, SIGNATURE)
    except (OSError, ValueError):
        return None
