"""What `--encoder` can name: no network, raw windows, the float network with some weights, or an int8 bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from agent.adapters.tflite import load_encoder
from agent.bundle import find_bundle
from agent.core.preprocess import CLIP
from agent.core.scoring import ScoreMethod, ScoreSettings
from agent.core.types import F32
from agent.core.views import VALUES_LENGTH, View, views_for

_RAW_LENGTH = 64  # points that the raw control's views span: as many as the network's
_RANGE_EPISODES = 24  # generated windows whose embeddings set the int8 range of a float network: 128 windows each
_RANGE_SEED = 20240


@dataclass
class BenchmarkEncoder:
    """Views for a bank, and `encode`: float32 [n, length, 2] to float32 [n, dim]; `note` says what it is."""

    name: str
    note: str
    views: tuple[View, ...]
    encode: Callable[[F32], F32]
    score: ScoreSettings = field(default_factory=ScoreSettings)


def make_encoder(text: str) -> BenchmarkEncoder:
    """Return the encoder that `text` names. Raises BundleError, ValueError or OSError where there is none.

    With `+density` behind its name, raw scores are kernel densities instead of distances.
    """
    name, _, method = text.partition("+")
    if method:
        return replace(make_encoder(name), name=text, score=ScoreSettings(method=ScoreMethod(method)))
    kind, _, rest = text.partition(":")
    if text == "none":
        return BenchmarkEncoder(text, "values views alone", views_for(0, 0, 1.0, 0), _nothing)
    if text == "raw":
        views = views_for(_RAW_LENGTH, 2 * VALUES_LENGTH, CLIP / 127, 0)
        return BenchmarkEncoder(text, "last 32 points of values and differences in each view", views, _raw)
    if kind == "untrained":
        return _float_network(text, seed=int(rest), weights=None)
    if kind == "weights":
        return _float_network(text, seed=0, weights=rest)
    bundle = find_bundle(text)
    encoder = load_encoder(bundle)
    views = views_for(encoder.length, encoder.dim, encoder.output_step, encoder.output_offset)
    note = f"int8 bundle {bundle.path} on {getattr(encoder, 'runtime', 'its runtime')}"
    return BenchmarkEncoder(text, note, views, encoder.encode)


def _nothing(windows: F32) -> F32:
    raise AssertionError(f"no view is encoded, yet {len(windows)} windows came")


def _raw(windows: F32) -> F32:
    return np.ascontiguousarray(windows[:, -VALUES_LENGTH:]).reshape(len(windows), 2 * VALUES_LENGTH)


def _float_network(text: str, *, seed: int, weights: str | None) -> BenchmarkEncoder:
    """Return SensorSmall in float32.

    The agent keeps references as int8, so the network's output needs a step and an offset: they are taken from the
    least and the greatest output over windows of converter.pretrain.corpus, zero included, as a quantizer does.
    """
    import torch  # noqa: PLC0415  heavy, and only here

    from converter.pretrain import corpus, network  # noqa: PLC0415  need torch

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    made = network.SensorSmall().eval()
    if weights is not None:
        with np.load(weights) as file:
            made.load_state_dict({name: torch.from_numpy(file[name]) for name in file.files})

    def encode(windows: F32) -> F32:
        with torch.inference_mode():
            return made(torch.from_numpy(np.ascontiguousarray(windows))).numpy()

    rng = np.random.default_rng(_RANGE_SEED)
    outputs = np.concatenate([encode(np.concatenate(corpus.episode(rng)[:2])) for _ in range(_RANGE_EPISODES)])
    low, high = min(0.0, float(outputs.min())), max(0.0, float(outputs.max()))
    step = (high - low) / 255
    views = views_for(network.LENGTH, outputs.shape[1], step, round(-128 - low / step))
    note = f"float32, references int8: step {step:.4g} from {len(outputs)} generated windows"
    return BenchmarkEncoder(text, note, views, encode)
