"""Several artifacts on one board, each in a process of its own, taking turns: A B A B."""

import contextlib
import math
import os

from device_tests.agent import environment
from device_tests.agent.protocol import Deadline, Refusal
from device_tests.agent.reading import Root
from device_tests.agent.sensors import sampling
from device_tests.agent.supervisor import Child

XNNPACK_LOG = "XNNPACK delegate"


class Turn:
    """One artifact on its way through the measurement. After its first failure it takes no more turns.

    Attributes:
        error: why it left, as an answer's "error"; None while it is well.
    """

    def __init__(self, asked, limit_s, stack, start=Child):
        """Takes an artifact in.

        Args:
            asked: {"path", "runner", "sha256"}, and "options" of its runner where it has any.
            limit_s: seconds it may use over all its steps.
            stack: ends its child in the end.
            start: makes the child, see `supervisor.Child`.
        """
        self.error = None
        self._asked = asked
        self._limit_s = limit_s
        self._stack = stack
        self._start = start
        self._child = None
        self._loaded = {}
        self._warm = {}
        self._windows = []
        self._peak = {}
        self._outputs = {"files": []}

    def load(self, inputs, threads):
        """Starts the child; it reads artifact and samples."""
        params = {
            "runner": self._asked["runner"],
            "path": self._asked["path"],
            "threads": threads,
            "options": self._asked.get("options", {}),
            "inputs": inputs["path"],
            "inputs_dtype": inputs["dtype"],
        }
        self._loaded = self._call("load", params)

    def warm_up(self, max_s):
        """Runs until the moving median is flat."""
        self._warm = self._call("warm_up", {"max_s": max_s})

    def window(self, runs, seconds):
        """Takes one turn of timed runs, at least so many and so long."""
        self._windows.append(self._call("window", {"runs": runs, "seconds": seconds}))

    def outputs(self, folder, event):
        """Runs every sample once; the memory's peak is taken before, since these samples are the evaluation's."""
        self._peak = self._call("peak_rss", {})
        self._outputs = self._call("outputs", {"folder": folder}, event) or {}

    def raw_outputs(self):
        """The answer of `infer`.

        Raises:
            Refusal: "no-outputs": what ran it hands out none.
        """
        if self._outputs["files"] is None:
            raise Refusal("no-outputs", self._outputs["reason"], next_step=self._outputs["next_step"])
        return {
            "files": self._outputs["files"],
            "output_quantization": self._loaded["output_quantization"],
            "runner": self._runner_name(),
        }

    def result(self, folder, samples):
        """The answer for this artifact: where its arrays lie, or its error."""
        from device_tests.agent import npy

        if self.error is not None:
            return {"sha256": self._asked["sha256"], "error": self.error}
        rewarm = [ns for window in self._windows for ns in window["rewarm_ns"]]
        timed = [ns for window in self._windows for ns in window["ns"]]
        numbers = [number for number, window in enumerate(self._windows) for _ in window["ns"]]
        spans = [window["span_ns"] for window in self._windows]
        return {
            "sha256": self._asked["sha256"],
            "runner": self._runner_name(),
            "output_quantization": self._loaded["output_quantization"],
            "warmup_flat": self._warm["flat"],
            "timer_overhead_ns": self._warm["overhead_ns"],
            "peak_rss_bytes": self._peak["bytes"],
            "peak_rss_reason": self._peak["reason"],
            "warmup": npy.save(os.path.join(folder, "warmup.npy"), self._warm["ns"] + rewarm),
            "samples": npy.save(os.path.join(folder, "samples.npy"), timed),
            "windows": npy.save(os.path.join(folder, "windows.npy"), numbers),
            "outputs": self._outputs["files"],
            "outputs_reason": self._outputs.get("reason"),
            "outputs_next_step": self._outputs.get("next_step"),
            # By the child's own span: telling us of thousands of runs takes longer than small ones.
            "power": _power(samples, self._loaded.get("no_power")).over(spans, len(rewarm) + len(timed)),
        }

    def _runner_name(self):
        """Package, version and, where the log told of it, XNNPACK. Ends the child, so that its log is whole."""
        self._child.finish()
        return self._loaded["name"] + (" (XNNPACK)" if self._child.log.watched else "")

    def _call(self, method, params, event=None):
        """Asks the child in this artifact's own time; a refusal ends this artifact only, and then None is returned."""
        if self.error is not None:
            return None
        deadline = Deadline(self._limit_s)
        try:
            if self._child is None:
                self._child = self._stack.enter_context(self._start(watch_for=XNNPACK_LOG))
            return self._child.call(method, params, deadline, event)
        except Refusal as refusal:
            self.error = refusal.as_dict()
            if self._child is not None:
                self._child.kill()
            return None
        finally:
            self._limit_s = deadline.remaining_s


