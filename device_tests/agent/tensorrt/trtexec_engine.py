"""An engine built, and one timed, by trtexec: for boards without TensorRT's Python binding, and to hold ours against.

trtexec runs an engine, and hands no outputs back that we could judge: accuracy needs the binding.
"""

import contextlib
import os
import re

from device_tests.agent.protocol import Refusal
from device_tests.agent.tensorrt import (
    layers,
    memory_plan,
    onnx_nodes,
    progress,
    trtexec_arguments,
    trtexec_failures,
    trtexec_times,
)

WARM_UP_MS = 1000
SECONDS = 3
RUNS = 100
PERCENTS = (50, 90, 95, 99)

# It says so of an input with open sizes for which no shapes were given: it takes 1 for each of them.
_OVERRIDDEN = re.compile(r"Automatically overriding shape")


def build(tool, onnx_path, plan_path, options, limits, log, deadline, event, timing_cache=None):
    """Builds an engine; where memory runs out, with less and less effort.

    Args:
        tool: `trtexec.Trtexec`.
        onnx_path: the network.
        plan_path: where the engine is to be; its folder is there.
        options: see `trtexec_arguments.build`; also "profile": the shapes of inputs with open sizes.
        limits: of `memory_plan.plan`.
        log: `log.Log`.
        deadline: when to give up.
        event: told how far it is.
        timing_cache: a file.

    Returns:
        {"tool", "version", "path", "size_bytes", "seconds", "memory", "notes", "warnings"}.

    Raises:
        Refusal: of `trtexec_failures` and `trtexec_arguments`; "timeout".
    """
    has_levels = tool.version >= trtexec_arguments.LEVELS
    with progress.Progress(event, deadline) as told:
        while True:
            try:
                notes = _build_once(tool, onnx_path, plan_path, options, limits, log, deadline, timing_cache)
                break
            except Refusal as refusal:
                limits = memory_plan.after(limits, refusal.code, has_levels)
                if limits is None:
                    raise
                log.begin_anew()
        seconds = told.elapsed_s
    return {
        "tool": tool.name,
        "version": tool.text,
        "path": plan_path,
        "size_bytes": os.path.getsize(plan_path),
        "seconds": round(seconds, 1),
        "memory": limits,
        "notes": limits["notes"] + notes,
        "warnings": log.warnings[:20],
    }


def _build_once(tool, onnx_path, plan_path, options, limits, log, deadline, timing_cache):
    arguments, notes = trtexec_arguments.build(
        tool.version,
        onnx_path,
        plan_path,
        options,
        limits["workspace_bytes"],
        limits["optimization_level"],
        options.get("profile"),
        timing_cache,
    )
    _forget(plan_path)
    status = tool.run(arguments, deadline, log)
    if status:
        raise trtexec_failures.build_failed(status, log, onnx_nodes.read(onnx_path), limits)
    if not os.path.exists(plan_path) or not os.path.getsize(plan_path):
        raise Refusal("build-failed", "%s ended well, and wrote no engine to %s" % (tool.name, plan_path))
    return notes + _chosen(log)


def measure(
    tool,
    plan_path,
    options,
    folder,
    log,
    deadline,
    nodes=(),
    seconds=SECONDS,
    runs=RUNS,
    warm_up_ms=WARM_UP_MS,
    with_layers=True,
):
    """Times an engine.

    Args:
        tool: `trtexec.Trtexec`.
        plan_path: the engine.
        options: see `trtexec_arguments.measure`; also "inputs": input -> file, and "shapes": input -> shape.
        folder: for the files that trtexec writes.
        log: `log.Log`.
        deadline: when to give up.
        nodes: of the ONNX file, for the layers' sources.
        seconds: at least so long.
        runs: at least so many.
        warm_up_ms: before what is timed.
        with_layers: which layers there are and how long each takes, in runs of their own.

    Returns:
        {"tool", "version", "runs", "samples": of `trtexec_times.times`, "percentiles": {part: {"50": ms, ...}} by
        trtexec's own formula, "layers": rows or None, "inputs_outputs": their names, "notes", "difference"}.

    Raises:
        Refusal: of `trtexec_failures` and `trtexec_arguments`; "trtexec-unreadable"; "timeout".
    """
    paths = {name: os.path.join(folder, name + ".json") for name in ("times", "profile", "layers")}
    arguments, notes = trtexec_arguments.measure(
        tool.version,
        plan_path,
        paths["times"],
        options,
        warm_up_ms,
        seconds,
        runs,
        options.get("inputs"),
        options.get("shapes"),
        paths["profile"] if with_layers else None,
        paths["layers"] if with_layers else None,
    )
    _forget(*paths.values())
    status = tool.run(arguments, deadline, log)
    if status:
        raise trtexec_failures.run_failed(status, log)
    notes += _chosen(log)
    samples = trtexec_times.times(paths["times"], warm_up_ms)
    rows, names = _layers(tool.version, paths, nodes, notes) if with_layers else (None, [])
    return {
        "tool": tool.name,
        "version": tool.text,
        "runs": len(samples["latency_ms"]),
        "samples": samples,
        "percentiles": {
            part: {str(percent): trtexec_times.percentile(values, percent) for percent in PERCENTS}
            for part, values in samples.items()
        },
        "layers": rows,
        "inputs_outputs": names,
        "notes": notes,
        "difference": trtexec_times.difference(options),
    }


def _layers(version, paths, nodes, notes):
    """Rows and names of inputs and outputs; what cannot be read is noted: it is no part of the latency."""
    text, names, mean_ms = None, [], None
    try:
        if version >= trtexec_arguments.LAYER_INFO:
            text, names = trtexec_times.layer_text(paths["layers"])
        mean_ms, _ = trtexec_times.profile(paths["profile"])
    except Refusal as refusal:
        notes.append(refusal.message)
    found = layers.rows(text, nodes, mean_ms)
    return found or None, names


def _chosen(log):
    """Sizes that trtexec has chosen itself."""
    return [line for line in log.warnings if _OVERRIDDEN.search(line)]


def _forget(*paths):
    """What an earlier run has left is not taken for this one's."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
