"""Lines of tegrastats from every generation: the right numbers, and what cannot be read is kept."""

from __future__ import annotations

import os
import queue
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_tests.agent.protocol import Refusal
from device_tests.agent.reading import Root
from device_tests.agent.sensors import tegrastats, tegrastats_process
from device_tests.fake_jetson.tools import TOOLS, write_tools
from tests.board_trees import Tree
from tests.processes import runs
from tests.tegrastats_lines import LINES, NOTHING, degrees, load, rails, ram


@pytest.mark.parametrize("board", LINES)
def test_a_line_of_a_board(board: str):
    line, expected = LINES[board]
    assert tegrastats.parse(line) == expected


@pytest.mark.parametrize(
    "text",
    [
        "GR3D_FREQ 101%@1098",
        "EMC_FREQ 20%@-1",
        "13-40-2026 11:00:00",
        "CPU [0%@729,on]",
        "CPU [101%@729]",
        "VDD_IN 933mW/933",
        "VDD_IN 933mW",
        "FUTURE 729",
        "GR3D_FREQ 3%@[1 2]",
        "cpu@50F",
        "RAM 20/100GB",
        "٣٣% EMC_FREQ ٣%@٢",
        "tegrastats: command not found",
    ],
)
def test_what_does_not_fit_is_kept_and_is_no_figure(text: str):
    assert tegrastats.parse(text) == NOTHING | {"unparsed": [text]}


def test_of_two_answers_none_is_chosen():
    found = tegrastats.parse("VDD_IN 1mW/2mW cpu@40C VDD_IN 3mW/4mW cpu@41C/42C GR3D_FREQ 1% GR3D_FREQ 2%")
    assert found["rails"] == rails(VDD_IN=(1, 2))
    assert found["temperatures"] == degrees(cpu=40)
    assert found["engines"] == {"GR3D": load(1)}
    assert found["unparsed"] == ["VDD_IN 3mW/4mW", "cpu@41C/42C", "GR3D_FREQ 2%"]


def test_a_largest_block_in_kilobytes_and_clocks_with_blanks():
    found = tegrastats.parse("RAM 7000/7620MB (lfb 3x512kB) GR3D_FREQ 3%@[1300, 1298]")
    assert found["ram"] == ram(7000, 7620, 3, 512)
    assert found["engines"]["GR3D"] == load(3, 1300, 1298)
    assert found["unparsed"] == []


PIECES = [piece for line, _ in LINES.values() for piece in line.split()]
WORDS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=12)), max_size=30)


@settings(deadline=None)
@given(WORDS)
def test_any_words_are_read_or_kept_and_nothing_is_lost(words: list[str]):
    line = " ".join(words)
    found = tegrastats.parse(line)
    assert set(found) == set(NOTHING)
    told = [part if take is None else part.group() for take, part in tegrastats.tokens(line)]
    blank = re.compile(r"\s", re.ASCII)
    assert blank.sub("", "".join(told)) == blank.sub("", line)
    for kept in found["unparsed"]:
        assert kept in line


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_no_error(text: str):
    tegrastats.parse(text)


@pytest.mark.parametrize("jetpack", TOOLS)
@pytest.mark.parametrize("uid", ["0", "1000"])
def test_the_program_is_read_as_root_and_as_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jetpack: str, uid: str
):
    write_tools(tmp_path, jetpack)
    monkeypatch.setenv("FAKE_JETSON_UID", uid)
    with tegrastats_process.Reader(Root(str(tmp_path)), 20) as reader:
        (first_ns, first), (second_ns, _) = reader.get(20), reader.get(20)
        assert runs(reader.pid)
    assert not runs(reader.pid)
    assert second_ns > first_ns
    assert first["unparsed"] == []
    assert {"VDD_IN", "POM_5V_IN", "VIN"} & set(first["rails"])
    # What only root is shown is None for others, and not another number.
    memory = first["engines"].get("EMC", load(None))
    assert bool(memory["mhz"]) is (uid == "0")


def test_a_program_that_says_nothing_or_will_not_go_is_ended(tmp_path: Path):
    Tree(tmp_path).tool("tegrastats", "trap '' TERM; while :; do sleep 1; done")
    with tegrastats_process.Reader(Root(str(tmp_path)), 20) as reader:
        with pytest.raises(queue.Empty):
            reader.get(0.1)
        os.kill(reader.pid, 0)
    assert not runs(reader.pid)


def test_reading_for_a_while_ends_with_the_program_or_the_time(tmp_path: Path):
    tree = Tree(tmp_path).tool("tegrastats", "echo APE 25; echo junk")
    assert [told["engines"] for _, told in tegrastats_process.read(Root(str(tmp_path)), 20)] == [
        {"APE": load(None, 25)},
        {},
    ]
    tree.tool("tegrastats", "while :; do echo APE 25; sleep 0.02; done")
    start = time.monotonic()
    assert tegrastats_process.read(Root(str(tmp_path)), 0.3, 20)
    assert time.monotonic() - start < 10


def test_a_board_without_it_says_so(tmp_path: Path):
    with pytest.raises(Refusal, match="this board has no tegrastats"):
        tegrastats_process.Reader(Root(str(tmp_path)))
