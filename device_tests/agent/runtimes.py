"""Which runtimes import here. Each is tried in a process of its own: one that crashes on import is an answer, too."""

from device_tests.agent import runners
from device_tests.agent.protocol import Deadline, Refusal
from device_tests.agent.supervisor import Child
from device_tests.agent.tensorrt import missing

PROBE_S = 60

# Runner -> what tells at once why it cannot be there. Most boards are no Jetsons, and a process takes them a while.
_CHEAPLY = {"tensorrt": missing.runtime}

_FOUND = {}


def importable(deadline):
    """{"runners", "runtimes", "missing", "numpy"}; tried once in an agent's life, a second or more on a small board."""
    if not _FOUND:
        _FOUND.update(_try(deadline))
    return dict(_FOUND)


def _try(deadline):
    found = {"runners": [], "runtimes": {}, "missing": {}, "numpy": None}
    for name in runners.names():
        why = _CHEAPLY[name]() if name in _CHEAPLY else None
        if why is not None:
            found["missing"][name] = why
            continue
        with Child() as child:
            try:
                probed = child.call("probe", {"runner": name}, Deadline(min(PROBE_S, deadline.remaining_s)))
            except Refusal as refusal:
                found["missing"][name] = refusal.message
                continue
            found["runners"].append(name)
            found["runtimes"].update(probed["packages"])
            found["numpy"] = probed["numpy"]
    return found
