"""Networks in files of other frameworks, as PyTorch modules: exported programs, ONNX, Keras 3.

Each takes what the agent gives, whatever its own layout is: scaled, its axes in order, grey where it has one channel.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
from torch import Tensor, nn

from converter.brought import COLOURS, FEATURES, Scaling, check_scaling, kind_of
from converter.sources import SourceError

_LUMA: Final = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601, as Pillow's mode L
_TOLD: Final = 12  # tensors that a message names
_TRAINING: Final = {"aten.batch_norm.default": 5, "aten.dropout.default": 2}  # which argument says that it trains
_SAVED_MODEL: Final = (
    "make a TFLite file of it (docs/encoders.md says how), and give that to `redshank-convert tflite`, or save the "
    "model with model.save('FILE.keras')"
)


class Layout(msgspec.Struct, frozen=True):
    """How a network takes inputs: the agent's `shape` of one, its own `channels`, and where its axis of these is.

    `last` is false where channels come before what they are channels of; `flat` where there is no such axis.
    """

    shape: tuple[int, ...]
    channels: int
    last: bool
    flat: bool = False


class NetworkFile(nn.Module):
    """A network behind what it needs to take the agent's inputs, float32 [batch, *shape], to outputs as the agent's.

    `batch` is the only one that it takes, None for any.
    """

    def __init__(self, network: Any, layout: Layout, scaling: Scaling | None, batch: int | None) -> None:
        super().__init__()
        self.network, self.batch, self.shape = network, batch, layout.shape
        self._layout, self._scaled = layout, scaling is not None
        if scaling is not None:
            self.register_buffer("mean", torch.tensor(scaling.mean))
            self.register_buffer("deviation", torch.tensor(scaling.deviation))
        self.register_buffer("luma", torch.tensor(_LUMA))

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return embeddings [batch, dim] of windows, maps [batch, rows, columns, dim] of pictures."""
        made, layout = inputs, self._layout
        if self._scaled:
            made = (made - self.mean) / self.deviation
        if layout.channels == 1:
            made = (made * self.luma).sum(-1, keepdim=True) if len(layout.shape) == COLOURS else made[..., :1]
        if layout.flat:
            made = made.flatten(1)
        elif not layout.last:
            made = made.movedim(-1, 1)
        found = self.network(made)
        outputs = found if isinstance(found, tuple | list) else (found,)
        if len(layout.shape) < COLOURS:
            return tuple(outputs)
        return tuple(_map(one, last=layout.last) for one in outputs)


def _map(output: Tensor, *, last: bool) -> Tensor:
    """Return a picture's output as a map, channels last; an embedding is one of a single place."""
    if output.ndim == 2:  # noqa: PLR2004  [batch, dim]
        return output[:, None, None, :]
    return output if last or output.ndim <= COLOURS else output.permute(0, 2, 3, 1)


def layout_of(where: str, own: Sequence[int | None]) -> Layout:
    """Return how a network takes inputs whose shape, without the batch, is `own`. Raises SourceError.

    Pictures [rows, columns, 3 or 1] or [3 or 1, rows, columns]; windows [length, 2 or 1], [2 or 1, length] or [length].
    """
    sides = tuple(one if isinstance(one, int) else 0 for one in own)
    channels = (COLOURS, 1) if len(sides) == COLOURS else (FEATURES, 1)
    found = None
    if len(sides) == 1:
        found = Layout((*sides, FEATURES), 1, last=True, flat=True)
    elif len(sides) in {FEATURES, COLOURS} and sides[-1] in channels:
        found = Layout((*sides[:-1], len(sides)), sides[-1], last=True)
    elif len(sides) in {FEATURES, COLOURS} and sides[0] in channels:
        found = Layout((*sides[1:], len(sides)), sides[0], last=False)
    if found is None or min(sides) < 1:
        shape = ", ".join("?" if not one else str(one) for one in sides)
        raise SourceError(
            f"{where}: expected an input of square pictures, [batch, rows, columns, 3 or 1] or [batch, 3 or 1, rows, "
            f"columns], or of windows, [batch, length, 2 or 1], [batch, 2 or 1, length] or [batch, length], all but "
            f"the batch fixed; found [batch, {shape}]"
        )
    kind_of(where, found.shape)
    return found


def _made(path: Path, network: Any, own: Sequence[Any], scaling: Scaling | None) -> NetworkFile:
    """Return a network whose input has the shape `own`, batch and all; what is no number is not fixed."""
    where = str(path)
    layout = layout_of(where, [one if isinstance(one, int) else None for one in own[1:]])
    check_scaling(where, kind_of(where, layout.shape), scaling)
    batch = own[0] if own and isinstance(own[0], int) and own[0] > 0 else None
    return NetworkFile(network, layout, scaling, batch).eval()


def _nothing(_record: logging.LogRecord) -> bool:
    return False


