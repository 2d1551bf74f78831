"""The inputs of an ONNX file: trtexec does not tell them, and takes 1 for every size that is open.

Of onnx.proto: GraphProto.initializer = 5, .input = 11; TensorProto.name = 8; ValueInfoProto.name = 1, .type = 2;
TypeProto.tensor_type = 1; Tensor.elem_type = 1, .shape = 2; TensorShapeProto.dim = 1; Dimension.dim_value = 1, a
number, or .dim_param = 2, a name.
"""

from device_tests.agent.tensorrt import protobuf

TYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16"}
"""TensorProto.DataType -> numpy's name."""

_INITIALIZER, _INPUT = 5, 11
_NUMBER_TAG = 1 << 3
"""Of a field number 1 that is a whole number."""


def read(path):
    """(name, shape) each, -1 for what is open, in the file's order; [] where the file cannot be read as ONNX.

    What has its value in the file is no input, even where it is listed as one.
    """
    return [(name, shape) for name, shape, _ in typed(path)]


def typed(path):
    """(name, shape, type) each; the type is numpy's name for it, None where numpy has none."""
    return protobuf.of_graph(path, _inputs)


def _inputs(content, graph):
    fixed = {_text(content, span, 8) for span in protobuf.spans(content, *graph, _INITIALIZER)}
    found = []
    for span in protobuf.spans(content, *graph, _INPUT):
        name = _text(content, span, 1)
        if name not in fixed:
            found.append((name, _shape(content, span), TYPES.get(_type(content, span))))
    return found


def _text(content, span, wanted):
    return next(iter(protobuf.texts(content, span[0], span[1], wanted)), "")


def _within(content, span, *path):
    """Spans of what lies within a message, field by field."""
    found = [span]
    for wanted in path:
        found = [inner for outer in found for inner in protobuf.spans(content, outer[0], outer[1], wanted)]
    return found


def _type(content, span):
    """The first field of Tensor, as it is written by everybody."""
    for start, end in _within(content, span, 2, 1):
        if start < end and content[start] == _NUMBER_TAG:
            return protobuf.varint(content, start + 1)[0]
    return None


def _shape(content, span):
    return [_size(content, *dim) for dim in _within(content, span, 2, 1, 2, 1)]


def _size(content, start, end):
    """Of one dimension: empty where nothing is known, else its number, which may be 0 for nothing, or a name."""
    if start == end or content[start] != _NUMBER_TAG:
        return -1
    size, _ = protobuf.varint(content, start + 1)
    return size if 0 < size < 1 << 63 else -1
