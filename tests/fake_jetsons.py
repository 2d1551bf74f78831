"""Fake Jetsons over real SSH, one per JetPack: its files, tools, CUDA and TensorRT are all FAKE."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from device_tests.fake_jetson.build import build_cudart
from device_tests.fake_jetson.site import write_site
from device_tests.fake_jetson.trtexec_tool import PLACE, write_trtexec
from device_tests.loopback import LoopbackBoard
from edgesmith.types import Device
from tests.jetson_python import MeasuredJetson


@dataclass(frozen=True)
class Kind:
    """A JetPack on a board.

    Attributes:
        tools: the JetPack whose tools and files it has.
        tensorrt: its version, and that of an update.
        cuda: its version.
        compute: capability of its GPU.
    """

    tools: str
    tensorrt: str
    update: str
    cuda: str
    compute: str


KINDS: Mapping[str, Kind] = {
    "4.6": Kind("4.6", "8.0.1", "8.2.1", "10.2", "5.3"),
    "5.1": Kind("5.1", "8.5.2", "8.6.1", "11.4", "7.2"),
    "6.2": Kind("6.2", "10.3.0", "10.13.3", "12.6", "8.7"),
    "7.0": Kind("7.0", "10.13.3", "10.16.1", "13.0", "11.0"),
    "7.2": Kind("7.2", "10.16.1", "11.4.0", "13.2", "8.7"),
    "7.2.2": Kind("7.2", "11.4.0", "11.0.0", "13.2", "8.7"),
}


class FakeJetson:
    """What a fake Jetson's user finds there.

    Attributes:
        environment: of its user.
    """

    def __init__(
        self, folder: Path, jetpack: str, environment: Mapping[str, str] | None = None, *, binding: bool = True
    ) -> None:
        """`binding`: its Python has TensorRT; without, there is trtexec alone."""
        self._binding = binding
        self.kind = KINDS[jetpack]
        self.measured = MeasuredJetson(folder, self.kind.tools)
        self._site = folder / "site"
        self.environment = {
            "PYTHONPATH": str(self._site),
            "EDGESMITH_LIBCUDART": str(build_cudart(self.kind.cuda, folder / "cuda")),
            "EDGESMITH_FAKE_CUDA_COMPUTE": self.kind.compute,
            **(environment or {}),
        }
        self.install(self.kind.tensorrt)

    def install(self, tensorrt: str) -> None:
        """Puts that TensorRT there, in place of the one before."""
        if self._binding:
            write_site(self._site, tensorrt, compute=self.kind.compute)
        write_trtexec(Path(self.measured.tree.top) / PLACE, tensorrt)

    @property
    def greeting(self) -> str:
        """Shell that sets its user's environment."""
        return "".join(f"export {name}={shlex.quote(value)}; " for name, value in self.environment.items())

    def device(self, board: LoopbackBoard) -> Device:
        """It, behind that server."""
        return dataclasses.replace(board.device("jetson"), python=str(self.measured.python))
