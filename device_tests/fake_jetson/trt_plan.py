"""Engines of the fake TensorRT as bytes: a line of JSON that says FAKE and what the engine is for, then the ONNX file.

The same build gives the same bytes. Reading refuses what NVIDIA's runtime refuses, in its words: another version,
another GPU, damaged bytes.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from device_tests.fake_jetson.trt_layers import Layer, Network
from device_tests.fake_jetson.trt_parser import dtype_of, inputs
from device_tests.fake_jetson.trt_values import NUMPY
from device_tests.fake_jetson.trt_world import Api, World, check_callback

if TYPE_CHECKING:
    from device_tests.fake_jetson.trt_config import ConfigState
    from device_tests.fake_jetson.trt_network import NetworkState

MARK = "FAKE"
"""The header's first key."""

_SAYS = "no TensorRT engine: an ONNX file, which ONNX Runtime computes on the processor"


def write(world: World, network: NetworkState, config: ConfigState) -> bytes:
    """An engine."""
    on_dla = config.device_type.name == "DLA"
    header = {
        MARK: _SAYS,
        "tensorrt": world.version,
        "compute": world.compute,
        "flags": sorted(world.flags("BuilderFlag", config.flags)),
        "strongly_typed": network.strongly_typed,
        "level": config.level,
        "verbosity": config.verbosity.name,
        "hardware": config.hardware.name if config.hardware is not None else "NONE",
        "dla_core": max(config.dla_core, 0) if on_dla else None,
        "profiles": config.profiles,
        "asked": network.network.asked if network.network else {},
        "name": network.name,
        "tensors": [*network.inputs, *network.outputs],
    }
    return joined(header, network.onnx)


def joined(header: dict[str, Any], onnx: bytes) -> bytes:
    """An engine's bytes."""
    return json.dumps(header).encode() + b"\n" + onnx


@dataclass
class Plan:
    """An engine that was read.

    Attributes:
        header: as written.
        onnx: the file.
    """

    world: World
    logger: Any
    header: dict[str, Any]
    onnx: bytes

    @property
    def tensors(self) -> list[dict[str, Any]]:
        """Inputs, then outputs: {"name", "shape", "dtype", "input"}."""
        return list(self.header["tensors"])

    @property
    def detailed(self) -> bool:
        """It remembers more of its layers than names."""
        return self.header["verbosity"] in ("DETAILED", "VERBOSE")

    def tensor(self, name: str) -> dict[str, Any] | None:
        """By name."""
        return next((one for one in self.tensors if one["name"] == name), None)

    def known(self, name: str) -> dict[str, Any]:
        """By name.

        Raises:
            RuntimeError: there is none.
        """
        found = self.tensor(name)
        if found is None:
            raise RuntimeError(f"{name!r} is no input or output of this engine")
        return found

    def binding(self, index: int | str) -> dict[str, Any]:
        """By number, counted on through all profiles, or by name."""
        return self.known(index) if isinstance(index, str) else self.tensors[index % len(self.tensors)]

    def ranges(self, name: str, profile: int) -> list[Any]:
        """Smallest, likeliest and largest shape; all the same where it is fixed."""
        fixed = [self.known(name)["shape"]] * 3
        profiles = self.header["profiles"]
        return list(profiles[profile].get(name, fixed) if profiles else fixed)

    @cached_property
    def network(self) -> Network:
        """The graph."""
        import onnx

        return Network(onnx.ModelProto.FromString(self.onnx))

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """As the inspector tells them; what runs on a DLA is one layer."""
        layers = self.network.layers
        if self.header["dla_core"] is None:
            return layers
        by_name = {node.name: node for node in self.network.proto.graph.node}
        found: list[Layer] = []
        for layer in layers:
            if not self.network.can_run_on_dla(by_name[layer.nodes[0]]):
                found.append(layer)
            elif found and found[-1].kind == "DLA":
                found[-1] = _on_dla(found[-1], layer)
            else:
                found.append(_on_dla(layer, layer))
        return tuple(found)

    @cached_property
    def session(self) -> Any:
        """ONNX Runtime, with every optimization off: Q, DQ and the float op between them, as TensorRT defines them."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return onnxruntime.InferenceSession(self.onnx, options, providers=["CPUExecutionProvider"])

    @cached_property
    def onnx_types(self) -> dict[str, np.dtype[Any]]:
        """Of inputs and outputs in the file, which may be wider than the engine's."""
        proto = self.network.proto
        return {value.name: dtype_of(value) for value in (*inputs(proto), *proto.graph.output)}

    def numpy_type(self, name: str) -> np.dtype[Any]:
        """Of an input or output on the device."""
        return np.dtype(NUMPY[self.known(name)["dtype"]])


def _on_dla(first: Layer, last: Layer) -> Layer:
    nodes = first.nodes if first is last else first.nodes + last.nodes
    name = f"{{ForeignNode[{nodes[0]}...{nodes[-1]}]}}"
    return Layer(name=name, kind="DLA", nodes=nodes, inputs=first.inputs, outputs=last.outputs, int8=first.int8)


