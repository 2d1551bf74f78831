"""trtexec's command line, version by version: the same engine and the same measurement, whatever options are called.

Measured is always one query at a time: inputs to the GPU, compute, outputs back; waiting without spinning, and without
a CUDA graph unless it was asked for. Up to 10 the transfers are on, waiting and graph as we want them; from 11 on it is
the other way round, and what was an option before has no effect any more. In every version two queries overlap, the
next one's inputs with this one's computing, unless `--exposeDMA` is given.

Read in trtexec's own sources (NVIDIA/TensorRT, samples/common/sampleOptions.cpp and sampleInference.cpp) of 8.0, 8.2,
8.4, 8.6, 10.0 and 11.1, in whole or in part. For the versions between, and 11.4, the neighbours' options are assumed.
"""

from device_tests.agent.protocol import Refusal

MIB = 1 << 20
TYPED = (11,)
"""From here on the file's own types hold, and the defaults are turned round."""
LAYER_INFO = (8, 2)
MEMORY_POOLS = (8, 4)
VERBOSITY = (8, 2)
LEVELS = (8, 6)
VERSION_COMPATIBLE = (8, 6)
SKIP_INFERENCE = (8, 6)


def build(version, onnx_path, plan_path, options, workspace_bytes=None, level=None, ranges=None, timing_cache=None):
    """What makes trtexec build an engine, and run none.

    Args:
        version: of TensorRT, as numbers.
        onnx_path: the network.
        plan_path: where the engine is to be.
        options: "precision", "dla_core", "sparsity", "version_compatible", "float32"; see `building.build`.
        workspace_bytes: None for trtexec's own choice.
        level: of optimization; None for TensorRT's own.
        ranges: of `shapes.ranges`.
        timing_cache: a file, read where it is there and written in the end.

    Returns:
        (arguments, what was asked for and is not done).

    Raises:
        Refusal: "bad-params", "not-version-compatible".
    """
    notes, precision = [], sorted(options.get("precision") or [])
    found = ["--onnx=" + onnx_path, "--saveEngine=" + plan_path]
    found.append("--skipInference" if version >= SKIP_INFERENCE else "--buildOnly")
    found.append(_detailed(version))
    if workspace_bytes is not None:
        found.append(_workspace(version, workspace_bytes))
    if version < TYPED:
        found += ["--" + name for name in precision]
    elif precision:
        notes.append("this TensorRT takes precisions from the file: no option was given for them")
    if options.get("float32") and "fp16" in precision and version < TYPED:
        notes.append("trtexec was not told which layers are to stay in float32: only the Python binding is")
    if options.get("sparsity"):
        found.append("--sparsity=enable")
    if level is not None and version >= LEVELS:
        found.append("--builderOptimizationLevel=%d" % level)
    elif level is not None:
        notes.append("this TensorRT has no optimization levels: %d was left out" % level)
    if options.get("version_compatible"):
        if version < VERSION_COMPATIBLE:
            told = "TensorRT %s cannot build version-compatible engines; 8.6 and later can" % _text(version)
            raise Refusal("not-version-compatible", told)
        found.append("--versionCompatible")
    if options.get("dla_core") is not None:
        if version < TYPED and not precision:
            raise Refusal("no-dla", "a DLA computes in fp16 or int8, not in float32")
        found += ["--useDLACore=%d" % options["dla_core"], "--allowGPUFallback"]
    if ranges:
        for place, name in enumerate(("--minShapes=", "--optShapes=", "--maxShapes=")):
            found.append(name + _shapes({key: shapes[place] for key, shapes in ranges.items()}))
    if timing_cache is not None:
        found.append("--timingCacheFile=" + timing_cache)
    return found, notes


