"""The self-test's networks: small, as their script makes them, right here, and judged by bars that fit the hardware."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import targets
from edgesmith.doctor.models import HERE, MANIFEST, catalog, samples
from edgesmith.doctor.models.catalog import TOLERANCES, specimen, tolerance
from targets.tensorrt_rules import violations
from tests import rtx

Array = NDArray[Any]
NAMES = tuple(json.loads((HERE / MANIFEST).read_text()))
TENSORRT = tuple(name for name in NAMES if name.startswith("tensorrt"))
OPSETS = {"weak": 13, "typed": 20}


def test_they_are_few_and_small():
    files = [HERE / one["file"] for one in json.loads((HERE / MANIFEST).read_text()).values()]
    assert sorted(path.name for path in HERE.iterdir() if path.suffix in (".onnx", ".tflite")) == sorted(
        path.name for path in files
    )
    assert all(path.stat().st_size < 60_000 for path in files)
    assert sum(path.stat().st_size for path in files) < 400_000


@pytest.mark.parametrize("name", NAMES)
def test_each_gives_the_expected_answers_here(name: str):
    one = specimen(name)
    (found,) = targets.get(one.artifact.target).outputs(one.artifact.path, samples())
    bar = next(bar for precision, bar in TOLERANCES.items() if f"-{precision}" in name)
    assert share(found, one.expected) <= bar
    assert one.artifact.sha256 == json.loads((HERE / MANIFEST).read_text())[name]["sha256"]


@pytest.mark.parametrize("name", TENSORRT)
def test_every_tensorrt_of_its_kind_reads_it(name: str):
    kind = name.split("-")[1]
    proto = onnx.load(specimen(name).artifact.path)
    assert violations(proto, max_opset=OPSETS[kind]) == ()
    flags = specimen(name).artifact.build["precision"]
    wanted = {"float32": [], "float16": ["fp16"]}.get(name.split("-")[2], ["fp16", "int8"])
    assert flags == ([] if kind == "typed" else wanted)


def share(found: Array, expected: Array) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_the_bars_leave_room_for_what_the_hardware_rounds_and_for_no_wrong_answer():
    """The figures of `catalog`'s docstring: every rounding that hardware may do, done by hand."""
    exact, int8 = specimen("tensorrt-weak-float32"), specimen("tensorrt-weak-int8")

    def off(one: catalog.Specimen, **how: Any) -> float:
        return share(_run(onnx.load(one.artifact.path), samples(), **how), one.expected)

    assert off(exact) < 2e-6
    assert 1e-4 < off(exact, rounded=_tf32) < TOLERANCES["TF32"] / 4
    assert 1e-3 < off(exact, rounded=np.float16, sums=np.float16) < TOLERANCES["float16"] / 4
    assert off(int8) < 2e-6
    draw = np.random.default_rng(0)
    flipped = [off(int8, flips=draw) for _ in range(3)]
    assert 5e-3 < max(flipped) < TOLERANCES["int8"]
    answers = exact.expected
    apart = [share(answers[i], answers[j]) for i in range(8) for j in range(8) if i != j]
    assert min(apart) > TOLERANCES["int8"] * 1.2


def test_tf32_is_reckoned_with_from_ampere_on():
    assert tolerance("float32", "8.7") == ("TF32", 2e-3)
    assert tolerance("float32", "11.0")[0] == "TF32"
    assert tolerance("float32", "7.2") == ("float32", 1e-4)
    assert tolerance("float32") == ("float32", 1e-4)
    assert tolerance("float16", "8.7") == ("float16", 1e-2)


@pytest.mark.slow
def test_the_script_makes_these_very_files(tmp_path: Path):
    from edgesmith.doctor.models.make_models import make

    make(tmp_path)
    shipped = {path.name: path.read_bytes() for path in HERE.iterdir() if path.suffix not in (".py", "")}
    assert {path.name for path in tmp_path.iterdir()} == shipped.keys()
    assert [name for name, content in shipped.items() if (tmp_path / name).read_bytes() != content] == []


def _same(array: Array) -> Array:
    return np.asarray(array, np.float32)


