"""Engines of TensorRT, built on this board from the ONNX file that the artifact is. See `device_tests.agent.tensorrt`.

By the Python binding; where there is none, or the options say so, by NVIDIA's trtexec.

numpy and TensorRT are imported as they are needed: every board is asked at the start whether it has this runtime, and
most have not.
"""

import os

from device_tests.agent.protocol import Refusal

PACKAGES = ("tensorrt",)


def probe():
    """Package -> version: of TensorRT, and of the CUDA that it is used with; and "compute", the GPU's capability.

    Without the Python binding it is trtexec that tells, and "trtexec" is among them. A stand-in for one of them says of
    itself that it is one: {"FAKE": "tensorrt"} then.

    Raises:
        ImportError: it is not there, in words.
        Refusal: "no-gpu".
    """
    from device_tests.agent.tensorrt import missing

    why = missing.runtime()
    if why is not None:
        raise ImportError(why)
    from device_tests.agent.tensorrt import opening, trtexec_here

    tool = trtexec_here.alone({})
    if tool is not None:
        return _by_trtexec(tool)
    here = opening.opened()
    with here.cuda:
        found = {PACKAGES[0]: here.version, "cuda": here.cuda.version(), "compute": here.compute}
        return dict(found, FAKE=PACKAGES[0]) if hasattr(here.trt, "FAKE") else found


def build(path, options, folder, event, **how):
    """Builds the engine of an ONNX file; see `building.build`, and `trtexec_alone.build`."""
    from device_tests.agent.tensorrt import building, trtexec_alone, trtexec_here

    tool = trtexec_here.alone(options)
    if tool is not None:
        return trtexec_alone.build(tool, path, options, folder, event, **how)
    return building.build(path, options, folder, event, **how)


def runner(path, threads, options=None):
    """A `Runner`, or trtexec's."""
    from device_tests.agent.tensorrt import trtexec_alone, trtexec_here

    options = dict(options or {})
    tool = trtexec_here.alone(options)
    if tool is not None:
        return trtexec_alone.Runner(tool, path, options, _store(path, options))
    return Runner(path, threads, options)


def beside(path, options, folder, scratch, samples, deadline):
    """Times an engine that the binding has built by trtexec, on a real sample; see `trtexec_beside.measure`.

    Args:
        path: the ONNX file.
        options: of the build.
        folder: of all engines.
        scratch: an empty folder.
        samples: `samples.Samples`.
        deadline: when to give up.
    """
    from device_tests.agent.tensorrt import trtexec_beside

    def take(inputs):
        described = [_input(one["name"], one["shape"], one["dtype"]) for one in inputs]
        samples.check(described)
        return dict(zip((one.name for one in described), samples.prepared(0, described)))

    return trtexec_beside.measure(path, options, folder, scratch, deadline, take=take)


class Runner:
    """An engine that was built before, one sample at a time.

    Attributes:
        name: package, version and what else tells one way to run from another.
        inputs: `Input` each, in the network's order; quantization is inside the engine.
    """

    def __init__(self, path, _threads, options=None):
        """Finds the engine for the ONNX file at `path` and these options, and makes it ready.

        Raises:
            Refusal: "engine-missing", "engine-mismatch", "engine-damaged"; nothing was handed to TensorRT then.
        """
        from device_tests.agent.tensorrt import opening

        options = dict(options or {})
        self._nodes_of = path
        self._execution = None
        self._here = opening.opened(options.get("cuda") or "auto")
        try:
            self._load(path, options)
        except BaseException:
            self.close()
            raise

    def _load(self, path, options):
        from device_tests.agent.tensorrt import api, identity
        from device_tests.agent.tensorrt.execution import Execution
        from device_tests.agent.tensorrt.log import Log, logger

        here = self._here
        wanted = identity.identity(identity.onnx_sha256(path, options), here.version, here.compute, here.gpu)
        store = _store(path, options)
        self.record = store.find(wanted)
        content = store.read(self.record)
        log = Log()
        self._logger = logger(here.trt, log)
        runtime = api.runtime_for(here.trt, self._logger, wanted["dla_core"], wanted["version_compatible"])
        engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise Refusal("engine-refused", "TensorRT does not take the engine: %s" % log.last_errors())
        names = [[tensor["name"] for tensor in self.record[kind]] for kind in ("inputs", "outputs")]
        graph = bool(options.get("cuda_graph"))
        self._execution = Execution(here.trt, engine, here.cuda, log, names[0], names[1], graph)
        self.inputs = [_input(tensor.name, tensor.shape, tensor.dtype) for tensor in self._execution.inputs]
        self.name = _name(here, self.record, graph)

    @property
    def notes(self):
        """What was asked for and is not done, and why."""
        return self._execution.notes

    @property
    def output_quantization(self):
        """None per output: quantization is inside the engine."""
        return [None for _ in self._execution.outputs]

    def __call__(self, sample):
        """Runs one prepared sample, an array [1, ...] per input; returns its outputs."""
        return self._execution.run(sample)

    def parts(self, sample):
        """Runs one sample; milliseconds on the GPU of (inputs to it, compute, outputs back)."""
        self._execution.run(sample, marked=True)
        return self._execution.parts()

    def layers(self, sample, runs):
        """What the engine's layers are and how long each takes, see `layers.rows`. For the end: it stays slow after."""
        from device_tests.agent.tensorrt import layers, onnx_nodes

        times = self._execution.layer_times(sample, runs)
        return layers.rows(self._execution.inspected(), onnx_nodes.read(self._nodes_of), times)

    def close(self):
        """Gives the GPU back."""
        if self._execution is not None:
            self._execution.close()
            self._execution = None
        self._here.cuda.close()


def _engines_of(path):
    """The engines of the workdir that a blob lies in."""
    return os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(path))), "engines")


def _store(path, options):
    """Where the engine is looked for: in the folder of a release, or among all of the board."""
    from device_tests.agent.tensorrt.engine_folder import EngineFolder
    from device_tests.agent.tensorrt.engines import Engines

    if options.get("engine_folder"):
        return EngineFolder(options["engine_folder"])
    return Engines(options.get("engines") or _engines_of(path))


def _by_trtexec(tool):
    from device_tests.agent.reading import Root
    from device_tests.agent.tensorrt import trtexec_here

    here = trtexec_here.found(tool, {}, Root())
    found = {PACKAGES[0]: tool.text, "cuda": here.cuda, "compute": here.compute, "trtexec": tool.text}
    return dict(found, FAKE=PACKAGES[0]) if tool.fake else found


def _input(name, shape, dtype):
    import numpy as np

    from device_tests.agent.tensorrt import shapes

    return shapes.one_at_a_time(name, shape, np.dtype(dtype))


def _name(here, record, graph):
    # A stand-in for TensorRT says of itself that it is one.
    fake = "FAKE " if hasattr(here.trt, "FAKE") else ""
    told = "%stensorrt %s (CUDA %s by %s" % (fake, here.version, here.cuda.version(), here.cuda.name)
    if record["identity"]["tensorrt"] != here.version:
        told += ", engine of %s" % record["identity"]["tensorrt"]
    if record["identity"]["dla_core"] is not None:
        told += ", DLA core %d" % record["identity"]["dla_core"]
    return told + (", CUDA graph" if graph else "") + ")"
