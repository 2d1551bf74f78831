"""A power mode for as long as a measurement lasts. Set on request only, restored always.

    with power_hold.Hold(asked, folder) as held:
        ...
    held.record()

The work is the guard's, see `power_guard`. Where even the guard is killed, this process restores by the guard's note.
"""

import contextlib
import json
import os
import queue
import subprocess

from device_tests.agent import power_journal, power_modes, power_switch, roles
from device_tests.agent.power_guard import RESTORE
from device_tests.agent.protocol import Lines, Refusal
from device_tests.agent.reading import Root

APPLY_S = 240
RESTORE_S = 300
ABANDON_S = 20
_HELD = set()


def abandon():
    """The agent is leaving: has every guard restore, and waits for that a little. From any thread."""
    for hold in list(_HELD):
        hold.let_go()


class Hold:
    """One power mode, held. A context manager."""

    def __init__(self, asked, folder, root=None, program=None, euid=None):
        """Changes nothing yet.

        Args:
            asked: {"mode": a name or None, "lock_clocks": bool}, or None; without either nothing is ever changed.
            folder: below the workdir, `power_modes.FOLDER`.
            root: the board.
            program: the agent's zip, see `roles`.
            euid: who we are; for tests.
        """
        asked = asked or {}
        self._mode, self._lock = asked.get("mode"), bool(asked.get("lock_clocks"))
        self._folder = os.path.abspath(folder)
        self._root = root or Root()
        self._program, self._euid = program, os.geteuid() if euid is None else euid
        self._process = None
        self._lines = None
        self._applied = None
        self._recovered = []
        self._restored = None
        self.guard_pid = None

    def __enter__(self):
        if self._mode is None and not self._lock:
            return self
        self._start()
        try:
            told = self._ask({"mode": self._mode, "lock_clocks": self._lock}, APPLY_S)
            if told is None:
                self._restored = self._by_note()
                raise Refusal(
                    "power-mode-failed", "the guard of the power mode ended without an answer", restored=self._restored
                )
            if "error" in told:
                error = dict(told["error"])
                self._restored = error.get("restored")
                raise Refusal(error.pop("code"), error.pop("message"), **error)
        except BaseException:
            self._end()
            raise
        self._applied, self._recovered, self.guard_pid = told["applied"], told["recovered"], told["pid"]
        return self

    def __exit__(self, *_error):
        if self._process is not None:
            self._end()

    def record(self):
        """What it was measured in.

        Returns:
            "asked": what was; "mode", "mode_before": names or None; "clocks_locked": they were held still by us or
            stood still anyway; "loose": clocks that could move, though they should not; "restored": see
            `power_switch.Switch.restore`, None where nothing was changed or it is still held; "recovered": what earlier
            sessions had left and was put back first.
        """
        applied = self._applied or {}
        now = power_modes.look(self._root) if self._applied is None else {}
        return {
            "asked": {"mode": self._mode, "lock_clocks": self._lock},
            "mode": applied.get("mode", now.get("mode")),
            "mode_before": applied.get("mode_before", now.get("mode")),
            "clocks_locked": applied["locked"] and not applied["loose"] if applied else now["clocks_locked"],
            "loose": applied.get("loose", []),
            "restored": self._restored,
            "recovered": self._recovered,
        }

    def let_go(self):
        """Has the guard restore without telling us, since we are leaving; waits for its end."""
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.close()
        with contextlib.suppress(queue.Empty):
            while self._lines.get(ABANDON_S) is not None:
                pass

    def _start(self):
        self._process = subprocess.Popen(
            roles.argv("guard", self._program),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Not ours: over SSH a program that holds it keeps the session open.
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._lines = Lines(os.dup(self._process.stdout.fileno()))
        _HELD.add(self)

    def _ask(self, order, seconds):
        """The guard's answer; None where it has ended."""
        message = json.dumps(dict(order, top=self._root.top, folder=self._folder, euid=self._euid))
        return self._say(message, seconds)

    def _say(self, text, seconds):
        try:
            self._process.stdin.write(text.encode() + b"\n")
            self._process.stdin.flush()
        except (OSError, ValueError):
            return None
        try:
            line = self._lines.get(seconds)
        except queue.Empty:
            raise Refusal("power-mode-failed", "the guard of the power mode gave no answer in %d s" % seconds) from None
        return None if line is None else json.loads(line.decode())

    def _end(self):
        """Has the guard restore, where there is something to restore."""
        try:
            if self._applied is not None:
                told = self._say(RESTORE, RESTORE_S)
                self._restored = self._by_note() if told is None else told["restored"]
        except Refusal as refusal:
            self._restored = {"ok": False, "mode": None, "steps": [], "differs": [refusal.message]}
        finally:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()
            _HELD.discard(self)

    def _by_note(self):
        """The guard is gone: this process does its work. Each note is told; the last one's outcome is the whole's."""
        try:
            with power_journal.locked(self._folder):
                switch = power_switch.Switch(self._root, self._folder, self._euid)
                done = [switch.restore(noted) for noted in power_journal.pending(self._folder)]
        except Refusal as refusal:
            return {"ok": False, "mode": None, "steps": [], "differs": [refusal.message]}
        return done[-1] if done else switch.restore()
