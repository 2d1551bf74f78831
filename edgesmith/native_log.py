"""Keeps the chatter of native libraries off the terminal, and keeps it for error messages.

TensorFlow's converter, LiteRT and ONNX Runtime write straight to file descriptor 2, past `sys.stderr` and past
Python's logging, partly before any log level can be set.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import IO

_TAIL_BYTES = 4000

# Two threads that both swapped descriptor 2 would restore it to each other's temporary file.
DESCRIPTOR_2 = threading.RLock()


class NativeLog:
    """What was written to descriptor 2 while it was captured."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def tail(self) -> str:
        """The last lines, for an error message. Only inside the `with`."""
        size = self._stream.seek(0, io.SEEK_END)
        self._stream.seek(max(0, size - _TAIL_BYTES))
        return self._stream.read().decode(errors="replace").strip()


@contextlib.contextmanager
def captured() -> Iterator[NativeLog]:
    """Sends descriptor 2 to a temporary file; progress goes to stdout and is not touched.

    The descriptor belongs to the whole process: what another thread writes to stderr is captured as well, and another
    thread that wants to capture waits.
    """
    with DESCRIPTOR_2, tempfile.TemporaryFile() as log, contextlib.ExitStack() as stack:
        terminal = os.dup(2)
        stack.callback(os.close, terminal)
        sys.stderr.flush()
        os.dup2(log.fileno(), 2)
        stack.callback(os.dup2, terminal, 2)
        stack.callback(sys.stderr.flush)
        yield NativeLog(log)


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextlib.contextmanager
def collected(library: str) -> Iterator[list[logging.LogRecord]]:
    """Collects a library's Python log records from WARNING up instead of letting them reach the terminal.

    Some libraries only log what went wrong and carry on: whoever calls them reads the records.
    """
    logger = logging.getLogger(library)
    collector = _Collector()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(collector)
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    try:
        yield collector.records
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagate
        logger.setLevel(level)
