"""Entry of the zip: `python3 -u agent.zip`. With `--child` it is one of the agent's own children.

The agent leaves when its stdin ends (the link is gone), on SIGTERM and SIGHUP, and when nothing was asked for an hour
or a request outlasts its time. It ends its children and removes its work folder in every case but SIGKILL; then the
next agent does.
"""

import os
import queue
import signal
import sys
import threading
import time

from device_tests.agent import child, supervisor
from device_tests.agent.methods import Agent
from device_tests.agent.protocol import Channel, Lines, answer

IDLE_S = 3600


def main():
    """Runs as the agent or as its child."""
    if sys.argv[1:] == ["--child"]:
        child.main()
        return
    agent = Agent()
    leaving = threading.Lock()

    def leave(*_):
        if not leaving.acquire(False):
            return  # the other thread, or the frame below this signal handler, is at it
        supervisor.kill_all()
        if agent.folders is not None:
            agent.folders.clean()
        os._exit(0)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, leave)
    channel = Channel()
    channel.write_marker()
    lines = Lines(os.dup(0), at_end=leave)
    methods = agent.methods()
    while True:
        try:
            line = lines.get(IDLE_S)
        except queue.Empty:
            line = None
        if line is None:
            leave()
            time.sleep(1)
            continue
        try:
            answer(line, methods, channel)
        except BrokenPipeError:
            leave()


if __name__ == "__main__":
    main()
