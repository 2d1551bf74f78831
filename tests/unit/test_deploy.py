"""What travels: encoded exactly, sent once, verified there."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibration import inputs
from device_tests import deploy
from device_tests.agent_zip import build_agent
from device_tests.deadline import Deadline
from device_tests.local import Local
from device_tests.session import BoardSession
from edgesmith.errors import BoardError
from edgesmith.files import sha256_bytes, sha256_file
from edgesmith.progress import Silent
from edgesmith.types import Device

SOON = Deadline.after(3600)
HERE = Device(name="local", transport="local", python=sys.executable)


def decoded(encoded: deploy.EncodedInputs) -> np.ndarray:
    return np.load(encoded.path).astype(encoded.dtype)


def test_pixels_in_floats_travel_as_bytes(tmp_path: Path):
    x = np.arange(256, dtype=np.float32).reshape(2, 128)
    encoded = deploy.encode_inputs(x, tmp_path)
    assert np.load(encoded.path).dtype == np.uint8
    assert encoded.dtype == "float32"
    assert encoded.sha256 == sha256_file(encoded.path)
    np.testing.assert_array_equal(decoded(encoded), x)


@pytest.mark.parametrize("value", [0.5, -1.0, 256.0, np.nan, np.inf, -0.0])
def test_one_value_that_is_no_pixel_keeps_all_as_floats(tmp_path: Path, value: float):
    x = np.array([[1.0, value]], np.float32)
    encoded = deploy.encode_inputs(x, tmp_path)
    assert np.load(encoded.path).dtype == np.float32
    np.testing.assert_array_equal(decoded(encoded).view(np.uint32), x.view(np.uint32))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64"])
def test_integers_travel_as_they_are(tmp_path: Path, dtype: str):
    x = np.array([[1, 2], [3, 4]], dtype)
    encoded = deploy.encode_inputs(x, tmp_path)
    assert (encoded.dtype, np.load(encoded.path).dtype) == (dtype, np.dtype(dtype))


@given(x=hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=3), elements=st.floats(width=32)))
def test_encoding_never_changes_a_value(tmp_path_factory: pytest.TempPathFactory, x: np.ndarray):
    encoded = deploy.encode_inputs(x, tmp_path_factory.mktemp("x"))
    np.testing.assert_array_equal(decoded(encoded), x)


def test_several_inputs_travel_as_numbered_fields_each_in_its_smallest_form(tmp_path: Path):
    pixels, tokens = np.array([[0.0, 255.0]], np.float32), np.array([[3, -4, 5]], np.int32)
    levels = np.array([[0.5]], np.float64)
    x = inputs.join([pixels, tokens, levels], ["picture", "jetons-é", "level"])
    encoded = deploy.encode_inputs(x, tmp_path)
    assert encoded.dtype == deploy.meaning(x) == "float32,int32,float32"
    sent = np.load(encoded.path, allow_pickle=False)
    assert [(name, sent.dtype[name].base.name) for name in sent.dtype.names] == [
        ("0", "uint8"),
        ("1", "int32"),
        ("2", "float32"),
    ]
    for part, original in zip(inputs.split(sent), (pixels, tokens, levels), strict=True):
        np.testing.assert_array_equal(part, original)


def test_samples_that_are_not_contiguous_arrive_in_order(tmp_path: Path):
    x = np.arange(12, dtype=np.float32).reshape(3, 4).T
    np.testing.assert_array_equal(decoded(deploy.encode_inputs(x, tmp_path)), x)


@pytest.fixture
def file(tmp_path: Path) -> tuple[Path, str]:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"a model" * 1000)
    return path, sha256_file(path)


def test_nothing_is_sent_twice_even_by_another_session(tmp_path: Path, file: tuple[Path, str]):
    path, sha256 = file
    with BoardSession(HERE, local_root=tmp_path / "board", progress=Silent()) as board:
        assert board.bytes_sent == len(build_agent().content)
        assert board.push(path, sha256) == path.stat().st_size
        assert board.push(path, sha256) == 0
    with BoardSession(HERE, local_root=tmp_path / "board", progress=Silent()) as board:
        assert board.push(path, sha256) == 0
        assert board.bytes_sent == 0


def test_a_blob_that_rotted_on_the_board_is_sent_again(tmp_path: Path, file: tuple[Path, str]):
    path, sha256 = file
    with BoardSession(HERE, local_root=tmp_path / "board", progress=Silent()) as board:
        board.push(path, sha256)
        (tmp_path / "board" / "blobs" / sha256).write_bytes(b"rotten")
        assert board.push(path, sha256) == path.stat().st_size
    assert sha256_file(tmp_path / "board" / "blobs" / sha256) == sha256


def test_a_file_that_is_not_what_its_hash_says_is_refused(tmp_path: Path, file: tuple[Path, str]):
    path, _ = file
    with (
        BoardSession(HERE, local_root=tmp_path / "board", progress=Silent()) as board,
        pytest.raises(
            BoardError, match=r"model\.tflite: the upload arrived damaged and was removed: .* bytes free\.\n"
        ),
    ):
        board.push(path, sha256_bytes(b"something else"))
    assert not any((tmp_path / "board" / "incoming").iterdir())


def test_a_missing_python_says_what_to_set(tmp_path: Path):
    with Local(tmp_path) as local, pytest.raises(BoardError) as refused:
        deploy.ensure_agent(local, "python9", "w", build_agent(), tmp_path, SOON)
    assert "the Python 'python9' is not there or not executable (exit status 127)" in str(refused.value)
    assert "Install Python there: `sudo apt-get" in refused.value.next_step
    assert "Another interpreter is named by `python:` in devices.yaml" in refused.value.next_step


def test_something_that_is_no_python_says_so(tmp_path: Path):
    with Local(tmp_path) as local, pytest.raises(BoardError, match="'false' on the board failed with exit status 1"):
        deploy.ensure_agent(local, "false", "w", build_agent(), tmp_path, SOON)


def test_an_old_python_is_refused(tmp_path: Path):
    old = tmp_path / "python2"
    old.write_text('#!/bin/sh\necho \'{"edgesmith": 1, "python": [2, 7, 18], "have": false}\'\n')
    old.chmod(0o755)
    with (
        Local(tmp_path) as local,
        pytest.raises(BoardError, match=r"is Python 2\.7\.18; the agent needs 3\.6 or newer"),
    ):
        deploy.ensure_agent(local, str(old), "w", build_agent(), tmp_path, SOON)


def test_a_damaged_agent_is_sent_again(tmp_path: Path):
    agent = build_agent()
    with Local(tmp_path / "board") as local:
        target, sent = deploy.ensure_agent(local, sys.executable, "w", agent, tmp_path, SOON)
        assert sent == len(agent.content)
        assert deploy.ensure_agent(local, sys.executable, "w", agent, tmp_path, SOON) == (target, 0)
        (tmp_path / "board" / target).write_bytes(b"rotten")
        assert deploy.ensure_agent(local, sys.executable, "w", agent, tmp_path, SOON) == (target, len(agent.content))
