"""Sets a power mode and holds clocks still, and puts back what was there before.

Set:     store the clocks -> nvpmodel -m -> jetson_clocks
Restore: nvpmodel -m -> jetson_clocks --restore

Clocks are stored before the mode is changed and restored after it is back: limits that somebody set by hand belong to
the old mode. Whether it worked is read from the board: jetson_clocks ends with status 0 whatever happened.
"""

import os
import re
import time

from device_tests.agent import power_journal, power_modes, tool_process
from device_tests.agent.protocol import Deadline, Refusal

TOOL_S = 60
SECOND_TRY_S = 1.0
_TOLD_CHARACTERS = 600

# nvpmodel asks "DO YOU WANT TO REBOOT NOW?" where a mode has another set of GPU cores. Its stdin is empty: that is no.
_REBOOT = re.compile("reboot", re.IGNORECASE)
# Not every line of sudo's: it also complains of host names that it cannot resolve, and goes on.
_DENIED = re.compile(r"^sudo: .*(password|terminal|sudoers)|is not allowed to", re.MULTILINE)


class Tools:
    """nvpmodel and jetson_clocks, as root: ours, or sudo's where it asks for no password."""

    def __init__(self, root, euid=None):
        self._root = root
        self._euid = os.geteuid() if euid is None else euid

    def has(self, name):
        """Whether the board has it."""
        return self._root.tool(name) is not None

    def run(self, name, *arguments):
        """Exit status, None where it did not end in time, and what it printed.

        Raises:
            Refusal: "power-mode-denied": it is not there, or we may not run it.
        """
        argv = [self._needed(name), *arguments]
        if self._euid != 0:
            argv = [self._needed("sudo"), "-n", *argv]
        lines = []
        status = tool_process.run(argv, "power-mode-denied", Deadline(TOOL_S), lines.append)
        if status is None:
            # What sudo has started is root's, and stays.
            return None, "did not end in %d s" % TOOL_S
        text = "\n".join(lines).strip()
        if self._euid != 0 and status != 0 and _DENIED.search(text):
            raise Refusal("power-mode-denied", "%s needs root: %s" % (name, text.splitlines()[-1]))
        return status, text[-_TOLD_CHARACTERS:]

    def _needed(self, name):
        found = self._root.tool(name)
        if found is None:
            raise Refusal("power-mode-denied", "there is no %s on this board" % name)
        return found


