"""Energy, power and power mode in report.html."""

from __future__ import annotations

from pathlib import Path

from edgesmith.report.html import render_html
from edgesmith.result import PowerModeRecord, PowerRecord, Result
from tests.unit.report.conftest import build, pair

POWER = PowerRecord(
    mean_mw=6240.0,
    max_mw=9100.0,
    rate_hz=498.7,
    statement="",
    covers="module input, carrier board excluded",
    source="ina3221",
)


def page(run_dir: Path, mode: PowerModeRecord | None) -> str:
    rows = pair(run_dir, "orin", "onnxruntime", 0.9, 0.5)
    told = {"energy_mj": 3.12, "energy_mj_reason": None, "power": POWER, "power_mode": mode}
    made = build(run_dir, [rows[0], rows[1].model_copy(update=told)])
    return render_html(made.result, made.run_dir)


def mode(*, restored: bool | None, before: str = "MAXN", locked: bool = False) -> PowerModeRecord:
    return PowerModeRecord(mode="15W", mode_before=before, clocks_locked=locked, restored=restored)


def test_energy_and_power_have_columns_and_say_what_they_cover(tmp_path: Path):
    shown = page(tmp_path, mode(restored=None))
    assert '<td class="n">3.12</td>' in shown
    assert 'title="at most 9.10 W; read 499 times a second from ina3221">6.24</td>' in shown
    assert "idle power included" in shown
    assert "Both are of: module input, carrier board excluded." in shown
    assert "energy n/a: the board has no power sensor that edgesmith can read (orin onnxruntime float)" in shown


def test_the_mode_stands_beside_the_board(tmp_path: Path):
    assert '<span class="mark">15W</span>' in page(tmp_path, mode(restored=None))
    assert "<dd>15W: as it was found</dd>" in page(tmp_path, mode(restored=None))
    held = page(tmp_path, mode(restored=True, locked=True))
    assert '<span class="mark">15W, clocks held</span>' in held
    assert "15W, clocks held, set for this (before: MAXN) and put back afterwards" in held
    assert "15W, set for this and put back afterwards" in page(tmp_path, mode(restored=True, before="15W"))
    assert "15W, set for this (before: MAXN) and NOT put back afterwards" in page(tmp_path, mode(restored=False))


def test_a_board_without_modes_or_sensors_shows_neither(tmp_path: Path):
    shown = render_html(*_plain(tmp_path))
    assert "Power,<br>W" not in shown
    assert "Power mode" not in shown
    assert "idle power" not in shown


def _plain(run_dir: Path) -> tuple[Result, Path]:
    made = build(run_dir, pair(run_dir, "pi5-lab", "onnxruntime", 0.9, 0.5))
    return made.result, made.run_dir
