"""TensorRT and CUDA of this process, opened in the order that cannot crash: CUDA first.

Without a usable GPU some versions of TensorRT end the process with a segmentation fault instead of an error.
"""

import collections

from device_tests.agent import cuda
from device_tests.agent.cuda.interface import CudaError
from device_tests.agent.protocol import Refusal
from device_tests.agent.reading import Root
from device_tests.agent.tensorrt import api, identity, missing

Opened = collections.namedtuple("Opened", "trt cuda version compute gpu")
"""`trt`: the module; `cuda`: a `CudaRuntime` that has the GPU; `version` of TensorRT, `compute` capability, `gpu`
model, all as text."""


def opened(provider="auto", root=None):
    """What there is to work with. The caller closes `cuda`.

    Args:
        provider: of CUDA.
        root: the board.

    Raises:
        Refusal: "no-gpu": there is no GPU to be used.
        ImportError: TensorRT is not there for this Python; says what to do.
    """
    root = root or Root()
    try:
        device = cuda.choose(provider)
        if not device.device_count():
            raise Refusal("no-gpu", "CUDA finds no GPU here")
        device.select()
        compute = device.compute_capability()
    except CudaError as error:
        raise Refusal("no-gpu", "CUDA cannot be used here: %s" % error) from None
    try:
        trt = module(root)
    except BaseException:
        device.close()
        raise
    return Opened(trt, device, api.version(trt), compute, identity.gpu_name(root))


def module(root):
    """The package; ImportError with the reason in words."""
    try:
        import tensorrt
    except ModuleNotFoundError as error:
        if error.name != "tensorrt":
            raise
        raise ImportError(missing.missing_binding(root)) from None
    return tensorrt
