"""What all objects of one fake TensorRT share: its version, the GPU it believes in, its classes, what it says."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar
from weakref import WeakSet

from device_tests.fake_jetson.versions import Release, attributes

COMPUTE = "EDGESMITH_FAKE_CUDA_COMPUTE"
"""Variable of the fake libcudart: the GPU's compute capability."""

_NO_GPU = ("EDGESMITH_FAKE_CUDA_DRIVER", "EDGESMITH_FAKE_CUDA_DEVICES")
"""Its variables that, as 0, take away the driver or the GPU."""

FAIL_NODES = "EDGESMITH_FAKE_TENSORRT_FAIL_NODES"
"""ONNX nodes, by name, with commas: no kernel for them as long as they are quantized."""

FAIL_BUILD = "EDGESMITH_FAKE_TENSORRT_FAIL_BUILD"
"""A text: every build fails with it."""

MAX_LEVEL = "EDGESMITH_FAKE_TENSORRT_MAX_LEVEL"
"""The highest optimization level whose build does not run out of memory."""

WRONG = "EDGESMITH_FAKE_TENSORRT_WRONG"
"""A number that is added to every float output: an engine that computes wrongly."""

DEFAULT_LEVEL = 3
"""Optimization level of a build that was told none; the only one before 8.6."""

WITHOUT_INT8 = frozenset({"5.3", "6.2"})
"""Compute capabilities of Jetson Nano and TX1, and of TX2."""


@dataclass(kw_only=True)
class World:
    """One fake TensorRT.

    Attributes:
        release: whose attributes it has.
        version: what it calls itself.
        gpu: compute capability; empty: as the fake libcudart has it.
        dla_cores: of the board.
        classes: name -> class or enumeration, as this version has them.
    """

    release: Release
    version: str
    gpu: str = ""
    dla_cores: int = 0
    classes: dict[str, Any] = field(default_factory=dict)
    _greeted: WeakSet[Any] = field(default_factory=WeakSet)

    @property
    def compute(self) -> str:
        """The GPU's compute capability."""
        return self.gpu or os.environ.get(COMPUTE, "8.7")

    @property
    def architecture(self) -> tuple[int, ...]:
        """The same as numbers, to compare."""
        return tuple(int(part) for part in self.compute.split("."))

    @property
    def has_gpu(self) -> bool:
        """There is a driver and a GPU."""
        return "0" not in {os.environ.get(name) for name in _NO_GPU}

    @property
    def usable_dla_cores(self) -> int:
        """Cores that this version can use: none between 10.7 and 11.4.1."""
        again = tuple(int(part) for part in re.findall(r"\d+", self.version)) >= (11, 4, 1)
        return self.dla_cores if self.release.dla or again else 0

    def has(self, owner: str, name: str) -> bool:
        """Whether a class has that attribute in this version."""
        return name in attributes(self.release.key)[owner]

    def new(self, name: str, it: Any) -> Any:
        """An object of a class that programs cannot make themselves."""
        made = object.__new__(self.classes[name])
        made._it = it
        return made

    def member(self, enumeration: str, name: str) -> Any:
        """A member of an enumeration."""
        return self.classes[enumeration][name]

    def flags(self, enumeration: str, bits: int) -> frozenset[str]:
        """Names of the flags that are set."""
        return frozenset(one.name for one in self.classes[enumeration] if bits >> int(one) & 1)

    def say(self, logger: Any, severity: str, text: str) -> None:
        """Tells the program's logger."""
        logger.log(self.classes["ILogger"].Severity[severity], text)

    def greet(self, logger: Any) -> None:
        """Tells a logger, before anything else and once, that nothing here is real."""
        if logger not in self._greeted:
            self._greeted.add(logger)
            told = f"FAKE TensorRT {self.version}: engines are ONNX files that ONNX Runtime computes on the processor"
            self.say(logger, "WARNING", told)


class Api:
    """A class of TensorRT's Python interface, with the attributes of all versions.

    `fake_tensorrt.make` copies each with the attributes that one version has; like NVIDIA's, the copies take no others.

    """

    __slots__ = ("_it",)
    _world: ClassVar[World]
    _it: Any


class Callback:
    """A class that programs derive from; they must call its constructor, as NVIDIA's insist."""

    _world: ClassVar[World]

    def __init__(self) -> None:
        self._ready = True


def behind(given: Any) -> Any:
    """What an object of ours stands for."""
    return given._it  # noqa: SLF001 - every class of `Api` has it


def check_callback(world: World, kind: str, given: Any) -> None:
    """Checks an object that a program hands over.

    Raises:
        TypeError: it is of another class, or its own constructor does not call that of its base class.
    """
    if not isinstance(given, world.classes[kind]):
        raise TypeError(f"incompatible function arguments: needs {kind}, got {type(given).__name__}")
    if "_ready" not in vars(given):
        raise TypeError(f"tensorrt.tensorrt.{kind}.__init__() must be called when overriding __init__")
    if kind == "ILogger":
        world.greet(given)


def script(name: str, environment: Mapping[str, str] = os.environ) -> str:
    """What a variable asks for; empty for nothing."""
    return environment.get(name, "").strip()
