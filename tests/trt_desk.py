"""A fake TensorRT and what every test does with one: parse, build, read back, run."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_tests.fake_jetson.fake_tensorrt import make

COMPUTE = {"8.0.1": "7.2", "8.2.1": "7.2", "8.4.1": "7.2", "8.5.2": "8.7", "10.13.3": "11.0"}
"""Of a board that has that version; 8.7 for the others."""


class Desk:
    """One fake TensorRT on one fake GPU.

    Attributes:
        trt: the module.
        said: what it logged: severity and text.
        errors: the parser's, of the last file.
    """

    def __init__(self, version: str, compute: str = "", dla_cores: int = 0) -> None:
        self.trt: Any = make(version, compute=compute or COMPUTE.get(version, "8.7"), dla_cores=dla_cores)
        self.said: list[tuple[str, str]] = []
        self.errors: list[str] = []
        self.log = _logger(self.trt, self.said)
        self.builder = self.trt.Builder(self.log)

    def network(self, *flags: str) -> Any:
        """An empty one; EXPLICIT_BATCH where the version has the flag."""
        kind = self.trt.NetworkDefinitionCreationFlag
        wanted = [*flags, *(["EXPLICIT_BATCH"] if hasattr(kind, "EXPLICIT_BATCH") else [])]
        return self.builder.create_network(sum(1 << int(kind.__members__[name]) for name in set(wanted)))

    def parsed(self, proto: Any, *flags: str) -> Any | None:
        """A network with a file in it; None where it was refused."""
        network = self.network(*flags)
        parser = self.trt.OnnxParser(network, self.log)
        accepted = parser.parse(proto.SerializeToString())
        self.errors = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        assert accepted != bool(self.errors)
        return network if accepted else None

    def config(self, *flags: str) -> Any:
        """Settings, with flags that the version has."""
        config = self.builder.create_builder_config()
        for name in flags:
            if hasattr(self.trt.BuilderFlag, name):
                config.set_flag(getattr(self.trt.BuilderFlag, name))
        return config

    def built(self, proto: Any, config: Any | None = None, *flags: str) -> bytes | None:
        """An engine's bytes; None where it was refused."""
        network = self.parsed(proto, *flags)
        assert network is not None, self.errors
        plan = self.builder.build_serialized_network(network, config or self.config("INT8", "FP16"))
        return None if plan is None else bytes(plan)

    def engine(self, proto: Any, config: Any | None = None) -> Any:
        """An engine."""
        plan = self.built(proto, config)
        assert plan is not None, self.said
        return self.trt.Runtime(self.log).deserialize_cuda_engine(plan)

    def run(self, context: Any, *arrays: NDArray[Any]) -> bool:
        """One run over arrays: inputs, then outputs."""
        addresses = [array.ctypes.data for array in arrays]
        if not hasattr(context, "execute_async_v3"):
            return bool(context.execute_async_v2(addresses, 0))
        engine = context.engine
        for index, address in enumerate(addresses):
            assert context.set_tensor_address(engine.get_tensor_name(index), address)
        return bool(context.execute_async_v3(0))

    def last(self, severity: str = "ERROR") -> str:
        """The last message of a severity; empty for none."""
        return ([text for one, text in self.said if one == severity] or [""])[-1]


def _logger(trt: Any, said: list[tuple[str, str]]) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            said.append((severity.name, msg))

    return Log()


def picture(seed: int = 0) -> NDArray[np.float32]:
    """What the graphs of `tests.qdq_graphs` take."""
    return np.random.default_rng(seed).normal(size=(1, 32, 8, 8)).astype(np.float32)
