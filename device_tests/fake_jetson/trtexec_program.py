"""What the FAKE trtexec does when it is started: builds nothing, runs nothing, and writes the files of its version.

It knows the options of its version only. The times in its files are scripted, and follow what it was asked to measure:
no transfers, a CUDA graph, spinning and overlapping queries each change them, so that two command lines that measure
different things show different figures.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from device_tests.agent.tensorrt import onnx_nodes
from device_tests.fake_jetson import trtexec_options
from device_tests.fake_jetson.trtexec_options import Version

NAME = "TensorRT.trtexec"
MARK = "FAKE"
H2D_MS, COMPUTE_MS, D2H_MS = 0.125, 2.0, 0.0625
GRAPH_SAVES, SPIN_SAVES, OVERLAP_COSTS = 0.25, 0.125, 0.5
LITTLE_MIB = 128
"""A build that runs out of memory does not with so much workspace."""
WORST_MS = 1.0
"""By how much the slowest of a hundred queries is slower than the fastest."""

_SAYS = {
    "parse": (
        '[TRT] ModelImporter.cpp:773: While parsing node number 0 [Conv -> "made"]:',
        "[TRT] ModelImporter.cpp:779: ERROR: builtin_op_importers.cpp:640 In function importConv:",
        "Failed to parse onnx file",
    ),
    "kernel": ("Error[10]: [optimizer.cpp::computeCosts::2011] Could not find any implementation for node {node}.",),
    "memory": ("Error[2]: [virtualMemoryBuffer.cpp::resizePhysical::145] OutOfMemory (no further information)",),
    "gpu": ("[TRT] CUDA initialization failure with error: 35",),
}


def main(version: Sequence[int], script: Mapping[str, Any], arguments: Sequence[str]) -> int:
    """The program.

    Args:
        version: of TensorRT.
        script: see `trtexec_tool.write_trtexec`.
        arguments: after the program's name.

    Returns:
        its exit status.
    """
    return _Run(version, script, arguments).status()


class _Run:
    """One call of the program."""

    def __init__(self, version: Sequence[int], script: Mapping[str, Any], arguments: Sequence[str]) -> None:
        major, minor, patch = version
        number = major * 1000 + minor * 100 + patch if major < 10 else major * 10000 + minor * 100 + patch
        self._banner = f"{NAME} [TensorRT v{number}]" + (" [b17]" if major >= 10 else "")
        self._version: Version = (major, minor)
        self._text = f"{major}.{minor}.{patch}"
        self._script, self._arguments = script, arguments
        pairs = (argument.partition("=") for argument in arguments)
        self._asked = {name: value for name, _, value in pairs}

    def status(self) -> int:
        _print(f"&&&& RUNNING {self._banner} # trtexec {' '.join(self._arguments)}")
        _print(f"[I] {MARK}: this is edgesmith's stand-in for trtexec")
        if "--help" in self._asked:
            return 0
        for name in trtexec_options.deprecated(self._version, list(self._asked)):
            self._say("W", f"{name} flag has been deprecated")
        unknown = trtexec_options.unknown(self._version, list(self._asked))
        if unknown:
            return self._failed(*(f"Unknown option: {name} {self._asked[name]}" for name in unknown))
        self._say("I", f"TensorRT version: {self._text}")
        return self._load_or_build()

    def _load_or_build(self) -> int:
        if "--loadEngine" in self._asked:
            header = _header(Path(self._asked["--loadEngine"]))
            # The binding's engines tell more of their version.
            if ".".join(header.get("tensorrt", "").split(".")[:3]) != self._text:
                return self._failed(
                    "Error[6]: The engine plan file is not compatible with this version of TensorRT, expecting library "
                    f"version {self._text} got {header.get('tensorrt', 'nothing')}, please rebuild.",
                    "Engine deserialization failed.",
                    "Engine set up failed",
                )
            return self._infer(header)
        path = Path(self._asked.get("--onnx", ""))
        if not path.is_file():
            return self._failed(f"[TRT] Could not open file {path}", "Failed to parse onnx file")
        nodes = [node.name for node in onnx_nodes.read(str(path))]
        if self._misfortune("build", nodes):
            return self._failed(*(line.format(node=nodes[0]) for line in _SAYS[self._script["fails"]]))
        header = {
            MARK: "no TensorRT engine",
            "tensorrt": self._text,
            "layers": nodes,
            "options": sorted(self._arguments),
        }
        Path(self._asked["--saveEngine"]).write_text(json.dumps(header) + "\n", encoding="utf-8")
        if "--timingCacheFile" in self._asked:
            Path(self._asked["--timingCacheFile"]).write_text(f"{MARK} timing cache\n", encoding="utf-8")
        if {"--buildOnly", "--skipInference"} & self._asked.keys():
            self._say("I", "Skipped inference phase since --buildOnly or --skipInference is added.")
            return self._passed()
        return self._infer(header)

    def _infer(self, header: Mapping[str, Any]) -> int:
        given = [pair.rpartition(":")[0] for pair in self._asked.get("--shapes", "").split(",") if pair]
        inputs = {one["name"]: one["shape"] for one in header.get("tensors", ()) if one["input"]}
        unknown = [name for name in given if inputs and name not in inputs]
        if unknown:
            return self._failed(
                f'Cannot find input tensor with name "{unknown[0]}" in the engine bindings!',
                "Invalid tensor names found in --shapes flag.",
                "Inference set up failed",
            )
        files = [pair.rpartition(":") for pair in self._asked.get("--loadInputs", "").split(",") if pair]
        unread = [
            (name, path) for name, _, path in files if (inputs and name not in inputs) or not Path(path).is_file()
        ]
        if unread:
            name, path = unread[0]
            return self._failed(f"Cannot find input tensor {name}, or open file {path}", "Inference set up failed")
        for name in (name for name, shape in inputs.items() if -1 in shape and name not in given):
            self._say("W", f"Dynamic dimensions required for input: {name}. Automatically overriding shape to: 1x1")
        if self._misfortune("run", header["layers"]):
            return self._failed(*_SAYS[self._script["fails"]], "Error occurred during inference")
        # Up to 10 the profiler runs beside what is timed unless it is told not to, and then no times are written.
        profiled = "--exportProfile" in self._asked
        disturbed = profiled and self._version < (11, 0) and "--separateProfileRun" not in self._asked
        if "--exportTimes" in self._asked and not disturbed:
            Path(self._asked["--exportTimes"]).write_text(_lines(map(json.dumps, self._times())), encoding="utf-8")
        if profiled:
            Path(self._asked["--exportProfile"]).write_text(_lines(self._profile(header)), encoding="utf-8")
        if "--exportLayerInfo" in self._asked:
            ends = "I/O Tensors" if self._version >= (11, 0) else "Bindings"
            told = {"Layers": [{"Name": name, "LayerType": "FAKE"} for name in header["layers"]], ends: ["in", "out"]}
            Path(self._asked["--exportLayerInfo"]).write_text(json.dumps(told), encoding="utf-8")
        return self._passed()

    def _times(self) -> list[dict[str, float]]:
        """One row per query, warm-up included where this version writes it down."""
        turned = self._version >= (11, 0)
        transfers = "--includeDataTransfers" in self._asked if turned else "--noDataTransfers" not in self._asked
        graph = "--noCudaGraph" not in self._asked if turned else "--useCudaGraph" in self._asked
        spins = "--noSpinWait" not in self._asked if turned else "--useSpinWait" in self._asked
        overlaps = "--exposeDMA" not in self._asked
        compute = COMPUTE_MS - GRAPH_SAVES * graph - SPIN_SAVES * spins + OVERLAP_COSTS * overlaps
        h2d, d2h = (H2D_MS, D2H_MS) if transfers else (0.0, 0.0)
        warm_up, now = float(self._asked.get("--warmUp", "200")), 0.0
        rows: list[dict[str, float]] = []
        runs, until = (
            int(self._asked.get("--iterations", "10")),
            warm_up + 1000 * float(self._asked.get("--duration", "3")),
        )
        kept = 0
        while kept < runs or now < until:
            if now < warm_up:
                # A few queries stand for all of the warm-up, and are slow.
                rows.append(_row(now, h2d, 10 * compute, d2h))
                now += max(warm_up / 4, 1.0)
            else:
                rows.append(_row(now, h2d, compute + WORST_MS * (len(rows) * 37 % 100) / 100, d2h))
                now = rows[-1]["endD2hMs"]
            kept += rows[-1]["startComputeMs"] >= warm_up
        if self._version >= (8, 5):
            return [row for row in rows if row["startComputeMs"] >= warm_up]
        return [dict(row, endToEndMs=row["endD2hMs"] - row["startH2dMs"]) for row in rows]

    def _profile(self, header: Mapping[str, Any]) -> list[str]:
        layers = header["layers"]
        rows = ['{ "count" : 10 }']
        for name in layers:
            mean = COMPUTE_MS / len(layers)
            median = f'"medianMs" : {mean}, ' if self._version >= (8, 5) else ""
            times = f'"timeMs" : {10 * mean}, "averageMs" : {mean}, {median}"percentage" : {100 / len(layers)}'
            # The name as it is, as the real one writes it: what is in it may break the file.
            rows.append(f'{{ "name" : "{name}", {times} }}')
        return rows

    def _misfortune(self, stage: str, nodes: Sequence[str]) -> bool:
        """Whether the script has this stage fail with messages; other ends are met here."""
        if self._script.get("at", "build") != stage:
            return False
        fails = self._script.get("fails")
        if fails == "hangs":
            _print(f"[I] working on {len(nodes)} layers")
            _hang(self._script.get("helper_pid_file"))
        if fails == "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
        if fails == "memory" and stage == "build" and self._workspace_mib() <= LITTLE_MIB:
            return False
        return fails in _SAYS

    def _workspace_mib(self) -> int:
        told = self._asked.get("--workspace") or self._asked.get("--memPoolSize", "workspace:4096").partition(":")[2]
        return int(told)

    def _passed(self) -> int:
        _print(f"&&&& PASSED {self._banner} # trtexec {' '.join(self._arguments)}")
        return 0

    def _failed(self, *lines: str) -> int:
        for line in lines:
            self._say("E", line)
        _print(f"&&&& FAILED {self._banner} # trtexec {' '.join(self._arguments)}")
        return 1

    @staticmethod
    def _say(letter: str, text: str) -> None:
        _print(f"[11/22/2026-12:00:00] [{letter}] {text}", to_stderr=letter == "E")


def _print(line: str, *, to_stderr: bool = False) -> None:
    stream = sys.stderr if to_stderr else sys.stdout
    stream.write(line + "\n")
    stream.flush()


def _row(start: float, h2d: float, compute: float, d2h: float) -> dict[str, float]:
    begins, ends = start + h2d, start + h2d + compute
    return {
        "startEnqMs": start,
        "endEnqMs": start + 0.25,
        "startH2dMs": start,
        "endH2dMs": begins,
        "startComputeMs": begins,
        "endComputeMs": ends,
        "startD2hMs": ends,
        "endD2hMs": ends + d2h,
        "h2dMs": h2d,
        "computeMs": compute,
        "d2hMs": d2h,
        "latencyMs": h2d + compute + d2h,
    }


def _lines(rows: Iterable[str]) -> str:
    return "[\n  " + "\n, ".join(rows) + "\n]\n"


def _header(path: Path) -> dict[str, Any]:
    """Of an engine, this program's or the fake TensorRT's: a line of JSON, and there the network after it."""
    line, _, rest = path.read_bytes().partition(b"\n") if path.is_file() else (b"", b"", b"")
    try:
        told = json.loads(line)
    except ValueError:
        return {}
    if not isinstance(told, dict):
        return {}
    if rest:
        with tempfile.NamedTemporaryFile() as network:
            network.write(rest)
            network.flush()
            told["layers"] = [node.name for node in onnx_nodes.read(network.name)]
    return told


def _hang(helper_pid_file: str | None) -> None:
    """For ever, with a helper of its own beside it."""
    helper = os.fork()
    if helper and helper_pid_file:
        Path(helper_pid_file).write_text(str(helper), encoding="utf-8")
    while True:
        time.sleep(1)
