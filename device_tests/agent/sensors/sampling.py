"""Power beside a measurement: started before, stopped after, read by a process of its own.

    with sampling.start(root, folder) as sampling:
        ...
        samples = sampling.stop()
    samples.over(spans, runs)

Nothing here makes a measurement fail: where power cannot be read, the samples say why.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess

from device_tests.agent import nvidia_facts, roles
from device_tests.agent.protocol import Lines, Refusal
from device_tests.agent.sensors import rails, tegrastats_process, totals

RATE_HZ = 500
LIMIT_S = 3600
READY_S = 20
STOP_S = 20
TEGRASTATS_MS = 100
NO_SENSOR = "this machine has no power sensor that edgesmith reads"


def start(root, folder, rate_hz=RATE_HZ, every=False, program=None, limit_s=LIMIT_S):
    """Begins to read the board's total power.

    From its chips where the kernel shows them; else from tegrastats, ten times a second, where it tells of rails.

    Args:
        root: the board.
        folder: a fresh one; for what was read.
        rate_hz: reads a second, at most.
        every: all rails, not only those that make up the total; each takes time on the bus and of a core.
        program: the agent's zip, see `roles`.
        limit_s: after so long it reads no more.
    """
    found = [rail for rail in rails.find(root) if rail.mw(root) is not None]
    if found:
        return _Chips(root, folder, found, rate_hz, every, program, limit_s)
    try:
        return _Tegrastats(root)
    except Refusal as refusal:
        blind = rails.find(root)
        if blind:
            return Nothing("its power rails cannot be read (%s)" % ", ".join(rail.name for rail in blind))
        # Elsewhere nobody knows what tegrastats is.
        return Nothing(refusal.message if nvidia_facts.is_jetson(root) else NO_SENSOR)


class Nothing:
    """Where nothing can be read, or nobody wants to know; `reason` says which."""

    def __init__(self, reason):
        self._reason = reason

    def stop(self):
        """Samples without any."""
        from device_tests.agent.sensors import power  # needs numpy, which a board may lack that only greets

        return power.none("power was not measured: " + self._reason)

    def close(self):
        """Nothing is left to end."""

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.close()


class _Chips(Nothing):
    """A sampler that reads files of the kernel."""

    def __init__(self, root, folder, found, rate_hz, every, program, limit_s):
        super().__init__("")
        self._folder = folder
        numbers, self._covers = totals.choose([rail.name for rail in found])
        self._rails = found if every else [found[number] for number in numbers]
        self._total = numbers if every else range(len(numbers))
        self._process = subprocess.Popen(
            roles.argv("sample", program),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._lines = Lines(os.dup(self._process.stdout.fileno()))
        asked = {
            "top": root.top,
            "folder": folder,
            "rails": [rail.as_dict() for rail in self._rails],
            "rate_hz": rate_hz,
            "limit_s": limit_s,
        }
        if self._say(json.dumps(asked).encode() + b"\n", READY_S) is None:
            self.close()

    @property
    def pid(self):
        """Of the process that reads."""
        return self._process.pid

    def stop(self):
        """What was read, as `power.Samples`."""
        import numpy as np

        from device_tests.agent.sensors import power

        told = self._say(b"stop\n", STOP_S)
        self.close()
        if told is None:
            return power.none("power was not measured: " + (self._reason or "its process ended"))
        names = [rail.name for rail in self._rails]
        times = np.fromfile(os.path.join(self._folder, "times"), np.int64)
        values = np.fromfile(os.path.join(self._folder, "values"), np.float64)
        slowest = max((rail.update_ms for rail in self._rails if rail.update_ms is not None), default=None)
        source = ", ".join(sorted({rail.source for rail in self._rails}))
        return power.Samples(source, times, values, names, self._total, self._covers, slowest)

    def close(self):
        """Ends the process."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                stream.close()

    def _say(self, line, seconds):
        """The process's answer; None where there is none in time."""
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
            told = self._lines.get(seconds)
        except (OSError, ValueError, queue.Empty) as error:
            self._reason = self._reason or "its process does not answer (%s)" % type(error).__name__
            return None
        return None if told is None else json.loads(told.decode())


class _Tegrastats(Nothing):
    """What tegrastats tells, where the kernel shows no rails."""

    def __init__(self, root):
        super().__init__("")
        self._reader = tegrastats_process.Reader(root, TEGRASTATS_MS)

    def stop(self):
        """What it told, as `power.Samples`."""
        from device_tests.agent.sensors import power

        lines = self._reader.waiting()
        self.close()
        names = list(lines[0][1]["rails"]) if lines else []
        if not names:
            return power.none("power was not measured: this board's tegrastats tells of no rails")
        numbers, covers = totals.choose(names)
        kept = [names[number] for number in numbers]
        times = [moment for moment, _ in lines]
        values = [[told["rails"].get(name, {}).get("current_mw", float("nan")) for name in kept] for _, told in lines]
        return power.Samples("tegrastats", times, values, kept, range(len(kept)), covers)

    def close(self):
        """Ends it."""
        self._reader.close()
