"""Builds a bundle from a recipe: weights in, manifest, model, vectors and report out."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from agent.adapters.tflite import available_runtimes, load_encoder
from agent.bundle import SCHEMA_VERSION, Bundle, Manifest, Quantization, Variant, load_bundle
from converter.archive import write_npz

if TYPE_CHECKING:
    from pathlib import Path

    from converter.recipes import Recipe

_SEED: Final = 20
_EPISODES: Final = 8
_HELD_OUT: Final = 256


def build(recipe: Recipe, out: Path) -> Bundle:
    """Write the bundle of `recipe` into `out`. The same weights give the same bytes."""
    import torch  # noqa: PLC0415  heavy, and only here

    from converter.pretrain.corpus import episode  # noqa: PLC0415  with the network, only here
    from converter.pretrain.network import SensorSmall  # noqa: PLC0415  torch
    from converter.quantize import BATCHES, export_int8  # noqa: PLC0415  torch

    network = SensorSmall()
    with np.load(recipe.weights) as stored:
        network.load_state_dict({name: torch.from_numpy(stored[name]) for name in stored.files})
    network.eval()
    rng = np.random.default_rng(_SEED)
    made = [np.concatenate(episode(rng)[:2]) for _ in range(2 * _EPISODES)]
    representative = np.concatenate(made[:_EPISODES])
    held_out = np.concatenate(made[_EPISODES:])[:: max(1, _EPISODES * len(made[0]) // _HELD_OUT)]
    model = export_int8(network, representative)
    with torch.no_grad():  # in double precision: single precision differs from processor to processor
        floating = network.double()(torch.from_numpy(held_out).double()).float().numpy()
    out.mkdir(parents=True, exist_ok=True)
    file = f"{recipe.name}.int8.tflite"
    (out / file).write_bytes(model)
    given, taken = _quantization(out / file)
    manifest = Manifest(
        schema=SCHEMA_VERSION,
        name=recipe.name,
        kind=recipe.kind,
        length=recipe.length,
        features=recipe.features,
        dim=recipe.dim,
        preprocessing=recipe.preprocessing,
        licence=recipe.licence,
        variants=[
            Variant(
                file=file,
                sha256=hashlib.sha256(model).hexdigest(),
                precision="int8",
                input=given,
                output=taken,
                signatures={f"batch_{batch}": batch for batch in BATCHES},
            )
        ],
    )
    _write_json(out / "manifest.json", manifest)
    write_npz(out / "vectors.npz", inputs=held_out, embeddings=floating)
    (out / "PROVENANCE.md").write_text(f"# {recipe.name}\n\n{recipe.provenance}\nLicence: {recipe.licence}.\n")
    bundle = load_bundle(out)
    report = {name: {"cosine": cosine_to_float(bundle, name)} for name in available_runtimes()}
    _write_json(out / "report.json", report)
    return bundle


def cosine_to_float(bundle: Bundle, runtime: str) -> dict[str, float]:
    """Return mean and first percentile of the cosine between quantized and float embeddings of the held-out inputs."""
    encoder = load_encoder(bundle, runtime)
    with np.load(bundle.path / "vectors.npz") as vectors:
        expected, found = vectors["embeddings"], encoder.encode(vectors["inputs"])
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    cosine = (expected * found).sum(axis=1) / norms
    return {"mean": round(float(cosine.mean()), 5), "p01": round(float(np.quantile(cosine, 0.01)), 5)}


def _quantization(model: Path) -> tuple[Quantization, Quantization]:
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415  comes with the converter

    runner = Interpreter(str(model)).get_signature_runner("batch_1")
    details = [next(iter(part.values())) for part in (runner.get_input_details(), runner.get_output_details())]
    given, taken = (Quantization(float(d["quantization"][0]), int(d["quantization"][1])) for d in details)
    return given, taken


def _write_json(path: Path, value: Any) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
