"""Sensors: read where they are, None where they are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from device_tests.agent import environment
from device_tests.agent.reading import Root


def zone(root: Path, number: int, kind: str, millidegrees: str) -> None:
    folder = root / "sys/class/thermal" / f"thermal_zone{number}"
    folder.mkdir(parents=True)
    (folder / "type").write_text(kind + "\n")
    (folder / "temp").write_text(millidegrees + "\n")


def test_the_processors_zone_is_the_temperature(tmp_path: Path):
    zone(tmp_path, 0, "battery", "90000")
    zone(tmp_path, 1, "cpu-thermal", "51234")
    assert environment.temperature_c(Root(str(tmp_path))) == 51.234


def test_a_jetsons_constant_and_switched_off_sensors_do_not_count(tmp_path: Path):
    zone(tmp_path, 0, "PMIC-Die", "100000")
    zone(tmp_path, 1, "GPU-therm", "-256000")
    zone(tmp_path, 2, "AUX-therm", "40000")
    zone(tmp_path, 3, "CPU-therm", "broken")
    assert environment.temperature_c(Root(str(tmp_path))) == 40.0


def test_no_zone_is_none(tmp_path: Path):
    assert environment.temperature_c(Root(str(tmp_path))) is None


@pytest.mark.parametrize(
    ("script", "expected"),
    [("echo throttled=0x50005", "0x50005"), ("echo VCHI initialization failed; exit 255", None)],
)
def test_throttle_bits_come_from_vcgencmd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: str | None
):
    tool = tmp_path / "vcgencmd"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert environment.snapshot()["throttled"] == expected


def test_an_emulated_board_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("EDGE_EMULATED", raising=False)
    assert environment.identity()["emulated"] is False
    monkeypatch.setenv("EDGE_EMULATED", "1")
    assert environment.identity()["emulated"] is True


def test_this_machine_has_a_name_and_memory():
    found = environment.identity()
    assert found["machine"]
    assert found["pointer_bits"] in (32, 64)
    assert found["memory_bytes"] > 1 << 20
