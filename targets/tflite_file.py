"""Reads `.tflite` files: signature, weight kernels, intermediate tensors, outputs.

The format is the FlatBuffers schema `tensorflow/compiler/mlir/lite/schema/schema.fbs`; structure is read with the
reader that ai-edge-litert ships, values are computed by its interpreter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration import inputs
from edgesmith.errors import ModelError
from edgesmith.native_log import captured
from edgesmith.types import Signature, TensorSpec

FILE_IDENTIFIER = b"TFL3"

_WEIGHT_INPUT = {
    "CONV_2D": 1,
    "DEPTHWISE_CONV_2D": 1,
    "CONV_3D": 1,
    "TRANSPOSE_CONV": 1,
    "FULLY_CONNECTED": 1,
    "BATCH_MATMUL": 1,
    "GATHER": 0,
    "EMBEDDING_LOOKUP": 1,
}
"""Which input of an op is its kernel, where it is constant."""

_PASSES_WEIGHTS_ON = ("DEQUANTIZE", "TRANSPOSE", "RESHAPE")
"""Ops that may stand between a constant and the op that uses it as a kernel."""

_SHOWN = (np.float32, np.float16, np.int8, np.uint8, np.int16)
"""Types that hold activations; the rest are shapes and indices."""


_INT4 = "int4"


def _unpacked(data: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Two 4-bit integers from each byte, the lower half first (LiteRT's and ONNX's order)."""
    pairs = data.view(np.int8)
    low = np.left_shift(pairs, 4)
    return np.stack([np.right_shift(low, 4), np.right_shift(pairs, 4)], axis=-1).reshape(-1)


