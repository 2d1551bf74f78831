"""Which wheel pip takes where, as data; the rule against pip's own tags."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.tags import Tag
from packaging.version import Version

from targets import jetpack, wheels
from targets.wheels import Place


@pytest.mark.parametrize(
    ("target", "place", "expected"),
    [
        ("tflite", Place("aarch64", (3, 11), (2, 36)), "ai-edge-litert 2.3.0"),
        ("tflite", Place("aarch64", (3, 13), (2, 41)), "ai-edge-litert 2.3.0"),
        ("tflite", Place("aarch64", (3, 9), (2, 31)), "ai-edge-litert 2.1.0"),
        ("tflite", Place("aarch64", (3, 8), (2, 31)), "tflite-runtime 2.13.0"),
        ("tflite", Place("aarch64", (3, 6), (2, 27)), "None"),
        ("tflite", Place("armv7l", (3, 11), (2, 36)), "tflite-runtime 2.14.0"),
        ("tflite", Place("armv7l", (3, 9), (2, 31)), "tflite-runtime 2.13.0"),
        ("tflite", Place("armv7l", (3, 13), (2, 41)), "None"),
        ("tflite", Place("x86_64", (3, 14), (2, 39)), "ai-edge-litert 2.3.0"),
        ("tflite", Place("aarch64", (3, 12), None), "None"),
        ("onnxruntime", Place("aarch64", (3, 11), (2, 36)), "onnxruntime 1.31.1"),
        ("onnxruntime", Place("aarch64", (3, 10), (2, 35)), "onnxruntime 1.23.2"),
        ("onnxruntime", Place("aarch64", (3, 8), (2, 31)), "onnxruntime 1.19.2"),
        ("onnxruntime", Place("aarch64", (3, 6), (2, 27)), "onnxruntime 1.10.0"),
        ("onnxruntime", Place("aarch64", (3, 11), (2, 27)), "onnxruntime 1.28.0"),
        ("onnxruntime", Place("armv7l", (3, 11), (2, 36)), "None"),
        ("onnxruntime", Place("aarch64", (2, 7), (2, 27)), "None"),
        ("no such target", Place("aarch64", (3, 11), (2, 36)), "None"),
    ],
)
def test_the_runtime_that_a_board_gets(target: str, place: Place, expected: str):
    assert str(wheels.runtime(target, place)) == expected


def test_numpy_is_there_for_every_runtime_but_on_32_bit_arm():
    for target, minor, machine in itertools.product(wheels.RUNTIMES, range(6, 15), ("aarch64", "x86_64", "armv7l")):
        place = Place(machine, (3, minor), (2, 41))
        if wheels.runtime(target, place):
            assert (wheels.newest("numpy", place) is not None) == (machine != "armv7l"), place


def test_tflite_runtime_is_asked_for_with_numpy_1():
    wheel = wheels.newest("tflite-runtime", Place("armv7l", (3, 11), (2, 36)))
    assert wheel is not None
    assert wheel.requirement == "tflite-runtime 'numpy<2'"


@pytest.mark.parametrize(
    ("machine", "bits", "expected"),
    [
        ("aarch64", 64, "aarch64"),
        ("aarch64", 32, "armv7l"),
        ("armv8l", 32, "armv7l"),
        ("armv7l", 32, "armv7l"),
        ("armv6l", 32, "armv6l"),
        ("arm64", 64, "aarch64"),
        ("AMD64", 64, "x86_64"),
        ("x86_64", 32, "i686"),
    ],
)
def test_the_machine_of_pips_tags(machine: str, bits: int, expected: str):
    assert wheels.machine_of(machine, bits) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("glibc 2.36", (2, 36)), ("glibc 2.31-13", (2, 31)), ("musl", None), (None, None)]
)
def test_the_c_librarys_version(text: str | None, expected: tuple[int, int] | None):
    assert wheels.libc_of(text) == expected


def test_rows_of_a_package_go_from_new_to_old():
    for _, rows in itertools.groupby(wheels.WHEELS, key=lambda wheel: wheel.package):
        releases = [Version(wheel.release) for wheel in rows]
        assert releases == sorted(releases, reverse=True)


PLACES = st.builds(
    Place,
    st.sampled_from(["aarch64", "x86_64", "armv7l", "armv6l", "riscv64"]),
    st.tuples(st.just(3), st.integers(5, 15)),
    st.one_of(st.none(), st.tuples(st.just(2), st.integers(17, 42))),
)


@given(PLACES, st.sampled_from(["ai-edge-litert", "tflite-runtime", "onnxruntime", "numpy"]))
def test_a_newer_c_library_never_costs_a_wheel(place: Place, package: str):
    found = wheels.newest(package, place)
    if found is None or place.libc is None:
        return
    newer = wheels.newest(package, Place(place.machine, place.python, (2, place.libc[1] + 1)))
    assert newer is not None
    assert Version(newer.release) >= Version(found.release)


@given(PLACES, st.sampled_from(sorted(wheels.RUNTIMES)))
def test_what_is_found_is_what_pip_would_take(place: Place, target: str):
    """Against the tags that packaging, pip's own rule, gives such a board."""
    found = wheels.runtime(target, place)
    assert (found is not None) == (place.python[1] in wheels.pythons_for(target, place.machine, place.libc))
    if found is None or place.libc is None:
        return
    version = f"{place.python[0]}{place.python[1]}"
    tags = {
        Tag(f"cp{version}", f"cp{version}", f"manylinux_2_{low}_{place.machine}") for low in range(place.libc[1] + 1)
    }
    wanted = Tag(f"cp{version}", f"cp{version}", f"manylinux_{found.libc[0]}_{found.libc[1]}_{place.machine}")
    assert wanted in tags or found.libc == (0, 0)


@pytest.mark.parametrize(
    ("l4t", "expected"),
    [
        ("32.6.1", "4.6"),
        ("32.7.4", "4.6.1-4.6.6"),
        ("35.4.1", "5.1-5.1.7"),
        ("36.3.0", "6.0"),
        ("36.4.4", "6.1-6.2"),
        ("36.4", "6.1-6.2"),
        ("38.4.0", "7.0-7.1"),
        ("39.2.2", "7.2.2"),
        ("40.0.0", "newer than 7.2.2"),
        ("28.2.1", "older than 4.6"),
    ],
)
def test_jetpack_by_its_l4t(l4t: str, expected: str):
    assert jetpack.name_of(l4t) == expected


def test_a_jetpacks_python_is_that_of_its_ubuntu():
    for one in jetpack.JETPACKS:
        assert one.python == f"3.{wheels.RELEASES[one.codename].python}"
