"""Fields of a protobuf message, as far as ONNX files need it: what is not asked for is skipped unread, weights first.

The board has no protobuf package, and needs no more than this.
"""

import mmap

GRAPH = 7
"""ModelProto.graph, of onnx.proto."""
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


def of_graph(path, read):
    """What `read` finds in an ONNX file; [] where the file cannot be read as one.

    Args:
        path: the file.
        read: called with the file's content and the span of its graph; returns a list.
    """
    with open(path, "rb") as stream:
        try:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # an empty file
            return []
        with content:
            try:
                return [one for graph in spans(content, 0, len(content), GRAPH) for one in read(content, graph)]
            except (IndexError, ValueError):
                return []


def spans(content, start, end, wanted):
    """(start, end) of each field of that number, those that are bytes."""
    return [span for number, span in fields(content, start, end) if number == wanted and span is not None]


def texts(content, start, end, wanted):
    """Each field of that number, as text."""
    found = spans(content, start, end, wanted)
    return [content[first:last].decode("utf-8", "replace") for first, last in found]


def fields(content, start, end):
    """(number, (start, end)) of each field; None for the span of one that is no bytes.

    Raises:
        ValueError, IndexError: it is no such message.
    """
    place = start
    while place < end:
        tag, place = varint(content, place)
        kind = tag & 7
        span = None
        if kind == _VARINT:
            _, place = varint(content, place)
        elif kind == _EIGHT_BYTES:
            place += 8
        elif kind == _FOUR_BYTES:
            place += 4
        elif kind == _BYTES:
            size, place = varint(content, place)
            span = (place, place + size)
            place += size
        else:
            raise ValueError("wire type %d" % kind)
        if place > end:
            raise ValueError("it ends too early")
        yield tag >> 3, span


def varint(content, place):
    """(number, where it ends) of the one that begins at `place`.

    Raises:
        ValueError, IndexError: there is none.
    """
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
