"""What `edgesmith doctor` says of this machine and of boards."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from device_tests.loopback import LoopbackBoard
from edgesmith import cli, doctor
from edgesmith.types import Device


def by_name(rows: tuple[doctor.Row, ...]) -> dict[str, doctor.Row]:
    return {row.name: row for row in rows}


def test_this_machine_is_described_and_lacks_no_runtime():
    found = by_name(doctor.examine())
    assert found["board"].ok
    assert "cores" in found["processor"].text
    assert found["python"].text.split()[0].startswith("3.")
    # The targets' rows, not "No runtime for ...".
    assert found["tflite"].text.startswith("compiles to .tflite")
    assert found["onnxruntime"].ok


def test_an_arm_board_is_told_its_own_command(monkeypatch: pytest.MonkeyPatch):
    here = doctor.probe_here()
    bare = {"machine": "aarch64", "runners": (), "runtimes": {}, "missing": {}, "libc": "glibc 2.36", "venv": True}
    monkeypatch.setattr(
        doctor, "probe_here", lambda: replace(here, python="3.11.2", executable="/v/bin/python", **bare)
    )
    rows = [row for row in doctor.examine() if not row.ok]
    assert ("tflite", "/v/bin/python -m pip install ai-edge-litert") in [(row.name, row.fix) for row in rows]


def test_a_board_is_shown_under_its_name(board: LoopbackBoard):
    found = by_name(doctor.examine([board.device("lab-1")]))
    assert found["lab-1: board"].ok
    assert "onnxruntime" in found["lab-1: runtimes"].text
    assert found["lab-1: disk"].text.endswith(f"free at {board.home / 'edgesmith'}")
    assert not [name for name, row in found.items() if name.startswith("lab-1") and not row.ok and row.name == "tflite"]


def test_a_board_that_is_called_something_else_is_a_finding(board: LoopbackBoard):
    device = replace(board.device("lab-1"), board="raspberry-pi-5")
    row = by_name(doctor.examine([device]))["lab-1: profile"]
    assert not row.ok
    assert row.text.startswith("lab-1: the inventory calls it raspberry-pi-5, the board ")


def test_a_board_out_of_reach_is_a_row_and_the_others_are_asked(board: LoopbackBoard):
    gone = Device(name="gone", transport="ssh", host="127.0.0.1", port=1, host_key="SHA256:" + "A" * 43)
    found = by_name(doctor.examine([gone, board.device("lab-1")]))
    assert not found["gone"].ok
    assert "127.0.0.1" in found["gone"].text
    assert found["gone"].fix
    assert found["lab-1: board"].ok


def test_the_verb_takes_boards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "_PACKAGES", ())
    result = CliRunner().invoke(cli.app, ["doctor", "--device", "local", "--json"])
    names = [row["name"] for row in json.loads(result.stdout)]
    assert "local: runtimes" in names
    missing = CliRunner().invoke(cli.app, ["doctor", "--device", "nope"])
    assert "no device 'nope'" in str(missing.exception)
