"""The quantizers that are compared, each run in a child process and, where it needs one, an environment of its own.

A child reads a float `.keras`, `.onnx` or `.tflite` and the calibration samples, and writes an int8 file and how long
it took, its imports left out. What the file computes is found out here, by the same two runtimes for all.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

HERE: Final = Path(__file__).resolve().parent
TIMEOUT_S: Final = 1800.0
THREADS: Final = 2
"""Processors that a child may use, and that the runtimes get."""

Format = Literal["onnx", "tflite"]
OUR_ENVIRONMENT: Final = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One way to int8.

    Attributes:
        name: in the figures.
        script: in this folder.
        format: of the file it writes.
        environment: name of its requirements file; "" for the project's own environment.
        settings: handed to the script.
        only: data or model names it is for; empty: all.
    """

    name: str
    script: str
    format: Format
    environment: str = OUR_ENVIRONMENT
    settings: Mapping[str, Any] = field(default_factory=dict)
    only: tuple[str, ...] = ()


def _onnxruntime(method: str) -> Peer:
    return Peer(
        name=f"onnxruntime-{method.lower()}", script="peer_onnxruntime.py", format="onnx", settings={"method": method}
    )


def _nncf(name: str, *, accurate: bool = False, transformer: bool = False, only: tuple[str, ...] = ()) -> Peer:
    settings = {"accurate": accurate, "transformer": transformer}
    return Peer(name=name, script="peer_nncf.py", format="onnx", environment="peers.txt", settings=settings, only=only)


PEERS: Final = (
    Peer(name="litert-converter", script="peer_litert_converter.py", format="tflite"),
    Peer(name="ai-edge-quantizer", script="peer_ai_edge_quantizer.py", format="tflite", environment="peers.txt"),
    *(_onnxruntime(method) for method in ("MinMax", "Percentile", "Entropy")),
    _nncf("nncf"),
    _nncf("nncf-accurate", accurate=True),
    _nncf("nncf-transformer", transformer=True, only=("vit", "vit_outliers")),
    Peer(
        name="neural-compressor",
        script="peer_neural_compressor.py",
        format="onnx",
        environment="peers_neural_compressor.txt",
    ),
)


def python_of(environment: str, cache: Path, *, make: bool) -> Path | None:
    """The interpreter of an environment; None where it is not there and is not to be made.

    Args:
        environment: see `Peer`.
        cache: folder that holds the environments, one per content of the requirements file.
        make: it may be made, with packages from the network.

    Raises:
        subprocess.CalledProcessError: it cannot be made.
    """
    if environment == OUR_ENVIRONMENT:
        return Path(sys.executable)
    requirements = HERE / environment
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    folder = cache / "environments" / f"{requirements.stem}-{digest}"
    python, ready = folder / "bin" / "python", folder / "ready"
    if not ready.is_file():
        if not make:
            return None
        print(f"installing {environment} into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", requirements], check=True)
        ready.touch()
    return python


class ChildFailed(Exception):
    """A child ended without a result; its last words are the message."""


def run_child(python: Path, script: str, job: Mapping[str, Any], folder: Path) -> None:
    """Runs a script of this folder with a job file.

    Raises:
        ChildFailed: it ended otherwise than well, or took too long.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "job.json"
    file.write_text(json.dumps({**job, "threads": THREADS}, default=str))
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": str(THREADS), "TF_NUM_INTRAOP_THREADS": str(THREADS)}
    env = {**os.environ, **quiet}
    with (folder / "log.txt").open("wb") as log:
        try:
            subprocess.run(
                [python, HERE / script, file],
                check=True,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=TIMEOUT_S,
                env=env,
                cwd=folder,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            log.flush()
            lines = (folder / "log.txt").read_text(errors="replace").strip().splitlines()
            raise ChildFailed(f"{script}: {lines[-1] if lines else error}") from error


def outputs(path: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a network answers, by the runtime its file is for.

    Args:
        path: `.onnx` or `.tflite`, one input, one output.
        x: float32 [N, ...].

    Returns:
        float32 [N, classes], dequantized where the network answers in integers.
    """
    return _by_onnxruntime(path, x) if path.suffix == ".onnx" else _by_litert(path, x)


def _by_onnxruntime(path: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: x[i : i + 100]})[0] for i in range(0, len(x), 100)])


def _by_litert(path: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero_point = taken["quantization"]
    if scale:
        limits = np.iinfo(taken["dtype"])
        x = np.clip(np.rint(x / np.float32(scale)) + zero_point, limits.min, limits.max)
    x = x.astype(taken["dtype"])
    answers = []
    for row in x:
        interpreter.set_tensor(taken["index"], row[None])
        interpreter.invoke()
        answers.append(interpreter.get_tensor(given["index"])[0])
    scale, zero_point = given["quantization"]
    found = np.stack(answers).astype(np.float32)
    return (found - np.float32(zero_point)) * np.float32(scale) if scale else found
