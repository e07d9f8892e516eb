"""Loads the best variant of a bundle: as it was measured, as it was chosen before, or as it is timed now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from agent.adapters.tflite import (
    TfliteEncoder,
    TfliteModel,
    TflitePictureEncoder,
    installed_runtimes,
    load_encoder,
    load_picture_encoder,
)
from agent.config import NO_ENCODER, ImageSettings
from agent.encoder_choice import chosen, read_choices

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.adapters.store import Store
    from agent.bundle import Bundle
    from agent.config import Configuration


class Choices(Protocol):
    """The state directory, where it is kept which variant on which runtime is fastest."""

    directory: Path

    def choice(self, question: str) -> str | None:
        """Return what was chosen before, None if nothing was."""
        ...

    def choose(self, question: str, answer: str) -> None:
        """Remember a choice."""
        ...


class NewChoices:
    """Choices of a reload: those of the store, and new ones, which the worker has yet to store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.directory = store.directory
        self.made: dict[str, str] = {}

    def choice(self, question: str) -> str | None:
        """Return what was chosen before, None if nothing was."""
        return self.made.get(question) or self._store.choice(question)

    def choose(self, question: str, answer: str) -> None:
        """Remember a choice."""
        self.made[question] = answer


Loaded = TypeVar("Loaded", bound=TfliteModel)


def load_best(
    bundle: Bundle, load: Callable[[Bundle, str | None, str | None, int], Loaded], store: Choices | None
) -> Loaded:
    """Return the variant on the runtime that is fastest, as it was chosen before, or is now. Raises BundleError."""
    question = _question(bundle)
    kept = store.choice(question) if store is not None else None
    best = None if store is None else chosen(read_choices(store.directory), bundle)
    runtime, file = kept.split(" ", 1) if kept is not None else (None, None)
    if best is not None:
        runtime, file = best.runtime.split()[0], best.file
    encoder = load(bundle, runtime, file, 1 if best is None else best.threads)
    answer = f"{encoder.runtime.split()[0]} {encoder.file}"
    if store is not None and kept != answer:
        store.choose(question, answer)
    return encoder


def load_any(bundle: Bundle, store: Choices | None) -> TfliteEncoder | TflitePictureEncoder:
    """Return the best variant of a bundle of either kind. Raises BundleError."""
    if bundle.manifest.kind == "image":
        return load_best(bundle, load_picture_encoder, store)
    return load_best(bundle, load_encoder, store)


def _question(bundle: Bundle) -> str:
    offered = " ".join(f"{one.file} {one.sha256} {','.join(one.runtimes)}" for one in bundle.manifest.variants)
    return f"variant and runtime for {offered} among {', '.join(installed_runtimes())}"


def load_variant(bundle: Bundle, runtime: str, file: str) -> TfliteEncoder | TflitePictureEncoder:
    """Return one variant of a bundle of either kind on one runtime. Raises BundleError."""
    if bundle.manifest.kind == "image":
        return load_picture_encoder(bundle, runtime, file)
    return load_encoder(bundle, runtime, file)


def named_encoders(configuration: Configuration) -> set[tuple[str, bool]]:
    """Return the name of every encoder that the streams name, and whether it is for pictures."""
    named = {(stream.encoder_name, isinstance(stream, ImageSettings)) for stream in configuration.streams}
    return named - {(NO_ENCODER, False)}
