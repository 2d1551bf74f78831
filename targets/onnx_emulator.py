"""Runs a plan on this machine: lowered in memory, computed by ONNX Runtime's integer kernels."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from targets import onnx_file, onnx_qdq
from targets.onnx_qdq_file import QUANTIZED
from targets.onnx_qdq_rules import stored
from targets.plan_files import Planned
from targets.plan_graph import run_batches

_EXACT = {"session.x64quantprecision": "1"}
"""Kernels that do not saturate, three times as slow with VNNI: only for x86-64 without it."""


@functools.cache
def saturates_here() -> bool:
    """Whether this machine's kernels for uint8 x int8 saturate, as they do on x86-64 without VNNI; asks the runtime."""
    from onnx import TensorProto, helper, numpy_helper

    n = 64
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    given = helper.make_tensor_value_info("x", TensorProto.UINT8, [1, n])
    made = helper.make_tensor_value_info("y", TensorProto.INT32, [1, n])
    weight = numpy_helper.from_array(np.full((n, n), 127, np.int8), "w")
    model = helper.make_model(
        helper.make_graph([node], "saturates", [given], [made], [weight]),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    (y,) = onnx_file.session(model.SerializeToString()).run(None, {"x": np.full((1, n), 255, np.uint8)})
    return bool(np.any(y != n * 255 * 127))


class Emulator:
    """One plan, loaded; loading costs more than running a batch, so keep it for several sample sets."""

    def __init__(self, planned: Planned, tensors: Sequence[str] | None = None) -> None:
        """Lowers and loads.

        Args:
            planned: the plan.
            tensors: of the plan, wanted; None: the outputs.

        Raises:
            ModelError: the runtime refuses the graph.
        """
        proto, _ = onnx_qdq.lower(planned, activations="uint8")
        self._inputs = planned.graph.inputs
        self._names = tuple(planned.graph.outputs if tensors is None else tensors)
        self._shown = _show(proto, planned, self._names)
        if saturates_here():
            _own_zero_points(proto)
        entries = _EXACT if saturates_here() else None
        self._session = onnx_file.session(proto.SerializeToString(), entries=entries)

    def run(
        self, x: NDArray[Any] | Sequence[NDArray[Any]], *, batch: int = 64
    ) -> Iterator[dict[str, NDArray[np.float32]]]:
        """Computes the tensors; see `PlanGraph.run`, which is the float reference for it.

        Args:
            x: [N, ...], or one array per input.
            batch: samples at once, where the graph's batch is open.

        Yields:
            name -> float32 [n, ...], quantized ones dequantized, for n samples at a time.
        """
        wanted = [self._shown[name] for name in self._names]
        for found in run_batches(self._session, self._inputs, wanted, x, batch=batch):
            yield {name: found[self._shown[name]] for name in self._names}


def run(
    planned: Planned, x: NDArray[Any] | Sequence[NDArray[Any]], tensors: Sequence[str] | None = None, *, batch: int = 64
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Lowers, loads and runs once; see `Emulator`."""
    yield from Emulator(planned, tensors).run(x, batch=batch)


def _show(proto: Any, planned: Planned, names: Sequence[str]) -> dict[str, str]:
    """Declares tensors as outputs; what each is called there.

    A quantized one gets a DequantizeLinear of its own: as an output, the one that others read would keep the runtime
    from computing them on integers.
    """
    import onnx
    from onnx import helper, numpy_helper

    computed = {name for node in proto.graph.node for name in node.output}
    shown: dict[str, str] = {}
    for name in dict.fromkeys(names):
        params = next((t.params for t in planned.plan.tensors if t.name == name), None)
        if params is None or name in planned.graph.outputs or f"{name}{QUANTIZED}" not in computed:
            shown[name] = name
        else:
            shown[name] = f"{name}/shown"
            grid = stored(params, "uint8")
            given = {f"{name}/shown_scale": grid.scale, f"{name}/shown_zero_point": grid.zero_point}
            proto.graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in given.items())
            inputs = [f"{name}{QUANTIZED}", *given]
            proto.graph.node.append(helper.make_node("DequantizeLinear", inputs, [shown[name]], name=shown[name]))
        if name not in planned.graph.outputs and shown[name] not in planned.graph.inputs:
            proto.graph.output.append(onnx.ValueInfoProto(name=shown[name]))
    return shown


def _own_zero_points(proto: Any) -> None:
    """Ends the sharing of zero points: ONNX Runtime 1.31 renames one per weight here, and fails at the second."""
    stored_ones = {tensor.name: tensor for tensor in proto.graph.initializer}
    for number, node in enumerate(node for node in proto.graph.node if node.op_type == "DequantizeLinear"):
        twin = type(proto.graph.initializer[0])()
        twin.CopyFrom(stored_ones[node.input[2]])
        twin.name = node.input[2] = f"{twin.name}~{number}"
        proto.graph.initializer.append(twin)
