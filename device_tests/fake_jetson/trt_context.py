"""Running an engine of the fake TensorRT: by tensor names, or by bindings in versions that have them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_tests.fake_jetson.cuda_host import Streams
from device_tests.fake_jetson.trt_plan import Plan
from device_tests.fake_jetson.trt_values import Dims, as_array
from device_tests.fake_jetson.trt_world import WRONG, Api, World, check_callback, script

_PROFILED_S = 60.0
"""How long a profiled run may take: TensorRT waits for it, too."""


@dataclass
class ContextState:
    """Behind an IExecutionContext."""

    engine: Any
    plan: Plan
    world: World
    profile: int = 0
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    addresses: dict[str, int] = field(default_factory=dict)
    name: str = ""
    profiler: Any = None
    emits: bool = True
    times: list[tuple[str, float]] = field(default_factory=list)
    streams: Streams = field(default_factory=Streams)
    _outputs: dict[Any, dict[str, tuple[int, ...]]] = field(default_factory=dict)

    def set_shape(self, tensor: Mapping[str, Any] | None, shape: Sequence[int]) -> bool:
        """Fixes an input's shape; False, and a line in the log, where the engine does not take it."""
        if tensor is None or not tensor["input"]:
            return self.refuse("setInputShape: no such input")
        sizes = tuple(int(size) for size in shape)
        low, _, high = self.plan.ranges(tensor["name"], self.profile)
        if len(sizes) != len(low) or any(not a <= n <= b for a, n, b in zip(low, sizes, high, strict=True)):
            text = f"setInputShape: {list(sizes)} of {tensor['name']} is not in {list(low)}..{list(high)}"
            return self.refuse(f"Error Code 3: API Usage Error ({text})")
        self.shapes[tensor["name"]] = sizes
        return True

    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all inputs; -1 where one is not fixed yet."""
        named = {one["name"]: tuple(one["shape"]) for one in self.plan.tensors if one["input"]}
        return named | self.shapes

    def shape(self, name: str) -> tuple[int, ...]:
        """Of an input or output; -1 where it is not known yet. Outputs are computed once for each shape, of zeros."""
        shapes = self.input_shapes()
        if name in shapes:
            return shapes[name]
        tensor = self.plan.known(name)
        if any(-1 in one for one in shapes.values()):
            return tuple(tensor["shape"])
        key = tuple(sorted(shapes.items()))
        if key not in self._outputs:
            zeros = {name: np.zeros(shape, self.plan.onnx_types[name]) for name, shape in shapes.items()}
            names = [one["name"] for one in self.plan.tensors if not one["input"]]
            found = self.plan.session.run(names, zeros)
            self._outputs[key] = {name: array.shape for name, array in zip(names, found, strict=True)}
        return self._outputs[key][name]

    def refuse(self, text: str) -> bool:
        """Logs an error and answers False."""
        self.world.say(self.plan.logger, "ERROR", text)
        return False

    def prepare(self, addresses: Mapping[str, int]) -> Callable[[], None] | None:
        """The work of one run over these addresses; None, and a line in the log, where something is missing."""
        shapes: dict[str, tuple[int, ...]] = {}
        for tensor in self.plan.tensors:
            name = tensor["name"]
            if not addresses.get(name):
                self.refuse(f"Error Code 3: API Usage Error (Address is not set for tensor {name})")
                return None
            shapes[name] = self.shape(name)
            if -1 in shapes[name]:
                self.refuse(f"Error Code 3: API Usage Error (Not all dimensions of {name} are specified)")
                return None
        arrays = {name: as_array(addresses[name], shapes[name], self.plan.numpy_type(name)) for name in shapes}
        return lambda: self._run(arrays)

    def _run(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        started, wrong = time.perf_counter(), script(WRONG)
        ends = {one["name"]: bool(one["input"]) for one in self.plan.tensors}
        given = {name: arrays[name].astype(self.plan.onnx_types[name]) for name, into in ends.items() if into}
        names = [name for name, into in ends.items() if not into]
        try:
            for name, found in zip(names, self.plan.session.run(names, given), strict=True):
                arrays[name][...] = found.astype(arrays[name].dtype)
                if wrong and found.dtype.kind == "f":
                    arrays[name][...] += arrays[name].dtype.type(wrong)
        except Exception as error:  # noqa: BLE001 - it comes from C, which has nowhere to raise it to
            self.refuse(f"Error Code 1: Cuda Runtime ({type(error).__name__}: {error})")
        spent_ms = (time.perf_counter() - started) * 1e3
        layers = self.plan.layers
        self.times = [(layer.name, spent_ms / len(layers)) for layer in layers]

    def report(self) -> bool:
        """Tells the profiler about the last run: its time, in equal parts."""
        if self.profiler is None or not self.times:
            return False
        for name, ms in self.times:
            self.profiler.report_layer_time(name, ms)
        return True

    def now(self, addresses: Mapping[str, int]) -> bool:
        """One run that is over when this returns."""
        work = self.prepare(addresses)
        if work is None:
            return False
        work()
        self.report()
        return True

    def later(self, addresses: Mapping[str, int], handle: int) -> bool:
        """One run, behind what is on the stream."""
        work = self.prepare(addresses)
        if work is None:
            return False
        if self.profiler is None:
            key = (tuple(sorted(addresses.items())), tuple(sorted(self.input_shapes().items())))
            return self.streams.put(key, work, handle)
        return self._profiled(work, handle)

    def _profiled(self, work: Callable[[], None], handle: int) -> bool:
        """Waits, as TensorRT does where layers are timed; 8.0 does not time them on a stream."""
        done = threading.Event()

        def both() -> None:
            work()
            done.set()

        if not self.streams.put(done, both, handle) or not done.wait(_PROFILED_S):
            return self.refuse("Error Code 1: Cuda Runtime (a profiled run cannot be recorded into a graph)")
        if self.emits and self.world.has("IExecutionContext", "enqueue_emits_profile"):
            self.report()
        return True


class IExecutionContext(Api):
    """Runs an engine."""

    __slots__ = ()

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        """Fixes an input's shape."""
        return bool(self._it.set_shape(self._it.plan.tensor(name), shape))

    def set_binding_shape(self, binding: int, shape: Sequence[int]) -> bool:
        """Likewise, by number."""
        return bool(self._it.set_shape(self._it.plan.binding(binding), shape))

    def get_tensor_shape(self, name: str) -> Dims:
        """-1 where it is not known yet."""
        return Dims(self._it.shape(name))

    def get_binding_shape(self, binding: int) -> Dims:
        """Likewise, by number."""
        return Dims(self._it.shape(self._it.plan.binding(binding)["name"]))

    @property
    def all_binding_shapes_specified(self) -> bool:
        """Every input's shape is fixed."""
        return all(-1 not in shape for shape in self._it.input_shapes().values())

    @property
    def all_shape_inputs_specified(self) -> bool:
        """There are none."""
        return True

    def infer_shapes(self) -> list[str]:
        """Inputs whose shapes are not fixed."""
        return [name for name, shape in self._it.input_shapes().items() if -1 in shape]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Where an input or output lies."""
        if self._it.plan.tensor(name) is None:
            return bool(self._it.refuse(f"setTensorAddress: {name} is no input or output"))
        self._it.addresses[name] = int(memory)
        return True

    def get_tensor_address(self, name: str) -> int:
        """0 where it was not told."""
        return int(self._it.addresses.get(name, 0))

    def execute_v2(self, bindings: Sequence[int]) -> bool:
        """One run; addresses in the engine's order."""
        return bool(self._it.now(_named(self._it.plan, bindings)))

    def execute_async_v2(self, bindings: Sequence[int], stream_handle: int, input_consumed: Any = None) -> bool:
        """One run on a stream."""
        del input_consumed
        return bool(self._it.later(_named(self._it.plan, bindings), stream_handle))

    def execute_async_v3(self, stream_handle: int) -> bool:
        """One run on a stream, over the addresses that were told."""
        return bool(self._it.later(dict(self._it.addresses), stream_handle))

    @property
    def active_optimization_profile(self) -> int:
        """Which one."""
        return int(self._it.profile)

    @active_optimization_profile.setter
    def active_optimization_profile(self, index: int) -> None:
        IExecutionContext.set_optimization_profile_async(self, index, 0)

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        """Takes another one; shapes are to be fixed anew."""
        del stream_handle
        if not 0 <= profile_index < self._it.engine.num_optimization_profiles:
            raise RuntimeError("Error in set optimization profile async.")
        self._it.profile = profile_index
        self._it.shapes.clear()
        return True

    @property
    def engine(self) -> Any:
        """That it runs."""
        return self._it.engine

    @property
    def name(self) -> str:
        """For people."""
        return str(self._it.name)

    @name.setter
    def name(self, name: str) -> None:
        self._it.name = name

    @property
    def profiler(self) -> Any:
        """Who is told what layers took."""
        return self._it.profiler

    @profiler.setter
    def profiler(self, profiler: Any) -> None:
        if profiler is not None:
            check_callback(self._world, "IProfiler", profiler)
        self._it.profiler = profiler

    @property
    def enqueue_emits_profile(self) -> bool:
        """A run on a stream tells the profiler by itself."""
        return bool(self._it.emits)

    @enqueue_emits_profile.setter
    def enqueue_emits_profile(self, emits: bool) -> None:
        self._it.emits = emits

    def report_to_profiler(self) -> bool:
        """Tells the profiler about the last run."""
        return bool(self._it.report())


def _named(plan: Plan, bindings: Sequence[int]) -> dict[str, int]:
    return {one["name"]: int(address) for one, address in zip(plan.tensors, bindings, strict=False)}
