"""What the agent can be asked."""

import os

from device_tests.agent import (
    compiling,
    cuda_facts,
    echo,
    environment,
    measuring,
    power_hold,
    power_modes,
    probing,
    releasing,
    runtimes,
)
from device_tests.agent.leasing import Leasing
from device_tests.agent.protocol import PROTOCOL, Deadline, Refusal
from device_tests.agent.reading import Root
from device_tests.agent.sensors import sampling
from device_tests.agent.work import Folders


class Agent:
    """State of one session.

    Attributes:
        folders: once `hello` has named the workdir.
        leasing: the board's lease.
    """

    def __init__(self, leave, root=None):
        """Has done nothing yet.

        Args:
            leave: ends the program in order; may be called from any thread.
            root: the board, where its files lie elsewhere than below "/".
        """
        self.folders = None
        self._root = root or Root()
        self.leasing = Leasing(leave)

    def methods(self):
        """Name -> function(params, deadline, event)."""
        found = {
            "hello": self.hello,
            "have": self.have,
            "verify": self.verify,
            "measure": self.measure,
            "infer": self.infer,
            "forget": self.forget,
        }
        found.update(echo.methods(self))
        found.update(probing.methods(self, self._root))
        found.update(power_modes.methods(self, self._root))
        found.update(releasing.methods(self))
        found.update(compiling.methods(self, self._root))
        found.update(cuda_facts.methods())
        found.update(self.leasing.methods())
        return {name: self._under_lease(function) for name, function in found.items()}

    def _under_lease(self, function):
        """The same method, refused where the lease was lost before or during it: its result is nobody's."""

        def checked(params, deadline, event):
            self.leasing.check()
            try:
                return function(params, deadline, event)
            finally:
                self.leasing.check()

        return checked

    def hello(self, params, deadline, _event):
        """Says what this board is. Params: workdir."""
        if self.folders is None:
            self.folders = Folders(params["workdir"])
        found = dict(environment.identity(self._root), protocol=PROTOCOL, pid=os.getpid(), work=self.folders.root)
        found["power_mode"] = power_modes.current(self._root)
        return dict(found, **runtimes.importable(deadline))

    def have(self, params, _deadline, _event):
        """Which of `sha256` are here, content checked; and the names of uploads that wait to be gone on with."""
        folders = self._folders()
        return {"have": folders.have(params["sha256"]), "incoming": folders.incoming.names()}

    def verify(self, params, _deadline, _event):
        """Accepts the uploaded `path` under its `sha256`, or removes it and refuses. See `Incoming.accept`."""
        encoding, size = params.get("encoding", ""), params.get("size")
        return {"path": self._folders().verify(params["path"], params["sha256"], encoding, size)}

    def measure(self, params, _deadline, event):
        """Latency, power and outputs of `artifacts` on `inputs`, taking turns; see `measuring.measure`.

        `power`: a power mode to do it in, see `power_hold`; it is taken back before this answers.
        """
        folder = self._folders().new()
        asked = [self._artifact(one) for one in params["artifacts"]]
        notes = os.path.join(self._folders().root, power_modes.FOLDER)
        with power_hold.Hold(params.get("power"), notes, self._root) as held:
            found = measuring.measure(
                asked,
                self._inputs(params),
                params["protocol"],
                folder,
                event,
                snapshot=lambda: environment.snapshot(self._root),
                sample=lambda place: sampling.start(self._root, place),
            )
        return dict(found, folder=folder, power_state=held.record())

    def infer(self, params, deadline, event):
        """Outputs of one `artifact` on `inputs`."""
        folder = self._folders().new()
        asked = self._artifact(params["artifact"])
        # A little earlier than ours, so that the child's end is still an answer.
        inner = Deadline(deadline.remaining_s * 0.95)
        found = measuring.infer(asked, self._inputs(params), params["threads"], folder, inner, event)
        return dict(found, folder=folder)

    def forget(self, params, _deadline, _event):
        """Removes the `folder` of an earlier answer."""
        self._folders().forget(params["folder"])
        return {}

    def _folders(self):
        if self.folders is None:
            raise Refusal("bad-request", "say hello first: it names the workdir")
        return self.folders

    def _artifact(self, asked):
        return dict(asked, path=self._folders().blob(asked["sha256"]))

    def _inputs(self, params):
        return dict(params["inputs"], path=self._folders().blob(params["inputs"]["sha256"]))
