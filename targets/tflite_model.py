"""A `.tflite` file that can be changed: tensors, constants and ops of its main subgraph.

The format is the FlatBuffers schema `tensorflow/compiler/mlir/lite/schema/schema.fbs`, read and written with the object
API that ai-edge-litert ships. What nothing uses any more is left out when the file is written.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.errors import InternalError, ModelError
from edgesmith.types import QuantParams

_ALIGNMENT = 16
"""Of a buffer's bytes, as the schema demands (`force_align`); kernels read them in place with vector instructions."""

_MIN_RUNTIME = b"min_runtime_version"


class TfliteModel:
    """The main subgraph of a file, open for changes. Tensors are named by their index, which never changes.

    Raises:
        ModelError: not a `.tflite` file.
    """

    def __init__(self, content: bytes) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._schema = schema
        names = {value: key for key, value in vars(schema.BuiltinOperator).items() if not key.startswith("_")}
        self._codes = {name: code for code, name in names.items()}
        self._dtypes = {
            schema.TensorType.FLOAT32: "float32",
            schema.TensorType.INT4: "int4",
            schema.TensorType.INT8: "int8",
            schema.TensorType.INT16: "int16",
            schema.TensorType.INT32: "int32",
            schema.TensorType.INT64: "int64",
        }
        self._types = {dtype: number for number, dtype in self._dtypes.items()}
        try:
            self._model = schema.ModelT.InitFromPackedBuf(bytearray(content), 0)
            self._graph = self._model.subgraphs[0]
            self._kinds = [
                names.get(max(c.builtinCode, c.deprecatedBuiltinCode), "") for c in self._model.operatorCodes
            ]
        except Exception as error:
            raise ModelError(f"Not a whole .tflite file: its structure cannot be read ({error}).") from error
        self.ops: list[Any] = list(self._graph.operators)
        self.inputs: list[int] = [int(i) for i in self._graph.inputs]
        self.outputs: list[int] = [int(i) for i in self._graph.outputs]

    def __len__(self) -> int:
        """How many tensors there are."""
        return len(self._graph.tensors)

    def kind(self, op: Any) -> str:
        """An op's name in the schema: "CONV_2D"; "" for one that is newer than the schema."""
        return str(self._kinds[op.opcodeIndex])

    def set_version(self, op: Any, version: int) -> None:
        """Asks for at least this version of an op's kernel."""
        code = self._model.operatorCodes[op.opcodeIndex]
        if code.version < version:
            op.opcodeIndex = self._opcode(self.kind(op), version)

    def new_op(self, kind: str, version: int, inputs: Sequence[int], outputs: Sequence[int]) -> Any:
        """An op without options; the caller puts it where it belongs in `ops`."""
        op = self._schema.OperatorT()
        op.opcodeIndex = self._opcode(kind, version)
        op.inputs, op.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        return op

    def _opcode(self, kind: str, version: int) -> int:
        wanted = (self._codes[kind], version)
        for index, code in enumerate(self._model.operatorCodes):
            if (max(code.builtinCode, code.deprecatedBuiltinCode), code.version) == wanted and not code.customCode:
                return index
        code = self._schema.OperatorCodeT()
        code.builtinCode, code.version = wanted
        code.deprecatedBuiltinCode = min(wanted[0], self._codes["PLACEHOLDER_FOR_GREATER_OP_CODES"])
        self._model.operatorCodes.append(code)
        self._kinds.append(kind)
        return len(self._kinds) - 1

    def name(self, tensor: int) -> str:
        """A tensor's name."""
        return str(self._graph.tensors[tensor].name.decode())

    def rename(self, tensor: int, name: str) -> None:
        """Gives a tensor another name."""
        self._graph.tensors[tensor].name = name.encode()

    def shape(self, tensor: int) -> tuple[int, ...]:
        """A tensor's shape; batch 1."""
        shape = self._graph.tensors[tensor].shape
        return () if shape is None else tuple(int(dim) for dim in shape)

    def dtype(self, tensor: int) -> str:
        """As numpy calls it, or "int4"; "" for types that hold no numbers of ours."""
        return self._dtypes.get(self._graph.tensors[tensor].type, "")

    def is_float(self, tensor: int) -> bool:
        """Whether it is there and holds float32."""
        return tensor >= 0 and self.dtype(tensor) == "float32"

    def constant(self, tensor: int) -> NDArray[Any] | None:
        """The values of a constant, int4 as int8; None where the tensor is computed or absent."""
        if tensor < 0 or not (dtype := self.dtype(tensor)):
            return None
        data = self._model.buffers[self._graph.tensors[tensor].buffer].data
        if data is None or len(data) == 0:
            return None
        raw = np.frombuffer(np.asarray(data, np.uint8).tobytes(), np.uint8)
        shape = self.shape(tensor)
        if dtype == "int4":
            return _unpacked(raw, int(np.prod(shape))).reshape(shape)
        return raw.view(dtype).reshape(shape)

    def values(self, tensor: int) -> NDArray[Any]:
        """The values of what has to be a constant.

        Raises:
            InternalError: it is none.
        """
        if (found := self.constant(tensor)) is None:
            raise InternalError(f"{self.name(tensor)} is no constant of the .tflite file.")
        return found

    def grid(self, tensor: int) -> QuantParams | None:
        """A tensor's scales and zero points; None where it has none. Symmetric where all zero points are 0."""
        table = self._graph.tensors[tensor].quantization
        if table is None or table.scale is None or len(table.scale) == 0 or not self.dtype(tensor).startswith("int"):
            return None
        scale = tuple(float(value) for value in table.scale)
        points = (0,) * len(scale) if table.zeroPoint is None else tuple(int(value) for value in table.zeroPoint)
        axis = int(table.quantizedDimension) if len(scale) > 1 else None
        dtype: Any = self.dtype(tensor)
        return QuantParams(scale=scale, zero_point=points, axis=axis, dtype=dtype, symmetric=not any(points))

    def set_grid(self, tensor: int, grid: QuantParams) -> None:
        """Makes a tensor hold integers of this grid."""
        table = self._schema.QuantizationParametersT()
        table.scale = np.array(grid.scale, np.float32)
        table.zeroPoint = np.array(grid.zero_point, np.int64)
        table.quantizedDimension = grid.axis or 0
        held = self._graph.tensors[tensor]
        held.quantization, held.type = table, self._types[grid.dtype]

    def add_tensor(self, name: str, like: int, grid: QuantParams | None) -> int:
        """A computed tensor of the shape of another one; float32 without a grid."""
        table, model = self._schema.TensorT(), self._graph.tensors[like]
        table.name, table.shape, table.shapeSignature = name.encode(), model.shape, model.shapeSignature
        table.hasRank, table.type = model.hasRank, self._types["float32"]
        table.buffer = self._buffer(None)
        self._graph.tensors.append(table)
        if grid is not None:
            self.set_grid(len(self) - 1, grid)
        return len(self) - 1

    def add_constant(
        self, name: str, values: NDArray[Any], grid: QuantParams | None = None, *, dtype: str | None = None
    ) -> int:
        """A constant of its own.

        Args:
            name: of the tensor.
            values: float32, or integers of `grid`; int8 for int4.
            grid: None for float32.
            dtype: of the stored integers, where it is not the grid's: biases of int16 ops are int64.
        """
        table = self._schema.TensorT()
        table.name, table.shape, table.hasRank = name.encode(), np.array(values.shape, np.int32), True
        kind = dtype or ("float32" if grid is None else grid.dtype)
        raw = _packed(values) if kind == "int4" else np.ascontiguousarray(values, kind).view(np.uint8).ravel()
        table.buffer = self._buffer(raw)
        self._graph.tensors.append(table)
        if grid is not None:
            self.set_grid(len(self) - 1, grid)
        table.type = self._types[kind]
        return len(self) - 1

    def _buffer(self, raw: NDArray[np.uint8] | None) -> int:
        buffer = self._schema.BufferT()
        buffer.data = raw
        self._model.buffers.append(buffer)
        return len(self._model.buffers) - 1

    def input_names(self) -> dict[str, int]:
        """The user's names of the inputs -> tensors; empty where the file has no signature."""
        definition = next((d for d in self._model.signatureDefs or [] if not d.subgraphIndex), None)
        entries = [] if definition is None else definition.inputs
        return {entry.name.decode(): int(entry.tensorIndex) for entry in entries}

    def readers(self, tensor: int) -> list[Any]:
        """Ops that read a tensor."""
        return [op for op in self.ops if tensor in op.inputs]

    def content(self, *, compact: bool = True) -> bytes:
        """The file. Compacting renumbers the tensors: it is the last thing to do with this object.

        Args:
            compact: leave out what nothing uses.
        """
        import flatbuffers  # type: ignore[import-untyped] # without stubs

        self._graph.operators = self.ops
        self._graph.inputs, self._graph.outputs = np.array(self.inputs, np.int32), np.array(self.outputs, np.int32)
        if compact:
            self._compact()
        for buffer in self._model.buffers:
            buffer.Pack = functools.partial(_pack_buffer, self._schema, buffer)
        builder = flatbuffers.Builder(1024)
        builder.Finish(self._model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def set_signature(self, moved: Mapping[int, int]) -> None:
        """Tells the signatures which tensors took the place of inputs and outputs."""
        for definition in self._model.signatureDefs or []:
            entries = (*definition.inputs, *definition.outputs)
            for entry in entries if not definition.subgraphIndex else ():
                entry.tensorIndex = moved.get(entry.tensorIndex, entry.tensorIndex)

    def _compact(self) -> None:
        model, graph = self._model, self._graph
        # The float file's minimum does not hold for the versions that integer kernels need.
        model.metadata = [entry for entry in model.metadata or [] if entry.name != _MIN_RUNTIME] or None
        signatures = [e for d in model.signatureDefs or [] if not d.subgraphIndex for e in (*d.inputs, *d.outputs)]
        used = {*self.inputs, *self.outputs, *(entry.tensorIndex for entry in signatures)}
        for op in self.ops:
            for listed in (op.inputs, op.outputs, op.intermediates):
                used.update(int(i) for i in (listed if listed is not None else ()) if i >= 0)
        place = {old: new for new, old in enumerate(sorted(used))} | {-1: -1}
        graph.tensors = [graph.tensors[old] for old in sorted(used)]
        for op in self.ops:
            for field in ("inputs", "outputs", "intermediates"):
                if (listed := getattr(op, field)) is not None:
                    setattr(op, field, np.array([place[int(i)] for i in listed], np.int32))
        graph.inputs = np.array([place[i] for i in self.inputs], np.int32)
        graph.outputs = np.array([place[i] for i in self.outputs], np.int32)
        for entry in signatures:
            entry.tensorIndex = place[entry.tensorIndex]
        self._compact_buffers()
        codes = sorted({op.opcodeIndex for sub in model.subgraphs for op in sub.operators})
        for sub in model.subgraphs:
            for op in sub.operators:
                op.opcodeIndex = codes.index(op.opcodeIndex)
        model.operatorCodes = [model.operatorCodes[index] for index in codes]

    def _compact_buffers(self) -> None:
        model = self._model
        holders = [tensor for sub in model.subgraphs for tensor in sub.tensors] + list(model.metadata or [])
        kept = sorted({0, *(holder.buffer for holder in holders)})  # 0 is the empty one, by the schema
        place = {old: new for new, old in enumerate(kept)}
        for holder in holders:
            holder.buffer = place[holder.buffer]
        model.buffers = [model.buffers[old] for old in kept]


def _pack_buffer(schema: Any, buffer: Any, builder: Any) -> int:
    """As the generated code, which forgets the alignment."""
    data = None if buffer.data is None else np.asarray(buffer.data, np.uint8)
    offset = 0
    if data is not None:
        builder.StartVector(1, len(data), _ALIGNMENT)
        builder.head -= len(data)
        builder.Bytes[builder.head : builder.head + len(data)] = data.tobytes()
        offset = builder.EndVector()
    schema.BufferStart(builder)
    if data is not None:
        schema.BufferAddData(builder, offset)
    schema.BufferAddOffset(builder, buffer.offset)
    schema.BufferAddSize(builder, buffer.size)
    return int(schema.BufferEnd(builder))


def _packed(values: NDArray[Any]) -> NDArray[np.uint8]:
    """int4, two in a byte, the first in the low half (LiteRT, `PackInt4ValuesDensely`)."""
    low_halves: NDArray[np.uint8] = np.ascontiguousarray(values, np.int8).ravel().view(np.uint8) & np.uint8(0xF)
    pairs = np.append(low_halves, np.zeros(low_halves.size % 2, np.uint8)).reshape(-1, 2)
    return np.asarray(pairs[:, 0] | (pairs[:, 1] << np.uint8(4)), np.uint8)


def _unpacked(raw: NDArray[np.uint8], size: int) -> NDArray[np.int8]:
    both = np.stack([raw << 4, raw & 0xF0], axis=1).ravel()[:size].view(np.int8)
    values: NDArray[np.int8] = both >> 4
    return values
