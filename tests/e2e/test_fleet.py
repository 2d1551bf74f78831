"""Five boards behind links of their own: in the time of the slowest, and one that is cut off spoils nothing.

The boards' runtime is a fake whose time is sleep, so that the cores of the test machine do not decide. What it answers
is right, and all else is real: sshd, network namespaces, agent, lease, the whole run.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from device_tests import recover
from device_tests.agent_zip import build_agent
from edgesmith.config import load_config
from edgesmith.pipeline.options import RunOptions
from edgesmith.pipeline.run import run
from edgesmith.progress import Silent
from edgesmith.result import Result
from edgesmith.types import Rung, Verdict
from tests.e2e.project import write_inventory
from tests.lab.netns import NetnsLab

pytestmark = [pytest.mark.netns, pytest.mark.timeout(900)]

MakeLab = Callable[[int], NetnsLab]
BOARDS = tuple(f"pi{number}" for number in range(1, 6))
SLEEPS_S = (0.01, 0.02, 0.03, 0.04, 0.05)
RUNS, SAMPLES = 300, 40
# In the place of the ONNX Runtime runner: the model of these tests gives back what it gets.
SLEEPER = b"""
import os
import time

import numpy as np

from device_tests.agent.runners import Input

PACKAGES = ("onnxruntime",)

def probe():
    return {"onnxruntime": "sleeper"}

class Runner:
    name = "sleeper"
    inputs = [Input("x", [4], np.dtype("float32"), None)]
    output_quantization = [None]

    def __init__(self, path, threads, options):
        try:
            with open(os.path.join(os.environ["HOME"], "sleep_s")) as stream:
                self.sleep_s = float(stream.read())
        except IOError:
            self.sleep_s = 0.0
        self.runs = 0

    def __call__(self, sample):
        time.sleep(self.sleep_s)
        self.runs += 1
        if self.runs == 20:
            open(os.path.join(os.environ["HOME"], "in the middle"), "w").close()
        return sample
"""


@pytest.fixture
def sleeping_lab(netns_lab: MakeLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NetnsLab]:
    """Five boards, the last one slowest, and a project for them in `tmp_path`."""
    agent = build_agent({"runners/onnxruntime.py": SLEEPER})
    monkeypatch.setattr("device_tests.session.build_agent", lambda: agent)
    lab = netns_lab(len(BOARDS))
    for board, sleep_s in zip(lab.boards, SLEEPS_S, strict=True):
        (board.home / "sleep_s").write_text(str(sleep_s))
    write_inventory(tmp_path, *(board.device(name) for board, name in zip(lab.boards, BOARDS, strict=True)))
    write_project(tmp_path)
    return lab


def write_project(folder: Path) -> None:
    """A model that gives back what it gets, as long as that is positive."""
    import onnx
    from onnx import TensorProto, helper

    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "same", ports[:1], ports[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "same.onnx")
    x = np.random.default_rng(0).uniform(1, 2, (SAMPLES, 4)).astype(np.float32)
    np.savez(folder / "evaluation.npz", x=x, y=x.argmax(axis=1))
    config = {
        "model": "same.onnx",
        "data": {"evaluation": "evaluation.npz"},
        "targets": ["onnxruntime"],
        "devices": list(BOARDS),
        "budget": {"accuracy_min": 0.99},
        "measure": {"min_runs": RUNS, "min_seconds": 0.1, "windows": 2},
    }
    (folder / "edgesmith.yaml").write_text(yaml.safe_dump(config))


def go(folder: Path, *devices: str) -> tuple[Result, float]:
    """One run in which every board measures anew; with its seconds."""
    options = RunOptions(runs_dir=folder / "runs", devices=devices, remeasure=True)
    started = time.monotonic()
    result, _ = run(load_config(folder / "edgesmith.yaml"), options, Silent())
    return result, time.monotonic() - started


def test_five_boards_take_the_time_of_the_slowest(sleeping_lab: NetnsLab, tmp_path: Path):
    """The issue's own figure: within 1.25x. Both are measured here, in turns; what the machine can do counts."""
    ratios: list[float] = []
    go(tmp_path, BOARDS[0])  # what is made once for all runs is made now
    while len(ratios) < 3 and min(ratios, default=2.0) > 1.25:
        together, all_s = go(tmp_path)
        alone, slowest_s = go(tmp_path, BOARDS[-1])
        assert [row.verdict for row in together.results] == [Verdict.PASS] * len(BOARDS)
        assert [row.verdict for row in alone.results] == [Verdict.PASS]
        assert slowest_s > (RUNS + SAMPLES) * SLEEPS_S[-1]
        ratios.append(all_s / slowest_s)
    assert min(ratios) <= 1.25, ratios
    one_after_another = (RUNS + SAMPLES) * sum(SLEEPS_S)
    assert all_s < one_after_another
    for row, sleep_s in zip(together.results, SLEEPS_S, strict=True):
        assert row.latency_ms is not None
        assert row.latency_ms.n >= RUNS
        assert row.latency_ms.p50 is not None
        assert row.latency_ms.p50 >= sleep_s * 1000


def test_a_board_that_is_cut_off_leaves_four_good_results_and_one_error(
    sleeping_lab: NetnsLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(recover, "Patience", partial(recover.Patience, reconnect_s=3.0, poll_s=0.2))
    lost = 3
    cutting = threading.Thread(target=_cut_in_the_middle, args=(sleeping_lab, lost))
    cutting.start()
    result, _ = go(tmp_path)
    cutting.join()
    verdicts = {row.device: row.verdict for row in result.results}
    name = BOARDS[lost - 1]
    assert verdicts == {board: Verdict.ERROR if board == name else Verdict.PASS for board in BOARDS}
    assert (result.verdict, result.exit_code) == (Verdict.ERROR, 3)
    (row,) = [row for row in result.results if row.device == name]
    assert row.latency_ms is None
    assert row.artifact is not None
    (finding,) = row.findings
    assert finding.severity == "error"
    assert finding.text.startswith(f"{name}: ")
    assert finding.next_step
    assert {step.device for step in result.recovery} == {name}
    assert result.recovery[0].rung is Rung.RECONNECT
    assert result.recovery[0].outcome != "helped"
    (record,) = result.parity
    assert [device.device for device in record.devices] == [board for board in BOARDS[1:] if board != name]
    assert all(device.identical for device in record.devices)
    document: dict[str, Any] = json.loads((tmp_path / "runs/latest/result.json").read_text())
    assert document["verdict"] == "ERROR"


def _cut_in_the_middle(lab: NetnsLab, number: int) -> None:
    """Pulls the cable out once the board measures."""
    mark = lab.boards[number - 1].home / "in the middle"
    until = time.monotonic() + 240
    while not mark.exists() and time.monotonic() < until:
        time.sleep(0.05)
    lab.cut(number)