def _tf32(array: Array) -> Array:
    """Rounded to 10 bits of mantissa."""
    bits = np.asarray(array, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x1000) & 0xFFFFE000).astype(np.uint32).view(np.float32)


def _run(
    proto: Any,
    x: Array,
    *,
    rounded: Callable[[Array], Array] = _same,
    sums: type[np.floating[Any]] = np.float64,
    flips: np.random.Generator | None = None,
) -> Array:
    """What the network answers where operands are rounded, sums have that type, and half of all int8 roundings flip."""
    stored = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}
    found = {**stored, "x": x}
    for node in proto.graph.node:
        a = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        i = [found[name] for name in node.input]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale = i[1].reshape(-1, 1, 1, 1) if i[1].size > 1 else i[1]
            if node.op_type == "DequantizeLinear":
                made = i[0].astype(np.float32) * scale
            else:
                made = np.rint(i[0] / scale)
                if flips is not None and node.input[0] not in stored:
                    made = made + flips.choice([-1, 0, 1], p=[0.25, 0.5, 0.25], size=made.shape) * (made != 0)
                made = np.clip(made, -128, 127)
        elif node.op_type == "Conv":
            made = _summed(_windows(rounded(i[0]), a, i[1].shape), rounded(i[1]), a.get("group", 1), sums)
            made = made + i[2].reshape(1, -1, 1, 1)
        elif node.op_type == "Gemm":
            kernel = rounded(i[1]).T if a.get("transB") else rounded(i[1])
            made = _running_sum((rounded(i[0])[:, k, None] * kernel[None, k] for k in range(len(kernel))), sums) + i[2]
        elif node.op_type == "AveragePool":
            made = i[0].reshape(*i[0].shape[:2], 2, 8, 2, 8).mean(axis=(3, 5))
        else:
            made = _SIMPLE[node.op_type](i, a)
        found[node.output[0]] = np.asarray(made, np.float32)
    answer: Array = found[proto.graph.output[0].name]
    return answer


_SIMPLE: dict[str, Callable[[list[Array], dict[str, Any]], Array]] = {
    "Transpose": lambda i, a: i[0].transpose(a["perm"]),
    "Relu": lambda i, _: np.maximum(i[0], 0),
    "Clip": lambda i, _: np.clip(i[0], i[1], i[2]),
    "Add": lambda i, _: i[0] + i[1],
    "Reshape": lambda i, _: i[0].reshape(len(i[0]), -1),
}


def _windows(x: Array, a: dict[str, Any], kernel: tuple[int, ...]) -> Array:
    top, left, bottom, right = a.get("pads", [0] * 4)
    down, across = a.get("strides", [1, 1])
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    return sliding_window_view(padded, kernel[2:], axis=(2, 3))[:, :, ::down, ::across]


def _summed(windows: Array, kernel: Array, groups: int, sums: type[np.floating[Any]]) -> Array:
    places = list(np.ndindex(*kernel.shape[2:]))
    if groups > 1:
        return _running_sum((windows[..., r, c] * kernel[None, :, 0, r, c, None, None] for r, c in places), sums)
    terms = (
        windows[:, channel, :, :, r, c][:, None] * kernel[None, :, channel, r, c, None, None]
        for channel in range(kernel.shape[1])
        for r, c in places
    )
    return _running_sum(terms, sums)


def _running_sum(terms: Any, sums: type[np.floating[Any]]) -> Array:
    total: Array = np.zeros((), sums)
    for term in terms:
        total = (total + term.astype(sums)).astype(sums)
    return total.astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TENSORRT if name.endswith(("int8", "typed-float16"))])
def test_nvidias_own_parser_and_builder_take_it(name: str):
    """TensorRT-RTX, which needs no GPU to build; it is not the TensorRT of a Jetson."""
    proto = onnx.load(specimen(name).artifact.path)
    answer = rtx.ask(proto)
    assert answer.built, answer.errors
    convolutions = [node.name for node in proto.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 4
    if name.endswith("int8"):
        assert [node for node in convolutions if not answer.in_int8(node)] == []
    else:
        assert answer.operands == {"Half"}
