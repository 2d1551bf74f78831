"""Fixtures of the lab: boards in network namespaces, and the emulated arm64 board."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from device_tests.loopback import folder_for_boards
from tests.lab.arm64 import ArmBoard, arm64_programs, pi_rootfs, why_no_arm64
from tests.lab.netns import NetnsLab, why_no_netns


def _needed(why_not: str) -> None:
    """Skips with the reason, or fails where the lab was promised, as CI does."""
    if why_not:
        (pytest.fail if os.environ.get("EDGESMITH_REQUIRE_LAB") == "1" else pytest.skip)(why_not)


@pytest.fixture
def netns_lab(nobodys_ssh_setup: None) -> Iterator[Callable[[int], NetnsLab]]:
    """Opens labs: `netns_lab(5)` has five boards. They are closed after the test."""
    _needed(why_no_netns())
    with contextlib.ExitStack() as stack:

        def lab(boards: int) -> NetnsLab:
            folder = stack.enter_context(folder_for_boards())
            return stack.enter_context(NetnsLab(folder, boards))

        yield lab


@pytest.fixture(scope="session")
def arm64_userland() -> Iterator[Path]:
    """The arm64 board's system, which this kernel can run until the session ends."""
    _needed(why_no_arm64())
    with arm64_programs():
        yield pi_rootfs()


@pytest.fixture
def arm_board(arm64_userland: Path, nobodys_ssh_setup: None) -> Iterator[ArmBoard]:
    """A fresh emulated Raspberry Pi 4, running."""
    with folder_for_boards() as folder, ArmBoard(folder / "pi", arm64_userland) as board:
        yield board
