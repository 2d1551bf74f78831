"""Whose work TensorRT's is on this board: the Python binding's, or trtexec's; and what trtexec finds here."""

import collections
import os

from device_tests.agent import cuda
from device_tests.agent.cuda.interface import CudaError
from device_tests.agent.protocol import Refusal
from device_tests.agent.reading import Root
from device_tests.agent.tensorrt import api, identity, memory_plan, missing, trtexec

WAYS = ("auto", "never", "only")
"""Of the option "trtexec": beside the binding, and alone where there is none; not at all; alone even beside one."""

BUILDER = "trtexec"
"""In the identity of an engine that it has built: the binding takes none of those, since their records lack what it
tells of its own, and builds anew."""

Here = collections.namedtuple("Here", "tool compute gpu cuda free_bytes")
"""`tool`: a `trtexec.Trtexec`; `compute` capability, `gpu` model and version of `cuda`, as text; `free_bytes` of memory
that is the GPU's alone, None where it shares the board's."""


def alone(options, root=None):
    """The trtexec that does all the work; None where the Python binding does it, or nothing can.

    Args:
        options: "trtexec" is one of `WAYS`.
        root: the board.

    Raises:
        Refusal: "bad-params"; "no-trtexec" where it was asked for and is not there, or does not tell its version.
    """
    way = options.get("trtexec") or "auto"
    if way not in WAYS:
        raise Refusal("bad-params", "trtexec: %r is none of %s" % (way, ", ".join(WAYS)))
    root = root or Root()
    if way == "only":
        return trtexec.find(root)
    if way == "never" or missing.binding(root) is None or trtexec.place(root) is None:
        return None
    return trtexec.find(root)


def found(tool, options, root):
    """What there is to work with. The GPU is given back before trtexec wants it.

    Raises:
        Refusal: "no-gpu".
    """
    try:
        with cuda.choose(options.get("cuda") or "auto") as device:
            if not device.device_count():
                raise Refusal("no-gpu", "CUDA finds no GPU here")
            device.select()
            free_bytes = None if device.attribute("integrated") else device.memory()[0]
            return Here(tool, device.compute_capability(), identity.gpu_name(root), device.version(), free_bytes)
    except CudaError as error:
        raise Refusal("no-gpu", "CUDA cannot be used here: %s" % error) from None


def wanted(here, onnx_path, options):
    """The identity of the engine that trtexec builds by these options."""
    named = identity.onnx_sha256(onnx_path, options)
    return dict(identity.identity(named, here.tool.text, here.compute, here.gpu), builder=BUILDER)


def possible(options, compute, notes):
    """The options as the binding's build asks the GPU; trtexec would build something else without a word.

    Raises:
        Refusal: "no-int8".
    """
    if "int8" in (options.get("precision") or []) and compute in api.WITHOUT_INT8:
        told = "this GPU (compute capability %s) does not compute in int8: use fp16" % compute
        raise Refusal("no-int8", told, compute=compute)
    if options.get("sparsity") and not api.computes_sparse(compute):
        notes.append("this GPU has no 2:4 sparsity: the flag was left out")
        return dict(options, sparsity=False)
    return options


def limits(here, root, onnx_path, options, low_memory=None):
    """Of a build; see `memory_plan.plan`."""
    asked = options.get("workspace_bytes"), options.get("optimization_level")
    return memory_plan.plan(root, here.free_bytes, os.path.getsize(onnx_path), *asked, low=low_memory)


def written(sample, folder):
    """Input -> file with its numbers and nothing else. Names of inputs may be none for files.

    Args:
        sample: input -> array.
        folder: for the files.
    """
    files = {}
    for number, (name, array) in enumerate(sorted(sample.items())):
        files[name] = os.path.join(folder, "input-%d.raw" % number)
        with open(files[name], "wb") as stream:
            # Whatever the array's layout: row after row.
            stream.write(array.tobytes())
    return files
