"""The files that trtexec writes: times of each query, of each layer, and what the layers are.

--exportTimes      a list of {"startEnqMs", "endEnqMs", "startH2dMs", ..., "endD2hMs", "h2dMs", "computeMs", "d2hMs",
                   "latencyMs"}; 8.0 to 8.4 also "endToEndMs", and there the warm-up's queries are in the file
--exportProfile    a list that begins with {"count": runs}, then {"name", "timeMs", "averageMs", "percentage"}; from 8.5
                   also "medianMs"
--exportLayerInfo  {"Layers": [...], "Bindings": [...]}, from 11 "I/O Tensors" instead of "Bindings"
"""

import json
import struct

from device_tests.agent.protocol import Refusal

_WHAT_IT_IS = (
    "trtexec's latency is the sum of three times on the GPU: inputs to it, computing, outputs back. What lies between "
    "them, and the processor's part, is not in it. Ours is the time on the clock, from before the inputs are put into "
    "page-locked memory until after the outputs are taken out of it."
)

PARTS = ("h2d_ms", "compute_ms", "d2h_ms", "latency_ms", "span_ms")


def times(path, warm_up_ms):
    """What each query took, in the order they were started.

    Args:
        path: of --exportTimes.
        warm_up_ms: as it was asked for. Some versions write down the warm-up's queries, too; trtexec's own figures
            leave out those whose computing began earlier than that, and so do these.

    Returns:
        {"h2d_ms", "compute_ms", "d2h_ms", "latency_ms", "span_ms"}, a list each, one place per query: "latency_ms" is
        trtexec's word for the sum of the three, "span_ms" is from the first to the last moment of the query on the
        GPU. Six digits are written: moments are told to 0.01 ms from one second on, and to 0.1 ms from ten.

    Raises:
        Refusal: "trtexec-unreadable".
    """
    rows = [_numbers(path, row) for row in _listed(path)]
    kept = [row for row in rows if row["startComputeMs"] >= warm_up_ms]
    if not kept:
        raise Refusal("trtexec-unreadable", "%s holds no query after the warm-up, and %d in it" % (path, len(rows)))
    found = {name: [] for name in PARTS}
    for row in kept:
        parts = (row["h2dMs"], row["computeMs"], row["d2hMs"])
        for name, value in zip(PARTS, (*parts, sum(parts), row["endD2hMs"] - row["startH2dMs"])):
            found[name].append(value)
    return found


def percentile(values, percent):
    """As trtexec takes it: always a value that was seen, none interpolated.

    trtexec reckons in float32. In float64 the 99th percentile of 100 values would be the one before.
    """
    if not values:
        raise ValueError("no values")
    if not 0 <= percent <= 100:
        raise ValueError("%r is no percentile" % percent)
    left_out = int(_float32(_float32(1 - _float32(_float32(percent) / 100)) * _float32(len(values))))
    return sorted(values)[max(len(values) - 1 - left_out, 0)]


def profile(path):
    """Layers and their times, mean per run: ({name: milliseconds}, runs). Medians are not in every version's file.

    Raises:
        Refusal: "trtexec-unreadable".
    """
    rows = _listed(path)
    runs = rows[0].get("count") if rows and isinstance(rows[0], dict) else None
    if not isinstance(runs, int):
        raise Refusal("trtexec-unreadable", "%s does not begin with the number of runs" % path)
    try:
        # Two layers may have one name: the times of both are its time.
        found = {}
        for row in rows[1:]:
            found[row["name"]] = found.get(row["name"], 0.0) + float(row["averageMs"])
    except (KeyError, TypeError, ValueError) as error:
        raise Refusal("trtexec-unreadable", "%s: a layer without %s" % (path, error)) from None
    return found, runs


def layer_text(path):
    """The inspector's text, for `layers.rows`, and the names of inputs and outputs: (text, names).

    Raises:
        Refusal: "trtexec-unreadable".
    """
    text = _text(path)
    told = _parsed(path, text)
    if not isinstance(told, dict) or not isinstance(told.get("Layers"), list):
        raise Refusal("trtexec-unreadable", "%s holds no layers" % path)
    ends = told.get("I/O Tensors") or told.get("Bindings") or []
    return text, [end.get("Name", "") if isinstance(end, dict) else str(end) for end in ends]


def difference(options):
    """What trtexec's figures are, and what ours are, in sentences for a report.

    Args:
        options: that it was run with, see `trtexec_arguments.measure`.
    """
    told = [_WHAT_IT_IS]
    if options.get("overlap"):
        told.append(
            "trtexec had two queries under way, the inputs of one copied while the other was computed, and each may "
            "have slowed the other. We run one at a time."
        )
    else:
        told.append("Both run one query at a time, trtexec by --exposeDMA.")
    if options.get("no_transfers"):
        told.append("trtexec copied no inputs and no outputs: only the computing can be compared.")
    if options.get("spin_wait"):
        told.append("trtexec spun while it waited; we sleep, which is longer by the time it takes to wake up.")
    if not options.get("inputs"):
        told.append("trtexec was fed random numbers, we use real samples.")
    return told


def _float32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def _numbers(path, row):
    names = ("startComputeMs", "startH2dMs", "endD2hMs", "h2dMs", "computeMs", "d2hMs")
    try:
        return {name: float(row[name]) for name in names}
    except (KeyError, TypeError, ValueError) as error:
        raise Refusal("trtexec-unreadable", "%s: a query without %s" % (path, error)) from None


def _listed(path):
    told = _parsed(path, _text(path))
    if not isinstance(told, list):
        raise Refusal("trtexec-unreadable", "%s holds no list" % path)
    return told


def _parsed(path, text):
    try:
        return json.loads(text, parse_constant=_refuse)
    except ValueError as error:
        raise Refusal("trtexec-unreadable", "%s cannot be read: %s" % (path, error)) from None


def _refuse(name):
    raise ValueError("%s is no time" % name)


def _text(path):
    try:
        with open(path, "rb") as stream:
            return stream.read().decode("utf-8", "replace")
    except OSError as error:
        raise Refusal("trtexec-unreadable", "trtexec wrote no such file: %s" % error) from None
