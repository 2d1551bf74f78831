"""Board profiles are data: they read, they name known targets, and a board finds its own."""

from __future__ import annotations

import pytest

import targets
from edgesmith.errors import ConfigError
from edgesmith.types import BoardInfo
from targets import board_profiles


def board(machine: str, model: str | None) -> BoardInfo:
    return BoardInfo(
        machine=machine,
        system="Linux",
        kernel="6.12",
        python="3.11",
        numpy="2.0",
        model=model,
        cpu=None,
        cores=4,
        memory_bytes=None,
        runtimes={},
        emulated=False,
        agent_sha256="0",
    )


@pytest.mark.parametrize("name", board_profiles.names())
def test_every_profile_reads_and_names_known_targets(name: str):
    profile = board_profiles.get(name)
    assert profile.isa in ("x86_64", "aarch64")
    assert profile.targets <= set(targets.names())


def test_the_first_four_boards_are_there():
    assert board_profiles.names() == ("generic-arm64", "generic-x86-64", "raspberry-pi-4", "raspberry-pi-5")


@pytest.mark.parametrize(
    ("machine", "model", "expected"),
    [
        ("aarch64", "Raspberry Pi 4 Model B Rev 1.4", "raspberry-pi-4"),
        ("aarch64", "Raspberry Pi 5 Model B Rev 1.0", "raspberry-pi-5"),
        ("aarch64", "Raspberry Pi 400 Rev 1.0", "raspberry-pi-4"),
        ("aarch64", "Raspberry Pi 500 Rev 1.0", "raspberry-pi-5"),
        ("aarch64", "Raspberry Pi 3 Model B Plus Rev 1.3", "generic-arm64"),
        ("arm64", None, "generic-arm64"),
        ("x86_64", None, "generic-x86-64"),
        ("AMD64", None, "generic-x86-64"),
        ("armv7l", "Raspberry Pi 4 Model B Rev 1.4", None),
        ("riscv64", None, None),
    ],
)
def test_a_board_finds_its_profile(machine: str, model: str | None, expected: str | None):
    assert board_profiles.name_for(board(machine, model)) == expected


def test_an_unknown_board_is_told_with_a_suggestion():
    with pytest.raises(
        ConfigError, match=r"There is no board 'raspberry-pi5'; did you mean 'raspberry-pi-5'\?"
    ) as caught:
        board_profiles.get("raspberry-pi5")
    assert caught.value.next_step.endswith("or `auto`.")
