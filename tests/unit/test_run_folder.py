"""The run folder: made, found again, readable."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgesmith.errors import InfrastructureError, InputError
from edgesmith.pipeline import run_folder


def test_latest_points_to_the_newest(tmp_path: Path):
    first = run_folder.create(tmp_path)
    second = run_folder.create(tmp_path)
    assert (tmp_path / "latest").resolve() == second.path.resolve() != first.path.resolve()


def test_a_place_that_cannot_be_written(tmp_path: Path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(InfrastructureError, match="no run folder can be made here") as caught:
        run_folder.create(blocker)
    assert "--runs-dir" in caught.value.next_step


def test_steps_are_numbered_and_replayable(tmp_path: Path):
    folder = run_folder.create(tmp_path)
    step = folder.step("prune", ["edgesmith", "run", "a b.yaml", "--redo", "prune"], ["model sha256 00"])
    assert step.name == "01-prune"
    assert (step / "command.txt").read_text() == "edgesmith run 'a b.yaml' --redo prune\n# model sha256 00\n"
    assert folder.step("compile", ["x"]).name == "02-compile"


def test_keep_replaces_and_links(tmp_path: Path):
    folder = run_folder.create(tmp_path)
    source = tmp_path / "model.tflite"
    source.write_bytes(b"1")
    assert folder.keep(source, "artifacts/m.tflite") == "artifacts/m.tflite"
    source.unlink()
    source.write_bytes(b"2")
    folder.keep(source, "artifacts/m.tflite")
    assert (folder.path / "artifacts/m.tflite").read_bytes() == b"2"


def test_nothing_to_resume(tmp_path: Path):
    with pytest.raises(InputError, match="no run to resume") as caught:
        run_folder.reopen(tmp_path)
    assert "edgesmith run" in caught.value.next_step
