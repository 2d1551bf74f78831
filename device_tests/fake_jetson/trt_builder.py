"""The builder of the fake TensorRT: checks what the real one checks and writes the ONNX file behind a header."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from device_tests.fake_jetson import trt_plan
from device_tests.fake_jetson.trt_config import ConfigState
from device_tests.fake_jetson.trt_layers import Layer, Network
from device_tests.fake_jetson.trt_network import NetworkState
from device_tests.fake_jetson.trt_values import host_memory
from device_tests.fake_jetson.trt_world import (
    FAIL_BUILD,
    FAIL_NODES,
    MAX_LEVEL,
    WITHOUT_INT8,
    Api,
    World,
    behind,
    check_callback,
    script,
)

_PRECISIONS = ("FP16", "BF16", "INT8", "FP8", "INT4", "FP4", "OBEY_PRECISION_CONSTRAINTS")


class BuildError(Exception):
    """Why there is no engine; logged, never raised to the program."""


class Builder(Api):
    """Makes engines."""

    __slots__ = ()

    def __init__(self, logger: Any) -> None:
        check_callback(self._world, "ILogger", logger)
        if not self._world.has_gpu:
            self._world.say(logger, "ERROR", "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._it = logger

    def create_network(self, flags: int = 0) -> Any:
        """An empty one."""
        names = self._world.flags("NetworkDefinitionCreationFlag", int(flags))
        return self._world.new("INetworkDefinition", NetworkState(self._world, names))

    def create_builder_config(self) -> Any:
        """Settings as they are where nothing is set."""
        hardware = self._world.classes.get("HardwareCompatibilityLevel")
        state = ConfigState(
            logger=self._it,
            device_type=self._world.member("DeviceType", "GPU"),
            verbosity=self._world.classes["ProfilingVerbosity"](0),
            hardware=hardware["NONE"] if hardware else None,
            flags=1 << int(self._world.member("BuilderFlag", "TF32")),
        )
        return self._world.new("IBuilderConfig", state)

    def create_optimization_profile(self) -> Any:
        """An empty one."""
        return self._world.new("IOptimizationProfile", {})

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        """The engine's bytes; None where it could not be built, and the log says why."""
        try:
            content = self._build(behind(network), behind(config))
        except BuildError as error:
            self._world.say(self._it, "ERROR", str(error))
            return None
        return host_memory(self._world, content)

    def build_engine(self, network: Any, config: Any) -> Any:
        """The engine itself; None where it could not be built."""
        content = Builder.build_serialized_network(self, network, config)
        return None if content is None else trt_plan.load(self._world, self._it, bytes(content))

    build_engine_with_config = build_engine

    def is_network_supported(self, network: Any, config: Any) -> bool:
        """Whether it would be built."""
        try:
            check(self._world, behind(network), behind(config))
        except BuildError:
            return False
        return True

    @property
    def platform_has_fast_fp16(self) -> bool:
        """The GPU gains from float16."""
        return self._world.compute != "6.1"

    @property
    def platform_has_fast_int8(self) -> bool:
        """It computes in int8."""
        return self._world.compute not in WITHOUT_INT8

    @property
    def platform_has_tf32(self) -> bool:
        """It has TensorFloat-32."""
        return self._world.architecture >= (8,)

    @property
    def num_DLA_cores(self) -> int:  # noqa: N802 - NVIDIA's name
        """That this version can use."""
        return self._world.usable_dla_cores

    @property
    def max_DLA_batch_size(self) -> int:  # noqa: N802
        """Of a DLA."""
        return 4096

    @property
    def max_batch_size(self) -> int:
        """Of networks without an explicit batch, which there are none of here."""
        return 1

    @property
    def logger(self) -> Any:
        """That it was made with."""
        return self._it

    def _build(self, network: NetworkState, config: ConfigState) -> bytes:
        layers = check(self._world, network, config)
        self._time(layers, config)
        self._tell(layers, config)
        return trt_plan.write(self._world, network, config)

    def _time(self, layers: tuple[Layer, ...], config: ConfigState) -> None:
        """Looks layers up in the timing cache, and adds what it lacks."""
        flags = self._world.flags("BuilderFlag", config.flags)
        if config.cache is None or "DISABLE_TIMING_CACHE" in flags:
            return
        known = set(behind(config.cache)["layers"])
        missing = [layer.name for layer in layers if layer.name not in known]
        if missing and "ERROR_ON_TIMING_CACHE_MISS" in flags:
            raise BuildError(f"Error Code 10: Internal Error (timing cache miss for {missing[0]})")
        behind(config.cache)["layers"] = sorted(known.union(missing))
        text = f"FAKE: {len(layers) - len(missing)} of {len(layers)} layers were in the timing cache"
        self._world.say(self._it, "INFO", text)

    def _tell(self, layers: tuple[Layer, ...], config: ConfigState) -> None:
        """Reports progress.

        Raises:
            BuildError: the program wants no more.
        """
        monitor = config.monitor
        with self._phase(monitor, "Building Engine", None, 1):
            with self._phase(monitor, "Tactic Timing", "Building Engine", len(layers)):
                for step in range(len(layers) if monitor is not None else 0):
                    if not monitor.step_complete("Tactic Timing", step):
                        raise BuildError("The build was cancelled by the progress monitor")
            if monitor is not None:
                monitor.step_complete("Building Engine", 0)

    @staticmethod
    @contextlib.contextmanager
    def _phase(monitor: Any, name: str, parent: str | None, steps: int) -> Iterator[None]:
        if monitor is None:
            yield
            return
        monitor.phase_start(name, parent, steps)
        try:
            yield
        finally:
            monitor.phase_finish(name)


