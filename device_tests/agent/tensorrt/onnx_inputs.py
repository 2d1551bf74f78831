"""The inputs of an ONNX file and their sizes: trtexec does not tell them, and takes 1 for every size that is open.

The file is a protobuf message (onnx.proto): ModelProto.graph = 7; GraphProto.initializer = 5, .input = 11;
TensorProto.name = 8; ValueInfoProto.name = 1, .type = 2; TypeProto.tensor_type = 1; Tensor.shape = 2;
TensorShapeProto.dim = 1; Dimension.dim_value = 1, a number, or .dim_param = 2, a name.
"""

import mmap

from device_tests.agent.tensorrt.onnx_nodes import _GRAPH, _number, _spans

_INITIALIZER, _INPUT = 5, 11
_SIZE_TAG = 1 << 3


def read(path):
    """(name, shape) each, -1 for what is open, in the file's order; [] where the file cannot be read as ONNX.

    What has its value in the file is no input, even where it is listed as one.
    """
    with open(path, "rb") as stream:
        try:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # an empty file
            return []
        with content:
            try:
                return [one for graph in _spans(content, 0, len(content), _GRAPH) for one in _inputs(content, graph)]
            except (IndexError, ValueError):
                return []


def _inputs(content, graph):
    fixed = {_text(content, span, 8) for span in _spans(content, *graph, _INITIALIZER)}
    found = [(_text(content, span, 1), _shape(content, span)) for span in _spans(content, *graph, _INPUT)]
    return [(name, shape) for name, shape in found if name not in fixed]


def _text(content, span, number):
    start, end = next(iter(_spans(content, span[0], span[1], number)), (0, 0))
    return content[start:end].decode("utf-8", "replace")


def _shape(content, span):
    spans = [span]
    for number in (2, 1, 2):
        spans = [inner for outer in spans for inner in _spans(content, outer[0], outer[1], number)]
    return [_size(content, *dim) for outer in spans for dim in _spans(content, outer[0], outer[1], 1)]


def _size(content, start, end):
    """Of one dimension: empty where nothing is known, else its number, which may be 0 for nothing, or a name."""
    if start == end or content[start] != _SIZE_TAG:
        return -1
    size, _ = _number(content, start + 1)
    return size if 0 < size < 1 << 63 else -1
