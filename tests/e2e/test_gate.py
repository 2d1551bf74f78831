"""`edgesmith gate` and `edgesmith baseline` from the command line, on fake boards: every verdict and its exit code."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import parse

import numpy as np
import pytest
import yaml

from tests.e2e.project import Project
from tests.tiny_artifacts import DATA

FLOAT_MS = 2.0
CONFIG = {
    "model": "net.tflite",
    "data": {"evaluation": "evaluation.npz"},
    "devices": ["pi5-fake"],
    "measure": {"min_runs": 100, "min_seconds": 0.2, "windows": 4},
    "gate": {"lineage": "dense"},
}


class Bench(Project):
    """A project whose model has versions, each as fast as the board's script says."""

    times: dict[str, float]

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.times = {}
        random = np.random.default_rng(0)
        x = random.integers(0, 256, (120, 4)).astype(np.float32)
        np.savez(root / "evaluation.npz", x=x, y=random.integers(0, 3, size=120))
        (root / "devices.yaml").write_text("devices: {pi5-fake: {fake: script.yaml}}\n")
        (root / "edgesmith.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))

    def version(self, number: int, median_ms: float, **script: Any) -> None:
        """The same network as another file, and how long the board takes for it."""
        content = (DATA / "dense_int8.tflite").read_bytes() + bytes(15) + bytes([number])
        (self.root / "net.tflite").write_bytes(content)
        self.times[hashlib.sha256(content).hexdigest()[:16]] = median_ms
        rules = [{"sha256": sha256, "median_ms": ms} for sha256, ms in self.times.items()]
        told = {"model": "Raspberry Pi 5 Model B Rev 1.0", "latency": rules, **script}
        (self.root / "script.yaml").write_text(yaml.safe_dump(told))

    def accepted(self) -> dict[str, Any]:
        (path,) = (self.root / "baselines" / "dense").glob("*.json")
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def gate(self, code: int, *arguments: str) -> dict[str, Any]:
        """Gates, checks the exit code, and gives the one pair's record."""
        done = self.edgesmith("gate", *arguments)
        assert done.returncode == code, done.stdout + done.stderr
        self.said = done.stdout
        document = json.loads((self.root / "runs/latest/result.json").read_text())
        assert document["exit_code"] == code
        (record,) = document["gate"]
        found: dict[str, Any] = record
        return found


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 0 was run and accepted, once for all tests."""
    bench = Bench(tmp_path_factory.mktemp("gate"))
    bench.version(0, FLOAT_MS)
    assert bench.gate(0)["outcome"] == "NO BASELINE"
    done = bench.edgesmith("baseline", "accept")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "new" in done.stdout
    return bench.root


@pytest.fixture
def accepted(template: Path, tmp_path: Path) -> Bench:
    """Version 0 was run and accepted."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True, symlinks=True)
    bench = Bench(tmp_path)
    bench.version(0, FLOAT_MS)
    return bench


def test_what_is_accepted_is_a_small_file_and_the_artifact(accepted: Bench):
    found = accepted.accepted()
    assert found["device_class"] == "Raspberry Pi 5 Model B"
    assert found["latency_ms"]["p50"] == pytest.approx(FLOAT_MS, rel=0.02)
    kept = accepted.root / "baselines/dense/artifacts" / f"{found['artifact']['sha256']}.tflite"
    assert kept.read_bytes() == (accepted.root / "net.tflite").read_bytes()
    shown = accepted.edgesmith("baseline", "show")
    assert "raspberry-pi-5-model-b.tflite.json: p50 " in shown.stdout

    assert accepted.gate(0)["text"] == "It is the very file that was accepted."
    again = accepted.edgesmith("baseline", "accept")
    assert "nothing changed" in again.stdout


@pytest.mark.parametrize(
    ("median_ms", "code", "outcome"),
    [(FLOAT_MS * 1.005, 0, "PASS"), (FLOAT_MS * 1.06, 1, "REGRESSION"), (FLOAT_MS * 0.9, 0, "IMPROVEMENT")],
)
def test_a_new_version_is_measured_in_turns_with_the_accepted_one(
    accepted: Bench, median_ms: float, code: int, outcome: str
):
    accepted.version(1, median_ms)
    record = accepted.gate(code)
    assert record["outcome"] == outcome, record
    assert "rounds" in record["text"]
    assert ("Measured again" in record["text"]) == (outcome == "REGRESSION")
    document = parse(accepted.root / "runs/latest/junit.xml")  # noqa: S314 - written by us
    suites = {suite.get("name"): suite for suite in document.getroot()}
    failures = suites["gate"].findall(".//failure")
    assert [one.get("type") for one in failures] == (["regression"] if code else [])
    assert outcome in accepted.said
    assert outcome in (accepted.root / "runs/latest/summary.md").read_text()
    assert outcome in (accepted.root / "runs/latest/report.html").read_text()


def test_accepting_a_regression_ends_it_and_says_what_changes(accepted: Bench):
    accepted.version(1, FLOAT_MS * 1.2)
    assert accepted.gate(1)["outcome"] == "REGRESSION"
    done = accepted.edgesmith("baseline", "accept")
    assert "p50: 2" in done.stdout
    assert "artifact: " in done.stdout
    assert len(list((accepted.root / "baselines/dense/artifacts").iterdir())) == 1
    assert accepted.gate(0)["outcome"] == "PASS"


def test_another_kernel_is_another_environment_and_no_regression(accepted: Bench):
    accepted.version(1, FLOAT_MS * 1.5, kernel="6.12.1-rpi")
    record = accepted.gate(4)
    assert record["outcome"] == "ENVIRONMENT CHANGED"
    assert "kernel: scripted -> 6.12.1-rpi" in record["text"]


def test_without_the_accepted_file_recorded_figures_decide_within_their_wider_tolerance(accepted: Bench):
    shutil.rmtree(accepted.root / "baselines/dense/artifacts")
    accepted.version(1, FLOAT_MS * 1.04)
    assert "not measured in turns" in accepted.gate(0)["checks"][0]["text"]
    accepted.version(2, FLOAT_MS * 1.3)
    assert accepted.gate(4)["outcome"] == "INCONCLUSIVE"


def test_a_board_that_is_hot_is_not_judged(accepted: Bench):
    accepted.version(1, FLOAT_MS * 1.5, heat={"start_c": 79.0, "rise_c_per_s": 5.0, "slowdown": 1.5})
    record = accepted.gate(4)
    assert record["outcome"] == "INCONCLUSIVE"
    assert "thrown away" in record["text"]
    assert "throttled" in record["text"]


def test_a_board_that_is_gone_comes_first(accepted: Bench):
    accepted.version(0, FLOAT_MS, faults=[{"at": "connect", "kind": "wrong-key"}])
    (accepted.root / "edgesmith.yaml").write_text(yaml.safe_dump({**CONFIG, "devices": ["pi5-fake", "local"]}))
    done = accepted.edgesmith("gate", "--remeasure")
    assert done.returncode == 3, done.stdout + done.stderr
    gate = json.loads((accepted.root / "runs/latest/result.json").read_text())["gate"]
    assert (gate[0]["device"], gate[0]["outcome"]) == ("pi5-fake", "MISSING")
    assert {each["outcome"] for each in gate[1:]} == {"NO BASELINE"}


def test_what_met_its_budgets_and_does_not_any_more_is_newly_failing(accepted: Bench):
    accepted.version(1, FLOAT_MS * 1.5)
    (accepted.root / "edgesmith.yaml").write_text(yaml.safe_dump({**CONFIG, "budget": {"latency_p95_ms": 2.5}}))
    record = accepted.gate(1)
    assert record["outcome"] == "NEWLY FAILING"
    assert "p95 latency" in record["text"]


def test_a_baseline_that_was_not_valid_or_is_damaged_is_refused(accepted: Bench):
    (path,) = (accepted.root / "baselines" / "dense").glob("*.json")
    path.write_text(json.dumps({**accepted.accepted(), "validity": "THROTTLED"}))
    done = accepted.edgesmith("gate", "--run", "runs/latest")
    assert done.returncode == 2
    assert "was measured while the board was THROTTLED" in done.stderr
    path.write_text("{")
    done = accepted.edgesmith("gate", "--run", "runs/latest")
    assert done.returncode == 2
    assert "is no baseline" in done.stderr
    accepted.version(0, FLOAT_MS, heat={"start_c": 85.0})
    accepted.edgesmith("run", "--remeasure")
    done = accepted.edgesmith("baseline", "accept")
    assert done.returncode == 2
    assert "is not accepted" in done.stderr
    assert "throttled" in done.stderr
