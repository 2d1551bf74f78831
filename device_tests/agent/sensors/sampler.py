"""The process that reads power while another one is timed. It exits with the agent.

It works at low priority and sleeps between reads: what is timed comes first, and where reads fall behind, their rate
says so. The first line on stdin tells what to read; "stop" ends it, and an end of stdin without that ends it unheard.
"""

import array
import contextlib
import json
import os
import select
import sys

from device_tests.agent.reading import Root
from device_tests.agent.sensors import rails
from device_tests.agent.timing import now_ns

NICE = 10
STOP = b"stop\n"


def main():
    """Reads until it is told to stop, then writes what it read."""
    with contextlib.suppress(OSError):
        os.nice(NICE)
    asked = json.loads(sys.stdin.buffer.raw.readline().decode())
    wanted = [rails.from_dict(one) for one in asked["rails"]]
    with rails.Open(Root(asked["top"]), wanted) as opened:
        _say({"ready": True})
        times, values = _sample(opened, int(1e9 / asked["rate_hz"]), asked["limit_s"])
    if os.read(0, len(STOP)) != STOP:
        return
    for name, column in (("times", times), ("values", values)):
        with open(os.path.join(asked["folder"], name), "wb") as stream:
            column.tofile(stream)
    _say({"samples": len(times)})


def _sample(opened, period_ns, limit_s):
    """Moments in ns, and for each the milliwatts of every rail, NaN where it was not told."""
    times, values = array.array("q"), array.array("d")
    due = now_ns()
    until = due + int(limit_s * 1e9)
    while True:
        wait_s = max(0.0, (due - now_ns()) / 1e9) if due < until else None
        if select.select([0], [], [], wait_s)[0]:
            return times, values
        start = now_ns()
        found = opened.mw()
        # In the middle of the reads: they are not at one moment.
        times.append((start + now_ns()) // 2)
        values.extend(float("nan") if mw is None else mw for mw in found)
        # Reads that are late are not made up for.
        due = max(due + period_ns, now_ns())


def _say(message):
    sys.stdout.buffer.write(json.dumps(message).encode() + b"\n")
    sys.stdout.buffer.flush()
