"""Work on a stream of the fake libcudart, where the process has loaded it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def find() -> tuple[Any, ...]:
    """`fakeCudaEnqueueHost` of every fake libcudart that this process has loaded.

    The agent loads it by path and without publishing its symbols, so it is looked up among the mapped files.
    """
    maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    found = []
    for path in sorted({line.split(maxsplit=5)[5].strip() for line in maps if "libcudart" in line}):
        library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        if hasattr(library, "fakeCudaEnqueueHost"):
            enqueue = library.fakeCudaEnqueueHost
            enqueue.argtypes = (FUNCTION, ctypes.c_void_p, ctypes.c_void_p)
            enqueue.restype = ctypes.c_int
            found.append(enqueue)
    return tuple(found)


class Streams:
    """Puts work behind what is on a CUDA stream. On stream 0, or without a fake libcudart, it is done at once."""

    def __init__(self) -> None:
        self._enqueues: tuple[Any, ...] = ()
        # A recorded graph calls again and again: what was handed to C must live as long as this object.
        self._handed: dict[Any, Any] = {}

    def put(self, key: Any, work: Callable[[], None], handle: int) -> bool:
        """Enqueues; the same `key` means the same work. False where no library knows the stream."""
        self._enqueues = self._enqueues or (find() if handle else ())
        if not handle or not self._enqueues:
            work()
            return True
        if key not in self._handed:
            self._handed[key] = FUNCTION(lambda _argument: work())
        return any(enqueue(self._handed[key], None, handle) == 0 for enqueue in self._enqueues)
