"""Who may have the board: decisions over one record, a moment of the board's own uptime, and its boot id.

A record is `{"run": entry, "hold": entry}`, each only where there is one. A run's lease is renewed by heartbeats and
lapses without them; a hold is a person's reservation, which lets that person's runs in and keeps the others out. No
wall clock is asked anywhere: a board without a battery starts in 1970.
"""

from device_tests.agent.protocol import Refusal

_FIELDS = {
    "kind": str,
    "owner": str,
    "run_id": str,
    "token": str,
    "ttl_s": (int, float),
    "boot_id": str,
    "claimed_s": (int, float),
    "renewed_s": (int, float),
    "process": dict,
    "stale": list,
}

LONGEST_TTL_S = 3600.0
LONGEST_HOLD_S = 30 * 86400.0
_LONGEST_TEXT = 200


class Moment:
    """Now, on this board."""

    def __init__(self, boot_id, uptime_s):
        self.boot_id = boot_id
        self.uptime_s = uptime_s

    def left_s(self, entry):
        """Seconds until an entry lapses; 0.0 where it has, and after a restart."""
        if entry["boot_id"] != self.boot_id:
            return 0.0
        return max(0.0, entry["renewed_s"] + entry["ttl_s"] - self.uptime_s)

    def holder(self, entry):
        """An entry as an answer tells it, keyed as `edgesmith.types.LeaseHolder`; None for none."""
        if entry is None:
            return None
        same_boot = entry["boot_id"] == self.boot_id
        until = self.uptime_s if same_boot else entry["renewed_s"]
        return {
            "kind": entry["kind"],
            "owner": entry["owner"],
            "run_id": entry["run_id"],
            "held_s": max(0.0, until - entry["claimed_s"]),
            "expires_in_s": self.left_s(entry),
        }

    def entry(self, kind, params, ttl_s, process):
        """A new entry of `kind` for whoever asks; `process` is the agent's {"pid", "started"}."""
        return {
            "kind": kind,
            "owner": _text(params, "owner"),
            "run_id": _text(params, "run_id", ""),
            "token": _text(params, "token", ""),
            "ttl_s": ttl_s,
            "boot_id": self.boot_id,
            "claimed_s": self.uptime_s,
            "renewed_s": self.uptime_s,
            "process": process,
            "stale": [],
        }


def is_record(found):
    """Whether this is a record as we write it: what others leave in a shared folder is not to be relied on."""
    return isinstance(found, dict) and all(
        isinstance(entry, dict)
        and entry.get("kind") == kind
        and set(entry) == set(_FIELDS)
        and all(isinstance(entry[name], kinds) for name, kinds in _FIELDS.items())
        and all(_is_process(one) for one in [entry["process"]] + entry["stale"])
        for kind, entry in found.items()
    )


def lease(record, now, params, process):
    """Claims the board for a run, once.

    Args:
        record: changed where the claim is granted.
        now: a `Moment`.
        params: owner, run_id, token, ttl_s.
        process: who asks.

    Returns:
        {"granted": True, "taken_over": the lapsed holder or None}, or {"granted": False, "holder": ...}.
    """
    wanted = now.entry("run", params, _seconds(params, "ttl_s", LONGEST_TTL_S), process)
    if not wanted["token"]:
        raise Refusal("bad-params", "a lease needs a token")
    hold, run = record.get("hold"), record.get("run")
    if hold and now.left_s(hold) and hold["owner"] != wanted["owner"]:
        return {"granted": False, "holder": now.holder(hold)}
    back = run is not None and run["token"] == wanted["token"] and run["boot_id"] == now.boot_id
    if run and now.left_s(run) and not back:
        return {"granted": False, "holder": now.holder(run)}
    lapsed = [one for one in (None if back else run, hold) if one and not now.left_s(one)]
    if hold in lapsed:
        del record["hold"]
    if back:
        wanted["claimed_s"] = run["claimed_s"]
        wanted["stale"] = earlier_agents(record, process)
    record["run"] = wanted
    return {"granted": True, "taken_over": now.holder(lapsed[0]) if lapsed else None}


def earlier_agents(record, process):
    """The agents that had this lease before, as {"pid", "started"}: whether they still run is to be seen."""
    run = record["run"]
    return [one for one in run["stale"] + [run["process"]] if one != process]


def is_of(record, token, process):
    """Whether the run's lease is that of this token and this agent: a later agent of the same token has its own."""
    run = record.get("run")
    return bool(run) and run["token"] == token and run["process"] == process


def renew(record, now, token, process):
    """A heartbeat came. False where the lease is no longer this agent's."""
    if not is_of(record, token, process):
        return False
    record["run"]["renewed_s"] = now.uptime_s
    return True


def unlease(record, token, process):
    """Ends this agent's lease. False where it had none."""
    if not is_of(record, token, process):
        return False
    del record["run"]
    return True


def hold(record, now, params, process):
    """Reserves the board for a person. Params: owner, seconds, run_id, force; the answer is that of `lease`."""
    wanted = now.entry("hold", params, _seconds(params, "seconds", LONGEST_HOLD_S), process)
    before, run = record.get("hold"), record.get("run")
    others = [one for one in (run, before) if one and one["owner"] != wanted["owner"]]
    in_the_way = [one for one in others if now.left_s(one) and not (one is before and params.get("force"))]
    if in_the_way:
        return {"granted": False, "holder": now.holder(in_the_way[0])}
    if run and not now.left_s(run):
        del record["run"]
    record["hold"] = wanted
    return {"granted": True, "taken_over": now.holder(others[0]) if others else None}


def unhold(record, now, params):
    """Gives the board back for a person. Params: owner, force.

    Without `force` only what is the owner's own goes, and no lease of a run that is being renewed.

    Returns:
        {"released": the holders that are gone, "holder": who still has the board, or None}.
    """
    owner, force = _text(params, "owner"), bool(params.get("force"))
    released = []
    for kind in ("run", "hold"):
        entry = record.get(kind)
        own = bool(entry) and entry["owner"] == owner and kind == "hold"
        if entry and (force or own or not now.left_s(entry)):
            released.append(now.holder(record.pop(kind)))
    left = record.get("run") or record.get("hold")
    return {"released": released, "holder": now.holder(left)}


def _is_process(found):
    return (
        isinstance(found, dict)
        and isinstance(found.get("pid"), int)
        and isinstance(found.get("started"), (int, type(None)))
    )


def _text(params, name, default=None):
    value = params.get(name, default)
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT or not (value or default is not None):
        raise Refusal("bad-params", "%s is no text of at most %d characters: %r" % (name, _LONGEST_TEXT, value))
    return value


def _seconds(params, name, most):
    value = params.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0.0 < value <= most:
        raise Refusal("bad-params", "%s is not between 0 and %d seconds: %r" % (name, most, value))
    return float(value)
