"""The guard of a power mode: a process of its own that sets it and puts it back, whatever becomes of the agent.

Everything is done here, one step after the other, so that an agent that is killed in the middle of a step leaves no
step half done beside us. It is told twice by a pipe: what to set, and later to restore. A pipe that ends instead means
that the agent is gone; so does a signal. It has left the agent's process group and its parent: whoever ends a stale
agent with its children does not end it.
"""

import json
import os
import select
import signal

from device_tests.agent import power_journal, power_switch
from device_tests.agent.protocol import Refusal
from device_tests.agent.reading import Root

RESTORE = "restore"
PATIENCE_S = 60
"""For the guard of an agent that is gone, which may still be restoring."""


def main():
    """Serves one power mode."""
    if os.fork():
        os._exit(0)
    os.setsid()
    orders = _Orders()
    first = orders.get()
    if first is None:
        return
    asked = json.loads(first)
    root, folder = Root(asked["top"]), asked["folder"]
    try:
        with power_journal.locked(folder, PATIENCE_S):
            _guard(root, folder, asked, orders)
    except Refusal as refusal:
        _tell({"error": refusal.as_dict()})


def _guard(root, folder, asked, orders):
    switch = power_switch.Switch(root, folder, asked["euid"])
    recovered = [switch.restore(noted) for noted in power_journal.pending(folder)]
    try:
        try:
            told = switch.apply(asked["mode"], asked["lock_clocks"])
        except (OSError, ValueError) as error:
            raise Refusal("power-mode-failed", "%s: %s" % (type(error).__name__, error)) from None
    except Refusal as refusal:
        restored = switch.restore()
        if not _tell({"error": dict(refusal.as_dict(), restored=restored)}):
            power_journal.report(folder, "the agent was gone", restored)
        return
    _tell({"applied": told, "recovered": recovered, "pid": os.getpid()})
    order = orders.get()
    restored = switch.restore()
    if order != RESTORE or not _tell({"restored": restored}):
        power_journal.report(folder, orders.ended or "the agent was gone", restored)


class _Orders:
    """Lines of stdin, until it ends or a signal comes.

    Attributes:
        ended: why there are no more.
    """

    def __init__(self):
        self.ended = ""
        self._buffer = b""
        self._woken, woken = os.pipe()
        os.set_blocking(woken, False)
        signal.set_wakeup_fd(woken)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, lambda *_: None)

    def get(self):
        """The next line; None where there is none any more."""
        while b"\n" not in self._buffer:
            ready = select.select([0, self._woken], [], [])[0]
            if self._woken in ready:
                self.ended = "signal %d" % os.read(self._woken, 1)[0]
                return None
            part = os.read(0, 1 << 16)
            if not part:
                self.ended = "the agent was gone"
                return None
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()


def _tell(message):
    """Whether somebody was there to be told."""
    try:
        os.write(1, json.dumps(message).encode() + b"\n")
    except OSError:
        return False
    return True
