"""The agent while it lives: it answers what it is asked, and leaves in order.

It leaves when its stdin ends (the link is gone), on SIGTERM and SIGHUP, when nothing was asked for an hour or a
request outlasts its time, and, under a lease, when the heartbeats have stopped. It ends its children, has the power
mode put back, gives the lease back and removes its work folder in every case but SIGKILL; then the guard puts the power
mode back, the lease lapses, and the next agent removes the rest.
"""

import os
import queue
import signal
import sys
import threading

from device_tests.agent import power_hold, releasing, supervisor
from device_tests.agent.methods import Agent
from device_tests.agent.protocol import Channel, Lines, Refusal, answer

IDLE_S = 3600


class Exit:
    """The way out: a thread waits for the word, which is a byte in a pipe: safe to send from signal handlers."""

    def __init__(self):
        self._read, self._write = os.pipe()
        self._agent = None

    def leave(self, *_):
        """Ends the program, soon. Returns at once, whoever calls."""
        os.write(self._write, b".")

    def watch(self, agent):
        """Waits from now on."""
        self._agent = agent
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self):
        os.read(self._read, 1)
        try:
            supervisor.end_all()
            releasing.abandon()
            power_hold.abandon()
            self._agent.leasing.close()
        except Refusal as refusal:
            sys.stderr.write("the lease was not given back: %s\n" % refusal.message)
        finally:
            if self._agent.folders is not None:
                self._agent.folders.clean()
            os._exit(0)


def main(root=None):
    """Serves until it leaves; `root`: see `Agent`."""
    way_out = Exit()
    agent = Agent(way_out.leave, root)
    way_out.watch(agent)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, way_out.leave)
    channel = Channel()
    channel.write_marker()
    lines = Lines(os.dup(0), at_end=way_out.leave, taken=agent.leasing.heartbeat)
    methods = agent.methods()
    while True:
        try:
            line = lines.get(IDLE_S)
        except queue.Empty:
            line = None
        if line is None:
            break
        try:
            answer(line, methods, channel)
        except BrokenPipeError:
            break
    way_out.leave()
    threading.Event().wait()
