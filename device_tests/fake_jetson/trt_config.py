"""What a build of the fake TensorRT is told: profiles, timing cache, settings."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from device_tests.fake_jetson.trt_values import Dims, host_memory
from device_tests.fake_jetson.trt_world import DEFAULT_LEVEL, Api, World, behind, check_callback


class IOptimizationProfile(Api):
    """Smallest, likeliest and largest shapes of inputs."""

    __slots__ = ()

    def set_shape(self, input: str, min: Iterable[int], opt: Iterable[int], max: Iterable[int]) -> None:  # noqa: A002
        """Those of one input.

        Raises:
            RuntimeError: they do not agree.
        """
        shapes = [Dims(sizes) for sizes in (min, opt, max)]
        for what, one in zip(("min", "opt", "max"), shapes, strict=True):
            if len({len(shape) for shape in shapes}) > 1 or any(size < 0 for size in one):
                raise RuntimeError(f"Shape provided for {what} is inconsistent with other shapes.")
        if any(not low <= likely <= high for low, likely, high in zip(*shapes, strict=True)):
            raise RuntimeError("Shape provided for opt is inconsistent with other shapes.")
        self._it[input] = shapes

    def get_shape(self, input: str) -> list[Dims]:  # noqa: A002
        """Those of one input; none where it has none."""
        return list(self._it.get(input, []))

    def __bool__(self) -> bool:
        return bool(self._it)


class ITimingCache(Api):
    """What layers took before; here a list of their names."""

    __slots__ = ()

    def serialize(self) -> Any:
        """For the next build."""
        return host_memory(self._world, json.dumps(self._it, sort_keys=True).encode())

    def combine(self, input_cache: Any, ignore_mismatch: bool) -> bool:
        """Takes another's entries."""
        if not _fits(self._world, behind(input_cache), ignore_mismatch=ignore_mismatch):
            return False
        self._it["layers"] = sorted({*self._it["layers"], *behind(input_cache)["layers"]})
        return True

    def reset(self) -> bool:
        """Forgets all."""
        self._it["layers"] = []
        return True


def _fits(world: World, cache: dict[str, Any], *, ignore_mismatch: bool) -> bool:
    """The version must be the same; the GPU may be another where a program says so."""
    return cache["tensorrt"] == world.version and (ignore_mismatch or cache["compute"] == world.compute)


@dataclass(slots=True)
class ConfigState:
    """Behind an IBuilderConfig."""

    logger: Any
    device_type: Any
    verbosity: Any
    hardware: Any
    flags: int = 0
    workspace: int | None = None
    pools: dict[str, int] = field(default_factory=dict)
    level: int = DEFAULT_LEVEL
    dla_core: int = -1
    profiles: list[dict[str, list[Dims]]] = field(default_factory=list)
    cache: Any = None
    monitor: Any = None
    devices: dict[str, Any] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)


