"""Asks NVIDIA's own ONNX parser and builder, TensorRT-RTX from pip, about a graph. Needs no GPU and no driver.

It is not the TensorRT of a Jetson: it proves how a graph is parsed and typed and which ops become int8, not how fast
they are there. The build log at VERBOSE tells every layer of the engine with the types of what goes in and out.

This file is also the program of the child process: a native crash or a hang there is a verdict, not the end of the
suite.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMPUTES = frozenset({"correlation", "deconv", "gemm", "runtime_fusion"})
"""`LayerType` of the layers that multiply matrices; "kgen" are element-wise kernels, made on the spot."""

_TENSORS = re.compile(r"(Inputs|Constants|Outputs): \[(.*?)\](?=, (?:Constants|Outputs|TacticName|StreamId):)")
_TYPE = re.compile(r"Datatype: (\w+)")
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLayer:
    """One layer of the built engine.

    Attributes:
        kind: its `LayerType`.
        inputs: types, as the log says them: "Int8", "Float", "Half".
        constants: types of what it has stored.
        outputs: types.
        nodes: names of the ONNX nodes it computes, or computes a part of.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the parser and the builder said.

    Attributes:
        errors: the parser's, or the builder's where the graph was parsed.
        warnings: of both.
        layers: of the engine; empty where there is none.
        engine_sha256: of the engine's bytes; empty where there is none.
    """

    parsed: bool
    built: bool
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    layers: tuple[EngineLayer, ...]
    engine_sha256: str

    @property
    def operands(self) -> frozenset[str]:
        """Types that matrices are multiplied in, over all layers."""
        found = [layer for layer in self.layers if layer.kind in COMPUTES]
        return frozenset(kind for layer in found for kind in (*layer.inputs, *layer.constants)[:2])

    def in_int8(self, node: str) -> bool:
        """Whether a Conv, ConvTranspose, Gemm or MatMul node became one whose both operands are int8 in the engine.

        A product that was taken apart into element-wise kernels is none; that of a node nobody knows neither.
        """
        found = [layer for layer in self.layers if layer.kind in COMPUTES and node in layer.nodes]
        operands = [(*layer.inputs, *layer.constants)[:2] for layer in found]
        return bool(found) and all(pair == ("Int8", "Int8") for pair in operands)


class Crash(Exception):
    """The parser or the builder took its process down."""


def ask(proto: Any, *, batch: int | None = None, deadline_s: float = 120.0) -> Answer:
    """Parses and builds a graph in a child process.

    Args:
        proto: onnx.ModelProto.
        batch: the largest, where its inputs have an open batch; None gives the builder no profile for it.
        deadline_s: after which the child is killed.

    Raises:
        Crash: the child died of it.
        TimeoutExpired: it did not end, and was killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        path.write_bytes(proto.SerializeToString())
        command = [sys.executable, __file__, str(path), str(batch or 0)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=deadline_s, check=False)
        answer = path.with_suffix(".json")
        if done.returncode:
            raise Crash(f"exit {done.returncode}: {done.stderr[-2000:]}")
        said = json.loads(answer.read_text(encoding="utf-8"))
    return Answer(
        parsed=said["parsed"],
        built=said["built"],
        errors=tuple(said["errors"]),
        warnings=tuple(said["warnings"]),
        layers=tuple(_layer(line) for line in said["layers"].splitlines() if line.startswith("Name: ")),
        engine_sha256=said["engine_sha256"],
    )


def _layer(line: str) -> EngineLayer:
    found = re.match(r"Name: (.*?), LayerType: (\w+)", line)
    assert found is not None, f"the build log looks different now: {line[:300]}"
    types = {what: tuple(_TYPE.findall(tensors)) for what, tensors in _TENSORS.findall(line)}
    return EngineLayer(
        name=found[1],
        kind=found[2],
        inputs=types.get("Inputs", ()),
        constants=types.get("Constants", ()),
        outputs=types.get("Outputs", ()),
        nodes=tuple(_NODE.findall(line)),
    )


def _child(path: Path, batch: int) -> None:
    import resource

    import tensorrt_rtx as trt

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is one of the answers; nobody wants its core file

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.said: list[tuple[str, str]] = []

        def log(self, severity: Any, text: str) -> None:
            self.said.append((severity.name, text))

        def of(self, *severities: str) -> list[str]:
            return [text for severity, text in self.said if severity in severities]

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse(path.read_bytes())
    engine = None
    if parsed:
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM86, 0)
        if batch:
            profile = builder.create_optimization_profile()
            for index in range(network.num_inputs):
                tensor = network.get_input(index)
                rest = tuple(tensor.shape)[1:]
                profile.set_shape(tensor.name, (1, *rest), (batch, *rest), (batch, *rest))
            config.add_optimization_profile(profile)
        engine = builder.build_serialized_network(network, config)
    errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
    said = {
        "parsed": parsed,
        "built": engine is not None,
        "errors": errors or log.of("ERROR", "INTERNAL_ERROR"),
        "warnings": log.of("WARNING"),
        "engine_sha256": "" if engine is None else hashlib.sha256(bytes(engine)).hexdigest(),
        "layers": next((text for text in log.of("VERBOSE") if text.startswith("Layers:")), ""),
    }
    path.with_suffix(".json").write_text(json.dumps(said), encoding="utf-8")


if __name__ == "__main__":
    _child(Path(sys.argv[1]), int(sys.argv[2]))
