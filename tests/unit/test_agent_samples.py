"""Inputs as the runtime gets them, outputs as they are written: integers a hand has computed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from calibration.inputs import join
from device_tests.agent.npy import RowWriter, save
from device_tests.agent.protocol import Refusal
from device_tests.agent.runners import Input
from device_tests.agent.samples import TIMED_SAMPLES, Samples


def stored(folder: Path, values: np.ndarray, dtype: str = "float32") -> Samples:
    np.save(folder / "x.npy", values)
    return Samples(str(folder / "x.npy"), dtype)


def wants(dtype: str, quantization: tuple[float, int] | None = None, shape: tuple[int | None, ...] = ()) -> Input:
    return Input("x", list(shape), np.dtype(dtype), quantization)


def test_pixels_come_back_as_the_floats_they_were(tmp_path: Path):
    samples = stored(tmp_path, np.array([[0, 7], [128, 255]], np.uint8))
    (got,) = samples.prepared(1, [wants("float32")])
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, [[128.0, 255.0]])


def test_quantized_input_rounds_half_to_even_and_clips(tmp_path: Path):
    samples = stored(tmp_path, np.array([[0.5, 1.5, 2.5, -0.5, 300.0, -300.0]], np.float32))
    (got,) = samples.prepared(0, [wants("int8", (1.0, -1))])
    # rint: 0 2 2 -0 300 -300; zero point -1; limits of int8
    np.testing.assert_array_equal(got, [[-1, 1, 1, -1, 127, -128]])
    assert got.dtype == np.int8


def test_scale_and_zero_point_of_an_image_model(tmp_path: Path):
    samples = stored(tmp_path, np.array([[0, 1, 127, 255]], np.uint8))
    np.testing.assert_array_equal(samples.prepared(0, [wants("int8", (1.0, -128))]), [[[-128, -127, -1, 127]]])


def test_integers_without_quantization_are_only_cast(tmp_path: Path):
    samples = stored(tmp_path, np.array([[3, 250]], np.int64), "int64")
    np.testing.assert_array_equal(samples.prepared(0, [wants("int32")]), [[[3, 250]]])


def test_timed_samples_are_spread_evenly(tmp_path: Path):
    samples = stored(tmp_path, np.arange(10 * TIMED_SAMPLES, dtype=np.float32).reshape(-1, 1))
    timed = samples.timed([wants("float32")])
    assert len(timed) == TIMED_SAMPLES
    assert [float(sample[0][0, 0]) for sample in timed[:3]] == [0.0, 10.0, 20.0]


def test_a_shape_that_does_not_fit_is_refused(tmp_path: Path):
    samples = stored(tmp_path, np.zeros((2, 4), np.float32))
    samples.check([wants("float32", shape=(4,))])
    samples.check([wants("float32", shape=(None,))])
    with pytest.raises(Refusal, match=r"takes samples of shape \[3\], these are \[4\]"):
        samples.check([wants("float32", shape=(3,))])
    with pytest.raises(Refusal, match="takes 2 inputs, the samples have 1"):
        samples.check([wants("float32", shape=(4,))] * 2)


@pytest.fixture
def pairs(tmp_path: Path) -> Samples:
    """Two samples of two inputs: pixels that mean floats, and tokens."""
    pixels = np.array([[[0, 255], [7, 9]], [[1, 2], [3, 4]]], np.uint8)
    tokens = np.array([[5, 6, 7], [-1, 300, 70_000]], np.int32)
    return stored(tmp_path, join([pixels, tokens], ["0", "1"]), "float32,int32")


def test_each_input_of_a_record_is_prepared_for_itself(pairs: Samples):
    pixels, tokens = pairs.prepared(1, [wants("int8", (0.5, -128)), wants("int32")])
    np.testing.assert_array_equal(pixels, [[[-126, -124], [-122, -120]]])
    assert pixels.dtype == np.int8
    np.testing.assert_array_equal(tokens, [[-1, 300, 70_000]])
    assert (tokens.dtype, len(pairs), len(pairs.timed([wants("float32"), wants("int32")]))) == (np.int32, 2, 2)


def test_the_input_whose_shape_does_not_fit_is_named(pairs: Samples):
    pairs.check([wants("int8", shape=(2, 2)), wants("int32", shape=(3,))])
    with pytest.raises(Refusal, match=r"takes samples of shape \[4\] for 'tokens', these are \[3\]"):
        pairs.check([wants("int8", shape=(2, 2)), Input("tokens", [4], np.dtype("int32"), None)])


def test_dtypes_that_do_not_go_with_the_records_are_refused(pairs: Samples, tmp_path: Path):
    with pytest.raises(Refusal, match="their dtypes are said to be float32"):
        Samples(str(tmp_path / "x.npy"), "float32")


def test_rows_are_written_as_numpy_would_write_them(tmp_path: Path):
    rows = np.arange(6, dtype=np.int8).reshape(3, 2)
    writer = RowWriter(str(tmp_path / "got.npy"), rows[:1], 3)
    for row in rows:
        writer.add(row[None])
    told = writer.finish()
    np.testing.assert_array_equal(np.load(tmp_path / "got.npy"), rows)
    assert told["sha256"] == hashlib.sha256((tmp_path / "got.npy").read_bytes()).hexdigest()


def test_a_row_of_another_shape_is_refused(tmp_path: Path):
    writer = RowWriter(str(tmp_path / "got.npy"), np.zeros((1, 2)), 2)
    writer.add(np.zeros((1, 2)))
    with pytest.raises(Refusal, match=r"changed from float64 \[2\] to float64 \[3\]"):
        writer.add(np.zeros((1, 3)))
    writer.finish()


def test_saved_times_are_int64(tmp_path: Path):
    save(str(tmp_path / "t.npy"), [1, 2**40])
    got = np.load(tmp_path / "t.npy")
    assert got.dtype == np.int64
    assert got.tolist() == [1, 2**40]
