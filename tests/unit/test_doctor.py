"""What `edgesmith doctor` says of this machine and of boards."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from device_tests.loopback import LoopbackBoard
from edgesmith import cli
from edgesmith.doctor import boards, machine, running
from edgesmith.doctor.boards import Examined
from edgesmith.doctor.models import HERE
from edgesmith.doctor.models.catalog import specimen
from edgesmith.doctor.rows import Row
from edgesmith.doctor.trial import Outcome
from edgesmith.progress import Silent
from edgesmith.types import Device, LeaseRequest


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


def test_a_board_out_of_reach_is_a_row_and_no_test_of_it_passes():
    gone = Device(name="gone", transport="ssh", host="127.0.0.1", port=1, host_key="SHA256:" + "A" * 43)
    found = look(gone)
    assert not found["gone"].ok
    assert "127.0.0.1" in found["gone"].text
    assert found["gone"].fix
    assert boards.examine_board(gone, Silent(), test=False).ok
    assert not boards.examine_board(gone, Silent()).ok


