"""What is made of an artifact on the board itself: built in a child, listed, looked into, and removed."""

import os
from datetime import datetime, timezone

from device_tests.agent import power_hold, power_modes
from device_tests.agent.protocol import Deadline, Refusal
from device_tests.agent.supervisor import Child
from device_tests.agent.tensorrt.engines import Engines

KILLED = "SIGKILL"


def methods(agent, root=None):
    """Name -> function(params, deadline, event), for `Agent.methods`; `root`: the board."""
    compiling = Compiling(agent, root)
    return {
        "build": compiling.build,
        "profile": compiling.profile,
        "trtexec": compiling.trtexec,
        "engines": compiling.engines,
        "engines_remove": compiling.remove,
    }


class Compiling:
    """The methods."""

    def __init__(self, agent, root=None, start=Child):
        """Of an agent.

        Args:
            agent: has the folders.
            root: the board.
            start: makes the child, see `supervisor.Child`.
        """
        self._agent = agent
        self._root = root
        self._start = start

    def build(self, params, deadline, event):
        """Builds the engine of an artifact, or finds it; a build takes minutes.

        Where the kernel ends the build for want of memory, it is tried once more with the plan for boards that are
        short of it.

        Params:
            artifact: {"sha256", "runner"}.
            options: of the runner; "timing_cache_sha256" names an upload.
            rebuild: even where there is one.

        Returns:
            The runner's record; for TensorRT see `tensorrt.building.build`.
        """
        folders, asked, options = self._folders(), params["artifact"], dict(params.get("options") or {})
        given = options.pop("timing_cache_sha256", None)
        how = {"rebuild": bool(params.get("rebuild"))}
        if given is not None:
            how["timing_cache"] = folders.blob(given)
        call = {
            "runner": asked["runner"],
            "path": folders.blob(asked["sha256"]),
            "options": dict(options, onnx_sha256=asked["sha256"]),
            "folder": folders.engines,
            "how": how,
        }
        # A little earlier than ours, so that the child's end is still an answer.
        inner, onward = Deadline(deadline.remaining_s * 0.95), _Onward()
        try:
            return self._built(call, inner, event, onward)
        except Refusal as refusal:
            if refusal.facts.get("signal") != KILLED:
                raise
        try:
            return self._built(dict(call, how=dict(how, low_memory=True)), inner, event, onward)
        except Refusal as refusal:
            if refusal.facts.get("signal") != KILLED:
                raise
            told = "the build was killed twice, as the kernel does without memory: add swap, or end what runs beside it"
            raise Refusal("not-enough-memory", told, **refusal.facts) from None

    def profile(self, params, deadline, _event):
        """Takes runs of a built artifact apart.

        Params:
            artifact: {"sha256", "runner", "options"}.
            inputs: as in `measure`.
            power: likewise.
            runs: of each kind.

        Returns:
            {"runner", "parts": {"in_ns", "compute_ns", "out_ns"}, "layers": rows, "notes": what the runner could not do
            as it was asked}.
        """
        folders, asked, runs = self._folders(), params["artifact"], params["runs"]
        inner = Deadline(deadline.remaining_s * 0.95)
        load = {
            "runner": asked["runner"],
            "path": folders.blob(asked["sha256"]),
            "threads": 1,
            "options": asked.get("options", {}),
            "inputs": folders.blob(params["inputs"]["sha256"]),
            "inputs_dtype": params["inputs"]["dtype"],
        }
        with self._held(params), self._start() as child:
            loaded = child.call("load", load, inner)
            warm = child.call("warm_up", {"max_s": params.get("warmup_max_seconds", 5.0)}, inner)
            parts = child.call("parts", {"runs": runs}, inner)
            layers = child.call("layers", {"runs": runs}, inner)["layers"]
        return {"runner": loaded["name"], "parts": parts, "layers": layers, "notes": warm["notes"]}

    def trtexec(self, params, deadline, _event):
        """Has trtexec time an engine that was built and measured here, on one of the samples.

        Params:
            artifact: {"sha256", "runner", "options"}.
            inputs: as in `measure`.
            power: likewise.

        Returns:
            See `tensorrt.trtexec_beside.measure`.
        """
        folders, asked = self._folders(), params["artifact"]
        inner, scratch = Deadline(deadline.remaining_s * 0.95), folders.new()
        call = {
            "runner": asked["runner"],
            "path": folders.blob(asked["sha256"]),
            "options": dict(asked.get("options", {}), onnx_sha256=asked["sha256"]),
            "folder": folders.engines,
            "scratch": scratch,
            "inputs": folders.blob(params["inputs"]["sha256"]),
            "inputs_dtype": params["inputs"]["dtype"],
        }
        try:
            with self._held(params), self._start() as child:
                return child.call("trtexec", call, inner)
        finally:
            folders.forget(scratch)

    def engines(self, params, _deadline, _event):
        """All engines here, see `Engines.listed`.

        Params:
            tensorrt: the version here, None where not known.

        Returns:
            {"engines", "size_bytes", "free_bytes": what may still be written, "utc": by the board's own clock}.
        """
        folders = self._folders()
        found = Engines(folders.engines).listed(params.get("tensorrt"))
        return {
            "engines": found,
            "size_bytes": sum(one["size_bytes"] for one in found),
            "free_bytes": folders.free_bytes(),
            "utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }

    def remove(self, params, _deadline, _event):
        """Removes the engines of `keys`; the result says how many bytes are free now."""
        engines = Engines(self._folders().engines)
        return {"freed_bytes": sum(engines.remove(key) for key in params["keys"])}

    def _built(self, call, deadline, event, onward):
        with self._start() as child:
            return child.call("build", call, deadline, lambda told: event(**onward(told)))

    def _held(self, params):
        """The power mode that was measured in, as `measure` holds it: or these figures are of another board."""
        notes = os.path.join(self._folders().root, power_modes.FOLDER)
        return power_hold.Hold(params.get("power"), notes, self._root)

    def _folders(self):
        if self._agent.folders is None:
            raise Refusal("bad-request", "say hello first: it names the workdir")
        return self._agent.folders


class _Onward:
    """Passes a child's progress on; a second try does not take back what the first has told."""

    def __init__(self):
        self._fraction = 0.0

    def __call__(self, told):
        self._fraction = max(self._fraction, told.get("fraction", 0.0))
        fields = {name: value for name, value in told.items() if name != "id"}
        return dict(fields, fraction=self._fraction)