class IBuilderConfig(Api):
    """How to build."""

    __slots__ = ()

    def set_flag(self, flag: Any) -> None:
        """Sets a BuilderFlag."""
        if not isinstance(flag, self._world.classes["BuilderFlag"]):
            raise TypeError("set_flag(): incompatible function arguments: needs BuilderFlag")
        self._it.flags |= 1 << int(flag)

    def clear_flag(self, flag: Any) -> None:
        """Takes one away."""
        self._it.flags &= ~(1 << int(flag))

    def get_flag(self, flag: Any) -> bool:
        """Whether it is set."""
        return bool(self._it.flags >> int(flag) & 1)

    @property
    def flags(self) -> int:
        """As bits."""
        return int(self._it.flags)

    @flags.setter
    def flags(self, bits: int) -> None:
        self._it.flags = bits

    @property
    def max_workspace_size(self) -> int:
        """Bytes that a layer may use beside its tensors."""
        return int(self._it.workspace or 0)

    @max_workspace_size.setter
    def max_workspace_size(self, size: int) -> None:
        self._it.workspace = size

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        """Likewise, for each kind of memory."""
        self._it.pools[pool.name] = pool_size
        if pool.name == "WORKSPACE":
            self._it.workspace = pool_size

    def get_memory_pool_limit(self, pool: Any) -> int:
        """What was set."""
        return int(self._it.pools.get(pool.name, 0))

    @property
    def builder_optimization_level(self) -> int:
        """How long to look for faster kernels: 0 to 5."""
        return int(self._it.level)

    @builder_optimization_level.setter
    def builder_optimization_level(self, level: int) -> None:
        if 0 <= level <= 5:
            self._it.level = level
        else:
            self._world.say(self._it.logger, "ERROR", f"builderOptimizationLevel {level} is not in [0, 5]")

    @property
    def hardware_compatibility_level(self) -> Any:
        """Which other GPUs the engine shall run on."""
        return self._it.hardware

    @hardware_compatibility_level.setter
    def hardware_compatibility_level(self, level: Any) -> None:
        self._it.hardware = level

    @property
    def profiling_verbosity(self) -> Any:
        """What the engine remembers of its layers."""
        return self._it.verbosity

    @profiling_verbosity.setter
    def profiling_verbosity(self, verbosity: Any) -> None:
        self._it.verbosity = verbosity

    @property
    def progress_monitor(self) -> Any:
        """Who is told how far the build is."""
        return self._it.monitor

    @progress_monitor.setter
    def progress_monitor(self, monitor: Any) -> None:
        if monitor is not None:
            check_callback(self._world, "IProgressMonitor", monitor)
        self._it.monitor = monitor

    @property
    def default_device_type(self) -> Any:
        """Where layers go that were told nothing."""
        return self._it.device_type

    @default_device_type.setter
    def default_device_type(self, device: Any) -> None:
        self._it.device_type = device

    @property
    def DLA_core(self) -> int:  # noqa: N802 - NVIDIA's name
        """Which core; -1 for none."""
        return int(self._it.dla_core)

    @DLA_core.setter
    def DLA_core(self, core: int) -> None:  # noqa: N802
        self._it.dla_core = core

    def can_run_on_DLA(self, layer: Any) -> bool:  # noqa: N802
        """Whether a DLA takes a layer."""
        network, node = behind(layer)
        return self._world.usable_dla_cores > 0 and network.can_run_on_dla(node)

    def set_device_type(self, layer: Any, device_type: Any) -> None:
        """Where one layer goes."""
        self._it.devices[layer.name] = device_type

    def get_device_type(self, layer: Any) -> Any:
        """Where it goes."""
        return self._it.devices.get(layer.name, self._it.device_type)

    def is_device_type_set(self, layer: Any) -> bool:
        """Whether it was told."""
        return layer.name in self._it.devices

    def reset_device_type(self, layer: Any) -> None:
        """As if it had not been."""
        self._it.devices.pop(layer.name, None)

    def add_optimization_profile(self, profile: Any) -> int:
        """Its number; -1 where it says nothing."""
        if not profile:
            return -1
        self._it.profiles.append(dict(behind(profile)))
        return len(self._it.profiles) - 1

    @property
    def num_optimization_profiles(self) -> int:
        """Added so far."""
        return len(self._it.profiles)

    def create_timing_cache(self, serialized_timing_cache: Any) -> Any:
        """From the bytes of an earlier one; empty from none."""
        content = bytes(memoryview(serialized_timing_cache))
        fresh = {"FAKE": "timing cache", "tensorrt": self._world.version, "compute": self._world.compute, "layers": []}
        try:
            found = json.loads(content) if content else fresh
        except ValueError:
            found = {}
        if not isinstance(found, dict) or not fresh.keys() <= found.keys():
            self._world.say(self._it.logger, "WARNING", "The timing cache is damaged and is not used")
            found = fresh
        return self._world.new("ITimingCache", found)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        """Whether it was taken."""
        if not _fits(self._world, behind(cache), ignore_mismatch=ignore_mismatch):
            made = f"TensorRT {behind(cache)['tensorrt']} on compute capability {behind(cache)['compute']}"
            self._world.say(self._it.logger, "ERROR", f"The timing cache was made by {made}: it is not used")
            return False
        self._it.cache = cache
        return True

    def get_timing_cache(self) -> Any:
        """What is used; None before `set_timing_cache`."""
        return self._it.cache

    @property
    def avg_timing_iterations(self) -> int:
        """How often each kernel is timed."""
        return int(self._it.numbers.get("avg", 1))

    @avg_timing_iterations.setter
    def avg_timing_iterations(self, times: int) -> None:
        self._it.numbers["avg"] = times
