"""Samples with a board's answers, kept in the run folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesmith import known_answers
from edgesmith.errors import InputError


def test_a_few_samples_spread_over_the_set_go_with_their_answers(tmp_path: Path):
    x = np.arange(100, dtype=np.float32).reshape(100, 1)
    known_answers.keep(tmp_path, "pi", "tflite", "float", x, [x * 2, x.astype(np.int8)])
    found = known_answers.read(tmp_path, "pi", "tflite", "float")
    np.testing.assert_array_equal(found.x.ravel(), [0, 14, 28, 42, 56, 70, 84, 99])
    np.testing.assert_array_equal(found.outputs[0], found.x * 2)
    assert [output.dtype for output in found.outputs] == [np.float32, np.int8]


def test_fewer_samples_than_wanted_are_all_kept(tmp_path: Path):
    x = np.ones((3, 2), np.float32)
    known_answers.keep(tmp_path, "pi", "tflite", "float", x, [x])
    assert len(known_answers.read(tmp_path, "pi", "tflite", "float").x) == 3


def test_large_samples_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(known_answers, "_LARGEST_BYTES", 20)
    x = np.zeros((9, 2), np.float32)
    known_answers.keep(tmp_path, "pi", "tflite", "float", x, [x])
    assert len(known_answers.read(tmp_path, "pi", "tflite", "float").x) == 2
    monkeypatch.setattr(known_answers, "_LARGEST_BYTES", 1)
    known_answers.keep(tmp_path, "pi", "tflite", "float", x, [x])
    assert len(known_answers.read(tmp_path, "pi", "tflite", "float").x) == 1


def test_every_artifact_has_its_own(tmp_path: Path):
    x = np.ones((1, 1), np.float32)
    for number, (device, variant) in enumerate([("a", "float"), ("a", "compressed"), ("b", "float")]):
        known_answers.keep(tmp_path, device, "tflite", variant, x, [x * number])
    for number, (device, variant) in enumerate([("a", "float"), ("a", "compressed"), ("b", "float")]):
        assert known_answers.read(tmp_path, device, "tflite", variant).outputs[0].item() == number
    with pytest.raises(InputError, match=r"kept no answers of b \(tflite compressed\)") as told:
        known_answers.read(tmp_path, "b", "tflite", "compressed")
    assert told.value.next_step == "Run again: what did not change is taken from the store."


@given(device=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_no_name_of_a_board_leaves_the_folder(tmp_path_factory: pytest.TempPathFactory, device: str):
    folder = tmp_path_factory.mktemp("run")
    x = np.ones((1, 1), np.float32)
    known_answers.keep(folder, device, "tflite", "float", x, [x])
    assert len(known_answers.read(folder, device, "tflite", "float").outputs) == 1
    assert {path.name for path in folder.iterdir()} == {"answers"}
    assert len(list((folder / "answers").iterdir())) == 2
