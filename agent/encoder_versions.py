"""The last versions of each encoder bundle that this agent used, in its state directory: to go on with, and back to."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
from pathlib import Path
from time import time_ns
from typing import TYPE_CHECKING, Final

from agent.adapters.store import sync_names, write_out
from agent.bundle import Bundle, contents, load_bundle, signature_of, version_of_bundle
from agent.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

KEPT_VERSIONS: Final = 3  # of each encoder: of a change that is still under way, and the one before
_APART_NS: Final = 1_000_000_000  # of two uses, at least: some file systems count seconds
_NAME_CHARACTERS: Final = 12
_VERSION_CHARACTERS: Final = 16


class EncoderVersions:
    """Zips in `encoders` of a state directory, the one used last is the newest file."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "encoders"

    def _prefix(self, name: str) -> str:
        return hashlib.sha256(name.encode()).hexdigest()[:_NAME_CHARACTERS]

    def paths(self, name: str) -> list[Path]:
        """Return where the versions of an encoder are kept, by the name that streams give it: used last comes first."""
        found = self._folder.glob(f"{self._prefix(name)}-*.zip")
        return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)

    def _path(self, name: str, version: str) -> Path:
        return self._folder / f"{self._prefix(name)}-{version[:_VERSION_CHARACTERS]}.zip"

    def has(self, name: str, bundle: Bundle) -> bool:
        """Tell whether this version of a bundle was used before. Raises BundleError."""
        return self._path(name, version_of_bundle(bundle.path)).exists()

    def keep(self, name: str, bundle: Bundle, models: Collection[str] = ()) -> None:
        """Keep a version that is used from now on; older ones than the last few are let go.

        Those stay that have one of the `models` (sha256) that streams still use. Raises OSError, and BundleError if the
        bundle is not there any more as it was.
        """
        path = self._path(name, version_of_bundle(bundle.path))
        kept, signature = self.paths(name), signature_of(bundle.path)
        at = max(time_ns(), kept[0].stat().st_mtime_ns + _APART_NS) if kept else time_ns()  # the clock may be set back
        if path not in kept or (signature is not None and signature != signature_of(path)):
            self._write(path, contents(bundle), at)
        elif path != kept[0]:
            os.utime(path, ns=(at, at))
        for old in self.paths(name)[KEPT_VERSIONS:]:
            if not _has_model(old, models):
                old.unlink(missing_ok=True)

    def tidy(self, names: Iterable[str]) -> None:
        """Remove what is kept of other encoders than these, and what was left half written. Raises OSError."""
        prefixes = {self._prefix(name) for name in names}
        for path in [*self._folder.glob("*-*.zip"), *self._folder.glob("*-*.new")]:
            if path.suffix == ".new" or path.name.split("-")[0] not in prefixes:
                path.unlink(missing_ok=True)

    def _write(self, path: Path, files: dict[str, bytes], at: int) -> None:
        self._folder.mkdir(exist_ok=True)
        beside = path.with_suffix(".new")
        with beside.open("wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                for one, content in files.items():
                    archive.writestr(one, content)
            file.flush()
            os.fsync(file.fileno())
        os.utime(beside, ns=(at, at))
        beside.replace(path)

    def previous(self, name: str, trusted: Sequence[str] = ()) -> Bundle:
        """Return the version that was used last and is not the one that lies at `name` now. Raises BundleError."""
        try:
            there = version_of_bundle(Path(name))
        except BundleError:
            there = ""
        for path in self.paths(name):
            if path != self._path(name, there):
                return load_bundle(path, trusted)
        raise BundleError(
            f"{name}: expected an earlier version in {self._folder}, found none; the agent keeps those that it used"
        )


def _has_model(path: Path, models: Collection[str]) -> bool:
    try:
        return bool(models) and any(one.sha256 in models for one in load_bundle(path).manifest.variants)
    except BundleError:
        return False


def put_back(bundle: Bundle, path: Path) -> None:
    """Put a bundle in the place of another, which is a folder, or a zip. Raises OSError, and then the other stays.

    It is on disk when this returns.
    """
    if path.is_file():
        beside = path.with_name(f"{path.name}.new")
        write_out(beside, bundle.path.read_bytes())
        beside.replace(path)
        sync_names(path.parent)
        return
    path = path.resolve()
    made = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    old = made / "old"
    try:
        new = made / "new"
        new.mkdir()
        for name, content in contents(bundle).items():
            write_out(new / name, content)
        sync_names(new)
        if path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
        sync_names(path.parent)
    finally:
        shutil.rmtree(made, ignore_errors=True)
