"""Which version of each encoder is used, and which ones are kept: at a start, and when one is replaced."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, cast

from agent.adapters.tflite import candidates
from agent.bundle import find_bundle, load_bundle
from agent.config import ImageSettings
from agent.encoder_check import check_encoder, check_in_process
from agent.encoder_loading import NewChoices, load_any, load_variant, named_encoders
from agent.encoder_versions import EncoderVersions
from agent.encoder_watch import EncoderWatch, NewVersion
from agent.errors import BundleError, ConfigurationError
from agent.picture_sight import PictureSight

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path

    from agent.adapters.store import Store
    from agent.adapters.telemetry import Telemetry
    from agent.adapters.tflite import TfliteEncoder, TflitePictureEncoder
    from agent.bundle import Bundle
    from agent.config import Configuration
    from agent.disk import Disk
    from agent.ports import Encoder, PictureEncoder
    from agent.stream import Stream

logger = logging.getLogger(__name__)


class EncoderKeeper:
    """Finds, checks and keeps versions. `wake` lets the worker look whether `watch` has found a new one.

    `used` tells of the encoder of a name the models (sha256) that streams have.
    """

    def __init__(
        self,
        configuration: Callable[[], Configuration],
        store: Store,
        disk: Disk,
        telemetry: Telemetry,
        wake: Callable[[], None],
        used: Callable[[str], Collection[str]],
    ) -> None:
        self._configuration, self._store, self._disk, self._used = configuration, store, disk, used
        self._versions = EncoderVersions(store.directory)
        # What snapshots may be of, loaded, by name and what they tell of it; None: it is not kept.
        self._former: dict[tuple[str, str, str], Encoder | PictureEncoder | None] = {}
        self._unkept: dict[str, Bundle] = {}  # what is used, as it was loaded, and not on disk yet
        self.watch = EncoderWatch(self.names, self.load, wake, telemetry)

    @property
    def _trusted(self) -> Sequence[str]:
        return self._configuration().encoders.trusted_keys

    def _load_version(self, name: str, path: Path) -> Bundle:
        """Return a kept version; what came with the package needs no signature here either. Raises BundleError."""
        return load_bundle(path, self._trusted if "/" in name else ())

    def names(self) -> list[str]:
        """Return the names of all encoders that streams name."""
        return sorted({name for name, _ in named_encoders(self._configuration())})

    def load(self, name: str) -> NewVersion:
        """Load the bundle that has that name now, and check it. Raises BundleError. In any thread.

        A process of its own goes first: some models end the process that loads them.
        """
        bundle = find_bundle(name, self._trusted)
        check_in_process(bundle)
        return self._checked(name, bundle)

    def _checked(self, name: str, bundle: Bundle) -> NewVersion:
        self._check_kind(name, bundle)
        choices = NewChoices(self._store)
        encoder = load_any(bundle, choices)
        check_encoder(bundle, encoder)
        agent, streams = self._configuration().agent, self._configuration().streams
        for one in streams:
            if isinstance(one, ImageSettings) and one.encoder_name == name:
                try:
                    PictureSight(one, cast("PictureEncoder", encoder), agent.max_payload_bytes)
                except ConfigurationError as error:
                    raise BundleError(
                        f"{bundle.path}: stream {one.name} cannot be looked at with it: {error}"
                    ) from error
        return NewVersion(name, bundle, encoder, choices.made)

    def _check_kind(self, name: str, bundle: Bundle) -> None:
        """Raise BundleError where a bundle is of pictures and its streams are of readings, or the other way round."""
        found = bundle.manifest.kind == "image"
        if (name, found) not in named_encoders(self._configuration()):
            wanted = "sensor windows" if found else "pictures"
            raise BundleError(
                f"{bundle.path}: expected an encoder of {wanted}, found kind {bundle.manifest.kind!r}; "
                "choose another encoder for this stream"
            )

    def find(self, name: str) -> Bundle:
        """Return the bundle of a name, at the start; the one that was used last if a new one would be refused.

        Raises BundleError where there is none to go on with.
        """
        try:
            bundle = self.find_new(name)
            self._check_kind(name, bundle)
            if "/" not in name and self._versions.paths(name) and not self._versions.has(name, bundle):
                self._checked(name, bundle)
        except Exception as error:  # noqa: BLE001  a file may hold anything, and what was used before is at hand
            bundle = self._last_kept(name, error)
            self.watch.refuse(name, error)
        self._unkept[name] = bundle
        return bundle

    def find_new(self, name: str) -> Bundle:
        """Return the bundle of a name; it can be loaded. Raises BundleError. In any thread.

        That is tried in a process of its own, unless it was used before, or came with the package.
        """
        bundle = find_bundle(name, self._trusted)
        if "/" in name and not self._versions.has(name, bundle):
            check_in_process(bundle)
        return bundle

    def _last_kept(self, name: str, error: Exception) -> Bundle:
        """Return the version that was used last and can still be read; raises `error` if there is none."""
        for path in self._versions.paths(name):
            try:
                return self._load_version(name, path)
            except BundleError as damaged:
                logger.warning("encoder %s: an earlier version cannot be gone on with: %s", name, damaged)
        raise error

    def keep_found(self) -> None:
        """Keep what was found at the start, once streams have what they go on with; tidy up."""
        self._disk.write(lambda: self._versions.tidy(self.names()))
        self.keep_left()

    def keep(self, name: str, bundle: Bundle) -> None:
        """Keep a version that is used from now on."""
        self._unkept[name] = bundle
        self.keep_left()

    def keep_left(self) -> None:
        """Keep what could not be kept so far."""
        names = self.names()
        for name, bundle in list(self._unkept.items()):
            try:
                stored = name not in names or self._disk.write(
                    partial(self._versions.keep, name, bundle, self._used(name))
                )
            except BundleError as error:
                logger.warning("encoder %s: this version could not be kept: %s", name, error)
            else:
                if stored:
                    del self._unkept[name]

    def former(self, stream: Stream, signature: object) -> Encoder | PictureEncoder | None:
        """Return the kept encoder that a stream's snapshot with this signature was made with, if there is one.

        It is one of an earlier version, or another variant or runtime of the one in use.
        """
        if stream.encoder is None:
            return None
        told = signature if isinstance(signature, dict) else {}
        versions = {key: told.get(key) for key in ("encoder", "runtime")}
        if {**stream.signature, **versions} != told:
            return None  # other settings: no version would help
        name, digest, runtime = stream.settings.encoder_name, str(versions["encoder"]), str(versions["runtime"])
        key = name, digest, runtime
        if key not in self._former:
            kept = self._load_kept(name, digest.partition(" ")[0], runtime.partition(" ")[0])
            of_kind = (one for one in kept if isinstance(one, type(stream.encoder)))
            self._former[key] = next((one for one in of_kind if stream.signature_with(one) == signature), None)
        return self._former[key]

    def _load_kept(self, name: str, digest: str, runtime: str) -> Iterator[TfliteEncoder | TflitePictureEncoder]:
        """Yield the kept models with this sha256, loaded on a runtime."""
        for path in self._versions.paths(name):
            try:
                bundle = self._load_version(name, path)
                for there, variant in candidates(bundle):
                    if (variant.sha256, there) == (digest, runtime):
                        yield load_variant(bundle, there, variant.file)
            except BundleError as error:
                logger.warning("encoder %s: an earlier version cannot be gone on with: %s", name, error)

    def forget_former(self) -> None:
        """Let the loaded earlier versions go: no stream has one any more."""
        self._former.clear()
