"""How far a build is: its own phases where TensorRT tells of them, from 10 on; else that it lives, and for how long."""

import threading
import time

EVERY_S = 1.0


class Progress:
    """Tells the agent about one build. Use as a context manager: a thread tells the time meanwhile.

    Attributes:
        cancelled: the time was up and TensorRT was asked to stop.
    """

    def __init__(self, event, deadline=None):
        """`event`: as the child's methods get it; `deadline`: when to ask TensorRT to stop."""
        self.cancelled = False
        self._event, self._deadline = event, deadline
        self._began = time.monotonic()
        self._stage, self._fraction = "building", 0.0
        self._phases = {}
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._tell, daemon=True)

    @property
    def elapsed_s(self):
        """Since it began."""
        return time.monotonic() - self._began

    def stage(self, text):
        """What is done now."""
        with self._lock:
            self._stage = text

    def started(self, phase, parent, steps):
        """TensorRT begins a phase, within `parent` or by itself."""
        with self._lock:
            self._phases[phase] = {"parent": parent or None, "steps": max(1, steps), "done": 0}
            self._count()

    def stepped(self, phase, step):
        """It did a step of it; False asks it to stop."""
        with self._lock:
            if phase in self._phases:
                self._phases[phase]["done"] = step + 1
            self._count()
        self.cancelled = self.cancelled or (self._deadline is not None and not self._deadline.remaining_s)
        return not self.cancelled

    def finished(self, phase):
        """It ended a phase, in order or not."""
        with self._lock:
            self._phases.pop(phase, None)
            self._count()

    def _count(self):
        """The fraction of the outermost phase, with the part that the phases within it have done of their step.

        TensorRT may run one outermost phase after another: what was told before is never taken back.
        """
        outer = [name for name, phase in self._phases.items() if phase["parent"] not in self._phases]
        if outer:
            self._stage = "building: %s" % outer[-1]
            self._fraction = max(self._fraction, min(1.0, self._done(outer[-1])))

    def _done(self, name):
        phase = self._phases[name]
        within = [self._done(other) for other, one in self._phases.items() if one["parent"] == name]
        return min(1.0, (phase["done"] + min(1.0, sum(within))) / phase["steps"])

    def _tell(self):
        while True:
            with self._lock:
                stage, fraction = self._stage, self._fraction
            self._event(
                event="progress",
                stage="%s, %d s" % (stage, self.elapsed_s),
                fraction=fraction,
                elapsed_s=round(self.elapsed_s, 1),
            )
            if self._over.wait(EVERY_S):
                return

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_error):
        self._over.set()
        self._thread.join()


def attach(trt, config, progress):
    """Has TensorRT tell of its phases; returns what must live as long as the build, None where it cannot."""
    if not hasattr(trt, "IProgressMonitor") or not hasattr(config, "progress_monitor"):
        return None
    monitor = _monitor(trt.IProgressMonitor, progress)
    config.progress_monitor = monitor
    return monitor


def _monitor(base, progress):
    class Monitor(base):
        def __init__(self):
            base.__init__(self)

        def phase_start(self, phase_name, parent_phase, num_steps):
            progress.started(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name, step):
            return progress.stepped(phase_name, step)

        def phase_finish(self, phase_name):
            progress.finished(phase_name)

    return Monitor()
