"""trtexec beside the Python binding: the very engine that was measured, timed by NVIDIA's program as well.

It is there to hold our figures against. It builds nothing: that would be another engine.
"""

import os

from device_tests.agent.protocol import Refusal
from device_tests.agent.reading import Root
from device_tests.agent.tensorrt import (
    engines,
    identity,
    onnx_inputs,
    onnx_nodes,
    shapes,
    trtexec,
    trtexec_engine,
    trtexec_here,
)
from device_tests.agent.tensorrt.log import Log


def measure(onnx_path, options, folder, scratch, deadline, root=None, take=None, **how):
    """Times the engine that the binding has built of a network.

    Args:
        onnx_path: the network.
        options: it was built by; "cuda_graph" is ours and trtexec's; more in `trtexec_arguments.measure`.
        folder: of all engines.
        scratch: an empty folder.
        deadline: when to give up.
        root: the board.
        take: called with the record's inputs; gives the sample, input -> array in the network's own type and shape.
            Random numbers where None.
        how: "seconds" and "runs" of `trtexec_engine.measure`.

    Returns:
        What `trtexec_engine.measure` tells, with "engine": {"key", "sha256"}.

    Raises:
        Refusal: of `trtexec_engine.measure`; "no-trtexec", "no-gpu", "engine-missing", "engine-damaged".
    """
    root = root or Root()
    tool = trtexec.find(root)
    here = trtexec_here.found(tool, options, root)
    named = identity.onnx_sha256(onnx_path, options)
    wanted = identity.identity(named, tool.text, here.compute, here.gpu)
    store = engines.Engines(folder)
    record = _kept(store, wanted, tool)
    store.read(record)
    # As the binding's build has them: trtexec itself would take 1 for every open size, and time a network of nothing.
    ranges = shapes.ranges(onnx_inputs.read(onnx_path), options.get("profile"))
    asked = dict(options, shapes={name: three[1] for name, three in ranges.items()})
    if take is not None:
        asked["inputs"] = trtexec_here.written(take(record["inputs"]), scratch)
    plan = os.path.join(store.folder(record["key"]), engines.PLAN)
    found = trtexec_engine.measure(tool, plan, asked, scratch, Log(), deadline, onnx_nodes.read(onnx_path), **how)
    return dict(found, engine={"key": record["key"], "sha256": record["sha256"]})


def _kept(store, wanted, tool):
    """The record of the engine that is wanted, built by the binding of this TensorRT.

    The binding tells more of its version than trtexec: 8.6.2.3 is 8.6.2 here.
    """
    others = []
    for key in store.keys():  # noqa: SIM118 - a method of its own
        record = store.record(key)
        if record is None or record.get("key") != key:
            continue
        told = str(record["identity"].get("tensorrt"))
        if dict(record["identity"], tensorrt=wanted["tensorrt"]) != wanted:
            continue
        if told.split(".")[:3] == [str(part) for part in tool.version[:3]]:
            return record
        others.append(told)
    why = "its engine is of TensorRT %s" % ", ".join(others) if others else "no engine of this network is on the board"
    raise Refusal("engine-missing", "%s cannot time what was measured: %s" % (tool.name, why))