def load(world: World, logger: Any, content: bytes, *, host_code: bool = False) -> Any:
    """An engine from its bytes; None where it is refused, and the log says why.

    Args:
        host_code: a version-compatible engine may bring code of its own along.
    """
    first, _, onnx = content.partition(b"\n")
    try:
        header = json.loads(first)
        sound = MARK in header and bool(onnx)
    except (ValueError, TypeError):
        sound = False
    if not sound:
        text = "Error Code 1: Serialization (Serialization assertion magicTagRead == kMAGIC_TAG failed.)"
        world.say(logger, "ERROR", text)
        return None
    if why := _mismatch(world, header, host_code=host_code):
        world.say(logger, "ERROR", f"IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error ({why})")
        return None
    return world.new("ICudaEngine", Plan(world, logger, header, onnx))


def _mismatch(world: World, header: dict[str, Any], *, host_code: bool) -> str:
    built, compute = header["tensorrt"], header["compute"]
    if built != world.version:
        if "VERSION_COMPATIBLE" not in header["flags"] or _numbers(built) > _numbers(world.version):
            return (
                "The engine plan file is not compatible with this version of TensorRT, "
                f"expecting library version {world.version} got {built}, please rebuild."
            )
        if not host_code:
            return "Cannot deserialize engine with lean runtime: engine host code is not allowed"
    ampere = header["hardware"] == "AMPERE_PLUS" and world.architecture >= (8,)
    if compute != world.compute and not ampere:
        return (
            "The engine plan file is generated on an incompatible device, "
            f"expecting compute {world.compute} got compute {compute}, please rebuild."
        )
    return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


class Runtime(Api):
    """Reads engines."""

    __slots__ = ()

    def __init__(self, logger: Any) -> None:
        check_callback(self._world, "ILogger", logger)
        if not self._world.has_gpu:
            self._world.say(logger, "ERROR", "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._it = {"logger": logger, "dla_core": -1, "host_code": False}

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        """The engine; None where it is refused."""
        content = bytes(memoryview(serialized_engine))
        return load(self._world, self._it["logger"], content, host_code=self._it["host_code"])

    @property
    def DLA_core(self) -> int:  # noqa: N802 - NVIDIA's name
        """Which DLA engines use."""
        return int(self._it["dla_core"])

    @DLA_core.setter
    def DLA_core(self, core: int) -> None:  # noqa: N802
        self._it["dla_core"] = core

    @property
    def num_DLA_cores(self) -> int:  # noqa: N802
        """That this version can use."""
        return self._world.usable_dla_cores

    @property
    def engine_host_code_allowed(self) -> bool:
        """Version-compatible engines may be read."""
        return bool(self._it["host_code"])

    @engine_host_code_allowed.setter
    def engine_host_code_allowed(self, allowed: bool) -> None:
        self._it["host_code"] = allowed

    @property
    def logger(self) -> Any:
        """That it was made with."""
        return self._it["logger"]


class EngineInspector(Api):
    """Tells what an engine's layers are."""

    __slots__ = ()

    @property
    def execution_context(self) -> Any:
        """Whose shapes it tells; this one tells those that were built."""
        return None

    @execution_context.setter
    def execution_context(self, context: Any) -> None:
        if not isinstance(context, self._world.classes["IExecutionContext"]):
            raise TypeError("execution_context: needs IExecutionContext")

    def get_layer_information(self, layer_index: int, format: Any) -> str:  # noqa: A002
        """One layer."""
        return _text(_layer(self._it, self._it.layers[layer_index]), format)

    def get_engine_information(self, format: Any) -> str:  # noqa: A002
        """All of them, and the inputs and outputs."""
        plan: Plan = self._it
        ends = "Bindings" if int(self._world.release.key.split(".")[0]) < 11 else "I/O Tensors"
        layers = [_layer(plan, layer) for layer in plan.layers]
        return _text({"Layers": layers, ends: [one["name"] for one in plan.tensors]}, format)


def _layer(plan: Plan, layer: Layer) -> Any:
    if not plan.detailed:
        return layer.name
    found: dict[str, Any] = {
        "Name": layer.name,
        "LayerType": layer.kind,
        "Inputs": [_tensor(plan, layer, name) for name in layer.inputs],
        "Outputs": [_tensor(plan, layer, name) for name in layer.outputs],
        "TacticName": "FAKE",
    }
    if plan.world.has("ILayer", "metadata"):
        found["Metadata"] = "\u001e".join(f"[ONNX Layer: {name}]" for name in layer.nodes)
    return found


def _tensor(plan: Plan, layer: Layer, name: str) -> dict[str, Any]:
    known = plan.tensor(name)
    asked = any(plan.header["asked"].get(node) == "FLOAT" for node in layer.nodes)
    half = ("FP16" in plan.header["flags"] and not asked) or name in plan.network.halves
    precision = "Int8" if layer.int8 else "FP16" if half else "FP32"
    shape = list(known["shape"]) if known else []
    return {"Name": name, "Location": "Device", "Dimensions": shape, "Format/Datatype": f"Row major linear {precision}"}


def _text(found: Any, wanted: Any) -> str:
    return json.dumps(found, indent=1) if wanted.name == "JSON" else str(found)
