"""The same network timed by trtexec: on the engine that the Python binding has built, or, without one, on its own.

For two uses: to hold our figures against NVIDIA's, and to have figures at all from a board without the binding. They
are latencies only: trtexec hands out no outputs of our samples that accuracy could be judged by.
"""

import os

from device_tests.agent import cuda
from device_tests.agent.cuda.interface import CudaError
from device_tests.agent.protocol import Refusal
from device_tests.agent.reading import Root
from device_tests.agent.tensorrt import (
    api,
    engines,
    identity,
    memory_plan,
    onnx_inputs,
    onnx_nodes,
    shapes,
    trtexec,
    trtexec_engine,
)
from device_tests.agent.tensorrt.log import Log


def measure(onnx_path, options, folder, scratch, event, deadline, root=None, sample=None, **how):
    """Times a network's engine by trtexec.

    Args:
        onnx_path: the network.
        options: see `building.build`; "cuda_graph" is ours and trtexec's; more in `trtexec_engine.measure`.
        folder: of all engines. trtexec's own are not kept there: they hold nothing that the binding could be told.
        scratch: an empty folder.
        event: told how far it is.
        deadline: when to give up.
        root: the board.
        sample: input -> array in the network's own type and shape, as both are to compute; random numbers where None.
        how: "seconds" and "runs" of `trtexec_engine.measure`.

    Returns:
        What `trtexec_engine.measure` tells, with "engine": {"key", "sha256"} of the kept one, None where trtexec has
        built one, and "built": what `trtexec_engine.build` tells then.

    Raises:
        Refusal: of those two; "no-trtexec", "no-gpu", "no-int8", "engine-damaged", "profile-missing".
    """
    root = root or Root()
    tool = trtexec.find(root)
    options = identity.onnx_sha256(onnx_path, options)
    compute, free_bytes = _gpu(options.get("cuda") or "auto")
    wanted = identity.identity(options, tool.text, compute, identity.gpu_name(root))
    store, built, notes = engines.Engines(folder), None, []
    # As the binding's build has them: trtexec itself would take 1 for every open size, and time a network of nothing.
    ranges = shapes.ranges(onnx_inputs.read(onnx_path), options.get("profile"))
    options = dict(options, profile=ranges, shapes={name: three[1] for name, three in ranges.items()})
    record = _kept(store, wanted, tool.version)
    if record is not None:
        store.read(record)
        plan = os.path.join(store.folder(record["key"]), engines.PLAN)
    else:
        plan = os.path.join(scratch, engines.PLAN)
        options = _possible(options, compute, notes)
        limits = _limits(root, onnx_path, options, free_bytes)
        built = trtexec_engine.build(tool, onnx_path, plan, options, limits, Log(), deadline, event)
    if sample is not None:
        options = dict(options, inputs=_written(sample, scratch))
    nodes = onnx_nodes.read(onnx_path)
    found = trtexec_engine.measure(tool, plan, options, scratch, Log(), deadline, nodes, **how)
    kept = {"key": record["key"], "sha256": record["sha256"]} if record is not None else None
    return dict(found, engine=kept, built=built, notes=notes + found["notes"])


def _gpu(provider):
    """Compute capability, and free bytes of memory that is the GPU's alone; given back before trtexec wants it."""
    try:
        with cuda.choose(provider) as device:
            if not device.device_count():
                raise Refusal("no-gpu", "CUDA finds no GPU here")
            device.select()
            return device.compute_capability(), None if device.attribute("integrated") else device.memory()[0]
    except CudaError as error:
        raise Refusal("no-gpu", "CUDA cannot be used here: %s" % error) from None


def _kept(store, wanted, version):
    """The record of the engine that is wanted, built by the binding of this TensorRT.

    The binding tells more of its version than trtexec: 8.6.2.3 is 8.6.2 here.
    """
    for key in store.keys():  # noqa: SIM118 - a method of its own
        record = store.record(key)
        if record is None or record.get("key") != key:
            continue
        told = str(record["identity"].get("tensorrt"))
        same = told.split(".")[:3] == [str(part) for part in version[:3]]
        if same and dict(record["identity"], tensorrt=wanted["tensorrt"]) == wanted:
            return record
    return None


def _possible(options, compute, notes):
    """As the binding's build asks the GPU; trtexec would build something else without a word."""
    if "int8" in (options.get("precision") or []) and compute in api.WITHOUT_INT8:
        told = "this GPU (compute capability %s) does not compute in int8: use fp16" % compute
        raise Refusal("no-int8", told, compute=compute)
    if options.get("sparsity") and not api.computes_sparse(compute):
        notes.append("this GPU has no 2:4 sparsity: the flag was left out")
        return dict(options, sparsity=False)
    return options


def _limits(root, onnx_path, options, free_bytes):
    asked = options.get("workspace_bytes"), options.get("optimization_level")
    return memory_plan.plan(root, free_bytes, os.path.getsize(onnx_path), *asked)


def _written(sample, folder):
    """Input -> file with its numbers and nothing else. Names of inputs may be none for files."""
    found = {}
    for number, (name, array) in enumerate(sorted(sample.items())):
        found[name] = os.path.join(folder, "input-%d.raw" % number)
        with open(found[name], "wb") as stream:
            # Whatever the array's layout: row after row.
            stream.write(array.tobytes())
    return found
