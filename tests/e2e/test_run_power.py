"""Power modes through a whole run: what stands in `result.json` and the report, and what is measured anew."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml

from device_tests.loopback import InProcessBoard, folder_for_boards
from edgesmith import pipeline
from edgesmith.config import load_config
from edgesmith.pipeline import RunOptions
from edgesmith.progress import Silent
from edgesmith.result import DeviceResult, Result, result_schema
from tests.jetson_python import MeasuredJetson
from tests.tiny_artifacts import DATA


class Place:
    """A project with one board, "orin".

    Attributes:
        orin: the board's tree.
    """

    def __init__(self, root: Path, orin: MeasuredJetson, board: InProcessBoard) -> None:
        self.root, self.orin = root, orin
        for name in ("dense_int8.tflite", "dense.tflite"):
            shutil.copy(DATA / name, root)
        random = np.random.default_rng(0)
        x = random.integers(0, 256, (240, 4)).astype(np.float32)
        np.savez(root / "e.npz", x=x, y=random.integers(0, 3, size=240))
        known = board.device("orin")
        entry = {
            "host": known.host,
            "port": known.port,
            "user": known.user,
            "identity_file": str(known.identity_file),
            "host_key": board.fingerprint,
            "python": str(orin.python),
            "lease_dir": known.lease_dir,
        }
        (root / "devices.yaml").write_text(yaml.safe_dump({"devices": {"orin": entry}}))

    def run(self, measure: dict[str, Any] | None = None, **options: Any) -> Result:
        config = {
            "model": "dense_int8.tflite",
            "reference": "dense.tflite",
            "data": {"evaluation": "e.npz"},
            "devices": ["orin"],
            "measure": {"min_runs": 20, "min_seconds": 0.2, "windows": 2, **(measure or {})},
        }
        path = self.root / "edgesmith.yaml"
        path.write_text(yaml.safe_dump(config))
        result, folder = pipeline.run(load_config(path), RunOptions(runs_dir=self.root / "runs", **options), Silent())
        jsonschema.validate(json.loads((folder / "result.json").read_text()), result_schema())
        return result

    def page(self) -> str:
        return (self.root / "runs/latest/report.html").read_text()

    def measure(self, *options: str) -> subprocess.CompletedProcess[str]:
        command = [
            "measure",
            "dense.tflite",
            "--data",
            "e.npz",
            "--devices-file",
            "devices.yaml",
            "-d",
            "orin",
            *options,
        ]
        return subprocess.run(
            [sys.executable, "-m", "edgesmith", *command],
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )


@pytest.fixture
def place(tmp_path: Path, nobodys_ssh_setup: None) -> Iterator[Place]:
    with folder_for_boards() as folder, InProcessBoard(folder / "board") as board:
        yield Place(tmp_path, MeasuredJetson(folder / "orin"), board)


def rows(result: Result) -> tuple[DeviceResult, ...]:
    assert [row.verdict.value for row in result.results] == ["PASS", "PASS"], result.findings
    return result.results


def test_a_mode_of_the_command_line_is_in_the_document_and_the_report(place: Place):
    for row in rows(place.run(power_mode="15W", lock_clocks=True)):
        assert row.power is not None
        assert row.power_mode is not None
        assert row.power.mean_mw == pytest.approx(2000)
        assert row.power.covers == "module input, carrier board excluded"
        assert row.energy_mj is not None
        assert row.latency_ms is not None
        assert row.latency_ms.p50 is not None
        assert row.energy_mj > 2 * row.latency_ms.p50 * 0.5  # 2 W for as long as it took
        assert row.energy_mj_reason is None
        assert (row.power_mode.mode, row.power_mode.mode_before) == ("15W", "MAXN_SUPER")
        assert (row.power_mode.clocks_locked, row.power_mode.restored) == (True, True)
        assert row.board is not None
        assert row.board.power_mode == "MAXN_SUPER"
    assert place.orin.mode == "MAXN_SUPER"
    page = place.page()
    assert '<span class="mark">15W, clocks held</span>' in page
    assert "15W, clocks held, set for this (before: MAXN_SUPER) and put back afterwards" in page
    assert "idle power included" in page
    assert "module input, carrier board excluded" in page
    assert page.count('<th scope="col" class="n">Power,<br>W</th>') == 1


@pytest.mark.slow
def test_the_mode_is_part_of_what_a_kept_measurement_is_found_by(place: Place):
    config = {"power_mode": "25W"}
    assert not any(row.reused for row in rows(place.run(config)))
    assert place.orin.modes_set() == ["1", "2"]
    again = place.run(config)
    assert all(row.reused for row in rows(again))
    assert again.work.measurements == 0
    for row in rows(again):
        assert row.power_mode is not None
        assert row.power_mode.mode == "25W"
        assert row.energy_mj is not None
    # The command line outranks the config.
    other = place.run(config, power_mode="15W")
    assert [row.power_mode and row.power_mode.mode for row in rows(other)] == ["15W", "15W"]
    assert not any(row.reused for row in other.results)
    assert other.measure["power_mode"] == "15W"


@pytest.mark.slow
def test_without_a_mode_the_board_is_asked_for_its_own_before_anything_is_reused(place: Place):
    assert [row.power_mode and row.power_mode.mode for row in rows(place.run())] == ["MAXN_SUPER", "MAXN_SUPER"]
    assert all(row.reused for row in rows(place.run()))
    place.orin.be_in(1)
    found = place.run()
    assert [row.power_mode and row.power_mode.mode for row in rows(found)] == ["25W", "25W"]
    assert not any(row.reused for row in found.results)
    assert all(row.reused for row in rows(place.run()))
    assert place.orin.modes_set() == []


@pytest.mark.slow
def test_a_mode_that_the_board_lacks_is_an_error_with_what_to_do(place: Place):
    result = place.run(power_mode="8W")
    assert result.exit_code == 3
    for row in result.results:
        (finding,) = row.findings
        assert (row.verdict.value, finding.code) == ("ERROR", "PowerModeRefused")
        assert "no power mode '8W'; it has 15W, 25W, MAXN_SUPER, 7W" in finding.text
        assert finding.next_step
        assert row.energy_mj is None
        assert row.energy_mj_reason
    assert result.recovery == ()


@pytest.mark.slow
def test_a_sweep_measures_every_mode_and_leaves_out_what_takes_a_restart(place: Place):
    done = place.measure("--sweep", "power-modes", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [row["power_mode_asked"] for row in found] == ["15W", "25W", "MAXN_SUPER", "7W"]
    for row in found[:3]:
        assert row["power_mode"]["mode"] == row["power_mode_asked"]
        assert row["latency_ms"]["p50"] > 0
        assert row["power"]["mean_mw"] == pytest.approx(2000)
        assert row["energy_mj"] > 0
        assert row["skipped"] is None
    assert (found[3]["skipped"], found[3]["latency_ms"]) == ("power-mode-needs-reboot", None)
    assert "takes a restart of the board" in found[3]["validity_reasons"][0]
    assert place.orin.mode == "MAXN_SUPER"

    shown = place.measure("--sweep", "power-modes", "--power-mode", "25W", "--power-mode", "7W", "-q")
    assert shown.returncode == 0, shown.stderr
    head, names, _units, fast, slow, covers = shown.stdout.splitlines()
    assert head == "orin"
    assert names.split() == ["power", "mode", "p50", "p95", "power", "energy"]
    assert fast.split()[0] == "25W"
    assert fast.split()[3] == "2.00"
    assert slow.split()[:5] == ["7W", "n/a", "n/a", "n/a", "n/a"]
    assert "skipped: orin: power mode '7W' takes a restart" in slow
    assert (
        covers
        == " power and energy: module input, carrier board excluded; idle power included. energy: of one inference."
    )


@pytest.mark.slow
def test_one_mode_and_a_sweep_of_nothing(place: Place):
    done = place.measure("--power-mode", "15W", "--lock-clocks", "-q")
    assert done.returncode == 0, done.stderr
    assert "2.00 W, " in done.stdout
    assert "power mode 15W, clocks held" in done.stdout
    two = place.measure("--power-mode", "15W", "--power-mode", "25W")
    assert two.returncode == 2
    assert "--sweep power-modes" in two.stderr
    place.orin.tree.write("/etc/nvpmodel.conf", "# no modes\n")
    none = place.measure("--sweep", "power-modes")
    assert none.returncode == 3
    assert "orin: this board has no power modes." in none.stderr
