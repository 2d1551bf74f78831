"""Networks of the fake TensorRT. The parser fills them; none can be made layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from device_tests.fake_jetson.trt_layers import Network
from device_tests.fake_jetson.trt_parser import dtype_of, inputs, shape_of
from device_tests.fake_jetson.trt_values import data_type
from device_tests.fake_jetson.trt_world import Api, World


@dataclass(slots=True)
class NetworkState:
    """Behind an INetworkDefinition.

    Attributes:
        flags: names of those it was created with.
        onnx: the file it was read from; empty before.
    """

    world: World
    flags: frozenset[str]
    name: str = ""
    onnx: bytes = b""
    network: Network | None = None
    inputs: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def strongly_typed(self) -> bool:
        """The file's own types hold."""
        return not self.world.release.weakly_typed or "STRONGLY_TYPED" in self.flags

    def read(self, content: bytes, network: Network) -> None:
        """Takes over a parsed file."""
        from onnx import shape_inference

        self.onnx, self.network = content, network
        known = shape_inference.infer_shapes(network.proto)
        self.inputs = [self._tensor(value, is_input=True) for value in inputs(known)]
        self.outputs = [self._tensor(value, is_input=False) for value in known.graph.output]

    def _tensor(self, value: Any, *, is_input: bool) -> dict[str, Any]:
        dtype = data_type(self.world, dtype_of(value))
        return {"name": value.name, "shape": shape_of(value), "dtype": dtype, "input": is_input}


class INetworkDefinition(Api):
    """A network. It can be filled by the parser only."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """For people."""
        return str(self._it.name)

    @name.setter
    def name(self, name: str) -> None:
        self._it.name = name

    @property
    def num_inputs(self) -> int:
        """Inputs."""
        return len(self._it.inputs)

    @property
    def num_outputs(self) -> int:
        """Outputs."""
        return len(self._it.outputs)

    @property
    def num_layers(self) -> int:
        """One for each node of the file."""
        return len(self._it.network.proto.graph.node) if self._it.network else 0

    def get_input(self, index: int) -> Any:
        """An input."""
        return self._world.new("ITensor", self._it.inputs[index])

    def get_output(self, index: int) -> Any:
        """An output."""
        return self._world.new("ITensor", self._it.outputs[index])

    def get_layer(self, index: int) -> Any:
        """A layer."""
        return self._world.new("ILayer", (self._it.network, self._it.network.proto.graph.node[index]))

    def __len__(self) -> int:
        return len(self._it.network.proto.graph.node) if self._it.network else 0


class ILayer(Api):
    """One node of the file."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The node's."""
        return str(self._it[1].name)

    @property
    def num_inputs(self) -> int:
        """Inputs."""
        return len(self._it[1].input)

    @property
    def num_outputs(self) -> int:
        """Outputs."""
        return len(self._it[1].output)

    @property
    def metadata(self) -> str:
        """Where it comes from."""
        return f"[ONNX Layer: {self._it[1].name}]"

    def get_output(self, index: int) -> Any:
        """One of them."""
        network, node = self._it
        name = node.output[index]
        dtype = data_type(self._world, network.types.get(name, np.dtype(np.float32)))
        return self._world.new("ITensor", {"name": name, "shape": (), "dtype": dtype, "input": False})

    @property
    def precision(self) -> Any:
        """What it is asked to compute in."""
        network, node = self._it
        return self._world.member("DataType", network.asked.get(node.name, "FLOAT"))

    @precision.setter
    def precision(self, dtype: Any) -> None:
        network, node = self._it
        network.asked[node.name] = dtype.name

    def set_output_type(self, index: int, dtype: Any) -> None:
        """What it is asked to give; the type that it computes in, here."""
        network, node = self._it
        if not 0 <= index < len(node.output) or network.asked.get(node.name) != dtype.name:
            raise NotImplementedError("the fake TensorRT stores what a layer gives in the type that it computes in")
