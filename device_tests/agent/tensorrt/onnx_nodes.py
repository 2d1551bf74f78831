"""The nodes of an ONNX file: their names, operators and tensors. The board has no onnx package.

Of onnx.proto: GraphProto.node = 1; NodeProto.input = 1, .output = 2, .name = 3, .op_type = 4.
"""

import collections

from device_tests.agent.tensorrt import protobuf

Node = collections.namedtuple("Node", "name op inputs outputs")
"""`name` as TensorRT's parser has it: that of a node without one is made of its first output's."""

_NODE = 1


def read(path):
    """The nodes of the main graph, in the order of the file; [] where the file cannot be read as ONNX."""
    return protobuf.of_graph(
        path, lambda content, graph: [_node(content, *span) for span in protobuf.spans(content, *graph, _NODE)]
    )


def quantized(nodes, names):
    """Those of `names` that read what a DequantizeLinear puts out: leaving them in float may be the way out."""
    dequantized = {output for node in nodes if node.op == "DequantizeLinear" for output in node.outputs}
    wanted = set(names)
    return [node.name for node in nodes if node.name in wanted and dequantized.intersection(node.inputs)]


def _node(content, start, end):
    fields = {1: [], 2: [], 3: [], 4: []}
    for number, span in protobuf.fields(content, start, end):
        if number in fields and span is not None:
            fields[number].append(content[span[0] : span[1]].decode("utf-8", "replace"))
    inputs, outputs, names, ops = (fields[number] for number in (1, 2, 3, 4))
    name = names[-1] if names else ""
    if not name and outputs:
        name = "node_of_" + outputs[0]
    return Node(name, ops[-1] if ops else "", inputs, outputs)
