"""The board's lease from the agent's side: claimed, renewed by the workstation's heartbeats, given back.

An agent under a lease that hears no heartbeat leaves before the lease lapses: on a half-open link nothing else would
tell it that nobody is there. One that finds its lease gone, after the board stood still for too long, ends its work,
and stays as long as somebody is there to be told.
"""

import os
import threading
import time

from device_tests.agent import lease_rules, stale, supervisor
from device_tests.agent.lease_file import LeaseFile
from device_tests.agent.protocol import HEARTBEAT, Refusal

LEAVES_AFTER = 0.85
"""Of the lease's length: silence for so long means that nobody is there."""
_CHECKS_PER_TTL = 12
_SECOND_LOOK = 0.05
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_CLOCK_BOOTTIME = 7  # named in `time` since Python 3.7 only


class Leasing:
    """What the agent knows of the board's lease.

    Attributes:
        lost: why the lease this agent had is no longer its own; empty while all is well.
    """

    def __init__(self, leave, uptime=None, end_work=supervisor.end_all):
        """Holds nothing.

        Args:
            leave: ends the agent in order; called from another thread when the heartbeats have stopped.
            uptime: the board's clock, in seconds since it started.
            end_work: ends what runs for this agent, and lets nothing more be started; called when the lease is lost.
        """
        self.lost = ""
        self._leave = leave
        self._end_work = end_work
        self._uptime = uptime or _uptime
        self._process = {"pid": os.getpid(), "started": stale.started(os.getpid())}
        self._guard = threading.Lock()
        self._closed = False
        self._file = None  # where it lies, as long as it is ours
        self._watched = None  # the same, until it is given back
        self._token = ""
        self._ttl_s = 0.0
        self._heard_s = 0.0

    def methods(self):
        """Name -> function(params, deadline, event)."""
        return {
            "lease": self.lease,
            "unlease": self.unlease,
            "holder": self.holder,
            "hold": self.hold,
            "unhold": self.unhold,
            "kill_stale": self.kill_stale,
        }

    def lease(self, params, _deadline, _event):
        """Claims the board once. Params: lease_dir, owner, run_id, token, ttl_s; see `lease_rules.lease`.

        A granted answer also has "stale": pids of earlier agents of the same token. They were asked to leave; one that
        hangs is for `kill_stale`.
        """
        file = LeaseFile(params["lease_dir"])
        with self._guard:
            if self._closed:
                raise Refusal("leaving", "the agent is about to leave")
            with file.locked() as record:
                found = lease_rules.lease(record, self._now(), params, self._process)
                if not found["granted"]:
                    return found
                record["run"]["stale"] = [one for one in record["run"]["stale"] if stale.is_agent(one)]
                for one in record["run"]["stale"]:
                    stale.ask_to_leave(one)  # else it works on beside us until it notices
                found["stale"] = [one["pid"] for one in record["run"]["stale"]]
            self._file, self._watched = file, file
            self._token, self._ttl_s = params["token"], float(params["ttl_s"])
            self._heard_s = self._uptime()
            threading.Thread(target=self._watch, args=(file,), daemon=True).start()
        return found

    def unlease(self, _params, _deadline, _event):
        """Gives the lease back."""
        return {"released": self.release()}

    def holder(self, params, _deadline, _event):
        """Who has the board: the run's lease and the person's hold, lapsed ones included. Params: lease_dir."""
        with LeaseFile(params["lease_dir"]).locked(create=False) as record:
            now = self._now()
            return {"run": now.holder(record.get("run")), "hold": now.holder(record.get("hold"))}

    def hold(self, params, _deadline, _event):
        """Reserves the board for a person. Params: lease_dir and those of `lease_rules.hold`."""
        with LeaseFile(params["lease_dir"]).locked() as record:
            return lease_rules.hold(record, self._now(), params, self._process)

    def unhold(self, params, _deadline, _event):
        """Gives it back for a person. Params: lease_dir and those of `lease_rules.unhold`."""
        with LeaseFile(params["lease_dir"]).locked(create=False, clear=bool(params.get("force"))) as record:
            return lease_rules.unhold(record, self._now(), params)

    def kill_stale(self, params, deadline, _event):
        """Ends earlier agents of our lease. Params: lease_dir, token. Result: {"agents": [{"pid", "outcome"}]}."""
        with LeaseFile(params["lease_dir"]).locked(create=False) as record:
            ours = "run" in record and record["run"]["token"] == params["token"]
            earlier = lease_rules.earlier_agents(record, self._process) if ours else []
        return {"agents": [{"pid": one["pid"], "outcome": stale.end(one, deadline)} for one in earlier]}

    def heartbeat(self, line):
        """Takes a line of the workstation if it is a heartbeat, and renews the lease. For the reading thread."""
        if line.strip() != HEARTBEAT:
            return False
        with self._guard:
            self._heard_s = self._uptime()
            if self._file is not None:
                self._look(lambda record: lease_rules.renew(record, self._now(), self._token, self._process))
        return True

    def release(self):
        """Gives back what this agent holds; True where it held something."""
        with self._guard:
            file, self._file, self._watched = self._file, None, None
            if file is None:
                return False
            with file.locked(create=False) as record:
                return lease_rules.unlease(record, self._token, self._process)

    def check(self):
        """Raises the refusal "lease-lost" where the lease is gone: what was measured since is nobody's."""
        if self.lost:
            raise Refusal("lease-lost", self.lost)

    def close(self):
        """The agent is leaving: gives back what it holds, and takes nothing more."""
        with self._guard:
            self._closed = True
        self.release()

    def _watch(self, file):
        """Leaves when the heartbeats have stopped; notices when the lease is somebody else's."""
        suspected = False
        while True:
            time.sleep(self._ttl_s * (_SECOND_LOOK if suspected else 1 / _CHECKS_PER_TTL))
            with self._guard:
                if self._file is file:
                    self._look(lambda record: lease_rules.is_of(record, self._token, self._process))
                if self._watched is not file:
                    return
                silent = self._uptime() - self._heard_s >= LEAVES_AFTER * self._ttl_s
            if silent and suspected:
                self._leave()
                return
            # After a standstill of the whole board, heartbeats that have come meanwhile get a moment to be read.
            suspected = silent

    def _look(self, is_ours):
        """Reads the record; where it is no longer ours, ends all work at once. For those who have the guard."""
        try:
            with self._file.locked(create=False) as record:
                ours = is_ours(record)
                now = self._now().holder(record.get("run") or record.get("hold"))
        except Refusal:
            return  # locked or unreadable for now: the next look, or the lack of heartbeats, decides
        if not ours:
            self._file = None
            by = "nobody has it now" if now is None else "%s has it now (run %s)" % (now["owner"], now["run_id"])
            self.lost = "the lease of this board was lost: " + by
            self._end_work()

    def _now(self):
        return lease_rules.Moment(_boot_id(), self._uptime())


def _uptime():
    """Seconds since the board started, sleep included; no setting of a clock changes it."""
    return time.clock_gettime(_CLOCK_BOOTTIME)


def _boot_id():
    try:
        with open(_BOOT_ID) as stream:
            return stream.read().strip()
    except OSError:
        return ""
