"""A TFLite model that the user has: cut behind chosen tensors, given the signature that the agent calls, run.

Weights and operators stay as they are. What no chosen tensor needs is left out. Where pictures have to be scaled, a
product and a sum go before the first operator, or, where the model takes int8, into the grid of its input.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from agent.adapters.tflite import IDENTIFIER, in_order, levels_of
from agent.bundle import Quantization
from agent.core.types import F32
from converter.brought import Scaling, check_outputs, check_scaling, kind_of
from converter.quantize import AS_GIVEN
from converter.sources import SourceError

_TOLD: Final = 12  # tensors that a message names


class TfliteFile(msgspec.Struct, frozen=True):
    """A model with one signature, `batch_N`, that takes `batch` inputs of `shape`.

    `precision` is "float32", or AS_GIVEN for one that holds quantized tensors. `input` and `outputs` are their grids,
    None for float32; `names` are those of the tensors that leave it.
    """

    content: bytes
    shape: tuple[int, ...]
    batch: int
    precision: str
    names: tuple[str, ...]
    input: Quantization | None
    outputs: tuple[Quantization | None, ...]

    def run(self, inputs: Any) -> list[F32]:
        """Return each output, float32 [n, ...], for inputs [n, *shape], as LiteRT computes it. Raises SourceError."""
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415  comes with the converter

        try:
            runner = Interpreter(model_content=self.content).get_signature_runner(f"batch_{self.batch}")
            made: list[list[F32]] = []
            for start in range(0, len(inputs), self.batch):
                some = np.asarray(inputs[start : start + self.batch], np.float32)
                padded = np.zeros((self.batch, *self.shape), np.float32)
                padded[: len(some)] = some
                found = runner(args_0=padded if self.input is None else levels_of(padded, self.input))
                made.append(
                    [
                        _real(found[name][: len(some)], grid)
                        for name, grid in zip(in_order(found), self.outputs, strict=True)
                    ]
                )
        except (ValueError, RuntimeError) as error:
            raise SourceError(f"the model cannot be run here: {str(error).strip()}; make it anew") from error
        return [np.concatenate(parts) for parts in zip(*made, strict=True)]


def _real(values: Any, grid: Quantization | None) -> F32:
    made = values.astype(np.float32)
    return made if grid is None else (made - np.float32(grid.zero_point)) * np.float32(grid.scale)


def read_tflite(path: Path, outputs: list[str], scaling: Scaling | None) -> TfliteFile:
    """Return the model of a file, cut behind the tensors `outputs`; none: behind those that it has.

    Raises SourceError for a file that holds none, more than one input or signature, inputs or outputs that the agent
    has no use for, or no tensor of such a name; OSError if it cannot be read.
    """
    from ai_edge_litert.tools.flatbuffer_utils import (  # noqa: PLC0415  comes with the converter
        convert_object_to_bytearray,
        read_model_from_bytearray,
    )

    content = path.read_bytes()
    if content[4:8] != IDENTIFIER:
        raise SourceError(f"{path}: expected a TFLite model, found something else")
    try:
        model = read_model_from_bytearray(bytearray(content))
    except Exception as error:  # struct, index and type errors of a damaged file
        raise SourceError(f"{path}: expected a TFLite model, found a damaged one: {error}") from error
    cut = _Cut(path, model, outputs)
    given = cut.input
    kind = kind_of(f"{path}", tuple(given.shape[1:]))
    check_scaling(f"{path}", kind, scaling)
    check_outputs(f"{path}", kind, {_name(one): _shape(one) for one in cut.outputs}, given.shape[0])
    grids = [cut.grid(one) for one in (given, *cut.outputs)]
    if len({one is None for one in grids[1:]}) > 1:
        raise SourceError(f"{path}: expected outputs of one type, found int8 beside float32; choose with --output")
    if scaling is not None:
        grids[0] = cut.scale(scaling)
    precision = "float32" if cut.is_float else AS_GIVEN
    names = tuple(_name(one) for one in cut.outputs)
    cut.finish()
    return TfliteFile(
        content=bytes(convert_object_to_bytearray(model)),
        shape=tuple(given.shape[1:]),
        batch=given.shape[0],
        precision=precision,
        names=names,
        input=grids[0],
        outputs=tuple(grids[1:]),
    )


class _Cut:
    """The one graph of a model that is wanted, being cut."""

    def __init__(self, path: Path, model: Any, outputs: list[str]) -> None:
        from ai_edge_litert import schema_py_generated as schema  # noqa: PLC0415  comes with the converter

        self._schema, self._path, self._model = schema, path, model
        signatures = model.signatureDefs or []
        if len(signatures) > 1:
            found = ", ".join(_text(one.signatureKey) for one in signatures)
            raise SourceError(f"{path}: expected one signature, found {found}; convert the model with one of them")
        if len(model.subgraphs) > 1:
            raise SourceError(
                f"{path}: expected one graph, found {len(model.subgraphs)}; convert it without loops and branches"
            )
        self._graph = model.subgraphs[0]
        if len(self._graph.inputs) != 1:
            found = ", ".join(_name(self._graph.tensors[one]) for one in self._graph.inputs) or "none"
            raise SourceError(f"{path}: expected one input, found {found}; the agent gives one")
        self.input = self._graph.tensors[self._graph.inputs[0]]
        self._keep([self._chosen(name) for name in outputs] or list(self._graph.outputs))

    @property
    def outputs(self) -> list[Any]:
        """Return the tensors that leave the graph."""
        return [self._graph.tensors[one] for one in self._graph.outputs]

    @property
    def is_float(self) -> bool:
        """Tell whether nothing in it is quantized."""
        kind = self._schema.TensorType
        known = {kind.FLOAT32, kind.INT32, kind.INT64, kind.BOOL}
        return all(self._graph.tensors[one].type in known for one in self._used())

    def _used(self) -> set[int]:
        used = {int(one) for one in (*self._graph.inputs, *self._graph.outputs)}
        for operator in self._graph.operators:
            used.update(int(one) for one in (*operator.inputs, *operator.outputs, *_list(operator.intermediates)))
        return used - {-1}

    def _chosen(self, name: str) -> int:
        made = [int(one) for operator in self._graph.operators for one in operator.outputs]
        for one in made:
            if _name(self._graph.tensors[one]) == name:
                return one
        reached = {int(one) for one in self._graph.inputs}
        for operator in self._graph.operators:
            if reached.intersection(operator.inputs):  # not one that only prepares weights
                reached.update(int(one) for one in operator.outputs)
        fit = [self._graph.tensors[one] for one in made if one in reached]
        fit = [one for one in fit if len(_shape(one)) in {2, 4}]
        told = ", ".join(f"{_name(one)} {_shape(one)}" for one in fit[-_TOLD:])
        raise SourceError(
            f"{self._path}: expected a tensor that an operator makes, found {name!r}; the last are {told}"
        )

    def _keep(self, chosen: list[int]) -> None:
        """Leave out every operator that the chosen tensors do not need, and then every tensor, buffer and code."""
        graph, needed, kept = self._graph, set(chosen), []
        for operator in reversed(graph.operators):
            if needed.intersection(operator.outputs):
                needed.update(int(one) for one in operator.inputs if one >= 0)
                kept.append(operator)
        if not needed.intersection(graph.inputs):
            raise SourceError(f"{self._path}: expected outputs that depend on the input, found none; choose others")
        graph.operators, graph.outputs = kept[::-1], chosen

    def _compact(self) -> None:
        """Leave out tensors, buffers and operator codes that are not used, and number the others anew."""
        graph, model = self._graph, self._model
        tensors = _numbers(self._used())
        tensors[-1] = -1  # an input that is left out
        for operator in graph.operators:
            for field in ("inputs", "outputs", "intermediates"):
                setattr(operator, field, [tensors[int(one)] for one in _list(getattr(operator, field))])
        graph.tensors = [graph.tensors[one] for one in tensors if one >= 0]
        graph.inputs, graph.outputs = [[tensors[one] for one in side] for side in (graph.inputs, graph.outputs)]
        buffers = _numbers({0, *(int(one.buffer) for one in graph.tensors)})
        model.buffers = [model.buffers[one] for one in buffers]
        codes = _numbers({one.opcodeIndex for one in graph.operators})
        model.operatorCodes = [model.operatorCodes[one] for one in codes]
        for tensor in graph.tensors:
            tensor.buffer = buffers[int(tensor.buffer)]
        for operator in graph.operators:
            operator.opcodeIndex = codes[operator.opcodeIndex]

    def grid(self, tensor: Any) -> Quantization | None:
        """Return the grid of an int8 tensor, None for float32. Raises SourceError for other types."""
        kind = self._schema.TensorType
        if tensor.type == kind.FLOAT32:
            return None
        told = tensor.quantization
        if tensor.type != kind.INT8 or told is None or len(_list(told.scale)) != 1:
            names = {number: name for name, number in vars(kind).items() if isinstance(number, int)}
            raise SourceError(
                f"{self._path}: expected float32 or int8 with one scale for {_name(tensor)}, found "
                f"{names.get(tensor.type, tensor.type).lower()}; convert the model with such inputs and outputs"
            )
        return Quantization(float(told.scale[0]), int(told.zeroPoint[0]))

    def scale(self, scaling: Scaling) -> Quantization | None:
        """Let the model take what it took behind (x - mean) / deviation; return the grid of its input then."""
        given, grid = self.input, self.grid(self.input)
        if grid is None:
            self._prepend(given, 1 / np.array(scaling.deviation), -np.array(scaling.mean) / np.array(scaling.deviation))
            return None
        if len({*scaling.mean}) > 1 or len({*scaling.deviation}) > 1:
            raise SourceError(
                f"{self._path}: expected one mean and one deviation for all colours, for it takes int8; found several"
            )
        mean, step = scaling.mean[0], scaling.deviation[0] * grid.scale
        return Quantization(step, round(grid.zero_point - mean / step))

    def _prepend(self, given: Any, factor: Any, shift: Any) -> None:
        schema, graph = self._schema, self._graph
        place = graph.inputs[0]
        raw, product = (self._tensor(name, list(given.shape)) for name in ("pictures", "pictures_scaled"))
        by, plus = (
            self._tensor(name, [len(one)], one)
            for name, one in (("one_over_deviation", factor), ("minus_mean_over_deviation", shift))
        )
        first = []
        for code, options, inputs, output in (
            ("MUL", schema.MulOptionsT(), [raw, by], product),
            ("ADD", schema.AddOptionsT(), [product, plus], place),
        ):
            number = getattr(schema.BuiltinOperator, code)
            self._model.operatorCodes.append(
                schema.OperatorCodeT(deprecatedBuiltinCode=number, builtinCode=number, version=1)
            )
            first.append(
                schema.OperatorT(
                    opcodeIndex=len(self._model.operatorCodes) - 1,
                    inputs=inputs,
                    outputs=[output],
                    builtinOptionsType=getattr(schema.BuiltinOptions, f"{code.capitalize()}Options"),
                    builtinOptions=options,
                )
            )
        graph.operators = [*first, *graph.operators]
        graph.inputs = [raw]

    def _tensor(self, name: str, shape: list[int], values: Any = None) -> int:
        """Append a float32 tensor, constant where there are values; return its number."""
        buffer = 0
        if values is not None:
            data = np.frombuffer(np.asarray(values, np.float32).tobytes(), np.uint8)
            self._model.buffers.append(self._schema.BufferT(data=data))
            buffer = len(self._model.buffers) - 1
        made = self._schema.TensorT(
            name=name.encode(), shape=shape, type=self._schema.TensorType.FLOAT32, buffer=buffer
        )
        self._graph.tensors.append(made)
        return len(self._graph.tensors) - 1

    def finish(self) -> None:
        """Give the model the names and the signature that the agent calls, and drop what describes the old one."""
        self._compact()
        schema, graph, model = self._schema, self._graph, self._model
        for tensor in graph.tensors:  # a batch that could have been any is the one that is written down
            tensor.shapeSignature = None
        model.metadata, model.metadataBuffer = None, None
        model.signatureDefs = [
            schema.SignatureDefT(
                inputs=[schema.TensorMapT(name=b"args_0", tensorIndex=graph.inputs[0])],
                outputs=[
                    schema.TensorMapT(name=f"output_{index}".encode(), tensorIndex=one)
                    for index, one in enumerate(graph.outputs)
                ],
                signatureKey=f"batch_{self.input.shape[0]}".encode(),
                subgraphIndex=0,
            )
        ]


def _numbers(used: Iterable[int]) -> dict[int, int]:
    """Return the new number of each that is used."""
    return {old: new for new, old in enumerate(sorted(used))}


def _list(value: Any) -> list[Any]:
    return [] if value is None else list(value)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")


def _name(tensor: Any) -> str:
    return _text(tensor.name)


def _shape(tensor: Any) -> list[int]:
    return [int(one) for one in _list(tensor.shape)]
