"""trtexec without the Python binding: it builds the engine, which is kept as any other, and runs it.

It hands out no outputs of our samples that could be judged: there are latencies, and no accuracy.
"""

import os
import resource
import tempfile
from datetime import datetime, timezone

from device_tests.agent import timing
from device_tests.agent.protocol import Refusal
from device_tests.agent.reading import Root
from device_tests.agent.tensorrt import (
    engines,
    identity,
    layers,
    memory_plan,
    missing,
    onnx_inputs,
    onnx_nodes,
    shapes,
    trtexec_engine,
    trtexec_here,
)
from device_tests.agent.tensorrt.log import Log
from device_tests.agent.tensorrt.timing_cache import TimingCache

SETTLE_S = 3
SETTLE_RUNS = timing.FLAT_BLOCKS * timing.BLOCK_RUNS
SMALLEST_WARM_UP_MS = 200
"""Of each window: the process is a new one, and the GPU's clocks have fallen since the last."""
NO_OUTPUTS = "trtexec timed it alone, and hands out no outputs of our samples"
NO_POWER = "trtexec timed it alone: each window has the start of its process in it, so what a run takes is not known"


def build(
    tool, onnx_path, options, folder, event, deadline, rebuild=False, low_memory=None, timing_cache=None, root=None
):
    """Builds an engine, or finds the one that trtexec has built before. Arguments as of `building.build`.

    Returns:
        The engine's record as `building.build` has it, with "builder": the program's name. Outputs and device memory
        are not in it: trtexec does not tell them.

    Raises:
        Refusal: of `trtexec_engine`; "no-int8", "no-gpu", "profile-missing", "bad-params".
    """
    root = root or Root()
    here = trtexec_here.found(tool, options, root)
    wanted = trtexec_here.wanted(here, onnx_path, options)
    key, store = identity.key(wanted), engines.Engines(folder)
    known = TimingCache(folder, tool.text, here.compute)
    why = "it was to be built again" if rebuild else memory_plan.why_again(store.record(key), options)
    if why is None and store.is_sound(key):
        return _told(store, store.record(key), known, cached=True)
    because = why or store.why_not(wanted)
    notes = []
    inputs = onnx_inputs.typed(onnx_path)
    ranges = shapes.ranges([(name, shape) for name, shape, _ in inputs], options.get("profile"))
    asked = dict(trtexec_here.possible(options, here.compute, notes), profile=ranges)
    asked["shapes"] = {name: three[1] for name, three in ranges.items()}
    limits = trtexec_here.limits(here, root, onnx_path, asked, low_memory)
    known.give(timing_cache)
    part = store.part(key)
    try:
        plan, cache, log = os.path.join(part, engines.PLAN), known.lend(part), Log(os.path.join(part, engines.LOG))
        try:
            built = trtexec_engine.build(tool, onnx_path, plan, asked, limits, log, deadline, event, cache)
            record = dict(_read_back(here, asked, part, plan, onnx_path, log, deadline), key=key, identity=wanted)
        finally:
            log.close()
        known.take_back(cache)
        record.update(
            builder=tool.name,
            seconds=built["seconds"],
            inputs=[{"name": name, "shape": shape, "dtype": dtype} for name, shape, dtype in inputs],
            memory=built["memory"],
            notes=[*built["notes"], *notes, *known.notes],
            warnings=built["warnings"],
        )
        with open(plan, "rb") as stream:
            content = stream.read()
        return _told(store, store.store(part, content, record), known, cached=False, because=because)
    except Refusal as refusal:
        refusal.facts["log"] = store.give_up(part)
        raise
    except BaseException:
        store.give_up(part)
        raise


def _read_back(here, options, part, plan, onnx_path, log, deadline):
    """What the record says of the engine, once it has run."""
    with tempfile.TemporaryDirectory(dir=part) as scratch:
        nodes = onnx_nodes.read(onnx_path)
        found = trtexec_engine.measure(here.tool, plan, options, scratch, log, deadline, nodes, seconds=1, runs=1)
    rows = found["layers"] or []
    return {
        "built_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cuda": here.cuda,
        "fake": here.tool.fake,
        "device_memory_bytes": None,
        "layer_count": len(rows),
        "precisions": layers.precisions(rows),
    }


def _told(store, record, known, cached, because=None):
    path = os.path.join(store.folder(record["key"]), engines.PLAN)
    return dict(record, cached=cached, because=because, path=path, timing_cache=known.told())


