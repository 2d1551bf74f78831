"""Board profiles are data: they read, they name known targets, and a board finds its own."""

from __future__ import annotations

import pytest

import targets
from edgesmith.errors import ConfigError
from edgesmith.types import BoardInfo
from targets import board_profiles, jetpack, wheels


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
    assert profile.isa in profile.userlands
    assert profile.targets <= set(targets.names())
    assert profile.generic or profile.limits


def test_the_boards_that_are_promised_are_there():
    assert board_profiles.names() == (
        "generic-arm64",
        "generic-x86-64",
        "jetson-agx-orin",
        "jetson-agx-thor",
        "jetson-agx-xavier",
        "jetson-nano",
        "jetson-orin-nano",
        "jetson-orin-nx",
        "jetson-tx2",
        "jetson-xavier-nx",
        "raspberry-pi-3",
        "raspberry-pi-4",
        "raspberry-pi-5",
        "raspberry-pi-zero-2-w",
    )


@pytest.mark.parametrize("name", board_profiles.names())
def test_a_profiles_runtimes_are_those_that_the_wheels_give(name: str):
    profile = board_profiles.get(name)
    for key, runtimes in profile.releases.items():
        codename, _, variant = key.partition("/")
        # "any" is a recent system: the newest wheels fit.
        release = wheels.Release("any", 12, (2, 39), (1, 26)) if codename == "any" else wheels.RELEASES[codename]
        machine = variant if variant == "armv7l" else profile.isa
        minor = int(variant.partition(".")[2]) if variant.startswith("3.") else release.python
        assert variant != "armv7l" or variant in profile.userlands
        assert not variant.startswith("3.") or minor in release.pythons
        place = wheels.Place(machine, (3, minor), release.libc)
        expected = {target: str(wheel) for target in wheels.RUNTIMES if (wheel := wheels.runtime(target, place))}
        assert runtimes == expected, f"{name} {key}"


@pytest.mark.parametrize("name", [name for name in board_profiles.names() if name.startswith("jetson-")])
def test_a_jetsons_systems_are_those_of_its_jetpacks(name: str):
    profile = board_profiles.get(name)
    assert profile.jetson is not None
    first, last = profile.jetson.jetpack
    majors = range(int(first.split(".")[0]), int(last.split(".")[0]) + 1 if last else 8)
    codenames = {one.codename for one in jetpack.JETPACKS if int(one.name.split(".")[0]) in majors}
    assert {key.partition("/")[0] for key in profile.releases} == codenames


@pytest.mark.parametrize("name", [name for name in board_profiles.names() if not board_profiles.get(name).generic])
def test_every_profile_is_found_by_each_of_its_own_words(name: str):
    profile = board_profiles.get(name)
    for prefix in profile.device_tree_prefixes:
        assert board_profiles.name_for(board(profile.isa, prefix + " Rev 9")) == name
    for module in profile.modules:
        found = board_profiles.name_of(
            machine="aarch64", model="A carrier board of another maker", compatible=[f"nvidia,{module}", "nvidia,soc"]
        )
        assert found == name


@pytest.mark.parametrize(
    ("machine", "model", "expected"),
    [
        ("aarch64", "Raspberry Pi 4 Model B Rev 1.4", "raspberry-pi-4"),
        ("aarch64", "Raspberry Pi 5 Model B Rev 1.0", "raspberry-pi-5"),
        ("aarch64", "Raspberry Pi 400 Rev 1.0", "raspberry-pi-4"),
        ("aarch64", "Raspberry Pi 500 Rev 1.0", "raspberry-pi-5"),
        ("aarch64", "Raspberry Pi Compute Module 4S Rev 1.0", "raspberry-pi-4"),
        ("aarch64", "Raspberry Pi 3 Model B Plus Rev 1.3", "raspberry-pi-3"),
        ("aarch64", "Raspberry Pi Zero 2 W Rev 1.0", "raspberry-pi-zero-2-w"),
        ("armv7l", "Raspberry Pi 4 Model B Rev 1.4", "raspberry-pi-4"),
        ("aarch64", "NVIDIA Jetson Nano Developer Kit", "jetson-nano"),
        ("aarch64", "NVIDIA Jetson Nano 2GB Developer Kit", "jetson-nano"),
        ("aarch64", "quill", "jetson-tx2"),
        ("aarch64", "NVIDIA Jetson TX2 NX Developer Kit", "jetson-tx2"),
        ("aarch64", "NVIDIA Jetson Xavier NX Developer Kit (SD-card)", "jetson-xavier-nx"),
        ("aarch64", "Jetson-AGX", "jetson-agx-xavier"),
        ("aarch64", "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", "jetson-orin-nano"),
        ("aarch64", "NVIDIA Jetson Orin NX Engineering Reference Developer Kit", "jetson-orin-nx"),
        ("aarch64", "NVIDIA Orin NX Developer Kit", "jetson-orin-nx"),
        ("aarch64", "NVIDIA Jetson AGX Orin Developer Kit", "jetson-agx-orin"),
        ("aarch64", "NVIDIA Jetson AGX Thor Developer Kit", "jetson-agx-thor"),
        ("aarch64", "NVIDIA Jetson TX1 Developer Kit", "generic-arm64"),
        ("arm64", None, "generic-arm64"),
        ("x86_64", None, "generic-x86-64"),
        ("AMD64", None, "generic-x86-64"),
        ("armv7l", "BeagleBone Black", None),
        ("riscv64", None, None),
    ],
)
def test_a_board_finds_its_profile(machine: str, model: str | None, expected: str | None):
    assert board_profiles.name_for(board(machine, model)) == expected


def test_the_module_decides_before_the_model():
    carrier = "NVIDIA Jetson Orin NX Engineering Reference Developer Kit"
    compatible = ["nvidia,p3768-0000+p3767-0005", "nvidia,p3767-0005", "nvidia,tegra234"]
    assert board_profiles.name_of(machine="aarch64", model=carrier, compatible=compatible) == "jetson-orin-nano"


def test_a_32_bit_userland_on_a_64_bit_kernel_is_still_that_board():
    model = "Raspberry Pi Zero 2 W Rev 1.0"
    assert board_profiles.name_of(machine="aarch64", model=model, pointer_bits=32) == "raspberry-pi-zero-2-w"
    assert board_profiles.name_of(machine="aarch64", model="Some board", pointer_bits=32) is None


def test_an_unknown_board_is_told_with_a_suggestion():
    with pytest.raises(
        ConfigError, match=r"There is no board 'raspberry-pi5'; did you mean 'raspberry-pi-5'\?"
    ) as caught:
        board_profiles.get("raspberry-pi5")
    assert caught.value.next_step.endswith("or `auto`.")