def check(world: World, network: NetworkState, config: ConfigState) -> tuple[Layer, ...]:
    """Refuses what the real builder refuses. Answers with the layers of the engine.

    Raises:
        BuildError: it has nothing to build, or must not, or its script says so.
    """
    flags = world.flags("BuilderFlag", config.flags)
    if network.network is None:
        raise BuildError("Error Code 4: Internal Error (Network must have at least one output)")
    if text := script(FAIL_BUILD):
        raise BuildError(text)
    if (highest := script(MAX_LEVEL)) and config.level > int(highest):
        raise BuildError("Error Code 2: OutOfMemory (no further information)")
    typed = network.strongly_typed
    _check_precision(world, network.network, flags, strongly_typed=typed)
    _check_profiles(network, config)
    if config.device_type.name == "DLA":
        _check_dla(world, network.network, config, flags, strongly_typed=typed)
    layers = network.network.layers
    failing = {name.strip() for name in script(FAIL_NODES).split(",")}
    for layer in layers:
        if layer.int8 and failing.intersection(layer.nodes):
            text = f"Could not find any implementation for node {layer.name}."
            raise BuildError(f"Error Code 10: Internal Error ({text})")
    return layers


def _check_precision(world: World, network: Network, flags: frozenset[str], *, strongly_typed: bool) -> None:
    if strongly_typed:
        if asked := sorted(flags.intersection(_PRECISIONS)):
            raise BuildError(f"Error Code 4: API Usage Error ({asked[0]} is not allowed in a strongly typed network)")
    elif network.is_quantized and "INT8" not in flags:
        text = "Int8 precision has been set for a layer or layer output, but int8 is not configured in the builder"
        raise BuildError(f"Error Code 4: Internal Error ({text})")
    if network.is_quantized and world.compute in WITHOUT_INT8:
        raise BuildError(f"FAKE: compute capability {world.compute} has no int8, and the file is quantized")


def _check_profiles(network: NetworkState, config: ConfigState) -> None:
    for tensor in network.inputs:
        if -1 in tensor["shape"] and not config.profiles:
            text = "Network has dynamic or shape inputs, but no optimization profile has been defined."
            raise BuildError(f"Error Code 4: Internal Error ({text})")
        for profile in config.profiles:
            if -1 in tensor["shape"] and tensor["name"] not in profile:
                raise BuildError(f"Error Code 4: Internal Error ({tensor['name']}: optimization profile is missing)")
            for shape in profile.get(tensor["name"], []):
                fixed = zip(tensor["shape"], shape, strict=False)
                if len(shape) != len(tensor["shape"]) or any(size not in (-1, one) for size, one in fixed):
                    text = f"{tensor['name']}: for dimension the profile has {list(shape)}"
                    raise BuildError(f"Error Code 4: Internal Error ({text}, the network {list(tensor['shape'])})")


def _check_dla(
    world: World, network: Network, config: ConfigState, flags: frozenset[str], *, strongly_typed: bool
) -> None:
    cores = world.usable_dla_cores
    if not 0 <= max(config.dla_core, 0) < cores:
        raise BuildError(f"Error Code 3: API Usage Error (Cannot create DLA engine, {cores} DLA cores available)")
    if not strongly_typed and not flags.intersection({"FP16", "INT8"}):
        raise BuildError("Error Code 4: Internal Error (DLA needs FP16 or INT8)")
    nodes = network.proto.graph.node
    stays = [node for node in nodes if node.op_type != "Constant" and not network.can_run_on_dla(node)]
    if stays and "GPU_FALLBACK" not in flags:
        text = f"Layer {stays[0].name} is not supported on DLA and GPU fallback is not enabled"
        raise BuildError(f"Error Code 4: Internal Error ({text})")
