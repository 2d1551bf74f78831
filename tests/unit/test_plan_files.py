"""A plan's folder: what is written is read back, equal plans are equal bytes, half a folder is no plan."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edgesmith.errors import ModelError
from edgesmith.types import QuantPlan
from targets import plan_files
from targets.plan_files import Planned
from tests import quant_reference


def made() -> Planned:
    """One convolution; an op called as numpy calls an argument of its own writer."""
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["file"])]
    random = np.random.default_rng(0)
    constants = {
        "w": random.normal(size=(2, 3, 3, 3)).astype(np.float32),
        "b": random.normal(size=2).astype(np.float32),
    }
    network = quant_reference.graph(nodes, ["N", 3, 8, 8], constants, output="file")
    planned = quant_reference.plan(network, random.normal(size=(4, 3, 8, 8)).astype(np.float32))
    plan = dataclasses.replace(
        planned.plan,
        repairs=("equalized a and b",),
        settings={"observer": "auto", "keep_float": ["a"], "seed": 0},
        figures={"output_sqnr_db": 31.5, "worst": None},
    )
    return dataclasses.replace(planned, plan=plan)


def test_a_plan_is_read_back_as_it_was_written(tmp_path: Path):
    planned = made()
    plan_files.write(planned, tmp_path / "plan")
    found = plan_files.read(tmp_path / "plan")
    assert found.plan == planned.plan
    assert isinstance(found.plan, QuantPlan)
    assert found.integers.keys() == {"file"}
    assert found.integers["file"].dtype == np.int8
    assert np.array_equal(found.integers["file"], planned.integers["file"])
    assert found.graph.ops == planned.graph.ops
    assert found.graph.proto == planned.graph.proto


def test_equal_plans_are_equal_bytes_and_a_plan_replaces_the_one_before(tmp_path: Path):
    for folder in ("a", "b", "b"):
        plan_files.write(made(), tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["graph.onnx", "integers.npz", "plan.json"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("name", ["graph.onnx", "integers.npz"])
def test_a_file_of_another_plan_is_told(tmp_path: Path, name: str):
    plan_files.write(made(), tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ModelError, match=f"{name}: no sound quantization plan: it is not the file that plan.json"):
        plan_files.read(tmp_path)


@pytest.mark.parametrize("name", ["graph.onnx", "integers.npz", "plan.json"])
def test_a_folder_that_lacks_a_file_is_no_plan(tmp_path: Path, name: str):
    plan_files.write(made(), tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ModelError, match="no sound quantization plan: No such file or directory"):
        plan_files.read(tmp_path)


def test_a_writing_that_was_cut_short_leaves_no_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plan_files.write(made(), tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plan_files, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        plan_files.write(made(), tmp_path)
    assert not (tmp_path / "plan.json").exists()


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ('"schema_version":1', '"schema_version":2', "schema version 2, not 1"),
        ('"precision":"int8"', '"precision":"int3"', r"plan.ops.0.precision: Input should be 'int8'"),
        ("{", "", "the file: Invalid JSON"),
    ],
)
def test_a_plan_that_cannot_be_understood_says_where(tmp_path: Path, before: str, after: str, why: str):
    plan_files.write(made(), tmp_path)
    text = (tmp_path / "plan.json").read_text().replace('": ', '":')
    assert before in text
    (tmp_path / "plan.json").write_text(text.replace(before, after, 1))
    with pytest.raises(ModelError, match=why):
        plan_files.read(tmp_path)
