"""Engines of the fake TensorRT: what they tell of their inputs and outputs, and what runs them."""

from __future__ import annotations

from typing import Any

from device_tests.fake_jetson import trt_plan
from device_tests.fake_jetson.trt_context import ContextState
from device_tests.fake_jetson.trt_values import Dims, host_memory
from device_tests.fake_jetson.trt_world import Api


class ICudaEngine(Api):
    """An engine."""

    __slots__ = ()

    @property
    def num_io_tensors(self) -> int:
        """Inputs and outputs."""
        return len(self._it.tensors)

    @property
    def num_bindings(self) -> int:
        """Inputs and outputs, once for every profile."""
        return len(self._it.tensors) * self.num_optimization_profiles

    def get_tensor_name(self, index: int) -> str:
        """By number."""
        return str(self._it.tensors[index]["name"])

    def get_tensor_mode(self, name: str) -> Any:
        """Member of TensorIOMode."""
        tensor = self._it.tensor(name)
        return self._world.member(
            "TensorIOMode", "NONE" if tensor is None else "INPUT" if tensor["input"] else "OUTPUT"
        )

    def get_tensor_dtype(self, name: str) -> Any:
        """Member of DataType."""
        return self._world.member("DataType", self._it.known(name)["dtype"])

    def get_tensor_shape(self, name: str) -> Dims:
        """-1 where a size is open."""
        return Dims(self._it.known(name)["shape"])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        """Smallest, likeliest, largest."""
        return [Dims(one) for one in self._it.ranges(name, profile_index)]

    def is_shape_inference_io(self, name: str) -> bool:
        """Whether its values are a shape."""
        del name
        return False

    def get_binding_name(self, index: int) -> str:
        """By number."""
        return str(self._it.tensors[index % len(self._it.tensors)]["name"])

    def get_binding_index(self, name: str) -> int:
        """By name; -1 for none."""
        return next((i for i, one in enumerate(self._it.tensors) if one["name"] == name), -1)

    def binding_is_input(self, index: int | str) -> bool:
        """By number or name."""
        return bool(self._it.binding(index)["input"])

    def get_binding_shape(self, index: int | str) -> Dims:
        """By number or name."""
        return Dims(self._it.binding(index)["shape"])

    def get_binding_dtype(self, index: int | str) -> Any:
        """By number or name."""
        return self._world.member("DataType", self._it.binding(index)["dtype"])

    def get_profile_shape(self, profile_index: int, binding: int | str) -> list[Dims]:
        """Smallest, likeliest, largest."""
        return ICudaEngine.get_tensor_profile_shape(self, self._it.binding(binding)["name"], profile_index)

    @property
    def has_implicit_batch_dimension(self) -> bool:
        """Never."""
        return False

    @property
    def max_batch_size(self) -> int:
        """Of engines without an explicit batch."""
        return 1

    @property
    def num_layers(self) -> int:
        """After fusing."""
        return len(self._it.layers)

    @property
    def num_optimization_profiles(self) -> int:
        """At least one."""
        return max(1, len(self._it.header["profiles"]))

    @property
    def name(self) -> str:
        """The network's."""
        return str(self._it.header["name"])

    @property
    def refittable(self) -> bool:
        """Its weights can be replaced."""
        return "REFIT" in self._it.header["flags"]

    @property
    def device_memory_size(self) -> int:
        """Bytes for what lies between layers: a stand-in, the size of the file."""
        return len(self._it.onnx)

    device_memory_size_v2 = device_memory_size

    @property
    def profiling_verbosity(self) -> Any:
        """What it remembers of its layers."""
        return self._world.member("ProfilingVerbosity", self._it.header["verbosity"])

    def serialize(self) -> Any:
        """Its bytes."""
        return host_memory(self._world, trt_plan.joined(self._it.header, self._it.onnx))

    def create_engine_inspector(self) -> Any:
        """What tells its layers."""
        return self._world.new("EngineInspector", self._it)

    def create_execution_context(self, strategy: Any = None) -> Any:
        """What runs it."""
        del strategy
        return self._world.new("IExecutionContext", ContextState(self, self._it, self._world))

    def create_execution_context_without_device_memory(self) -> Any:
        """Likewise, with memory of the program's own."""
        return ICudaEngine.create_execution_context(self)
