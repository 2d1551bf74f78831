"""What a parser or builder that failed has said, as an answer that the workstation can act on.

"parse-failed"          the file holds what this TensorRT does not read: "errors", each with its node
"no-implementation"     no kernel for a piece of the network on this GPU, as on those up to compute capability 7.5 for
                        some layers in int8. "nodes" are the ONNX nodes of that piece, "quantized" those of them that
                        read quantized tensors. The board cannot edit the file: the workstation leaves "quantized"
                        in float (where it is empty, "nodes"), makes the next variant and asks again, a bounded number
                        of times, as every build takes minutes.
"not-enough-workspace"  the same for want of workspace: with more of it there may be a kernel
"not-enough-memory"     the board is out of it; the build has tried the plan for that before it says so
"build-failed"          anything else, in TensorRT's own words
"""

import re

from device_tests.agent.protocol import Refusal
from device_tests.agent.tensorrt import layer_names, onnx_nodes

_NOT_FOUND = re.compile(r"[Cc]ould not find any implementation for node (.+)", re.DOTALL)
# What follows the node's name, in one version or another.
_AFTER = re.compile(
    r"( due to insufficient workspace.*|, try increasing the .*|\. ?In \w+ at .*|\. ?See verbose.*|\.?\)?\s*)$",
    re.DOTALL,
)
# "insuficient" is how TensorRT 8 spells it, of tactics that it skips.
_WORKSPACE = re.compile(r"insuff?icient (memory|workspace)|try increasing the workspace", re.IGNORECASE)
_MEMORY = re.compile(r"out ?of ?memory|MEM_ALLOC_FAILED|failed to allocate|bad_alloc", re.IGNORECASE)


def parse_failed(errors, nodes, log):
    """The parser refused the file.

    Args:
        errors: {"code", "node", "text"} each, "node" a number in the file's order or -1.
        nodes: of the file.
        log: what was said.
    """
    told = [_located(error, nodes) for error in errors]
    lines = [_worded(error) for error in told] or [log.last_errors()]
    more = " (and %d more)" % (len(lines) - 1) if len(lines) > 1 else ""
    return Refusal("parse-failed", "TensorRT cannot read the network: " + lines[0] + more, errors=told, texts=lines)


def build_failed(log, nodes, plan):
    """The builder gave no engine. `plan` is the memory plan it was built by."""
    facts = {"errors": log.errors[:10], "memory": plan}
    pieces = [found.group(1) for found in map(_NOT_FOUND.search, log.errors) if found]
    said = [*log.errors, *log.warnings]
    if any(_MEMORY.search(line) for line in said):
        return Refusal("not-enough-memory", "the board ran out of memory: " + log.last_errors(), **facts)
    if not pieces:
        return Refusal("build-failed", "TensorRT built no engine: " + log.last_errors(), **facts)
    layer = _AFTER.sub("", pieces[0].strip())
    known = {node.name for node in nodes}
    names = layer_names.of(layer, known).names
    facts.update(layer=layer, nodes=names, quantized=onnx_nodes.quantized(nodes, names))
    where = ", ".join(names) if names else layer
    if any(_WORKSPACE.search(line) for line in said):
        told = "TensorRT found no kernel for %s in %d MB of workspace" % (where, plan["workspace_bytes"] >> 20)
        return Refusal("not-enough-workspace", told + ": free memory on the board, or raise workspace_bytes", **facts)
    told = "TensorRT has no kernel for %s on this GPU" % where
    if facts["quantized"]:
        told += ": leave %s in float" % ", ".join(facts["quantized"])
    return Refusal("no-implementation", told, **facts)


def _located(error, nodes):
    """The error with its node's name and operator; None where it is about no node in particular."""
    node = nodes[error["node"]] if 0 <= error["node"] < len(nodes) else None
    return dict(error, name=node.name if node else None, op=node.op if node else None)


def _worded(error):
    where = "node %s (%s): " % (error["name"], error["op"]) if error["name"] else ""
    return "%s%s [%s]" % (where, " ".join(error["text"].split()), error["code"])
