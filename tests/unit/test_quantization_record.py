"""quantize: what the result says of layers that nothing was measured for."""

from typing import Any

from edgesmith.pipeline.quantization import _layers
from edgesmith.types import OpPlan, Precision, QuantPlan


def measured(layer: str, *kinds: str) -> dict[str, Any]:
    figures = dict.fromkeys(("tensor_db", "drop_pp", "drop_low_pp", "drop_high_pp"))
    return {"layer": layer, "kinds": list(kinds), "alone_db": 30.0, **figures}


def plan(*ops: tuple[str, str, Precision, str]) -> QuantPlan:
    return QuantPlan(
        model_sha256="",
        calibration_sha256="",
        tensors=(),
        ops=tuple(
            OpPlan(name=f"op{n}", layer=layer, kind=kind, precision=precision, reason=why)
            for n, (layer, kind, precision, why) in enumerate(ops)
        ),
    )


def test_what_was_never_quantized_keeps_its_reason():
    made = plan(
        ("conv", "Conv", "int8", ""),
        ("dense", "Gemm", "int8", ""),
        ("dense", "Gelu", "float32", "no int8 kernel for Gelu"),
        ("head", "Gemm", "float32", "the user's keep_float"),
        ("head", "Softmax", "float32", "the user's keep_float"),
        ("worst", "Conv", "float32", "costs 1.8 pp of top1"),
        ("worst", "Reshape", "float32", "only float32 ops around it"),
    )
    rows = _layers([measured("worst", "Conv"), measured("conv", "Conv"), measured("dense", "Gemm")], made)
    assert [(row.layer, row.kinds, row.precision, row.reason) for row in rows] == [
        ("worst", ("Conv",), "float32", "costs 1.8 pp of top1"),
        ("conv", ("Conv",), "int8", ""),
        ("dense", ("Gemm",), "int8", ""),
        ("dense", ("Gelu",), "float32", "no int8 kernel for Gelu"),
        ("head", ("Gemm", "Softmax"), "float32", "the user's keep_float"),
    ]
    assert [row.alone_db_reason for row in rows] == [None, None, None, "it is not quantized", "it is not quantized"]
    assert {row.layer for row in rows if row.precision == "float32"} == set(made.kept_float)