class Runner:
    """An engine that trtexec has built. It takes the times itself, a process for each window; see `runners`.

    Attributes:
        name: program, version and what else tells one way to run from another.
        inputs: `Input` each, in the network's order.
        output_quantization: [], there are no outputs.
        no_outputs: why.
        next_step: what brings them.
        no_power: why what a run takes is not known.
        notes: what was asked for and is not done.
    """

    no_outputs = NO_OUTPUTS
    no_power = NO_POWER

    def __init__(self, tool, path, options, store, root=None):
        """Finds the engine.

        Args:
            tool: a `trtexec.Trtexec`.
            path: the ONNX file it was built from.
            options: likewise.
            store: `engines.Engines`.
            root: the board.

        Raises:
            Refusal: "engine-missing", "engine-mismatch", "engine-damaged", "model-refused".
        """
        root = root or Root()
        here = trtexec_here.found(tool, options, root)
        record = store.find(trtexec_here.wanted(here, path, options))
        store.read(record)
        self._tool, self._nodes_of = tool, path
        self._plan = os.path.join(store.folder(record["key"]), engines.PLAN)
        ranges = shapes.ranges([(one["name"], one["shape"]) for one in record["inputs"]], options.get("profile"))
        self._options = dict(options, shapes={name: three[1] for name, three in ranges.items()})
        self.inputs = [_described(one, tool.version) for one in record["inputs"]]
        self.output_quantization = []
        self.next_step = _next_step(root)
        self.name = _name(here, record, options)
        self.notes, self._rows = [], None

    def settle(self, sample, max_s, deadline):
        """Runs until the times stand still: (nanoseconds of all runs, whether they came to do)."""
        found = self._run(sample, deadline, seconds=min(SETTLE_S, max_s), runs=SETTLE_RUNS, warm_up_ms=0)
        taken = _nanoseconds(found["samples"]["latency_ms"])
        return taken, timing.settles(taken)

    def timed(self, sample, runs, seconds, deadline):
        """Nanoseconds of each run: what trtexec calls latency, inputs to the GPU, computing and outputs back."""
        found = self._run(sample, deadline, seconds=seconds, runs=runs, warm_up_ms=SMALLEST_WARM_UP_MS)
        return _nanoseconds(found["samples"]["latency_ms"])

    def parts_of(self, sample, runs, deadline):
        """Milliseconds of (inputs to the GPU, computing, outputs back), for each run."""
        found = self._run(sample, deadline, seconds=1, runs=runs, with_layers=True)
        self._rows = found["layers"] or []
        taken = found["samples"]
        return list(zip(taken["h2d_ms"], taken["compute_ms"], taken["d2h_ms"]))

    def layers(self, _sample, _runs):
        """Rows as of `layers.rows`, of the runs that `parts_of` took."""
        return self._rows

    def peak_rss(self):
        """The most memory that a trtexec of ours had resident: {"bytes", "reason"}.

        Before it is the program, the process is a copy of this one: what is no more than we have is not known.
        """
        took = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        if took <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss:
            return {"bytes": None, "reason": "trtexec took less memory than the process that started it"}
        return {"bytes": took * 1024, "reason": None}

    def close(self):
        """Nothing is held between two windows."""

    def _run(self, sample, deadline, **how):
        with tempfile.TemporaryDirectory(prefix="edgesmith-trtexec-") as scratch:
            named = {one.name: array for one, array in zip(self.inputs, sample)}
            asked = dict(self._options, inputs=trtexec_here.written(named, scratch))
            nodes = onnx_nodes.read(self._nodes_of) if how.get("with_layers") else ()
            how.setdefault("with_layers", False)
            found = trtexec_engine.measure(self._tool, self._plan, asked, scratch, Log(), deadline, nodes, **how)
        self.notes = found["notes"]
        return found


def _next_step(root):
    if missing.binding(root) is None:
        return "Leave `trtexec: only` out: this board has TensorRT's Python binding, which does."
    return "Install TensorRT's Python binding on the board. %s" % missing.remedy(root)


def _described(one, version):
    import numpy as np

    if one["dtype"] is None:
        raise Refusal("model-refused", "input %r is of a type that samples are not made of" % one["name"])
    # A 64-bit input is one of 32 bits up to TensorRT 9.
    name = "int32" if one["dtype"] == "int64" and version < (10,) else one["dtype"]
    return shapes.one_at_a_time(one["name"], one["shape"], np.dtype(name))


def _nanoseconds(milliseconds):
    return [round(value * 1e6) for value in milliseconds]


def _name(here, record, options):
    told = "%s (CUDA %s" % (here.tool.name, here.cuda)
    if record["identity"]["dla_core"] is not None:
        told += ", DLA core %d" % record["identity"]["dla_core"]
    return told + (", CUDA graph" if options.get("cuda_graph") else "") + ")"
