"""The parser of the fake TensorRT: what NVIDIA's parser refuses, as far as its verdicts are recorded.

tests/qdq_graphs.py holds the verdicts. Where the real parser crashes, this one refuses. A node whose operator was given
a newer definition than the version reads is refused: NVIDIA's parser may read it all the same, or fail on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from device_tests.fake_jetson.trt_layers import Network
from device_tests.fake_jetson.trt_values import data_type
from device_tests.fake_jetson.trt_world import Api, World, behind, check_callback
from targets.onnx_file import STANDARD_DOMAINS, opset
from targets.tensorrt_rules import RuleViolation, violations

_REFUSED = frozenset(
    {
        "integer-op",
        "int32",
        "integer-type",
        "zero-point",
        "computed",
        "scale-value",
        "scale-count",
        "missing-zero-point",
    }
)
"""Rules whose breach NVIDIA's parser refuses. The others it reads, and computes something else or in float."""

_FLAGLESS = (
    'Assertion failed: !_importer_ctx.network()->hasImplicitBatchDimension() && "This version of the ONNX parser only '
    "supports TensorRT INetworkDefinitions with an explicit batch dimension. Please ensure the network was created "
    'using the EXPLICIT_BATCH NetworkDefinitionCreationFlag."'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One reason why a graph is refused.

    Attributes:
        node: number of the node, -1 where it is about the whole graph.
        code: member of ErrorCode.
    """

    node: int
    name: str
    operator: str
    code: str
    text: str

    def __str__(self) -> str:
        return f"In node {self.node} with name: {self.name} and operator: {self.operator}: {self.code}: {self.text}"


def verdicts(world: World, proto: Any) -> Iterator[Verdict]:
    """Why this version refuses a graph."""
    yield from _too_new(world, proto)
    yield from _types(world, proto)
    numbers = {node.name: number for number, node in enumerate(proto.graph.node)}
    needs_zero_point = world.release.qdq_inputs == 3
    for each in violations(proto, max_opset=world.release.max_opset, needs_zero_point=needs_zero_point):
        if _refuses(world, proto, each):
            number = numbers.get(each.node, -1)
            operator = proto.graph.node[number].op_type if number >= 0 else ""
            yield Verdict(node=number, name=each.node, operator=operator, code="UNSUPPORTED_NODE", text=each.text)


def _refuses(world: World, proto: Any, each: RuleViolation) -> bool:
    if each.rule == "uint8":
        # Stored integers are refused; what is quantized on the way is read as int8.
        return each.tensor in {tensor.name for tensor in proto.graph.initializer if tensor.data_type == 2}
    if each.rule == "scale-value":
        return "inf" not in each.text
    if each.rule == "float16-scale":
        return world.release.needs_explicit_batch
    return each.rule in _REFUSED


def _too_new(world: World, proto: Any) -> Iterator[Verdict]:
    from onnx import defs

    have, newest = opset(proto), world.release.max_opset
    for number, node in enumerate(proto.graph.node if have > newest else ()):
        since = defs.get_schema(node.op_type, have).since_version if node.domain in STANDARD_DOMAINS else 0
        if since > newest:
            text = f"No importer registered for op: {node.op_type} as of opset {since}; this parser reads {newest}"
            yield Verdict(node=number, name=node.name, operator=node.op_type, code="UNSUPPORTED_NODE", text=text)


def _types(world: World, proto: Any) -> Iterator[Verdict]:
    for value in (*inputs(proto), *proto.graph.output):
        if data_type(world, dtype_of(value)) is None:
            text = f"{value.name} is {dtype_of(value)}, which this version has no type for"
            yield Verdict(node=-1, name="", operator="", code="UNSUPPORTED_GRAPH", text=text)


def inputs(proto: Any) -> list[Any]:
    """What comes from outside; stored tensors left out."""
    stored = {tensor.name for tensor in proto.graph.initializer}
    return [value for value in proto.graph.input if value.name not in stored]


def dtype_of(value: Any) -> np.dtype[Any]:
    """The numpy type of an input or output."""
    from onnx import helper

    dtype: np.dtype[Any] = np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    return dtype


def shape_of(value: Any) -> tuple[int, ...]:
    """-1 where a size is open."""
    dims = value.type.tensor_type.shape.dim
    return tuple(int(dim.dim_value) if dim.WhichOneof("value") == "dim_value" else -1 for dim in dims)


class ParserError(Api):
    """One reason why a file was refused."""

    __slots__ = ()

    def code(self) -> Any:
        """Member of ErrorCode."""
        return self._world.member("ErrorCode", self._it.code)

    def desc(self) -> str:
        """In words."""
        return str(self._it.text)

    def file(self) -> str:
        """Of the parser's source."""
        return "fake_tensorrt"

    def func(self) -> str:
        """Of the parser's source."""
        return "verdicts"

    def line(self) -> int:
        """Of the parser's source."""
        return 0

    def node(self) -> int:
        """Number of the node."""
        return int(self._it.node)

    def node_name(self) -> str:
        """Its name."""
        return str(self._it.name)

    def node_operator(self) -> str:
        """Its operator."""
        return str(self._it.operator)

    def __str__(self) -> str:
        return str(self._it)


@dataclass(slots=True)
class _Parser:
    network: Any
    logger: Any
    errors: list[Verdict]
    flags: int = 0


class OnnxParser(Api):
    """Reads a file into a network."""

    __slots__ = ()

    def __init__(self, network: Any, logger: Any) -> None:
        check_callback(self._world, "ILogger", logger)
        self._it = _Parser(network, logger, [])

    def parse(self, model: Any, path: str | None = None) -> bool:
        """Reads bytes."""
        del path
        return self._read(bytes(memoryview(model)))

    def parse_from_file(self, model: str) -> bool:
        """Reads a file."""
        try:
            return self._read(Path(model).read_bytes())
        except OSError:
            return self._refuse([self._whole("MODEL_DESERIALIZE_FAILED", f"Failed to open file: {model}")])

    def supports_operator(self, op_name: str) -> bool:
        """Whether nodes of that kind are read."""
        return not op_name.startswith("QLinear")

    def supports_model(self, model: Any, path: str | None = None) -> tuple[bool, list[tuple[list[int], bool]]]:
        """Whether a file would be read, and its nodes."""
        del path
        proto = self._load(bytes(memoryview(model)))
        supported = proto is not None and not list(verdicts(self._world, proto))
        return supported, [(list(range(len(proto.graph.node))), supported)] if proto is not None else []

    def supports_model_v2(self, model: Any, path: str | None = None) -> bool:
        """Whether a file would be read."""
        return OnnxParser.supports_model(self, model, path)[0]

    @property
    def num_errors(self) -> int:
        """Since the last `clear_errors`."""
        return len(self._it.errors)

    def get_error(self, index: int) -> Any:
        """One of them."""
        return self._world.new("ParserError", self._it.errors[index])

    def clear_errors(self) -> None:
        """Forgets them."""
        self._it.errors.clear()

    @property
    def flags(self) -> int:
        """As bits."""
        return int(self._it.flags)

    @flags.setter
    def flags(self, bits: int) -> None:
        self._it.flags = bits

    def set_flag(self, flag: Any) -> None:
        """Sets one."""
        self._it.flags |= 1 << int(flag)

    def clear_flag(self, flag: Any) -> None:
        """Takes one away."""
        self._it.flags &= ~(1 << int(flag))

    def get_flag(self, flag: Any) -> bool:
        """Whether it is set."""
        return bool(self._it.flags >> int(flag) & 1)

    def get_used_vc_plugin_libraries(self) -> list[str]:
        """Libraries that a version-compatible engine would need: none."""
        return []

    def _read(self, content: bytes) -> bool:
        world, network = self._world, behind(self._it.network)
        proto = self._load(content)
        if proto is None:
            return self._refuse([self._whole("MODEL_DESERIALIZE_FAILED", "Failed to parse the ONNX model.")])
        if world.release.needs_explicit_batch and "EXPLICIT_BATCH" not in network.flags:
            return self._refuse([self._whole("INVALID_VALUE", _FLAGLESS)])
        if found := list(verdicts(world, proto)):
            return self._refuse(found)
        for each in violations(proto):
            if each.rule == "uint8":
                world.say(self._it.logger, "WARNING", f"{each.node}: Defaulting to INT8 instead of UINT8")
        parsed = Network(proto)
        if any(grid.scale is not None and grid.scale.dtype == np.float16 for grid in parsed.graph.grids):
            world.say(self._it.logger, "WARNING", "Converting conv activation scales to fp32")
        network.read(content, parsed)
        return True

    @staticmethod
    def _load(content: bytes) -> Any | None:
        import onnx

        try:
            proto = onnx.ModelProto.FromString(content)
        except Exception:  # noqa: BLE001 - protobuf's DecodeError, which moved between its versions
            return None
        return proto if proto.graph.node else None

    @staticmethod
    def _whole(code: str, text: str) -> Verdict:
        return Verdict(node=-1, name="", operator="", code=code, text=text)

    def _refuse(self, found: list[Verdict]) -> bool:
        self._it.errors.extend(found)
        for verdict in found:
            self._world.say(self._it.logger, "ERROR", f"ModelImporter: {verdict}")
        return False
