"""Does the agent measure what a plain interpreter loop measures?

Claim: for the same .tflite on the same machine, the p50 of the agent and the p50 of a loop that anyone would write
(set_tensor, invoke, get_tensor between two reads of the clock) agree within 5 %.

Each round runs both, in fresh processes, one directly after the other, in alternating order; the figure is the median
over rounds of the ratio within a round, so that a machine that slows down for a while slows down both.

    python bench/agent_parity.py           # 30 rounds; writes bench/results/agent_parity.json
    python bench/agent_parity.py --quick   # 6 rounds, more on a busy machine, under two minutes; writes nothing
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from device_tests.session import BoardSession
from edgesmith.files import sha256_file, write_json
from edgesmith.progress import Silent
from edgesmith.types import Artifact, Device, Measurement, MeasureProtocol, Signature

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "fashion_mnist"
LIMIT = 0.05
SECONDS = 0.7


class Plan(NamedTuple):
    """At least so many rounds; more while the interval is too wide, up to so many seconds."""

    rounds: int
    seconds: float


FULL, QUICK = Plan(rounds=30, seconds=240), Plan(rounds=6, seconds=45)
HERE = Device(name="local", transport="local", python=sys.executable)

# What anyone would write. Prepared inputs, warm-up, then the same three calls as the agent's runner.
PLAIN_LOOP = """
import json, sys, time
import numpy as np
from ai_edge_litert.interpreter import Interpreter

path, inputs, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
interpreter = Interpreter(model_path=path, num_threads=1)
interpreter.allocate_tensors()
taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
rows = np.load(inputs).astype(np.float32)[:64]
scale, zero_point = taken["quantization"]
if scale:
    rows = np.clip(np.rint(rows / scale) + zero_point, -128, 127)
samples = [row[None].astype(taken["dtype"]) for row in rows]

def run(seconds):
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        sample = samples[len(times) % len(samples)]
        start = time.perf_counter_ns()
        interpreter.set_tensor(taken["index"], sample)
        interpreter.invoke()
        interpreter.get_tensor(given["index"])
        times.append(time.perf_counter_ns() - start)
    return times

run(0.2)
print(json.dumps(int(np.median(run(seconds)))))
"""


def make_models(folder: Path, x: NDArray[np.float32]) -> dict[str, Path]:
    """The example's model as float32 and as int8 .tflite."""
    import keras
    import tensorflow as tf

    model = keras.models.load_model(EXAMPLE / "model.keras", compile=False)
    paths = {name: folder / f"{name}.tflite" for name in ("float32", "int8")}
    paths["float32"].write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([row[None]] for row in x[:100])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    paths["int8"].write_bytes(converter.convert())
    return paths


def artifact_of(path: Path) -> Artifact:
    size = path.stat().st_size
    return Artifact(
        target="tflite",
        path=path,
        format="tflite",
        precision=path.stem,
        sha256=sha256_file(path),
        signature=Signature(inputs=(), outputs=()),
        toolchain={},
        made_from="",
        size_bytes=size,
        gzip_bytes=size,
        sparsity=0.0,
    )


def by_agent(board: BoardSession, path: Path, x: NDArray[np.float32]) -> float:
    """p50 in ns, as a measurement of edgesmith has it."""
    protocol = MeasureProtocol(min_runs=50, min_seconds=SECONDS, windows=2, warmup_max_seconds=5.0)
    (found,) = board.measure([artifact_of(path)], x, protocol)
    if not isinstance(found, Measurement):
        raise found
    return float(np.median(found.samples_ns))


def by_plain_loop(path: Path, inputs: Path) -> float:
    """p50 in ns, of the plain loop in a process of its own."""
    argv = [sys.executable, "-c", PLAIN_LOOP, str(path), str(inputs), str(SECONDS)]
    return float(subprocess.run(argv, capture_output=True, check=True, timeout=120).stdout)


def interval(ratios: list[float]) -> tuple[float, float]:
    """95 % interval of the median by order statistics; needs six values."""
    ordered, count = sorted(ratios), len(ratios)
    tail, below = 0.5**count, 0
    while tail + 0.5**count * math.comb(count, below + 1) <= 0.025:
        below += 1
        tail += 0.5**count * math.comb(count, below)
    return ordered[below], ordered[count - 1 - below]


def compare(name: str, path: Path, plan: Plan, board: BoardSession, x: NDArray[np.float32], inputs: Path) -> Any:
    """Rounds until the interval of the median ratio lies inside the limit, or the time is up."""
    agent: list[float] = []
    plain: list[float] = []
    ratios: list[float] = []
    end = time.monotonic() + plan.seconds
    while len(ratios) < plan.rounds or (outside(*interval(ratios)) and time.monotonic() < end):
        if len(ratios) % 2:
            agent.append(by_agent(board, path, x))
            plain.append(by_plain_loop(path, inputs))
        else:
            plain.append(by_plain_loop(path, inputs))
            agent.append(by_agent(board, path, x))
        ratios.append(agent[-1] / plain[-1])
        print(f"{name} round {len(ratios)}: {ratios[-1]:.3f}", file=sys.stderr)
    return {
        "ratio_p50": round(statistics.median(ratios), 4),
        "ratio_p50_95": [round(edge, 4) for edge in interval(ratios)],
        "agent_p50_us": round(statistics.median(agent) / 1e3, 2),
        "plain_p50_us": round(statistics.median(plain) / 1e3, 2),
        "rounds": len(ratios),
    }


def outside(*ratios: float) -> bool:
    """Whether any of them is further from 1 than the claim allows."""
    return any(abs(ratio - 1.0) > LIMIT for ratio in ratios)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, nothing is written")
    quick = parser.parse_args().quick
    x = np.load(EXAMPLE / "data" / "evaluation.npz")["x"][:64].astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = folder / "x.npy"
        np.save(inputs, x)
        with contextlib.redirect_stdout(sys.stderr):  # the converter prints
            models = make_models(folder, x)
        with BoardSession(HERE, local_root=folder / "board", progress=Silent()) as board:
            plan = QUICK if quick else FULL
            found = {kind: compare(kind, path, plan, board, x, inputs) for kind, path in models.items()}
    holds = not outside(*(one["ratio_p50"] for one in found.values()))
    figures = {
        "bench": "agent_parity",
        "claim": f"agent p50 / plain loop p50 within {LIMIT:.0%} of 1",
        "holds": holds,
        "models": found,
        "command": f"python bench/agent_parity.py{' --quick' if quick else ''}",
        "versions": {
            "python": platform.python_version(),
            "ai-edge-litert": version("ai-edge-litert"),
            "numpy": version("numpy"),
        },
        "machine": f"{platform.machine()}, {platform.system()} {platform.release()}",
        "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if not quick:
        write_json(ROOT / "bench" / "results" / "agent_parity.json", figures)
    print(json.dumps(figures))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
