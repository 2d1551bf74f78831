"""What `edgesmith doctor` says of this machine and of boards."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from device_tests.loopback import LoopbackBoard
from edgesmith import __version__, cli
from edgesmith.doctor import boards, machine, running
from edgesmith.doctor.bundle import write_bundle
from edgesmith.doctor.models import HERE, catalog
from edgesmith.doctor.rows import Row
from edgesmith.doctor.trial import Outcome
from edgesmith.progress import Silent
from edgesmith.types import Device


def by_name(rows: tuple[Row, ...]) -> dict[str, Row]:
    return {row.name: row for row in rows}


def look(device: Device) -> dict[str, Row]:
    """Without a self-test."""
    return by_name(boards.examine_board(device, Silent(), test=False).rows)


def test_this_machine_is_described_and_lacks_no_runtime():
    found = by_name(machine.examine())
    assert found["board"].ok
    assert "cores" in found["processor"].text
    assert found["python"].text.split()[0].startswith("3.")
    # The targets' rows, not "No runtime for ...".
    assert found["tflite"].text.startswith("compiles to .tflite")
    assert found["onnxruntime"].ok


def test_an_arm_board_is_told_its_own_command(monkeypatch: pytest.MonkeyPatch):
    here = machine.probe_here()
    bare = {"machine": "aarch64", "runners": (), "runtimes": {}, "missing": {}, "libc": "glibc 2.36", "venv": True}
    monkeypatch.setattr(
        machine, "probe_here", lambda: replace(here, python="3.11.2", executable="/v/bin/python", **bare)
    )
    rows = [row for row in machine.examine() if not row.ok]
    assert ("tflite", "/v/bin/python -m pip install ai-edge-litert") in [(row.name, row.fix) for row in rows]


def test_a_board_is_shown_under_its_name(board: LoopbackBoard):
    found = look(board.device("lab-1"))
    assert found["lab-1: board"].ok
    assert "onnxruntime" in found["lab-1: runtimes"].text
    assert found["lab-1: disk"].text.endswith(f"free at {board.home / 'edgesmith'}")
    assert not [name for name, row in found.items() if name.startswith("lab-1") and not row.ok and row.name == "tflite"]


def test_a_board_that_is_called_something_else_is_a_finding(board: LoopbackBoard):
    device = replace(board.device("lab-1"), board="raspberry-pi-5")
    row = look(device)["lab-1: profile"]
    assert not row.ok
    assert row.text.startswith("lab-1: the inventory calls it raspberry-pi-5, the board ")


def test_a_board_out_of_reach_is_a_row_and_a_bundle_that_says_so(tmp_path: Path):
    gone = Device(name="gone", transport="ssh", host="127.0.0.1", port=1, host_key="SHA256:" + "A" * 43)
    found = boards.examine_board(gone, Silent())
    (row,) = found.rows
    assert not row.ok
    assert "127.0.0.1" in row.text
    assert row.fix
    assert not found.ok
    write_bundle(tmp_path / "bundle.zip", found, machine.examine())
    with zipfile.ZipFile(tmp_path / "bundle.zip") as bundle:
        assert bundle.namelist() == ["README.txt", "doctor.json"]
        assert "The board could not be reached." in bundle.read("README.txt").decode()
        told = json.loads(bundle.read("doctor.json"))
    assert told["self_test"] is None
    assert told["self_test_reason"]
    assert "127.0.0.1" not in json.dumps(told)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latency is told and not judged: a few runs do."""
    for name in ("LONG", "SHORT"):
        few = replace(running.LONG, min_runs=4, min_seconds=0.01, windows=2, warmup_max_seconds=0.1)
        monkeypatch.setattr(running, name, few)


def doctor(*words: str) -> Result:
    return CliRunner().invoke(cli.app, ["doctor", *words])


def test_the_verb_tests_this_machine_and_writes_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None):
    monkeypatch.chdir(tmp_path)
    done = doctor("--device", "local", "--json")
    told = json.loads(done.stdout)
    (board,) = told["boards"]
    assert done.exit_code == 0, board
    assert "local: runtimes" in [row["name"] for row in told["rows"]]
    trials = {trial["name"]: trial for trial in board["self_test"]["trials"]}
    assert list(trials) == ["tflite float32", "tflite int8", "onnxruntime float32", "onnxruntime int8"]
    assert all(trial["outcome"] == "ok" for trial in trials.values()), trials
    assert all(0 <= trial["largest_error"] <= trial["tolerance"] for trial in trials.values())
    assert trials["tflite int8"]["measured"]["latency_ms"]["n"] >= 4
    assert board["bundle"] == str(tmp_path / "edgesmith-doctor-local.zip")
    with zipfile.ZipFile(board["bundle"]) as bundle:
        doctor_json = json.loads(bundle.read("doctor.json"))
        capability = json.loads(bundle.read("capability.json"))
        samples = json.loads(bundle.read("latency/tflite-int8.json"))["samples_ns"]
        assert "No self-test" not in bundle.read("README.txt").decode()
    assert [trial["name"] for trial in doctor_json["self_test"]["trials"]] == list(trials)
    assert doctor_json["edgesmith"] == __version__
    assert doctor_json["workstation"]["packages"]["numpy"]
    assert capability["runtimes"].keys() == {"ai-edge-litert", "onnxruntime"}
    assert len(samples) == trials["tflite int8"]["measured"]["latency_ms"]["n"]