def measure(
    version, plan_path, times, options, warm_up_ms, seconds, runs, inputs=None, shapes=None, profile=None, layers=None
):
    """What makes trtexec run an engine and write down what it took.

    Args:
        version: of TensorRT, as numbers.
        plan_path: the engine.
        times: where each query's times go.
        options: "dla_core", "version_compatible"; "cuda_graph", "spin_wait", "no_transfers", "overlap": those change
            what is measured.
        warm_up_ms: milliseconds, as trtexec wants it, and not a number of runs.
        seconds: at least so long.
        runs: at least so many.
        inputs: input -> file with its raw content; random numbers where None.
        shapes: input -> shape, for those with open sizes.
        profile: where each layer's time goes. They are taken in runs of their own.
        layers: where the inspector's text goes.

    Returns:
        (arguments, what was asked for and is not done).

    Raises:
        Refusal: "bad-params".
    """
    notes = []
    found = ["--loadEngine=" + plan_path, "--warmUp=%d" % warm_up_ms, "--duration=%d" % -(-seconds // 1)]
    found += ["--iterations=%d" % runs, "--avgRuns=1", "--exportTimes=" + times]
    if not options.get("overlap"):
        found.append("--exposeDMA")
    found += _newer(options) if version >= TYPED else _older(options)
    if options.get("dla_core") is not None:
        found.append("--useDLACore=%d" % options["dla_core"])
        if options.get("cuda_graph"):
            notes.append("with a DLA trtexec records no CUDA graph, from some version on")
    if options.get("version_compatible") and version >= VERSION_COMPATIBLE:
        # Such an engine brings code of its own, which is not run unless it is told to.
        found.append("--versionCompatible")
    if inputs:
        found.append("--loadInputs=" + _pairs(inputs))
    if shapes:
        found.append("--shapes=" + _shapes(shapes))
    if profile is not None:
        found.append("--exportProfile=" + profile)
        if version < TYPED:
            # Without it the profiler runs beside what is timed, and no times are written. From 11 on it is always so.
            found.append("--separateProfileRun")
    if layers is not None and version >= LAYER_INFO:
        found += ["--exportLayerInfo=" + layers, _detailed(version)]
    elif layers is not None:
        notes.append("this TensorRT has no inspector: what its layers are is not told")
    return found, notes


def _older(options):
    flags = (("cuda_graph", "--useCudaGraph"), ("spin_wait", "--useSpinWait"), ("no_transfers", "--noDataTransfers"))
    return [flag for name, flag in flags if options.get(name)]


def _newer(options):
    flags = (("cuda_graph", "--noCudaGraph"), ("spin_wait", "--noSpinWait"), ("no_transfers", "--includeDataTransfers"))
    return [flag for name, flag in flags if not options.get(name)]


def _workspace(version, size_bytes):
    """In MiB, in every version."""
    size = max(1, size_bytes // MIB)
    return "--memPoolSize=workspace:%d" % size if version >= MEMORY_POOLS else "--workspace=%d" % size


def _detailed(version):
    return "--profilingVerbosity=detailed" if version >= VERBOSITY else "--nvtxMode=verbose"


def _shapes(shapes):
    empty = sorted(name for name, shape in shapes.items() if not shape)
    if empty:
        raise Refusal("bad-params", "trtexec takes no shape without sizes: input %r" % empty[0])
    return _pairs({name: "x".join("%d" % size for size in shape) for name, shape in shapes.items()})


def _pairs(values):
    """name:value,name:value, as all versions read it: split at commas, then at the last colon.

    A name may hold colons. Quotation marks are dropped by some versions and kept by others: a name or file with one
    cannot be told to trtexec, nor one with a comma.
    """
    for name, value in sorted(values.items()):
        if not name or any(mark in name for mark in ",'"):
            raise Refusal("bad-params", "trtexec cannot be told of an input that is called %r" % name)
        if not value or any(mark in value for mark in ",':"):
            raise Refusal("bad-params", "trtexec cannot be told of %r for input %r" % (value, name))
    return ",".join("%s:%s" % pair for pair in sorted(values.items()))


def _text(version):
    return ".".join(str(part) for part in version)
