"""Power rails of every layout, and which of them are the total."""

from __future__ import annotations

from pathlib import Path

import pytest

from device_tests.agent.reading import Root
from device_tests.agent.sensors import rails, totals
from targets import board_profiles
from tests.board_trees import Tree, jetson


def found(tree: Tree) -> list[tuple[str, str, float | None]]:
    root = Root(str(tree.top))
    return [(rail.source, rail.name, rail.mw(root)) for rail in rails.find(root)]


def test_jetpack_5_and_later_tell_volts_and_amperes(tmp_path: Path):
    tree = jetson(tmp_path, "orin-nano")
    # The shunt voltages (in4..in6), the sums (in7, curr4) and the over-current counters are no rails.
    assert found(tree) == [
        ("ina3221", "VDD_IN", 2000.0),
        ("ina3221", "VDD_CPU_GPU_CV", 2000.0),
        ("ina3221", "VDD_SOC", 2000.0),
    ]
    tree.write("/sys/class/hwmon/hwmon1/in1_input", "4984\n").write("/sys/class/hwmon/hwmon1/curr1_input", "1856\n")
    assert found(tree)[0][2] == pytest.approx(4.984 * 1856)
    assert rails.find(Root(str(tmp_path)))[0].update_ms == 2


def test_jetpack_4_tells_milliwatts(tmp_path: Path):
    assert found(jetson(tmp_path, "nano")) == [
        ("ina3221x", "POM_5V_IN", 900.0),
        ("ina3221x", "POM_5V_GPU", 900.0),
        ("ina3221x", "POM_5V_CPU", 900.0),
    ]


def test_a_jetpack_4_monitor_without_power_is_multiplied(tmp_path: Path):
    folder = "/sys/bus/i2c/drivers/ina3221x/1-0040/iio:device0"
    tree = Tree(tmp_path).write(f"{folder}/rail_name_0", "VDD_IN\n").write(f"{folder}/rail_name_1", "NC\n")
    tree.write(f"{folder}/in_voltage0_input", "19000\n").write(f"{folder}/in_current0_input", "500\n")
    assert found(tree) == [("ina3221x", "VDD_IN", 9500.0)]


def test_thors_input_has_no_label_and_is_in_microwatts(tmp_path: Path):
    tree = jetson(tmp_path, "thor")
    assert found(tree) == [
        ("ina3221", "VDD_GPU", 2000.0),
        ("ina3221", "VIN_SYS_5V0", 2000.0),
        ("ina238", "VIN", 124486.0),
    ]
    # On another board the same chip measures what we do not know.
    tree.board("Somebody's board", "some,board")
    assert found(tree)[-1] == ("ina238", "ina238", 124486.0)


def test_a_channel_that_is_off_is_there_and_cannot_be_read(tmp_path: Path):
    tree = jetson(tmp_path, "orin-nano")
    (tmp_path / "sys/class/hwmon/hwmon1/curr2_input").write_text("")
    (tmp_path / "sys/class/hwmon/hwmon1/in3_input").unlink()
    assert [mw for _, _, mw in found(tree)] == [2000.0, None, None]


def test_other_chips_and_usb_supplies_are_no_rails(tmp_path: Path):
    tree = Tree(tmp_path)
    for number, name in enumerate(("tmp451", "ucsi_source_psy_0_0081", "pwmfan", "soctherm_oc")):
        tree.write(f"/sys/class/hwmon/hwmon{number}/name", name + "\n")
        tree.write(f"/sys/class/hwmon/hwmon{number}/curr1_input", "100\n")
        tree.write(f"/sys/class/hwmon/hwmon{number}/in1_input", "100\n")
    assert found(tree) == []


def test_open_files_are_read_anew_every_time_and_closed(tmp_path: Path):
    tree = jetson(tmp_path, "nano")
    root = Root(str(tmp_path))
    with rails.Open(root, rails.find(root)) as opened:
        assert opened.mw() == [900.0] * 3
        tree.write("/sys/bus/iio/devices/iio:device0/in_power1_input", "12345\n")
        assert opened.mw() == [900.0, 12345.0, 900.0]
    assert opened.mw() == [None] * 3


def test_a_rail_survives_the_way_to_another_process(tmp_path: Path):
    root = Root(str(jetson(tmp_path, "orin-nano").top))
    rail = rails.find(root)[1]
    again = rails.from_dict(rail.as_dict())
    assert again.as_dict() == rail.as_dict()
    assert (again.name, again.mw(root)) == ("VDD_CPU_GPU_CV", 2000.0)


BOARD = "board input, carrier board included"
MODULE = "module input, carrier board excluded"
SUM = "module rails, carrier board excluded"


@pytest.mark.parametrize(
    ("kind", "names", "covers"),
    [
        ("nano", ["POM_5V_IN"], MODULE),
        ("xavier-nx", ["VDD_IN"], MODULE),
        ("agx-xavier", ["GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"], SUM),
        ("agx-orin", ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"], SUM),
        ("orin-nano", ["VDD_IN"], MODULE),
        ("orin-nano-jetpack7", ["VDD_IN"], MODULE),
        ("thor", ["VIN"], BOARD),
    ],
)
def test_the_total_of_a_board(tmp_path: Path, kind: str, names: list[str], covers: str):
    there = [rail.name for rail in rails.find(Root(str(jetson(tmp_path, kind).top)))]
    numbers, label = totals.choose(there)
    assert ([there[number] for number in numbers], label) == (names, covers)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], ([], "")),
        (["VDD_IN", "VIN"], ([1], BOARD)),
        (["VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"], ([0, 1, 2], SUM)),
        # Without the rail that feeds it, it is all there is to know.
        (["VDDQ_VDD2_1V8AO"], ([0], SUM)),
        (["VDD_CPU_CV", "CVB_ATX_12V"], ([0], SUM)),
    ],
)
def test_the_input_outranks_the_sum_and_nothing_counts_twice(names: list[str], expected: tuple[list[int], str]):
    assert totals.choose(names) == expected


@pytest.mark.parametrize("name", [name for name in board_profiles.names() if name.startswith("jetson-")])
def test_the_profile_of_a_board_says_the_same_of_its_total(name: str):
    sensors = board_profiles.get(name).sensors
    assert totals.choose(list(sensors.power))[1] == sensors.power_covers
