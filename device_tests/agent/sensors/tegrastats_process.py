"""tegrastats as a child process: its lines as they come, with a deadline, and a sure end."""

import contextlib
import os
import queue
import time

from device_tests.agent import tool_process
from device_tests.agent.protocol import Lines, Refusal
from device_tests.agent.sensors import tegrastats
from device_tests.agent.timing import now_ns

ENDS_S = 1.0


class Reader:
    """A running tegrastats. Use as a context manager: whatever happens, it is gone afterwards.

    It runs as who we are: what it shows to root only is not there for others, and its figures say so by being None.
    """

    def __init__(self, root, interval_ms=1000):
        """Starts it.

        Args:
            root: the board.
            interval_ms: between two lines.

        Raises:
            Refusal: "no-tegrastats" where the board has none, or it does not start.
        """
        tool = root.tool("tegrastats")
        if tool is None:
            raise Refusal("no-tegrastats", "this board has no tegrastats")
        self._queue = queue.Queue()
        self._process = tool_process.start([tool, "--interval", str(int(interval_ms))], "no-tegrastats")
        # The moment is taken where the line is read, not where somebody asks for it.
        Lines(os.dup(self._process.stdout.fileno()), at_end=self._ended, taken=self._taken)

    @property
    def pid(self):
        """Of the process."""
        return self._process.pid

    def get(self, seconds):
        """The next line as (nanoseconds of our clock, `tegrastats.parse` of it); None once it has ended.

        Raises:
            queue.Empty: there was none in `seconds`.
        """
        told = self._queue.get(timeout=seconds)
        if told is None:
            self._ended()
        return told

    def waiting(self):
        """All lines that are here already."""
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                told = self._queue.get_nowait()
                if told is None:
                    self._ended()
                    break
                found.append(told)
        return found

    def close(self):
        """Ends it: asked first, and killed where it does not go."""
        tool_process.end(self._process, ENDS_S)

    def _taken(self, line):
        self._queue.put((now_ns(), tegrastats.parse(line.decode("utf-8", "replace"))))
        return True

    def _ended(self):
        self._queue.put(None)

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.close()


def read(root, seconds, interval_ms=1000):
    """What it tells in so many seconds: a list of (nanoseconds, figures). Raises what `Reader` raises."""
    until, found = time.monotonic() + seconds, []
    with Reader(root, interval_ms) as reader, contextlib.suppress(queue.Empty):
        while True:
            told = reader.get(max(0.0, until - time.monotonic()))
            if told is None:
                break
            found.append(told)
    return found
