"""Heat, throttling and the GPU's clocks, as Jetsons of every JetPack show them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device_tests import measure
from device_tests.agent import environment
from device_tests.agent.reading import Root
from device_tests.agent.sensors import devfreq, thermal
from edgesmith.types import BoardInfo, Environment, Validity
from tests.board_trees import Tree, jetson


def root_of(tree: Tree) -> Root:
    return Root(str(tree.top))


def test_zones_that_measure_nothing_are_left_out(tmp_path: Path):
    nano = jetson(tmp_path / "nano", "nano")
    assert thermal.zones(root_of(nano)) == [
        {"type": "AO-therm", "celsius": 41.0, "trips": []},
        {"type": "CPU-therm", "celsius": 32.5, "trips": []},
    ]
    orin = jetson(tmp_path / "orin", "orin-nano")
    # A zone that is off fails to be read, or tells -256 degrees.
    orin.write("/sys/class/thermal/thermal_zone3/type", "cv1-thermal\n")
    assert [zone["type"] for zone in thermal.zones(root_of(orin))] == ["cpu-thermal", "gpu-thermal", "tj-thermal"]


def test_trip_points_are_told_where_they_mean_something(tmp_path: Path):
    tree = jetson(tmp_path, "orin-nano")
    folder = "/sys/class/thermal/thermal_zone0"
    for number, (kind, millidegrees) in enumerate(
        [("critical", 104500), ("passive", 99000), ("active", -273000), ("hot", 2147483647)]
    ):
        tree.write(f"{folder}/trip_point_{number}_type", kind + "\n")
        tree.write(f"{folder}/trip_point_{number}_temp", f"{millidegrees}\n")
    assert thermal.zones(root_of(tree))[0]["trips"] == [
        {"type": "passive", "celsius": 99.0},
        {"type": "critical", "celsius": 104.5},
    ]


@pytest.mark.parametrize(
    ("kind", "device", "throttles"),
    [
        ("orin-nano", "cpu-throttle-alert", True),
        ("orin-nano", "hot-surface-alert", True),
        ("thor", "devfreq-gpu-gpc-0", True),
        ("thor", "cpufreq-cpu12", True),
        ("nano", "gpu-balanced", True),
        ("nano", "pwm-fan", False),
        ("orin-nano", "Processor", False),
    ],
)
def test_what_holds_clocks_down_is_throttling_and_a_fan_is_not(tmp_path: Path, kind: str, device: str, throttles: bool):
    tree = jetson(tmp_path, kind)
    assert thermal.throttling(root_of(tree)) == []
    tree.cooling(20, device, 1)
    assert thermal.throttling(root_of(tree)) == ([device] if throttles else [])


def test_over_current_events_are_counted_by_their_names(tmp_path: Path):
    assert thermal.over_current(root_of(jetson(tmp_path / "orin", "orin-nano"))) == {"oc1": 0, "oc2": 15, "oc3": 37}
    assert thermal.over_current(root_of(jetson(tmp_path / "nano", "nano"))) is None


@pytest.mark.parametrize(
    ("kind", "names", "khz"),
    [
        ("nano", ["57000000.gpu"], 76800),
        ("xavier-nx", ["17000000.gv11b"], 114750),
        ("orin-nano", ["17000000.gpu"], 306000),
        ("orin-nano-jetpack7", ["17000000.gpu"], 306000),
        ("thor", ["gpu-gpc-0", "gpu-nvd-0"], 314000),
    ],
)
def test_the_gpus_clock(tmp_path: Path, kind: str, names: list[str], khz: int):
    tree = jetson(tmp_path, kind)
    tree.gpu("15340000.vic", 1, 2, 3).gpu("bwmgr", 1, 2, 3)  # no GPUs
    assert [clock["name"] for clock in devfreq.gpus(root_of(tree))] == names
    assert devfreq.gpu_clock_khz(root_of(tree)) == khz
    assert devfreq.gpus(root_of(tree))[0]["governor"] == "nvhost_podgov"


def test_an_old_kernel_shows_the_gpu_elsewhere(tmp_path: Path):
    tree = Tree(tmp_path).write("/sys/devices/gpu.0/devfreq/17000000.gp10b/cur_freq", "114750000\n")
    assert devfreq.gpu_clock_khz(root_of(tree)) == 114750
    assert devfreq.gpu_clock_khz(root_of(Tree(tmp_path / "none"))) is None


def test_a_snapshot_of_a_jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tree = jetson(tmp_path, "orin-nano").cooling(5, "gpu-throttle-alert", 1)
    monkeypatch.setattr(environment, "Root", lambda: root_of(tree))
    told = measure.environment(environment.snapshot())
    assert told.power_mode == "MAXN_SUPER"
    assert told.gpu_clock_khz == 306000
    assert told.throttling == ("gpu-throttle-alert",)
    assert told.over_current == {"oc1": 0, "oc2": 15, "oc3": 37}


def test_a_snapshot_of_another_board_has_none_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(environment, "Root", lambda: root_of(Tree(tmp_path)))
    told = measure.environment(environment.snapshot())
    assert (told.power_mode, told.gpu_clock_khz, told.throttling, told.over_current) == (None, None, (), None)


CALM = Environment(
    taken_at="2026-11-22T10:00:00.000+00:00",
    load_1m=0.0,
    governor="schedutil",
    clock_khz=729600,
    temperature_c=50.0,
    throttled=None,
    memory_available_bytes=1 << 30,
    over_current={"oc1": 0, "oc2": 15, "oc3": 37},
)
BOARD = BoardInfo(
    machine="aarch64",
    system="Ubuntu",
    kernel="5.15.148-tegra",
    python="3.10.12",
    numpy="1.26.4",
    model="NVIDIA Jetson Orin Nano",
    cpu="cortex-a78ae",
    cores=6,
    memory_bytes=8 << 30,
    runtimes={},
    emulated=False,
    agent_sha256="0" * 64,
)


@pytest.mark.parametrize(
    ("after", "expected", "reason"),
    [
        ({}, Validity.VALID, None),
        ({"over_current": {"oc1": 0, "oc2": 15, "oc3": 900}}, Validity.VALID, None),
        (
            {"over_current": {"oc1": 1, "oc2": 17, "oc3": 37}},
            Validity.THROTTLED,
            "the board's power supply was not enough while measuring (oc1 +1, oc2 +2)",
        ),
        (
            {"throttling": ("gpu-throttle-alert", "cpu-throttle-alert")},
            Validity.THROTTLED,
            "the board held its clocks down because of heat while measuring (cpu-throttle-alert, gpu-throttle-alert)",
        ),
    ],
)
def test_a_jetson_that_throttles_is_not_judged(after: dict[str, Any], expected: Validity, reason: str | None):
    import numpy as np

    validity, reasons = measure.judge_validity(
        np.array([100, 100]),
        np.array([0, 1]),
        warmup_flat=True,
        before=CALM,
        after=replace(CALM, **after),
        board=BOARD,
    )
    assert (validity, reasons) == (expected, () if reason is None else (reason,))
