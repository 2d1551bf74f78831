"""The plan graph: the float network that one quantization plan is decided on and every artifact is lowered from.

It is ONNX, batch normalization folded. Nodes that runtimes fuse are one op here: a convolution with its bias and ReLU,
a matrix product with its bias, an addition with its ReLU, a GELU. Tensors inside an op get no numbers of their own.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.errors import InternalError
from edgesmith.files import write_bytes
from targets import onnx_file
from targets.plan_ops import PlanOp, ops_of

LAYERS_KEY = "edgesmith.layers"
"""Metadata of the file: node name -> the user's layer, as JSON."""


class PlanGraph:
    """A float ONNX graph and its ops.

    Attributes:
        proto: the `onnx.ModelProto`; never changed after construction.
        ops: in the order they are computed.
        inputs: names of the network's inputs.
        outputs: names of its outputs.
        constants: float initializers by name. Read only.
    """

    def __init__(self, proto: Any) -> None:
        from onnx import numpy_helper

        self.proto = proto
        stored = {tensor.name for tensor in proto.graph.initializer}
        self.inputs = tuple(value.name for value in proto.graph.input if value.name not in stored)
        self.outputs = tuple(value.name for value in proto.graph.output)
        self.constants: Mapping[str, NDArray[Any]] = {
            tensor.name: _frozen(numpy_helper.to_array(tensor)) for tensor in proto.graph.initializer
        }
        layers: dict[str, str] = next(
            (json.loads(entry.value) for entry in proto.metadata_props if entry.key == LAYERS_KEY), {}
        )
        self.ops: tuple[PlanOp, ...] = tuple(ops_of(proto, self.constants, layers))
        self._producers = {op.output: op for op in self.ops}
        self._consumers: dict[str, list[PlanOp]] = {}
        for op in self.ops:
            for name in dict.fromkeys(op.inputs):
                self._consumers.setdefault(name, []).append(op)

    @classmethod
    def read(cls, path: Path) -> PlanGraph:
        """From a file that `write` made.

        Raises:
            ModelError: the file cannot be read.
        """
        return cls(onnx_file.read(path))

    def write(self, path: Path) -> None:
        """The same graph gives the same bytes."""
        write_bytes(path, self.proto.SerializeToString(deterministic=True))

    def with_constants(self, changes: Mapping[str, NDArray[Any]]) -> PlanGraph:
        """The same network with other numbers.

        Args:
            changes: by initializer name; shapes stay.
        """
        from onnx import numpy_helper

        twin = type(self.proto)()
        twin.CopyFrom(self.proto)
        left = dict(changes)
        for tensor in twin.graph.initializer:
            if tensor.name in left:
                values = np.ascontiguousarray(left.pop(tensor.name), dtype=self.constants[tensor.name].dtype)
                if values.shape != self.constants[tensor.name].shape:
                    raise InternalError(f"{tensor.name}: {values.shape} cannot replace its shape.")
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        if left:
            raise InternalError(f"the plan graph has no constants {', '.join(left)}.")
        return PlanGraph(twin)

    def op(self, name: str) -> PlanOp:
        """By its name."""
        return self._producers[name]

    def producer(self, tensor: str) -> PlanOp | None:
        """What computes a tensor; None for a network input."""
        return self._producers.get(tensor)

    def consumers(self, tensor: str) -> tuple[PlanOp, ...]:
        """What reads a tensor."""
        return tuple(self._consumers.get(tensor, ()))

    @property
    def tensors(self) -> tuple[str, ...]:
        """The tensors a plan speaks of: float inputs, then outputs of ops."""
        floats = {value.name for value in self.proto.graph.input if value.type.tensor_type.elem_type == 1}
        return (*(name for name in self.inputs if name in floats), *(op.output for op in self.ops))

    def run(
        self, x: NDArray[Any] | Sequence[NDArray[Any]], tensors: Sequence[str] | None = None, *, batch: int = 64
    ) -> Iterator[dict[str, NDArray[np.float32]]]:
        """Computes tensors of the float network, batch by batch.

        Args:
            x: [N, ...], or one array per input.
            tensors: wanted; None: the outputs.
            batch: samples at once, where the graph's batch is open; a fixed one is filled up with copies of the last
                sample, whose results are dropped.

        Yields:
            name -> float32 [n, ...], for n samples at a time.
        """
        names = tuple(self.outputs if tensors is None else tensors)
        yield from run_batches(self._session(names), self.inputs, names, x, batch=batch)

    @functools.lru_cache(maxsize=4)  # noqa: B019 - sessions are few, and die with the graph's users
    def _session(self, names: tuple[str, ...]) -> Any:
        return onnx_file.session(with_outputs(self.proto, names).SerializeToString())


def with_outputs(proto: Any, names: Sequence[str]) -> Any:
    """A copy of a model with more tensors declared as outputs."""
    import onnx

    twin = type(proto)()
    twin.CopyFrom(proto)
    declared = {value.name for value in twin.graph.output}
    given = {value.name for value in twin.graph.input}
    for name in names:
        if name not in declared and name not in given:
            twin.graph.output.append(onnx.ValueInfoProto(name=name))
    return twin


def run_batches(
    session: Any,
    inputs: Sequence[str],
    names: Sequence[str],
    x: NDArray[Any] | Sequence[NDArray[Any]],
    *,
    batch: int = 64,
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Runs samples through an ONNX Runtime session, batch by batch; see `PlanGraph.run`."""
    arrays = [x] if isinstance(x, np.ndarray) else list(x)
    fixed = next((value.shape[0] for value in session.get_inputs() if value.shape), None)
    size = fixed if isinstance(fixed, int) else batch
    computed = [name for name in names if name not in inputs]
    for start in range(0, len(arrays[0]), size):
        parts = [array[start : start + size] for array in arrays]
        n = len(parts[0])
        if isinstance(fixed, int) and n < size:
            parts = [np.concatenate([part, np.repeat(part[-1:], size - n, axis=0)]) for part in parts]
        feed = dict(zip(inputs, parts, strict=True))
        found = dict(zip(computed, session.run(computed, feed), strict=True)) if computed else {}
        made = {name: feed[name] if name in feed else found[name] for name in names}
        # Only what was filled up is cut: attention's heads may lie beside each other along the first axis.
        yield {name: values[:n] for name, values in made.items()} if n < len(parts[0]) else made


def _frozen(values: NDArray[Any]) -> NDArray[Any]:
    values = np.array(values)
    values.setflags(write=False)
    return values
