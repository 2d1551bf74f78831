"""Other work on this machine, switched on and off at random: one or two processes that compute or stream memory."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Final

_COMPUTE: Final = "import numpy as n; a = n.ones((256, 256), 'f');\nwhile True: a @ a"
_STREAM: Final = "import numpy as n; a = n.ones(1 << 24, 'f');\nwhile True: a += 1"
_ON_S, _OFF_S = 2.0, 2.0
"""On average; the lengths are drawn from exponential laws."""


@contextlib.contextmanager
def neighbour(seed: int) -> Iterator[None]:
    """Disturbs this machine until the block ends."""
    draw, stop = random.Random(seed), threading.Event()  # noqa: S311 - no secret

    def disturb() -> None:
        while not stop.wait(draw.expovariate(1 / _OFF_S)):
            codes = [draw.choice((_COMPUTE, _STREAM)) for _ in range(draw.choice((1, 1, 2)))]
            workers = [subprocess.Popen([sys.executable, "-c", code]) for code in codes]
            stop.wait(draw.expovariate(1 / _ON_S))
            for worker in workers:
                worker.send_signal(signal.SIGKILL)
                worker.wait()

    thread = threading.Thread(target=disturb, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)
