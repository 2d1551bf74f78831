"""What an engine is valid for, and its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from device_tests.agent.protocol import Refusal
from device_tests.agent.reading import Root
from device_tests.agent.tensorrt import identity
from tests.board_trees import Tree

SHA = "ab" * 32
ORIN = {"tensorrt": "10.3.0", "compute": "8.7", "gpu": "NVIDIA Jetson Orin Nano"}


def of(**options: Any) -> dict[str, Any]:
    found: dict[str, Any] = identity.identity({"onnx_sha256": SHA, **options}, **ORIN)
    return found


def test_an_identity_has_what_the_engine_depends_on_and_nothing_else():
    options = {"precision": ["int8", "fp16"], "workspace_bytes": 1 << 30, "cuda": "ctypes", "cuda_graph": True}
    assert of(**options) == {
        "onnx_sha256": SHA,
        "tensorrt": "10.3.0",
        "compute": "8.7",
        "gpu": "NVIDIA Jetson Orin Nano",
        "precision": ["fp16", "int8"],
        "dla_core": None,
        "sparsity": False,
        "version_compatible": False,
        "optimization_level": None,
        "profile": None,
        "format": 1,
    }


def test_the_key_is_the_same_whatever_the_order():
    one = of(precision=["fp16", "int8"], profile={"a": [[1, 2], [1, 3], [1, 4]], "b": [[1], [1], [1]]})
    other = of(profile={"b": [[1], [1], [1]], "a": [(1, 2), (1, 3), (1, 4)]}, precision=["int8", "fp16"])
    assert identity.key(one) == identity.key(other)
    assert len(identity.key(one)) == 64


@pytest.mark.parametrize(
    "changed",
    [
        {"onnx_sha256": "cd" * 32},
        {"precision": ["fp16"]},
        {"dla_core": 0},
        {"sparsity": True},
        {"version_compatible": True},
        {"optimization_level": 2},
        {"profile": {"x": [[1, 3], [1, 3], [1, 3]]}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_every_part_changes_the_key(changed: dict[str, Any]):
    assert identity.key(of(**changed)) != identity.key(of())


def test_differences_are_told_in_words():
    have = dict(of(precision=["fp16"]), tensorrt="8.5.2.2")
    assert identity.differences(of(), have) == [
        "TensorRT 10.3.0, built for 8.5.2.2",
        'precision none, built for ["fp16"]',
    ]
    assert identity.differences(of(onnx_sha256="cd" * 32), of()) == ["the network cdcdcdcdcdcd, built for abababababab"]


@pytest.mark.parametrize(
    ("here", "built", "compatible", "runs"),
    [
        ("10.3.0", "10.3.0", False, True),
        ("10.3.0", "8.6.2.3", False, False),
        ("10.3.0", "8.6.2.3", True, True),
        ("8.6.2.3", "10.3.0", True, False),
    ],
)
def test_only_a_version_compatible_engine_runs_on_a_later_version(here: str, built: str, compatible: bool, runs: bool):
    wanted = dict(of(version_compatible=compatible), tensorrt=here)
    assert identity.runs(wanted, dict(wanted, tensorrt=built)) is runs


def test_a_version_compatible_engine_of_another_gpu_does_not_run():
    wanted = of(version_compatible=True)
    assert not identity.runs(wanted, dict(wanted, compute="11.0"))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"precision": ["fp8"]}, "no precision 'fp8'; there are fp16, int8"),
        ({"onnx_sha256": "short"}, "not a sha256: 'short'"),
        ({"profile": {"x": [[1, 2], [1, 2]]}}, "profile of 'x': three shapes"),
        ({"profile": {"x": [[1, 2], [1, 2], [1]]}}, "three shapes"),
        ({"profile": {"x": [[0, 2], [1, 2], [1, 2]]}}, "sizes above 0"),
        ({"profile": {"x": [[1, 3], [1, 2], [1, 4]]}}, "smallest <= likeliest <= largest"),
    ],
)
def test_options_that_are_none_are_refused(options: dict[str, Any], why: str):
    with pytest.raises(Refusal, match=why) as caught:
        of(**options)
    assert caught.value.code == "bad-params"


def test_the_gpu_is_named_by_the_jetsons_device_tree(tmp_path: Path):
    Tree(tmp_path).board("NVIDIA Jetson Orin Nano Developer Kit", "nvidia,p3768", "nvidia,tegra234")
    assert identity.gpu_name(Root(str(tmp_path))) == "NVIDIA Jetson Orin Nano Developer Kit"


def test_a_card_is_named_by_its_driver(tmp_path: Path):
    tree = Tree(tmp_path)
    tree.write("/proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t\t NVIDIA H200\nIRQ:  12\n")
    assert identity.gpu_name(Root(str(tmp_path))) == "NVIDIA H200"


def test_a_gpu_that_nothing_names_is_unknown(tmp_path: Path):
    assert identity.gpu_name(Root(str(tmp_path))) == "unknown"


def test_the_networks_hash_is_the_blobs_name_or_computed(tmp_path: Path):
    assert identity.onnx_sha256(f"/blobs/{SHA}", {}) == {"onnx_sha256": SHA}
    assert identity.onnx_sha256(f"/blobs/{SHA}", {"onnx_sha256": "cd" * 32}) == {"onnx_sha256": "cd" * 32}
    path = tmp_path / "model.onnx"
    path.write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert identity.onnx_sha256(str(path), {})["onnx_sha256"] == known
