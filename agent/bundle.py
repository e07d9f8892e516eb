"""Encoder bundles: a folder with a manifest, models, held-out vectors, and where the weights come from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import msgspec

from agent.errors import BundleError

SCHEMA_VERSION: Final = 1
ENCODERS: Final = Path(__file__).parent / "encoders"


class Quantization(msgspec.Struct, frozen=True):
    """real = scale x (integer - zero_point)."""

    scale: float
    zero_point: int


class Variant(msgspec.Struct, frozen=True):
    """One model file: its precision, and its signatures with their fixed batch sizes."""

    file: str
    sha256: str
    precision: str
    input: Quantization
    output: Quantization
    signatures: dict[str, int]


class Manifest(msgspec.Struct, frozen=True):
    """What is in a bundle. Input is int8 [batch, length, features], output int8 [batch, dim]."""

    schema: int
    name: str
    kind: str
    length: int
    features: list[str]
    dim: int
    preprocessing: str
    licence: str
    variants: list[Variant]


class Bundle(msgspec.Struct, frozen=True):
    """A folder and its manifest."""

    path: Path
    manifest: Manifest


def load_bundle(path: Path) -> Bundle:
    """Read a bundle's manifest and check every file against its digest.

    Raises BundleError if anything is missing, corrupt, or of another schema version.
    """
    where = path / "manifest.json"
    try:
        raw = where.read_bytes()
    except (OSError, ValueError) as error:  # a path may hold what no path can hold
        raise BundleError(
            f"{where}: expected an encoder bundle's manifest, found none "
            f"({getattr(error, 'strerror', error)}); installed: {', '.join(_installed())}"
        ) from error
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
    for variant in manifest.variants:
        read_model(Bundle(path, manifest), variant)
    return Bundle(path, manifest)


def read_model(bundle: Bundle, variant: Variant) -> bytes:
    """Return a variant's model, checked against its digest. Raises BundleError."""
    where = bundle.path / variant.file
    if Path(variant.file).name != variant.file:
        raise BundleError(f"{bundle.path}: a model file must lie in the bundle itself, found {variant.file!r}")
    try:
        content = where.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{where}: expected a model, found none ({error.strerror}); install the bundle again"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != variant.sha256:
        raise BundleError(
            f"{where}: expected sha256 {variant.sha256[:12]}..., found {found[:12]}...; the file was changed or "
            "is corrupt: install the bundle again"
        )
    return content


def installed_bundles() -> list[Bundle]:
    """Return the bundles that came with the package, by name."""
    return [load_bundle(ENCODERS / name) for name in _installed()]


def _installed() -> list[str]:
    return sorted(manifest.parent.name for manifest in ENCODERS.glob("*/manifest.json"))


def find_bundle(name: str) -> Bundle:
    """Return the bundle of that name, or at that path. Raises BundleError."""
    path = Path(name) if "/" in name else ENCODERS / name
    return load_bundle(path)