def read_program(path: Path, outputs: list[str], scaling: Scaling | None) -> NetworkFile:
    """Return the network of a program of torch.export.save, cut behind its nodes `outputs`. Raises SourceError."""
    log = logging.getLogger("torch.export")
    log.addFilter(_nothing)  # with a traceback it tells what is told below
    try:
        program = torch.export.load(path)
    except OSError:
        raise
    except Exception as error:  # zip, pickle and schema errors of every kind
        first = str(error).strip().partition("\n")[0]
        raise SourceError(f"{path}: expected a program that torch.export.save wrote, found none: {first}") from error
    finally:
        log.removeFilter(_nothing)
    names = program.graph_signature.user_inputs
    if len(names) != 1:
        raise SourceError(f"{path}: expected one input, found {', '.join(map(str, names)) or 'none'}")
    (given,) = [node for node in program.graph.nodes if node.op == "placeholder" and node.name == names[0]]
    return _made(path, _cut(path, program.module(check_guards=False), outputs), given.meta["val"].shape, scaling)


def _cut(path: Path, traced: Any, outputs: list[str]) -> Any:
    """Return a traced network that gives the nodes `outputs`, or all that it gave, without what these do not need."""
    graph = traced.graph
    nodes = {node.name: node for node in graph.nodes if isinstance(node.meta.get("val"), Tensor)}
    for name in outputs:
        if name not in nodes:
            told = ", ".join(f"{one.name} {list(one.meta['val'].shape)}" for one in list(nodes.values())[-_TOLD:])
            raise SourceError(f"{path}: expected the name of a node, found {name!r}; the last are {told}")
    (end,) = [node for node in graph.nodes if node.op == "output"]
    if outputs:
        end.args = (tuple(nodes[name] for name in outputs),)
    graph.set_codegen(torch.fx.graph.CodeGen())  # which gives outputs as they stand, not packed as they were
    graph.eliminate_dead_code()
    for node in graph.nodes:
        place = _TRAINING.get(str(node.target))
        if place is not None and len(node.args) > place and node.args[place] is True:
            raise SourceError(
                f"{path}: expected a network in evaluation mode, found {node.name} in training; call eval()"
            )
    return torch.fx.GraphModule(traced, graph)  # unlike the program's own module it has a mode


def read_onnx(path: Path, outputs: list[str], scaling: Scaling | None) -> NetworkFile:
    """Return the network of an ONNX file, cut behind its tensors `outputs`. Raises SourceError.

    Raises ModuleNotFoundError without the extra `onnx`.
    """
    import onnx.version_converter  # noqa: PLC0415  the extra `onnx`

    from converter.onnx_graph import LEAST_OPSET, OnnxNetwork  # noqa: PLC0415  with it

    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
        opset = max((one.version for one in model.opset_import if one.domain in {"", "ai.onnx"}), default=0)
        if opset < LEAST_OPSET:
            model = onnx.version_converter.convert_version(model, LEAST_OPSET)
    except OSError:
        raise
    except Exception as error:  # protobuf's, the checker's and the version converter's
        first = str(error).strip().partition("\n")[0]
        raise SourceError(f"{path}: expected an ONNX model, found something else: {first}") from error
    weights = {one.name for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in weights]
    if len(inputs) != 1:
        raise SourceError(f"{path}: expected one input, found {', '.join(one.name for one in inputs) or 'none'}")
    given = inputs[0]
    own = [one.dim_value or None for one in given.type.tensor_type.shape.dim]
    network = OnnxNetwork(str(path), model, given.name, outputs or [one.name for one in model.graph.output])
    return _made(path, network, own, scaling)


def read_keras(path: Path, outputs: list[str], scaling: Scaling | None) -> NetworkFile:
    """Return the network of a Keras file, cut behind its layers `outputs`. Raises SourceError.

    Lambda layers, which would run code of the file, are refused. Raises ModuleNotFoundError without the extra `keras`.
    """
    if path.is_dir():
        raise SourceError(f"{path}: expected a file that Keras wrote (.keras, .h5), found a folder; {_SAVED_MODEL}")
    os.environ["KERAS_BACKEND"] = "torch"
    import keras  # noqa: PLC0415  the extra `keras`

    if keras.backend.backend() != "torch":
        raise SourceError(f"expected Keras with PyTorch, found it loaded with {keras.backend.backend()} already")
    path.open("rb").close()  # what is not there, or not for us, is an OSError
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # of every kind
        first = str(error).strip().partition("\n")[0]
        raise SourceError(f"{path}: expected a model that Keras 3 can load, found something else: {first}") from error
    if len(getattr(model, "inputs", None) or []) != 1:
        raise SourceError(f"{path}: expected a model with one input, found {len(getattr(model, 'inputs', None) or [])}")
    if outputs:
        layers = {layer.name: layer for layer in model.layers}
        for name in outputs:
            if name not in layers:
                told = ", ".join(f"{one} {list(layer.output.shape)}" for one, layer in layers.items())
                raise SourceError(f"{path}: expected the name of a layer, found {name!r}; there are {told}")
        model = keras.Model(model.inputs, [layers[name].output for name in outputs])
    return _made(path, model, model.inputs[0].shape, scaling)
