"""The nodes of an ONNX file: their names, operators and tensors. The board has no onnx package, and needs no more.

The file is a protobuf message (onnx.proto): ModelProto.graph = 7; GraphProto.node = 1; NodeProto.input = 1,
.output = 2, .name = 3, .op_type = 4. Everything else is skipped unread, weights first of all.
"""

import collections
import mmap

Node = collections.namedtuple("Node", "name op inputs outputs")
"""`name` as TensorRT's parser has it: that of a node without one is made of its first output's."""

_GRAPH, _NODE = 7, 1
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


def read(path):
    """The nodes of the main graph, in the order of the file; [] where the file cannot be read as ONNX."""
    with open(path, "rb") as stream:
        try:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # an empty file
            return []
        with content:
            try:
                return [
                    _node(content, *span)
                    for graph in _spans(content, 0, len(content), _GRAPH)
                    for span in _spans(content, *graph, _NODE)
                ]
            except (IndexError, ValueError):
                return []


def quantized(nodes, names):
    """Those of `names` that read what a DequantizeLinear puts out: leaving them in float may be the way out."""
    dequantized = {output for node in nodes if node.op == "DequantizeLinear" for output in node.outputs}
    wanted = set(names)
    return [node.name for node in nodes if node.name in wanted and dequantized.intersection(node.inputs)]


def _node(content, start, end):
    fields = {1: [], 2: [], 3: [], 4: []}
    for number, span in _fields(content, start, end):
        if number in fields and span is not None:
            fields[number].append(content[span[0] : span[1]].decode("utf-8", "replace"))
    inputs, outputs, names, ops = (fields[number] for number in (1, 2, 3, 4))
    name = names[-1] if names else ""
    if not name and outputs:
        name = "node_of_" + outputs[0]
    return Node(name, ops[-1] if ops else "", inputs, outputs)


def _spans(content, start, end, wanted):
    return [span for number, span in _fields(content, start, end) if number == wanted and span is not None]


def _fields(content, start, end):
    """(number, (start, end)) of each field; None for the span of one that is no bytes."""
    place = start
    while place < end:
        tag, place = _number(content, place)
        kind = tag & 7
        span = None
        if kind == _VARINT:
            _, place = _number(content, place)
        elif kind == _EIGHT_BYTES:
            place += 8
        elif kind == _FOUR_BYTES:
            place += 4
        elif kind == _BYTES:
            size, place = _number(content, place)
            span = (place, place + size)
            place += size
        else:
            raise ValueError("wire type %d" % kind)
        if place > end:
            raise ValueError("it ends too early")
        yield tag >> 3, span


def _number(content, place):
    value = shift = 0
    while True:
        byte = content[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("a number without end")