def test_wrong_answers_are_exit_3_and_the_trial_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None):
    monkeypatch.chdir(tmp_path)
    models = tmp_path / "models"
    shutil.copytree(HERE, models, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    expected = json.loads((models / "expected.json").read_text())
    expected["onnxruntime-float32"][3][4] += 0.1
    (models / "expected.json").write_text(json.dumps(expected))
    monkeypatch.setattr(catalog, "HERE", models)
    monkeypatch.setenv("EDGE_EMULATED", "1")
    # What is damaged here is refused by the board's runtime: another failure, and the others go on.
    (models / "tflite-int8.tflite").write_bytes(b"no model")
    done = doctor("--device", "local")
    assert done.exit_code == 3
    assert "EMULATED: 2 of 4 trials FAILED: tflite int8, onnxruntime float32" in done.stdout
    lines = {line[7:33].strip(): line for line in done.stdout.splitlines()}
    assert "WRONG: error 5.7e-02, 1e-04 allowed" in lines["onnxruntime float32"]
    assert lines["tflite int8"].startswith("FAILED")
    assert lines["onnxruntime int8"].startswith("ok ")
    assert lines["onnxruntime int8"].endswith(", emulated")
    with zipfile.ZipFile("edgesmith-doctor-local.zip") as bundle:
        failed = json.loads(bundle.read("doctor.json"))["self_test"]["trials"][2]
    assert (failed["name"], failed["outcome"]) == ("onnxruntime float32", "FAILED")
    assert failed["measured"]["outputs"]


def test_a_look_leaves_the_board_alone_and_a_bundle_that_cannot_be_written_is_told_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert doctor("--device", "local", "--no-self-test").exit_code == 0
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    done = doctor("--device", "local", "--no-self-test", "--bundle", "file/x.zip")
    assert done.exit_code == 3
    assert "local: runtimes" in done.stdout
    assert "The bundle file/x.zip cannot be written: " in done.stderr
    wrong = doctor("--bundle", "x.zip")
    assert "--bundle names one file" in str(wrong.exception)
    assert "no device 'nope'" in str(doctor("--device", "nope").exception)


def scripted(folder: Path, **script: object) -> Device:
    path = folder / "board.yaml"
    path.write_text(json.dumps({"latency": [{"median_ms": 1.0}], **script}))
    return Device(name="pi", transport="fake", script=path)


def test_a_scripted_board_is_not_judged(tmp_path: Path, quick: None):
    found = boards.examine_board(scripted(tmp_path), Silent())
    assert found.ok
    assert found.tested is not None
    assert found.tested.fake
    assert {trial.outcome for trial in found.tested.trials} == {Outcome.OK}
    assert all(trial.text.startswith("FAKE: ") for trial in found.tested.trials)


@pytest.mark.parametrize("times", [1, None])
def test_a_board_that_dies_in_the_middle_is_reached_once_more(tmp_path: Path, quick: None, times: int | None):
    fault = {"at": "measure", "kind": "killed", "after": 1, "times": times}
    found = boards.examine_board(scripted(tmp_path, faults=[fault]), Silent())
    assert found.tested is not None
    outcomes = [str(trial.outcome) for trial in found.tested.trials]
    assert outcomes == (["ok", "FAILED", "ok", "ok"] if times else ["ok", "FAILED", "FAILED", "--"])
    assert "not tried: the board went away" in found.tested.trials[3].text or times
    path = tmp_path / "bundle.zip"
    write_bundle(path, found, ())
    with zipfile.ZipFile(path) as bundle:
        assert "FAILED" in bundle.read("doctor.json").decode()


def test_a_board_that_somebody_holds_is_only_looked_at(tmp_path: Path):
    device = scripted(tmp_path, held={"owner": "ann@lab", "seconds": 600})
    found = boards.examine_board(device, Silent(), wait_s=0.0)
    assert (found.ok, found.tested) == (False, None)
    assert "ann@lab" in found.untested
    rows = by_name(found.rows)
    assert rows["pi: board"].ok
    assert not rows["pi: self-test"].ok
