"""The process that holds one artifact and its runtime. When it crashes, the agent is still there to say so."""

import contextlib
import gc
import os

from device_tests.agent import runners, timing
from device_tests.agent.protocol import Channel, Lines, Refusal, answer

PROGRESS_S = 0.5


@contextlib.contextmanager
def _no_collection():
    """Python's garbage collector would run inside a sample."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Child:
    """The methods the agent calls. `clock` tells nanoseconds; a scripted board has one of its own."""

    undisturbed = staticmethod(_no_collection)

    def __init__(self, clock=timing.now_ns):
        self._clock = clock
        self._runner = None
        self._samples = None
        self._timed = []
        self._runs = 0

    def probe(self, params, _deadline, _event):
        """Imports one runtime. Result: package -> version, and numpy's version."""
        try:
            # First: most boards lack a runtime or two, and numpy takes a second to import on a small one.
            found = runners.load(params["runner"]).probe()
            import numpy as np
        except ImportError as error:
            raise Refusal("runtime-missing", str(error)) from None
        return {"packages": found, "numpy": np.__version__}

    def cuda(self, params, _deadline, _event):
        """Tries one provider of CUDA; see `cuda.probe`."""
        from device_tests.agent import cuda

        try:
            return cuda.probe(params["provider"])
        except cuda.CudaMissing as missing:
            raise Refusal("cuda-missing", str(missing)) from None
        except cuda.CudaError as error:
            raise Refusal("cuda-failed", str(error)) from None

    def build(self, params, deadline, event):
        """Builds what a runtime makes of an artifact on the board itself. Result: the runner's record of it."""
        module = runners.load(params["runner"])
        if not hasattr(module, "build"):
            raise Refusal("not-built", "%s runs an artifact as it is: nothing is built for it" % params["runner"])
        try:
            how = params.get("how", {})
            return module.build(params["path"], params["options"], params["folder"], event, deadline=deadline, **how)
        except ImportError as error:
            raise Refusal("runtime-missing", str(error)) from None

    def load(self, params, _deadline, _event):
        """Reads the artifact and the samples. Result: what the runtime says about them."""
        from device_tests.agent.cuda.errors import CudaError
        from device_tests.agent.samples import Samples

        try:
            options = params.get("options", {})
            self._runner = runners.opened(params["runner"], params["path"], params["threads"], options)
        except ImportError as error:
            raise Refusal("runtime-missing", str(error)) from None
        except CudaError as error:  # a RuntimeError: the GPU's state is not the model's fault
            raise Refusal("cuda-failed", "CUDA failed while the model was loaded: %s" % error) from None
        except (RuntimeError, ValueError) as error:
            raise Refusal("model-refused", "%s: %s" % (type(error).__name__, error)) from None
        except Exception as error:
            # ONNX Runtime's own errors share no base class but this one.
            if type(error).__module__.startswith("onnxruntime"):
                raise Refusal("model-refused", "%s: %s" % (type(error).__name__, error)) from None
            raise
        self._samples = Samples(params["inputs"], params["inputs_dtype"])
        self._samples.check(self._runner.inputs)
        return {
            "name": self._runner.name,
            "output_quantization": self._runner.output_quantization,
            "no_power": getattr(self._runner, "no_power", None),
        }

    def trtexec(self, params, deadline, _event):
        """Has trtexec time an engine that was built here, on a sample; see `runners.tensorrt.beside`."""
        from device_tests.agent.samples import Samples

        samples = Samples(params["inputs"], params["inputs_dtype"])
        module = runners.load(params["runner"])
        options, places = params["options"], (params["folder"], params["scratch"])
        return module.beside(params["path"], options, places[0], places[1], samples, deadline)

    def warm_up(self, params, deadline, _event):
        """Runs until the median stands still. Result: nanoseconds, whether it did, the clock's cost, notes."""
        self._timed = self._samples.timed(self._runner.inputs)
        if hasattr(self._runner, "settle"):
            samples, flat = self._runner.settle(self._timed[0], params["max_s"], deadline)
            return {"ns": samples, "flat": flat, "overhead_ns": None, "notes": list(getattr(self._runner, "notes", ()))}
        with self.undisturbed():
            samples, flat = timing.warm_up(self._timed_run(), params["max_s"], self._clock)
        self._runs = len(samples)
        notes = list(getattr(self._runner, "notes", ()))
        return {"ns": samples, "flat": flat, "overhead_ns": timing.overhead_ns(clock=self._clock), "notes": notes}

    def window(self, params, deadline, _event):
        """One turn. Result: nanoseconds of the runs kept apart and of the timed ones, and when it began and ended."""
        start = timing.now_ns()
        if hasattr(self._runner, "timed"):
            # One sample for each window: that is what such a program takes.
            sample = self._timed[self._runs % len(self._timed)]
            self._runs += 1
            samples = self._runner.timed(sample, params["runs"], params["seconds"], deadline)
            return {"rewarm_ns": [], "ns": samples, "span_ns": [start, timing.now_ns()]}
        with self.undisturbed():
            rewarm, samples = timing.window(
                self._timed_run(), self._runs, params["runs"], params["seconds"], self._clock
            )
        end = timing.now_ns()
        self._runs += len(rewarm) + len(samples)
        return {"rewarm_ns": rewarm, "ns": samples, "span_ns": [start, end]}

    def parts(self, params, deadline, _event):
        """Runs anew and takes a run apart, where the runner can. Result: nanoseconds in, of computing, and out."""
        samples = self._timed or self._samples.timed(self._runner.inputs)
        if hasattr(self._runner, "parts_of"):
            taken = self._runner.parts_of(samples[0], params["runs"], deadline)
        elif hasattr(self._runner, "parts"):
            taken = [self._runner.parts(samples[index % len(samples)]) for index in range(params["runs"])]
        else:
            raise Refusal("no-parts", "%s does not tell the parts of a run" % self._runner.name)
        names = ("in_ns", "compute_ns", "out_ns")
        return {name: [round(run[place] * 1e6) for run in taken] for place, name in enumerate(names)}

    def layers(self, params, _deadline, _event):
        """Mean time of each layer, where the runner can tell. Result: its rows. What runs afterwards is slower."""
        if not hasattr(self._runner, "layers"):
            raise Refusal("no-layers", "%s does not tell of its layers" % self._runner.name)
        return {"layers": self._runner.layers(self._samples.prepared(0, self._runner.inputs), params["runs"])}

    def peak_rss(self, _params, _deadline, _event):
        """The most memory this process ever had resident: interpreter, numpy, runtime and model together."""
        if hasattr(self._runner, "peak_rss"):
            return self._runner.peak_rss()
        try:
            with open("/proc/self/status") as status:
                fields = dict(line.split(":", 1) for line in status)
            return {"bytes": int(fields["VmHWM"].split()[0]) * 1024, "reason": None}
        except (OSError, KeyError, ValueError) as error:
            return {"bytes": None, "reason": "no VmHWM in /proc/self/status: %r" % error}

    def outputs(self, params, deadline, event):
        """Runs every sample once, untimed, and writes what came out. Result: a path per output, or why none."""
        from device_tests.agent.npy import RowWriter

        if hasattr(self._runner, "no_outputs"):
            return {"files": None, "reason": self._runner.no_outputs, "next_step": self._runner.next_step}

        writers = []
        told = timing.now_ns()
        for index in range(len(self._samples)):
            found = self._runner(self._samples.prepared(index, self._runner.inputs))
            if not writers:
                paths = [os.path.join(params["folder"], "output-%d.npy" % number) for number in range(len(found))]
                writers = [RowWriter(path, array, len(self._samples)) for path, array in zip(paths, found)]
            for writer, array in zip(writers, found):
                writer.add(array)
            if timing.now_ns() - told > PROGRESS_S * 1e9:
                told = timing.now_ns()
                event(event="progress", done=index + 1, total=len(self._samples))
                if not deadline.remaining_s:
                    raise Refusal("timeout", "the time was up after %d of %d samples" % (index + 1, len(self._samples)))
        return {"files": [writer.finish() for writer in writers]}

    def _timed_run(self):
        runner, samples, clock = self._runner, self._timed, self._clock
        count = len(samples)

        def run(index):
            sample = samples[index % count]
            start = clock()
            runner(sample)
            return clock() - start

        return run


def main():
    """Serves the agent until it closes our stdin."""
    channel = Channel()
    lines = Lines(os.dup(0), at_end=_leave)
    child = Child()
    methods = {
        "probe": child.probe,
        "cuda": child.cuda,
        "build": child.build,
        "load": child.load,
        "trtexec": child.trtexec,
        "warm_up": child.warm_up,
        "window": child.window,
        "parts": child.parts,
        "layers": child.layers,
        "peak_rss": child.peak_rss,
        "outputs": child.outputs,
    }
    while True:
        line = lines.get()
        if line is None:
            return
        answer(line, methods, channel)


def _leave():
    os._exit(0)
