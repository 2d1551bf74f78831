"""What every target refuses the same way, and the bounds it is held to."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from edgesmith.errors import DataError, InternalError, ModelError
from edgesmith.types import Capabilities, Model, Scheme, Signature, TensorSpec
from targets.base import CompileRequest, check_request, check_shapes, default_bounds
from tests import tiny_networks

IMAGE = TensorSpec(name="image", shape=(None, 8, 8, 3), dtype="float32")
CLASSES = TensorSpec(name="classes", shape=(None, 4), dtype="float32")
MODEL = Model(
    kind="keras",
    path=Path("net.keras"),
    sha256="0",
    signature=Signature(inputs=(IMAGE,), outputs=(CLASSES,)),
    origin="Keras 3 .keras net.keras",
    parameters=1,
)
CAN = Capabilities(
    target="tflite", model_kinds=frozenset({"keras"}), schemes=frozenset({Scheme.NONE, Scheme.INT8}), runner="tflite"
)
REQUEST = CompileRequest(scheme=Scheme.INT8, out_dir=Path(), name="net")


def test_another_kind_of_model_is_refused():
    with pytest.raises(ModelError, match=r"tflite cannot compile ONNX net\.onnx: it takes keras models, this is onnx"):
        check_request(CAN, dataclasses.replace(MODEL, kind="onnx", origin="ONNX net.onnx"), REQUEST)


def test_empty_calibration_is_refused():
    none = tiny_networks.samples(np.zeros((0, 8, 8, 3), np.float32))
    with pytest.raises(DataError, match="needs calibration samples, and there are none") as caught:
        check_request(CAN, MODEL, dataclasses.replace(REQUEST, calibration=none))
    assert "100 to 500 typical inputs" in caught.value.next_step


def test_calibration_of_another_dtype_is_refused():
    bytes_ = tiny_networks.samples(np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(DataError, match=r"uint8\[2, 8, 8, 3\], the model takes image: float32\[\?, 8, 8, 3\]"):
        check_request(CAN, MODEL, dataclasses.replace(REQUEST, calibration=bytes_))


def test_schemes_without_ranges_need_no_calibration():
    check_request(CAN, MODEL, dataclasses.replace(REQUEST, scheme=Scheme.NONE))


@pytest.mark.parametrize(
    "outputs",
    [
        (),
        (CLASSES, CLASSES),
        (TensorSpec(name="classes", shape=(1, 5), dtype="float32"),),
        (TensorSpec(name="classes", shape=(1, 4, 1), dtype="float32"),),
    ],
)
def test_an_artifact_with_other_outputs_is_a_defect(outputs: tuple[TensorSpec, ...]):
    with pytest.raises(InternalError, match="tflite: the outputs changed on the way: the model has classes"):
        check_shapes("tflite", MODEL, Signature(inputs=(IMAGE,), outputs=outputs))


def test_a_fixed_batch_and_quantized_ends_are_no_other_signature():
    fixed = Signature(
        inputs=(TensorSpec(name="serving_default_image:0", shape=(1, 8, 8, 3), dtype="int8"),),
        outputs=(TensorSpec(name="StatefulPartitionedCall_1:0", shape=(1, 4), dtype="int8"),),
    )
    check_shapes("tflite", MODEL, fixed)


def test_bounds_loosen_with_the_precision_and_agree_with_each_other():
    order = [default_bounds(name) for name in ("float32", "float16", "dynamic", "int8")]
    assert [b.min_sqnr_db for b in order] == sorted((b.min_sqnr_db for b in order), reverse=True)
    assert default_bounds("int8") == default_bounds("int8-float-io")
    for bounds in order:
        # An output within the SQNR has at least this cosine: the second bound must not contradict the first.
        implied = np.sqrt(1 - 10 ** (-bounds.min_sqnr_db / 10))
        assert bounds.min_cosine == pytest.approx(implied, abs=0.004)


def test_an_unknown_precision_has_no_bounds():
    with pytest.raises(ValueError, match="int4"):
        default_bounds("int4")
