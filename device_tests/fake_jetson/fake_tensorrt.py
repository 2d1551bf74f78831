"""A module `tensorrt` without TensorRT: for each version one with exactly its attributes, and engines that compute.

Nothing in it was measured on a Jetson, and it says FAKE: `tensorrt.FAKE`, the first line that every logger is told, and
the header of every engine. It is for trying out programs that must work with all versions: what a version lacks raises
AttributeError here, too, and what it refuses is refused as far as it is recorded.

Steered by the environment: see `trt_world` for builds that fail, and cudart.c for the GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

from device_tests.fake_jetson import (
    trt_builder,
    trt_config,
    trt_context,
    trt_engine,
    trt_network,
    trt_parser,
    trt_plan,
    trt_values,
    versions,
)
from device_tests.fake_jetson.trt_world import World

_CLASSES: tuple[type[Any], ...] = (
    trt_values.ILogger,
    trt_values.Logger,
    trt_values.IProfiler,
    trt_values.Profiler,
    trt_values.IProgressMonitor,
    trt_values.IHostMemory,
    trt_values.ITensor,
    trt_network.ILayer,
    trt_network.INetworkDefinition,
    trt_config.IOptimizationProfile,
    trt_config.ITimingCache,
    trt_config.IBuilderConfig,
    trt_parser.ParserError,
    trt_parser.OnnxParser,
    trt_builder.Builder,
    trt_plan.Runtime,
    trt_plan.EngineInspector,
    trt_engine.ICudaEngine,
    trt_context.IExecutionContext,
)
"""In an order in which base classes come first."""

_OWN = frozenset({"__dict__", "__weakref__", "__slots__", "__doc__", "__module__"})


class _Unmodelled:
    """Stands for an attribute that a version has and the fake does not do: it can be asked for, and not be used."""

    def __init__(self, owner: str, name: str) -> None:
        self._what = f"{owner}.{name}"

    def __call__(self, *_given: object, **_named: object) -> NoReturn:
        raise NotImplementedError(f"the fake TensorRT does not do {self._what}")

    def __repr__(self) -> str:
        return f"<{self._what}, which the fake TensorRT does not do>"


def make(version: str, *, compute: str = "", dla_cores: int = 0) -> ModuleType:
    """A module `tensorrt`.

    Args:
        version: such as "8.2.1" or "10.3"; with fewer than three numbers it calls itself as a board's does.
        compute: the GPU's compute capability; empty: as the fake libcudart has it.
        dla_cores: of the board.

    Raises:
        ConfigError: the attributes of that version are not recorded.
    """
    release = versions.find(version)
    text = version if version.count(".") >= 2 and version != release.key else release.text
    world = World(release=release, version=text, gpu=compute, dla_cores=dla_cores)
    have = versions.attributes(release.key)
    for name, members in versions.numbers(release.key).items():
        world.classes[name] = trt_values.enumeration(name, members)
    for model in _CLASSES:
        if model.__name__ in have:
            world.classes[model.__name__] = _copy(model, have[model.__name__], world)
    module = ModuleType("tensorrt", f"FAKE TensorRT {text}.")
    contents = _functions(world) | world.classes
    for name in have[versions.MODULE]:
        setattr(module, name, contents.get(name, _Unmodelled(versions.MODULE, name)))
    vars(module)["FAKE"] = True
    return module


def _copy(model: type[Any], members: frozenset[str], world: World) -> type[Any]:
    """A class with the attributes that a version has, and no others."""
    kept = {
        name: value
        for name, value in vars(model).items()
        if name not in _OWN and (name.startswith("_") or name in members)
    }
    bases = tuple(world.classes.get(base.__name__, base) for base in model.__bases__)
    inherited = {name for base in bases for name in dir(base)}
    for name in members - kept.keys() - inherited:
        kept[name] = _Unmodelled(model.__name__, name)
    if "__slots__" in vars(model):
        kept["__slots__"] = ()
    kept |= {"__module__": "tensorrt", "__doc__": f"FAKE. {model.__doc__}", "_world": world}
    made: Any = type(model.__name__, bases, kept)
    if model is trt_values.ILogger:
        trt_values.severities(made)
    return made  # type: ignore[no-any-return]


def _functions(world: World) -> dict[str, Any]:
    def init_libnvinfer_plugins(logger: Any, namespace: str) -> bool:
        del logger, namespace
        return True

    functions: dict[str, Callable[..., Any] | Any] = {
        "__version__": world.version,
        "Dims": trt_values.Dims,
        "nptype": trt_values.numpy_type,
        "volume": trt_values.volume,
        "init_libnvinfer_plugins": init_libnvinfer_plugins,
    }
    types = world.classes["DataType"].__members__
    return functions | {alias: types[name] for alias, name in trt_values.ALIASES.items() if name in types}