def _power(samples, why_not):
    from device_tests.agent.sensors import power

    return samples if why_not is None else power.none("power is not told: " + why_not)


def measure(asked, inputs, protocol, folder, event, start=Child, snapshot=environment.snapshot, sample=None):
    """Latency, then outputs, of every artifact.

    Args:
        asked: per artifact {"path", "runner", "sha256"}.
        inputs: {"path", "dtype"} of the evaluation samples.
        protocol: keyed as `edgesmith.types.MeasureProtocol`.
        folder: where arrays are written.
        event: progress.
        start: makes the process that holds an artifact; a scripted board has another.
        snapshot: the board's state now.
        sample: begins to read power into a folder, see `sampling.start`; None: of this board.

    Returns:
        {"before", "after": board state, "artifacts": per artifact a result or {"error": ...}}.
    """
    sample = sample or (lambda place: sampling.start(Root(), place))
    windows = protocol["windows"]
    runs, seconds = math.ceil(protocol["min_runs"] / windows), protocol["min_seconds"] / windows
    steps = Steps(event, len(asked) * (windows + 3))
    with contextlib.ExitStack() as stack:
        turns = [Turn(one, protocol["timeout_seconds"], stack, start) for one in asked]
        for turn in turns:
            turn.load(inputs, protocol["threads"])
            steps.done("load")
        for turn in turns:
            turn.warm_up(protocol["warmup_max_seconds"])
            steps.done("warm-up")
        before = snapshot()
        power_folder = os.path.join(folder, "power")
        os.mkdir(power_folder)
        with sample(power_folder) as reading:
            for number in range(windows):
                for turn in turns:
                    turn.window(runs, seconds)
                    steps.done("window %d of %d" % (number + 1, windows))
            samples = reading.stop()
        after = snapshot()
        places = [os.path.join(folder, str(number)) for number in range(len(turns))]
        for turn, place in zip(turns, places):
            os.mkdir(place)
            turn.outputs(place, steps.within)
            steps.done("outputs")
        found = [turn.result(place, samples) for turn, place in zip(turns, places)]
    return {"before": before, "after": after, "artifacts": found}


def infer(asked, inputs, threads, folder, deadline, event, start=Child):
    """Outputs of one artifact, untimed. Result: {"files", "output_quantization", "runner"}."""
    steps = Steps(event, 1)
    with contextlib.ExitStack() as stack:
        turn = Turn(asked, deadline.remaining_s, stack, start)
        turn.load(inputs, threads)
        turn.outputs(folder, steps.within)
        if turn.error is not None:
            raise Refusal(turn.error.pop("code"), turn.error.pop("message"), **turn.error)
        return turn.raw_outputs()


class Steps:
    """Tells the workstation how far we are: a fraction of all steps."""

    def __init__(self, event, total):
        self._event, self._total, self._done = event, total, 0

    def done(self, stage):
        """One step is over."""
        self._done += 1
        self._event(event="progress", stage=stage, fraction=self._done / self._total)

    def within(self, told):
        """A child is part of the way through its outputs."""
        part = told["done"] / told["total"]
        stage = "outputs %d of %d" % (told["done"], told["total"])
        self._event(event="progress", stage=stage, fraction=(self._done + part) / self._total)
