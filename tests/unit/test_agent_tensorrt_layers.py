"""Where an engine's layers come from, in the names that TensorRT 8 to 11 gives them; and what a failed build says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from device_tests.agent.tensorrt import failures, layer_names, layers, onnx_nodes
from device_tests.agent.tensorrt.log import Log
from device_tests.agent.tensorrt.onnx_nodes import Node

KNOWN = {
    "conv1",
    "relu1",
    "conv2",
    "sigmoid",
    "mul",
    "Conv_9",
    "LeakyRelu_10",
    "QuantizeLinear_7",
    "/a/b/Conv",
    "a + b",
}
PLAN = {"workspace_bytes": 64 << 20}


@pytest.mark.parametrize(
    ("name", "sources"),
    [
        ("conv1", ["conv1"]),
        ("conv1 + relu1", ["conv1", "relu1"]),
        ("conv1 || conv2", ["conv1", "conv2"]),
        ("PWN(relu1)", ["relu1"]),
        ("PWN(PWN(sigmoid), mul)", ["sigmoid", "mul"]),
        ("conv1 + PWN(PWN(sigmoid), mul)", ["conv1", "sigmoid", "mul"]),
        ("/a/b/Conv", ["/a/b/Conv"]),
        ("conv1 + conv1", ["conv1"]),
        # Names of nodes may look like fusions.
        ("a + b", ["a + b"]),
        # As TensorRT 8.2 names a quantized convolution: a weight, parts of a node, a layer of the parser's own.
        (
            "conv1.weight + QuantizeLinear_7_quantize_scale_node + (Unnamed Layer* 14) [Shuffle] + Conv_9",
            ["QuantizeLinear_7", "Conv_9"],
        ),
        # Not ours to guess.
        ("Reformatting CopyNode for Input Tensor 0 to conv1", []),
        ("conv1 input reformatter 0", []),
        ("__myl_MulAdd_0x1234", []),
        ("(Unnamed Layer* 3) [Constant]", []),
        ("ONNXTRT_Broadcast_12", []),
        ("conv", []),
        ("", []),
    ],
)
def test_a_layers_name_tells_its_nodes(name: str, sources: list[str]):
    found = layer_names.of(name, KNOWN)
    assert (found.names, found.a_range) == (sources, False)


def test_a_foreign_node_is_a_range_of_which_only_the_ends_are_known():
    found = layer_names.of("{ForeignNode[conv1 + relu1...PWN(sigmoid)]}", KNOWN)
    assert (found.names, found.a_range) == (["conv1", "relu1", "sigmoid"], True)
    assert layer_names.of("{ForeignNode[onnx::MatMul_1...x]}", KNOWN).names == []


def test_what_the_inspector_says_itself_comes_first():
    metadata = "[ONNX Layer: conv1]\x1e[ONNX Layer: relu1]\x1f[ONNX Layer: weight_QuantizeLinear]"
    assert layer_names.of("__myl_ConvRelu_0x1", KNOWN, metadata).names == ["conv1", "relu1"]
    assert layer_names.of("conv2", KNOWN, "").names == ["conv2"]


INSPECTOR_8 = {
    "Layers": [
        {
            "Name": "conv1 + relu1",
            "LayerType": "CaskConvolution",
            "ParameterType": "Convolution",
            "Inputs": [{"Name": "x", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}],
            "Outputs": [{"Name": "y", "Format/Datatype": "Row major linear FP32"}],
            "Weights": {"Type": "Int8", "Count": 432},
        },
        {"Name": "mul", "LayerType": "PointWise", "Inputs": [{"Format/Datatype": "Channel major FP16 format"}]},
        {"Name": "sigmoid", "LayerType": "PointWise", "Inputs": [{"Format/Datatype": "N/A due to dynamic shapes"}]},
        "conv2",
    ],
    "Bindings": ["x", "y"],
}
INSPECTOR_11 = {
    "Layers": [
        {
            "Name": "__myl_ConvRelu",
            "LayerType": "kgen",
            "Inputs": [{"Name": "x", "Format/Datatype": "Half"}],
            "Outputs": [{"Name": "y", "Format/Datatype": "Float"}],
            "Metadata": "[ONNX Layer: conv1]",
        },
        {"Name": "gemm", "LayerType": "gemm", "Inputs": [{"Datatype": "Int8"}], "Outputs": []},
    ],
    "I/O Tensors": ["x", "y"],
}
NODES = [Node(name, "Op", [], []) for name in sorted(KNOWN)]


def test_rows_of_the_inspectors_of_8_and_11():
    rows = layers.rows(
        json.dumps(INSPECTOR_8), NODES, {"conv1 + relu1": 0.25, "mul": 0.5, "Reformatting CopyNode": 0.1}
    )
    assert [(row["name"], row["kind"], row["precision"], row["time_ms"], row["sources"]) for row in rows] == [
        ("conv1 + relu1", "Convolution", "int8", 0.25, ["conv1", "relu1"]),
        ("mul", "PointWise", "fp16", 0.5, ["mul"]),
        ("sigmoid", "PointWise", None, None, ["sigmoid"]),
        ("conv2", None, None, None, ["conv2"]),
        ("Reformatting CopyNode", None, None, 0.1, []),
    ]
    assert layers.precisions(rows) == {"int8": 1, "fp16": 1, "unknown": 3}
    newer = layers.rows(json.dumps(INSPECTOR_11), NODES)
    assert [(row["kind"], row["precision"], row["sources"]) for row in newer] == [
        ("kgen", "fp16", ["conv1"]),
        ("gemm", "int8", []),
    ]


def test_without_an_inspector_the_profilers_layers_are_all_there_is():
    (row,) = layers.rows(None, NODES, {"conv1": 1.5})
    assert row == {
        "name": "conv1",
        "kind": None,
        "precision": None,
        "time_ms": 1.5,
        "sources": ["conv1"],
        "range": False,
    }
    assert layers.rows("no json", NODES) == []


def network(path: Path, names: tuple[str, ...] = ("quantize", "dequantize", "conv", "")) -> Path:
    scale = [numpy_helper.from_array(np.array(0.5, np.float32), "scale"), numpy_helper.from_array(np.int8(0), "zero")]
    kernel = numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "kernel")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["xq"], name=names[0]),
        helper.make_node("DequantizeLinear", ["xq", "scale", "zero"], ["xd"], name=names[1]),
        helper.make_node("Conv", ["xd", "kernel"], ["c"], name=names[2]),
        helper.make_node("Relu", ["c"], ["y"], name=names[3]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, n, 4, 4]) for name, n in (("x", 3), ("y", 2))]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], [*scale, kernel])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def test_nodes_are_read_without_the_onnx_package(tmp_path: Path):
    found = onnx_nodes.read(str(network(tmp_path / "m.onnx")))
    assert [tuple(node) for node in found] == [
        ("quantize", "QuantizeLinear", ["x", "scale", "zero"], ["xq"]),
        ("dequantize", "DequantizeLinear", ["xq", "scale", "zero"], ["xd"]),
        ("conv", "Conv", ["xd", "kernel"], ["c"]),
        # As NVIDIA's parser calls a node without a name.
        ("node_of_y", "Relu", ["c"], ["y"]),
    ]
    assert onnx_nodes.quantized(found, ["conv", "node_of_y"]) == ["conv"]


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"no onnx file", b"\x3a\xff\x01short"])
def test_what_is_no_onnx_has_no_nodes(tmp_path: Path, content: bytes):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert onnx_nodes.read(str(path)) == []


def failed(tmp_path: Path, *errors: str, warnings: tuple[str, ...] = ()) -> Any:
    log = Log()
    for text in errors:
        log.add("E", text)
    for text in warnings:
        log.add("W", text)
    return failures.build_failed(log, onnx_nodes.read(str(network(tmp_path / "m.onnx"))), PLAN)


GAP = "Could not find any implementation for node"


@pytest.mark.parametrize(
    "text",
    [
        f"10: [optimizer.cpp::computeCosts::2011] Error Code 10: Internal Error ({GAP} conv + node_of_y.)",
        f"Error Code 10: Internal Error ({GAP} conv + node_of_y. In computeCosts at optimizer.cpp:4048)",
        f"IBuilder::buildSerializedNetwork: Error Code 10: Internal Error ({GAP} kernel + conv + node_of_y.)",
    ],
    ids=["8.2", "10", "11"],
)
def test_a_gap_is_answered_with_the_nodes_and_those_that_are_quantized(tmp_path: Path, text: str):
    found = failed(
        tmp_path, text, "2: [builder.cpp::buildSerializedNetwork::609] Assertion enginePtr != nullptr failed."
    )
    assert found.code == "no-implementation"
    assert (found.facts["nodes"], found.facts["quantized"]) == (["conv", "node_of_y"], ["conv"])
    assert found.message == "TensorRT has no kernel for conv, node_of_y on this GPU: leave conv in float"


def test_a_gap_in_a_foreign_node_names_its_ends(tmp_path: Path):
    found = failed(tmp_path, "(Could not find any implementation for node {ForeignNode[quantize...node_of_y]}.)")
    assert (found.facts["layer"], found.facts["nodes"]) == (
        "{ForeignNode[quantize...node_of_y]}",
        ["quantize", "node_of_y"],
    )


@pytest.mark.parametrize(
    ("error", "warning"),
    [
        ("(Could not find any implementation for node conv due to insufficient workspace. See verbose log.)", ""),
        (
            "(Could not find any implementation for node conv.)",
            "Skipping tactic 0 due to insuficient memory on requested size of 1170309120 detected for tactic 0.",
        ),
    ],
)
def test_too_little_workspace_is_told_apart_from_a_gap(tmp_path: Path, error: str, warning: str):
    found = failed(tmp_path, error, warnings=(warning,) if warning else ())
    assert (found.code, found.facts["nodes"], found.facts["quantized"]) == ("not-enough-workspace", ["conv"], ["conv"])
    assert "in 64 MB of workspace" in found.message


def test_memory_and_anything_else(tmp_path: Path):
    text = "Error Code 1: Cuda Runtime (out of memory)"
    assert failed(tmp_path, text).code == "not-enough-memory"
    other = failed(tmp_path, "Error Code 4: Internal Error (Network has dynamic inputs)", "and so it failed")
    assert other.code == "build-failed"
    assert "Network has dynamic inputs) | and so it failed" in other.message
    assert "gave no reason" in failed(tmp_path).message


def test_parse_errors_name_the_node(tmp_path: Path):
    nodes = onnx_nodes.read(str(network(tmp_path / "m.onnx")))
    errors = [
        {"code": "ErrorCode.UNSUPPORTED_NODE", "node": 1, "text": "Non-zero zero\n point is not supported"},
        {"code": "INTERNAL_ERROR", "node": -1, "text": "and more"},
    ]
    found = failures.parse_failed(errors, nodes, Log())
    assert found.code == "parse-failed"
    assert found.message == (
        "TensorRT cannot read the network: node dequantize (DequantizeLinear): Non-zero zero point is not supported "
        "[ErrorCode.UNSUPPORTED_NODE] (and 1 more)"
    )
    assert [(one["name"], one["op"]) for one in found.facts["errors"]] == [
        ("dequantize", "DequantizeLinear"),
        (None, None),
    ]
