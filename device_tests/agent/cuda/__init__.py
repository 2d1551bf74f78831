"""CUDA for the runners: one interface, three providers, of which one needs nothing installed."""

import importlib

from device_tests.agent.cuda.errors import CudaError, CudaMissing
from device_tests.agent.cuda.interface import CudaRuntime

__all__ = ["PROVIDERS", "CudaError", "CudaMissing", "CudaRuntime", "choose", "probe"]

# Tried in this order by "auto". pycuda first: whoever has it on a board has built it there, on purpose.
PROVIDERS = {"pycuda": "by_pycuda", "ctypes": "by_ctypes", "cuda-bindings": "by_cuda_bindings"}


def choose(name="auto"):
    """The provider of that name, or the first that is there. No GPU is touched yet.

    Raises:
        CudaMissing: it is not there, or none is; says why.
    """
    if name != "auto" and name not in PROVIDERS:
        raise CudaMissing(name, "no such provider; there are auto, %s" % ", ".join(PROVIDERS))
    whys = []
    for one in PROVIDERS if name == "auto" else [name]:
        try:
            return importlib.import_module(__name__ + "." + PROVIDERS[one]).Runtime()
        except CudaMissing as missing:
            whys.append(missing)
    if len(whys) == 1:
        raise whys[0]
    raise CudaMissing("CUDA", "; ".join(str(why) for why in whys))


def probe(name="auto"):
    """What the GPU is. For a child process only: a driver that is broken can take the process with it.

    Returns:
        {"provider", "origin", "version", "driver", "devices", "compute", "memory": {"free_bytes", "total_bytes"},
        "graphs"}, all JSON.

    Raises:
        CudaError: no provider, no driver, no GPU; says which.
    """
    with choose(name) as runtime:
        devices = runtime.device_count()
        runtime.select()
        free, total = runtime.memory()
        return {
            "provider": runtime.name,
            "origin": runtime.origin,
            "version": runtime.version(),
            "driver": runtime.driver_version(),
            "devices": devices,
            "compute": runtime.compute_capability(),
            "memory": {"free_bytes": free, "total_bytes": total},
            "graphs": runtime.supports_graphs,
        }
