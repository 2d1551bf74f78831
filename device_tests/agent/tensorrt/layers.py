"""An engine's layers: what they are, in which precision they compute, how long they take, and what they come from."""

import json

from device_tests.agent.tensorrt import layer_names

# Words of the inspector's types, most telling first: "Channel major FP16 format", "Half", "Int8".
_WORDS = (
    ("int8", ("int8",)),
    ("fp8", ("fp8",)),
    ("int4", ("int4",)),
    ("fp4", ("fp4",)),
    ("bf16", ("bf16", "bfloat16")),
    ("fp16", ("fp16", "half", "float16")),
    ("fp32", ("fp32", "float")),
    ("int64", ("int64",)),
    ("int32", ("int32",)),
    ("bool", ("bool",)),
)


def inspected(trt, engine, context=None):
    """The inspector's JSON text; None where this TensorRT has no inspector, as 8.0.

    With a context whose shapes are fixed it tells the types of layers with open sizes, too.
    """
    if not hasattr(engine, "create_engine_inspector") or not hasattr(trt, "LayerInformationFormat"):
        return None
    inspector = engine.create_engine_inspector()
    if context is not None:
        inspector.execution_context = context
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def rows(text, nodes, times=None):
    """One row per layer: {"name", "kind", "precision", "time_ms", "sources", "range"}.

    Args:
        text: of `inspected`; None where there is none, then the layers are those that `times` has.
        nodes: of the ONNX file.
        times: layer -> milliseconds, by the profiler; None where it was not asked.

    Returns:
        Rows in the engine's order. "kind" and "precision" are None where nobody told, "time_ms" where none was
        taken; "sources" are names of ONNX nodes, empty where unknown; with "range" they are the ends of a piece of
        the graph.
    """
    known, left = {node.name for node in nodes}, dict(times or {})
    found = [_row(layer, known, left) for layer in _listed(text)]
    # What the profiler timed and the inspector does not list, as where there is no inspector.
    found += [_row({"Name": name}, known, left) for name in list(left)]
    return found


def precisions(found):
    """Precision -> how many layers compute in it; "unknown" for those that nobody told of."""
    counts = {}
    for row in found:
        name = row["precision"] or "unknown"
        counts[name] = counts.get(name, 0) + 1
    return counts


class Times:
    """What the profiler reports, summed over runs.

    Attributes:
        ms: layer -> sum of its milliseconds.
        profiler: for TensorRT.
    """

    def __init__(self, trt):
        self.ms = {}
        self.profiler = _profiler(trt, self.ms)

    def mean_ms(self, runs):
        """Layer -> milliseconds of one run."""
        return {name: total / runs for name, total in self.ms.items()}


def _profiler(trt, sums):
    class Profiler(trt.IProfiler):
        def __init__(self):
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name, ms):
            sums[layer_name] = sums.get(layer_name, 0.0) + ms

    return Profiler()


def _listed(text):
    """The inspector's layers as dicts; it gives mere names for an engine that does not remember more."""
    if text is None:
        return []
    try:
        told = json.loads(text)
    except ValueError:
        return []
    layers = told.get("Layers", []) if isinstance(told, dict) else []
    return [layer if isinstance(layer, dict) else {"Name": str(layer)} for layer in layers]


def _row(layer, known, times):
    name = str(layer.get("Name", ""))
    sources = layer_names.of(name, known, layer.get("Metadata"))
    return {
        "name": name,
        "kind": layer.get("ParameterType") or layer.get("LayerType"),
        "precision": _precision(layer),
        "time_ms": times.pop(name, None),
        "sources": sources.names,
        "range": sources.a_range,
    }


def _precision(layer):
    """Of the computation: that of the weights where there are any, else of the first input, else of the output."""
    weights = layer.get("Weights")
    told = [weights.get("Type")] if isinstance(weights, dict) else []
    for tensor in (*layer.get("Inputs", ())[:1], *layer.get("Outputs", ())[:1]):
        if isinstance(tensor, dict):
            told += [tensor.get("Format/Datatype"), tensor.get("Datatype")]
    return next((word for word in map(_word, told) if word), None)


def _word(text):
    low = str(text or "").lower()
    return next((name for name, words in _WORDS if any(word in low for word in words)), None)
