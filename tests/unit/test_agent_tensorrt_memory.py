"""How much memory a build may take, on boards of 4 GB to 64 GB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from device_tests.agent.reading import Root
from device_tests.agent.tensorrt import memory_plan
from tests.board_trees import Tree

MIB = 1 << 20
GIB = 1 << 30


def board(folder: Path, available_mb: int, swap_mb: int = 0, zram_mb: int = 0, total_mb: int = 3956) -> Root:
    tree = Tree(folder)
    tree.write(
        "/proc/meminfo",
        f"MemTotal: {total_mb * 1024} kB\nMemFree: 90000 kB\nMemAvailable: {available_mb * 1024} kB\n"
        f"SwapTotal: {(swap_mb + zram_mb) * 1024} kB\nSwapFree: {swap_mb * 1024} kB\n",
    )
    lines = ["Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority"]
    lines += [f"/dev/zram{n}   partition {zram_mb * 1024 // 4} 0 5" for n in range(4 if zram_mb else 0)]
    lines += [f"/swapfile   file {swap_mb * 1024} 0 -2"] if swap_mb else []
    tree.write("/proc/swaps", "\n".join(lines) + "\n")
    return Root(str(folder))


def plan(root: Root, *, model_mb: int = 20, device_free: int | None = None, **asked: Any) -> Any:
    return memory_plan.plan(root, device_free, model_mb * MIB, **asked)


def test_a_large_board_gets_a_large_workspace_and_tensorrts_own_level(tmp_path: Path):
    found = plan(board(tmp_path, 24_000, total_mb=30_536))
    assert (found["low"], found["workspace_bytes"], found["optimization_level"]) == (False, 4 * GIB, None)
    assert found["notes"] == []


def test_a_board_of_8_gb_gets_half_of_what_is_left(tmp_path: Path):
    found = plan(board(tmp_path, 5000, total_mb=7620))
    assert not found["low"]
    # 5000 MB free; 1024 MB are TensorRT's own, 4 * 20 MB the network's, 512 MB stay free.
    assert found["workspace_bytes"] == (5000 - 1024 - 80 - 512) // 2 * MIB


def test_a_board_of_4_gb_gets_the_low_plan_and_is_told_of_swap(tmp_path: Path):
    found = plan(board(tmp_path, 1500, zram_mb=1978))
    assert (found["low"], found["workspace_bytes"], found["optimization_level"]) == (True, 16 * MIB, 1)
    short, swap = found["notes"]
    assert short == "1500 MB of memory is free: built with little workspace and a short search for kernels"
    # zram is memory itself: it is no room.
    assert found["swap_bytes"] == 1978 * MIB
    assert found["disk_swap_bytes"] < 3 * MIB
    assert "sudo fallocate -l 4G /swapfile" in swap


def test_enough_swap_on_disk_is_not_asked_for_again(tmp_path: Path):
    found = plan(board(tmp_path, 1900, swap_mb=4096, zram_mb=1978))
    assert found["low"]
    assert len(found["notes"]) == 1
    assert found["disk_swap_bytes"] >= 4096 * MIB


def test_a_large_network_is_built_low_where_a_small_one_is_not(tmp_path: Path):
    root = board(tmp_path, 3000)
    assert not plan(root, model_mb=20)["low"]
    assert plan(root, model_mb=500)["low"]


def test_a_cards_own_memory_counts_where_it_is_less(tmp_path: Path):
    found = plan(board(tmp_path, 24_000), device_free=1 * GIB)
    assert found["low"]
    assert found["device_free_bytes"] == GIB


def test_what_was_asked_for_is_kept(tmp_path: Path):
    found = plan(board(tmp_path, 1500), asked_workspace=300 * MIB, asked_level=4)
    assert (found["workspace_bytes"], found["optimization_level"]) == (300 * MIB, 4)
    assert plan(board(tmp_path, 24_000), low=True)["low"]
    assert not plan(board(tmp_path, 1500), low=False)["low"]


def test_a_board_without_meminfo_is_not_taken_for_a_large_one(tmp_path: Path):
    found = plan(Root(str(tmp_path)))
    assert (found["low"], found["workspace_bytes"], found["available_bytes"]) == (False, GIB, None)
    low = plan(Root(str(tmp_path)), low=True)
    assert low["workspace_bytes"] == 128 * MIB
    assert low["notes"][0].startswith("an unknown amount of memory is free")


def test_out_of_memory_is_answered_with_the_low_plan_then_with_no_search(tmp_path: Path):
    first = plan(board(tmp_path, 5000))
    second = memory_plan.after(first, "not-enough-memory", has_levels=True)
    assert (second["low"], second["workspace_bytes"], second["optimization_level"]) == (True, 128 * MIB, 1)
    third = memory_plan.after(second, "not-enough-memory", has_levels=True)
    assert third["optimization_level"] == 0
    assert [note[:22] for note in third["notes"]] == ["the first build ran ou", "that ran out of memory"]
    assert memory_plan.after(third, "not-enough-memory", has_levels=True) is None


def test_without_levels_there_is_no_third_try(tmp_path: Path):
    second = memory_plan.after(plan(board(tmp_path, 5000)), "not-enough-memory", has_levels=False)
    assert memory_plan.after(second, "not-enough-memory", has_levels=False) is None


def test_a_level_that_was_asked_for_is_not_taken_back(tmp_path: Path):
    first = plan(board(tmp_path, 5000), asked_level=3, asked_workspace=MIB)
    second = memory_plan.after(first, "not-enough-memory", has_levels=True)
    assert (second["optimization_level"], second["workspace_bytes"]) == (3, MIB)
    assert memory_plan.after(second, "not-enough-memory", has_levels=True) is None


def test_too_little_workspace_is_answered_with_all_there_is_once(tmp_path: Path):
    first = plan(board(tmp_path, 5000), low=True)
    second = memory_plan.after(first, "not-enough-workspace", has_levels=True)
    assert second["workspace_bytes"] == first["most_workspace_bytes"] > first["workspace_bytes"]
    assert second["notes"][-1] == "128 MB of workspace were not enough"
    assert memory_plan.after(second, "not-enough-workspace", has_levels=True) is None
    asked = plan(board(tmp_path, 5000), asked_workspace=MIB)
    assert memory_plan.after(asked, "not-enough-workspace", has_levels=True) is None


@pytest.mark.parametrize("code", ["no-implementation", "build-failed", "parse-failed"])
def test_what_memory_cannot_mend_is_not_tried_again(tmp_path: Path, code: str):
    assert memory_plan.after(plan(board(tmp_path, 5000)), code, has_levels=True) is None
