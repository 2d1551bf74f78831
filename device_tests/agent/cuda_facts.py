"""Which providers of CUDA this board has. Each is tried in a process of its own: a broken driver can end it."""

from device_tests.agent import cuda
from device_tests.agent.protocol import Deadline, Refusal
from device_tests.agent.supervisor import Child

_EACH_S = 60
MISSING = "cuda-missing"


def methods():
    """Name -> function(params, deadline, event), for `Agent.methods`."""
    return {"cuda": providers}


def providers(_params, deadline, _event):
    """Every provider: {"name", "missing": why it is not there, "error": why it does not work, "found": its `probe`}.

    The first that is found and works is the one that "auto" takes.
    """
    return {"providers": [_provider(name, deadline) for name in cuda.PROVIDERS]}


def _provider(name, deadline):
    told = {"name": name, "missing": None, "error": None, "found": None}
    with Child() as child:
        try:
            found = child.call("cuda", {"provider": name}, Deadline(min(_EACH_S, deadline.remaining_s)))
        except Refusal as refusal:
            return dict(told, **{"missing" if refusal.code == MISSING else "error": refusal.message})
    return dict(told, found=found)