class Switch:
    """The power mode of one board. Whoever applies must restore."""

    def __init__(self, root, folder, euid=None):
        """`folder`: of the notes, see `power_journal`."""
        self._root = root
        self._folder = folder
        self._tools = Tools(root, euid)
        self._noted = None

    def apply(self, mode, lock_clocks):
        """Sets the mode of that name, or leaves it where None; then holds the clocks still, if asked to.

        Returns:
            {"mode_before", "mode", "locked", "loose"}: locked, whether jetson_clocks was run; loose, the clocks that
            may move all the same, as sentences.

        Raises:
            Refusal: "power-mode-unknown", "power-mode-denied", "power-mode-needs-reboot", "power-mode-failed",
                "clocks-not-lockable". Then `restore` is to be called all the same.
        """
        before = power_modes.current(self._root)
        number = None
        if mode is not None:
            number = power_modes.number_of(self._root, mode)
            mode = power_modes.modes(self._root)[number]
            if before is None:
                raise Refusal(
                    "power-mode-unknown", "the board does not tell its power mode now, so it could not be put back"
                )
        # nvpmodel may ask for a restart even where it is told the mode that is on.
        change = mode is not None and mode != before
        if change or lock_clocks:
            self._note(before, lock_clocks)
        if change:
            self._set(number, mode)
        if lock_clocks:
            self._lock()
        return {
            "mode_before": before,
            "mode": power_modes.current(self._root),
            "locked": lock_clocks,
            "loose": power_modes.loose(power_modes.clocks(self._root)) if lock_clocks else [],
        }

    def restore(self, noted=None):
        """Puts back what `apply` changed, or what an earlier guard's note tells; tries twice.

        Returns:
            {"ok", "mode", "steps": [{"command", "status", "text"}], "differs"}: differs, what is not as before, as
            sentences. Nothing is raised: there is nobody who could do it better.
        """
        noted = noted or self._noted
        if noted is None:
            return {"ok": True, "mode": power_modes.current(self._root), "steps": [], "differs": []}
        steps = []
        for wait_s in (0.0, SECOND_TRY_S):
            time.sleep(wait_s)
            fine = self._put_back(noted, steps)
            differs = self._differs(noted)
            if fine and not differs:
                power_journal.forget(noted)
                break
        return {
            "ok": fine and not differs,
            "mode": power_modes.current(self._root),
            "steps": steps,
            "differs": differs,
        }

    def _note(self, before, lock_clocks):
        self._noted = power_journal.plan(self._root, self._folder, before, power_modes.clocks(self._root))
        power_journal.write(self._noted)
        if not self._tools.has("jetson_clocks"):
            if lock_clocks:
                raise Refusal("clocks-not-lockable", "there is no jetson_clocks on this board")
            return
        path = self._noted["clocks_file"]
        status, text = self._tools.run("jetson_clocks", "--store", path)
        if status != 0 or not os.path.exists(path) or not os.path.getsize(path):
            raise Refusal(
                "clocks-not-lockable",
                "jetson_clocks did not store the clocks, so they could not be put back: %s" % text,
            )

    def _set(self, number, mode):
        self._noted["mode_set"] = True
        power_journal.write(self._noted)
        status, text = self._tools.run("nvpmodel", "-m", str(number))
        if _REBOOT.search(text):
            raise Refusal(
                "power-mode-needs-reboot",
                "power mode %r takes a restart of the board, which is not ours to do; set it there once: "
                "sudo nvpmodel -m %d" % (mode, number),
                told=text,
            )
        now = power_modes.current(self._root)
        if status != 0 or now != mode:
            what = "it did not end in time" if status is None else "status %s" % status
            raise Refusal(
                "power-mode-failed", "nvpmodel did not set %r (%s, the mode is %r): %s" % (mode, what, now, text)
            )

    def _lock(self):
        self._noted["locked"] = True
        power_journal.write(self._noted)
        status, text = self._tools.run("jetson_clocks")
        if status != 0:
            raise Refusal("clocks-not-lockable", "jetson_clocks failed (status %s): %s" % (status, text))

    def _put_back(self, noted, steps):
        """One try. Whether every step was well."""
        fine = True
        if noted["mode_set"] and self._differs(noted):
            try:
                number = power_modes.number_of(self._root, noted["mode"])
            except Refusal as refusal:
                steps.append({"command": "nvpmodel -m", "status": None, "text": refusal.message})
                return False
            fine = self._step(steps, "nvpmodel", "-m", str(number))
        changed = noted["locked"] or bool(self._clocks_differ(noted))
        if changed and power_journal.same_boot(self._root, noted) and os.path.exists(noted["clocks_file"]):
            fine = self._step(steps, "jetson_clocks", "--restore", noted["clocks_file"]) and fine
        return fine

    def _step(self, steps, *command):
        try:
            status, text = self._tools.run(*command)
        except Refusal as refusal:
            status, text = None, refusal.message
        steps.append({"command": " ".join(command), "status": status, "text": text})
        return status == 0

    def _differs(self, noted):
        now = power_modes.current(self._root)
        mode = ["the power mode is %r, it was %r" % (now, noted["mode"])] if now != noted["mode"] else []
        return mode + self._clocks_differ(noted)

    def _clocks_differ(self, noted):
        if not power_journal.same_boot(self._root, noted):
            return []
        now = power_modes.clocks(self._root)
        return [
            "%s: %s is %s, it was %s" % (name, key, now.get(name, {}).get(key), value)
            for name, clock in noted["clocks"].items()
            for key, value in clock.items()
            if now.get(name, {}).get(key) != value
        ]
