"""Power beside a measurement: the figures, the process that reads it, and what is told where there is none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_tests.agent.reading import Root
from device_tests.agent.sensors import jtop, power, sampling
from device_tests.agent.timing import now_ns
from device_tests.agent_zip import build_agent
from device_tests.fake_jetson.tools import write_tools
from tests.board_trees import Tree, jetson
from tests.processes import runs, stat, wait_gone

MS = 1_000_000


@pytest.fixture
def program(tmp_path: Path) -> str:
    place = tmp_path / "agent.zip"
    place.write_bytes(build_agent().content)
    return str(place)


@pytest.fixture
def out(tmp_path: Path) -> str:
    folder = tmp_path / "out"
    folder.mkdir()
    return str(folder)


def samples(t_ms: list[int], *columns: list[float], names: str = "VDD_IN", **more: Any) -> power.Samples:
    mw = np.array(columns, float).T
    return power.Samples("ina3221", [t * MS for t in t_ms], mw, names.split(), range(len(columns)), "all", **more)


def test_constant_power_is_its_own_mean_and_energy_is_power_times_time():
    every_ms = list(range(0, 1001, 2))
    told = samples(every_ms, [5000.0] * len(every_ms)).over([(0, 1000 * MS)], runs=100)
    assert told["mean_mw"] == pytest.approx(5000)
    assert told["max_mw"] == 5000
    assert told["energy_mj"] == pytest.approx(5000)  # 5 W for 1 s
    assert told["energy_mj_per_run"] == pytest.approx(50)
    assert (told["samples"], told["rate_hz"], told["seconds"]) == (501, 501, 1)
    assert told["longest_gap_ms"] == 2
    assert told["half_rate_error"] == pytest.approx(0)
    assert (told["statement"], told["reason"], told["covers"], told["source"]) == ("", None, "all", "ina3221")


@given(
    st.lists(st.integers(1, 999), min_size=1, max_size=40, unique=True).map(sorted),
    st.floats(0, 1000),
    st.floats(-0.9, 50),
)
def test_a_ramp_has_the_energy_under_it_however_it_was_read(t_ms: list[int], start: float, slope: float):
    moments = [0, *t_ms, 1000]
    told = samples(moments, [1000 + start + slope * t for t in moments]).over([(0, 1000 * MS)])
    exact = (1000 + start) + slope * 500
    assert told["energy_mj"] == pytest.approx(exact)
    assert told["mean_mw"] == pytest.approx(exact)


def test_only_the_time_of_the_spans_counts():
    every_ms = list(range(400))
    load = [9000.0 if t // 100 % 2 else 1000.0 for t in every_ms]
    told = samples(every_ms, load).over([(110 * MS, 190 * MS), (310 * MS, 390 * MS)], runs=4)
    assert (told["mean_mw"], told["max_mw"]) == (pytest.approx(9000), 9000)
    assert told["energy_mj"] == pytest.approx(9000 * 0.160)
    assert told["energy_mj_per_run"] == pytest.approx(9000 * 0.040)


def test_rails_add_up_and_each_has_its_own_figures():
    told = samples([0, 500, 1000], [1000.0] * 3, [2000.0, 4000.0, 2000.0], names="CPU GPU").over([(0, 1000 * MS)])
    assert (told["mean_mw"], told["max_mw"]) == (pytest.approx(4000), 5000)
    assert [(rail["name"], rail["mean_mw"], rail["max_mw"]) for rail in told["rails"]] == [
        ("CPU", pytest.approx(1000), 1000),
        ("GPU", pytest.approx(3000), 4000),
    ]


def test_a_read_that_failed_is_left_out_and_counted():
    told = samples([0, 1, 2, 3], [1000.0, float("nan"), 1000.0, 1000.0]).over([(0, 3 * MS)])
    assert (told["mean_mw"], told["samples"], told["failed"]) == (pytest.approx(1000), 3, 1)


def test_a_slow_rate_is_stated_with_what_it_may_cost():
    every_ms = list(range(0, 1000, 10))
    told = samples(every_ms, [1000.0 if t % 20 else 3000.0 for t in every_ms], update_ms=140).over([(0, 1000 * MS)])
    assert told["statement"] == (
        "power was read 100 times a second, below 350 fast changes are missed: half that rate would change the energy "
        "by 50.8 %; the chip measures 140 ms for each of its values"
    )


def test_a_gap_in_the_reading_is_told():
    told = samples([0, 1, 2, 300, 301], [1000.0] * 5).over([(0, 400 * MS)])
    assert told["longest_gap_ms"] == 298


def test_too_short_a_time_is_no_figure():
    found = samples([0, 100], [1000.0, 1000.0])
    told = found.over([(10 * MS, 11 * MS)])
    assert (told["mean_mw"], told["max_mw"], told["energy_mj"], told["rails"]) == (None, None, None, [])
    assert told["reason"] == "power was not read while it ran: it took 0.0010 s in all"
    assert found.over([])["reason"] == "power was not read while it ran: it took 0.0000 s in all"


def test_a_board_is_read_beside_the_work(tmp_path: Path, program: str, out: str):
    tree = jetson(tmp_path, "orin-nano")
    with sampling.start(Root(str(tree.top)), out, program=program) as reading:
        pid = reading.pid
        assert int(stat(pid)[16]) == min(os.nice(0) + 10, 19)  # whoever is timed comes first
        spans = []
        for current in ("400", "2400"):
            tree.write("/sys/class/hwmon/hwmon1/curr1_input", current + "\n")
            start = now_ns()
            time.sleep(0.4)
            spans.append((start, now_ns()))
        found = reading.stop()
    assert not runs(pid)
    low, high = (found.over([(start + 20 * MS, end - 20 * MS)], runs=10) for start, end in spans)
    assert (low["mean_mw"], high["mean_mw"]) == (pytest.approx(2000), pytest.approx(12000))
    assert high["energy_mj_per_run"] == pytest.approx(high["energy_mj"] / 10)
    # Only what makes up the total is read.
    assert [rail["name"] for rail in high["rails"]] == ["VDD_IN"]
    assert high["covers"] == "module input, carrier board excluded"
    assert (high["rate_hz"] >= power.ENOUGH_HZ) is (high["statement"] == "")


def test_all_rails_are_read_where_that_is_asked_for(tmp_path: Path, program: str, out: str):
    root = Root(str(jetson(tmp_path, "thor").top))
    with sampling.start(root, out, rate_hz=100, every=True, program=program) as reading:
        start = now_ns()
        time.sleep(0.3)
        told = reading.stop().over([(start, now_ns())])
    assert [rail["name"] for rail in told["rails"]] == ["VDD_GPU", "VIN_SYS_5V0", "VIN"]
    assert (told["mean_mw"], told["covers"]) == (pytest.approx(124486), "board input, carrier board included")
    assert told["rate_hz"] < 150
    assert "below 350" in told["statement"]


def test_the_reader_is_gone_when_the_agent_was_killed(tmp_path: Path, program: str, out: str):
    tree = jetson(tmp_path, "orin-nano")
    script = (
        "import sys, time\n"
        "from device_tests.agent.reading import Root\n"
        "from device_tests.agent.sensors import sampling\n"
        "reading = sampling.start(Root(sys.argv[1]), sys.argv[2], program=sys.argv[3])\n"
        "print(reading.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    argv = [sys.executable, "-c", script, str(tree.top), out, program]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as agent:
        assert agent.stdout is not None
        pid = int(agent.stdout.readline())
        assert runs(pid)
        agent.kill()
    wait_gone(pid)
    assert list(Path(out).iterdir()) == []


def test_a_reader_that_was_ended_is_a_reason_and_no_error(tmp_path: Path, program: str, out: str):
    with sampling.start(Root(str(jetson(tmp_path, "nano").top)), out, program=program) as reading:
        os.kill(reading.pid, signal.SIGKILL)
        wait_gone(reading.pid)
        told = reading.stop().over([(0, 1)])
    assert told["mean_mw"] is None
    assert told["reason"].startswith("power was not measured: its process ")


def test_where_the_kernel_shows_no_rails_tegrastats_is_asked(tmp_path: Path, program: str, out: str):
    write_tools(tmp_path, "6.2")
    with sampling.start(Root(str(tmp_path)), out, program=program) as reading:
        start = now_ns()
        time.sleep(0.6)
        told = reading.stop().over([(start, now_ns())])
    assert told["source"] == "tegrastats"
    assert told["mean_mw"] in (pytest.approx(2957), pytest.approx(4742))  # as root, as another
    assert told["rate_hz"] < 20
    assert "below 350" in told["statement"]


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        ({}, "this machine has no power sensor that edgesmith reads"),
        ({"/etc/nv_tegra_release": "# R36 (release), REVISION: 4.4"}, "this board has no tegrastats"),
        ({"/proc/device-tree/compatible": "nvidia,p3768\0nvidia,tegra234\0"}, "this board has no tegrastats"),
        (
            {
                "/sys/class/hwmon/hwmon0/name": "ina3221",
                "/sys/class/hwmon/hwmon0/in1_label": "VDD_IN",
                "/sys/class/hwmon/hwmon0/curr1_input": "",
            },
            "its power rails cannot be read (VDD_IN)",
        ),
    ],
)
def test_a_board_without_power_rails_says_why(
    tmp_path: Path, program: str, out: str, write: dict[str, str], reason: str
):
    tree = Tree(tmp_path)
    for path, text in write.items():
        tree.write(path, text)
    with sampling.start(Root(str(tree.top)), out, program=program) as reading:
        told = reading.stop().over([(0, 10)], runs=1)
    assert told["reason"] == "power was not measured: " + reason
    figures = ("mean_mw", "max_mw", "energy_mj", "energy_mj_per_run", "seconds", "rate_hz")
    assert [told[key] for key in figures] == [None] * len(figures)


def test_a_tegrastats_without_rails_says_so(tmp_path: Path, program: str, out: str):
    tree = Tree(tmp_path).tool("tegrastats", "while :; do echo APE 25; sleep 0.02; done")
    with sampling.start(Root(str(tree.top)), out, program=program) as reading:
        time.sleep(0.2)
        told = reading.stop().over([(0, 10)])
    assert told["reason"] == "power was not measured: this board's tegrastats tells of no rails"


OLDEST = Path.home() / ".pyenv/versions/3.6.15/bin/python"


@pytest.mark.parametrize("python", [sys.executable, *([str(OLDEST)] if OLDEST.exists() else [])])
def test_the_reader_runs_under_the_oldest_python(tmp_path: Path, program: str, out: str, python: str):
    tree = jetson(tmp_path, "nano")
    rail = {"source": "ina3221x", "name": "POM_5V_IN", "scale": 1.0, "update_ms": None}
    rail["files"] = ["/sys/bus/iio/devices/iio:device0/in_power0_input"]
    asked = {"top": str(tree.top), "folder": out, "rails": [rail], "rate_hz": 200, "limit_s": 60}
    pipe = subprocess.PIPE
    with subprocess.Popen([python, "-u", program, "--sample"], stdin=pipe, stdout=pipe) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        reader.stdin.write(json.dumps(asked).encode() + b"\n")
        reader.stdin.flush()
        assert json.loads(reader.stdout.readline()) == {"ready": True}
        time.sleep(0.3)
        reader.stdin.write(b"stop\n")
        reader.stdin.flush()
        count = json.loads(reader.stdout.readline())["samples"]
    times, values = (
        np.fromfile(Path(out) / name, kind) for name, kind in (("times", np.int64), ("values", np.float64))
    )
    assert len(times) == len(values) == count > 10
    assert (np.diff(times) > 0).all()
    assert set(values) == {900.0}


def test_jetson_stats_is_asked_only_where_it_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "jtop", None)
    assert jtop.read(5)["reason"] == "jetson-stats is not installed"

    class Client:
        nvpmodel, jetson_clocks = "15W", False

        def __init__(self) -> None:
            self.power = {"tot": {"power": 5120}, "rail": {"VDD_CPU_GPU_CV": {"power": 480}}}

        def __enter__(self) -> Client:
            return self

        def __exit__(self, *error: object) -> None:
            return

        def ok(self) -> bool:
            return True

    class Module:
        jtop = Client

    monkeypatch.setitem(sys.modules, "jtop", Module)
    assert jtop.read(5) == {
        "total_mw": 5120,
        "rails": {"VDD_CPU_GPU_CV": 480},
        "mode": "15W",
        "clocks_locked": False,
        "reason": None,
    }
    monkeypatch.setattr(Client, "ok", lambda self: time.sleep(1))
    assert jtop.read(0.1)["reason"] == "jetson-stats gave no answer in 0.1 s"