@dataclass(frozen=True, slots=True)
class Op:
    """One operator of the main subgraph; -1 stands for an absent input."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class TfliteFile:
    """The structure of one subgraph of a `.tflite` file: by default the main one.

    Raises:
        ModelError: not a `.tflite` file, or cut short.
    """

    def __init__(self, path: Path, subgraph: int = 0) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._content = read(path)
        names = {value: key for key, value in vars(schema.BuiltinOperator).items() if not key.startswith("_")}
        self._dtypes = {
            schema.TensorType.FLOAT32: "float32",
            schema.TensorType.FLOAT16: "float16",
            schema.TensorType.INT8: "int8",
            schema.TensorType.UINT8: "uint8",
            schema.TensorType.INT16: "int16",
            schema.TensorType.INT32: "int32",
            schema.TensorType.INT64: "int64",
            schema.TensorType.BOOL: "bool",
            schema.TensorType.INT4: _INT4,
        }
        try:
            self._model = schema.Model.GetRootAs(self._content, 0)
            graph = self._model.Subgraphs(subgraph)
            self.subgraphs = int(self._model.SubgraphsLength())
            codes = [self._model.OperatorCodes(i) for i in range(self._model.OperatorCodesLength())]
            kinds = [_op_name(code, names) for code in codes]
            self.tensors = [graph.Tensors(i) for i in range(graph.TensorsLength())]
            self.inputs = tuple(int(i) for i in graph.InputsAsNumpy())
            self.outputs = tuple(int(i) for i in graph.OutputsAsNumpy())
            self.ops = [_op(graph.Operators(i), kinds) for i in range(graph.OperatorsLength())]
        except Exception as error:
            raise _broken(path, f"its structure cannot be read ({type(error).__name__})") from error

    def custom_ops(self) -> list[str]:
        """Names of ops that need more than the built-in kernels: custom ones, and TensorFlow's ("Flex...")."""
        return sorted({op.name for op in self.ops if op.name.startswith(("CUSTOM:", "Flex"))})

    def name(self, tensor: int) -> str:
        """A tensor's name."""
        return str(self.tensors[tensor].Name().decode())

    def spec(self, tensor: int) -> TensorSpec:
        """Name, shape and dtype of an input or output."""
        table = self.tensors[tensor]
        shape = [] if table.ShapeIsNone() else table.ShapeAsNumpy().tolist()
        if not table.ShapeSignatureIsNone():
            shape = table.ShapeSignatureAsNumpy().tolist()
        dims = tuple(None if dim < 0 else int(dim) for dim in shape)
        return TensorSpec(name=self.name(tensor), shape=dims, dtype=self._dtypes[table.Type()])

    def constant(self, tensor: int) -> NDArray[Any] | None:
        """The values of a constant tensor as stored; None where it is computed, or of a type without a numpy twin."""
        table = self.tensors[tensor]
        data = self._model.Buffers(table.Buffer()).DataAsNumpy()
        if isinstance(data, int) or data.size == 0 or table.Type() not in self._dtypes:
            return None
        dtype = self._dtypes[table.Type()]
        size = 1 if table.ShapeIsNone() else int(np.prod(table.ShapeAsNumpy()))
        values: NDArray[Any] = _unpacked(data)[:size] if dtype == _INT4 else data.view(dtype)
        return values.reshape(table.ShapeAsNumpy()) if not table.ShapeIsNone() else values.reshape(())

    def zero_point(self, tensor: int) -> NDArray[np.int64]:
        """int64 [] or [C]; 0 where the tensor is not quantized."""
        quantization = self.tensors[tensor].Quantization()
        if quantization is None or quantization.ZeroPointIsNone():
            return np.zeros((), np.int64)
        points: NDArray[np.int64] = quantization.ZeroPointAsNumpy()
        if points.size == 1:
            return points.reshape(())
        rank = self.tensors[tensor].ShapeLength()
        return points.reshape([-1 if axis == quantization.QuantizedDimension() else 1 for axis in range(rank)])

    def affine(self, tensor: int) -> tuple[float, int] | None:
        """(scale, zero point) of a tensor with one of each; None where it is not quantized so."""
        quantization = self.tensors[tensor].Quantization()
        if quantization is None or quantization.ScaleIsNone() or quantization.ScaleLength() != 1:
            return None
        return float(quantization.ScaleAsNumpy()[0]), int(self.zero_point(tensor))

    def signature_order(self, input_names: Sequence[str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tensors of inputs and outputs in the order of the model that was converted.

        Args:
            input_names: the model's, in its order. The signature calls its outputs output_0, output_1, ...
        """
        if self._model.SignatureDefsLength() == 0:
            return self.inputs, self.outputs
        definition = self._model.SignatureDefs(0)
        sources = [definition.Inputs(i) for i in range(definition.InputsLength())]
        if len(sources) > 1:
            sources.sort(key=lambda entry: list(input_names).index(entry.Name().decode()))
        results = [definition.Outputs(i) for i in range(definition.OutputsLength())]
        results.sort(key=lambda entry: int(entry.Name().decode().rpartition("_")[2]))
        return tuple(int(e.TensorIndex()) for e in sources), tuple(int(e.TensorIndex()) for e in results)

    def computed(self) -> list[int]:
        """Tensors that depend on an input, in the order they are computed."""
        alive = set(self.inputs)
        found: list[int] = []
        for op in self.ops:
            if alive.intersection(op.inputs):
                alive.update(op.outputs)
                found.extend(op.outputs)
        return found


def _op_name(code: Any, names: dict[int, str]) -> str:
    builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    custom = code.CustomCode()
    if names.get(builtin) == "CUSTOM":
        text = custom.decode() if custom else "unnamed"
        return text if text.startswith("Flex") else f"CUSTOM:{text}"
    return names.get(builtin, f"builtin {builtin}")


def _op(table: Any, kinds: Sequence[str]) -> Op:
    inputs = tuple(int(i) for i in table.InputsAsNumpy()) if not table.InputsIsNone() else ()
    return Op(kinds[table.OpcodeIndex()], inputs, tuple(int(i) for i in table.OutputsAsNumpy()))


def read(path: Path) -> bytearray:
    """The bytes of a file that at least claims to be `.tflite`.

    Raises:
        ModelError: it is not there, or is another format.
    """
    try:
        content = bytearray(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}.") from error
    if content[4:8] != FILE_IDENTIFIER:
        raise _broken(path, "it has no TFL3 mark")
    return content


def _broken(path: Path, why: str) -> ModelError:
    return ModelError(f"{path}: not a whole .tflite file: {why}.", next_step="Compile it again, or copy it again.")


def signature(path: Path) -> Signature:
    """Inputs and outputs as the interpreter numbers them."""
    file = TfliteFile(path)
    return Signature(inputs=tuple(file.spec(i) for i in file.inputs), outputs=tuple(file.spec(i) for i in file.outputs))


def quantization(path: Path) -> tuple[tuple[float, int] | None, ...]:
    """(scale, zero point) or None, of the inputs and then of the outputs, in the order of `signature`."""
    file = TfliteFile(path)
    return tuple(file.affine(tensor) for tensor in (*file.inputs, *file.outputs))


def reordered(path: Path, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
    """The file with the main subgraph's inputs and outputs listed as given: permutations of what is there.

    The converter lists several outputs in an order of its own, so an interpreter that numbers them would hand back
    the wrong head. Only four-byte indices change places: nothing moves in the file.
    """
    from ai_edge_litert import schema_py_generated as schema

    content = read(path)
    graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    graph.InputsAsNumpy()[:] = inputs
    graph.OutputsAsNumpy()[:] = outputs
    return bytes(content)


def kernels(path: Path) -> dict[str, NDArray[Any]]:
    """See `targets.base.Target.kernels`. Constants that a loop carries count as kernels of it: its body uses them."""
    found: dict[str, NDArray[Any]] = {}
    for subgraph in range(TfliteFile(path).subgraphs):
        file = TfliteFile(path, subgraph)
        makers = {output: op for op in file.ops for output in op.outputs}
        for op in file.ops:
            position = _WEIGHT_INPUT.get(op.name, len(op.inputs))
            for tensor in op.inputs if op.name == "WHILE" else op.inputs[position : position + 1]:
                while (maker := makers.get(tensor)) and maker.name in _PASSES_WEIGHTS_ON:
                    tensor = maker.inputs[0]  # noqa: PLW2901 - the same tensor, further back
                values = file.constant(tensor)
                if values is not None and values.ndim >= 2 and not (op.name == "WHILE" and not values.any()):
                    found[file.name(tensor)] = _without_zero_point(values, file.zero_point(tensor))
    return found


def _without_zero_point(values: NDArray[Any], zero_point: NDArray[np.int64]) -> NDArray[Any]:
    return values.astype(np.int64) - zero_point if np.any(zero_point) else values


@contextlib.contextmanager
def _interpreter(path: Path, *, keep_tensors: bool) -> Iterator[Any]:
    """An allocated interpreter.

    XNNPACK keeps the tensors it computes to itself, so to see them all its delegate has to stay out.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    read(path)
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES if keep_tensors else OpResolverType.AUTO
    with captured():
        try:
            interpreter = Interpreter(
                str(path), experimental_op_resolver_type=resolver, experimental_preserve_all_tensors=keep_tensors
            )
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"{path}: LiteRT cannot load it: {str(error).splitlines()[0]}") from error
        yield interpreter


def _feed(interpreter: Any, batch: NDArray[Any]) -> None:
    """Sets the inputs to a batch of one; float samples of a quantized input are quantized first."""
    for detail, given in zip(interpreter.get_input_details(), inputs.split(batch), strict=True):
        values, (scale, zero_point) = given, detail["quantization"]
        if scale:
            limits = np.iinfo(detail["dtype"])
            steps = np.rint(given.astype(np.float64) / scale) + zero_point
            values = np.clip(steps, limits.min, limits.max).astype(detail["dtype"])
        interpreter.set_tensor(detail["index"], values)


def _dequantized(values: NDArray[Any], detail: dict[str, Any]) -> NDArray[Any]:
    quantization = detail["quantization_parameters"]
    scales, points = quantization["scales"], quantization["zero_points"]
    if len(scales) == 0:
        return values
    if len(scales) > 1:
        shape = [-1 if axis == quantization["quantized_dimension"] else 1 for axis in range(values.ndim)]
        scales, points = scales.reshape(shape), points.reshape(shape)
    real: NDArray[np.float32] = ((values.astype(np.float64) - points) * scales).astype(np.float32)
    return real


def outputs(path: Path, x: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """See `targets.base.Target.outputs`. Runs as deployed: with XNNPACK."""
    rows: list[list[NDArray[Any]]] = []
    with _interpreter(path, keep_tensors=False) as interpreter:
        details = interpreter.get_output_details()
        for index in range(len(x)):
            _feed(interpreter, x[index : index + 1])
            interpreter.invoke()
            rows.append([_dequantized(interpreter.get_tensor(d["index"]), d)[0] for d in details])
    return tuple(np.stack([row[i] for row in rows]) for i in range(len(details)))


def tensors(path: Path, x: NDArray[Any]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """See `targets.base.Target.tensors`. Runs the built-in kernels, without XNNPACK."""
    file = TfliteFile(path)
    rows: dict[int, list[NDArray[Any]]] = {tensor: [] for tensor in file.computed()}
    with _interpreter(path, keep_tensors=True) as interpreter:
        details = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
        shown = [t for t in rows if details[t]["dtype"] in _SHOWN and details[t]["shape"].size > 0]
        for index in range(len(x)):
            _feed(interpreter, x[index : index + 1])
            interpreter.invoke()
            for tensor in shown:
                rows[tensor].append(_dequantized(interpreter.get_tensor(tensor), details[tensor]))
    for tensor in shown:
        yield file.name(tensor), np.concatenate(rows[tensor]).astype(np.float32)
