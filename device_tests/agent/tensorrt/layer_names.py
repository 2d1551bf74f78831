"""Which nodes of the ONNX file a layer of an engine computes, by its name. What is not known stays unknown.

TensorRT fuses nodes and writes down which in the fused layer's name: "conv + relu", "PWN(sigmoid, mul)",
"left || right". A name that is none of the file's nodes, such as that of a weight, or of a layer the parser put in,
is nobody's.
"""

import re

_METADATA = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_FOREIGN = re.compile(r"\{ForeignNode\[(.*?)\.\.\.(.*)\]\}")
_SPLIT = re.compile(r" \+ | \|\| | -> |, ")
_REFORMAT = re.compile(r"^Reformatting CopyNode for |(input|output) reformatter \d+$|^Reformat")
# What the parser of TensorRT 8 calls the parts of a node that it imports as several layers.
_SUFFIXES = ("_quantize_scale_node", "_dequantize_scale_node", "_clone_0", "_clone_1")


class Sources:
    """Where a layer comes from.

    Attributes:
        names: of the ONNX nodes, in the name's order; empty where unknown.
        a_range: the two names are the ends of a piece of the graph, and what lies between is not told.
    """

    def __init__(self, names, a_range=False):
        self.names, self.a_range = names, a_range


def of(name, known, metadata=None):
    """The nodes behind a layer.

    Args:
        name: of the layer.
        known: names of all nodes of the file.
        metadata: the inspector's own word for it, from TensorRT 8.6 on.
    """
    told = [node for node in _METADATA.findall(metadata or "") if node in known]
    if told:
        return Sources(_once(told))
    if name in known:
        return Sources([name])
    if _REFORMAT.search(name):
        # A conversion between layouts is part of no node, although it names the one that it is for.
        return Sources([])
    piece = _FOREIGN.search(name)
    if piece:
        return Sources(_once([*_parts(piece.group(1), known), *_parts(piece.group(2), known)]), a_range=True)
    return Sources(_once(_parts(name, known)))


def _parts(text, known):
    """The known names in a fused name. Names may themselves hold " + " or brackets: the whole is tried first."""
    text = text.strip()
    for candidate in (text, *(text[: -len(end)] for end in _SUFFIXES if text.endswith(end))):
        if candidate in known:
            return [candidate]
    if text.startswith("PWN(") and text.endswith(")"):
        return _parts(text[len("PWN(") : -1], known)
    pieces = _top_level(text)
    return [name for piece in pieces for name in _parts(piece, known)] if len(pieces) > 1 else []


def _top_level(text):
    """Splits a name at its joints, but not within brackets: "PWN(PWN(a), b) + c" has two parts."""
    pieces, depth, start, place = [], 0, 0, 0
    while place < len(text):
        if text[place] == "(":
            depth += 1
        elif text[place] == ")":
            depth -= 1
        joint = _SPLIT.match(text, place) if depth == 0 else None
        if joint:
            pieces.append(text[start:place])
            start = place = joint.end()
        else:
            place += 1
    return [*pieces, text[start:]]


def _once(names):
    return list(dict.fromkeys(names))
