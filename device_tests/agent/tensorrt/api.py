"""Building with TensorRT 8.0 to 11.4 through one set of functions.

What a version has is asked of its objects, never of its number: NVIDIA moves attributes between releases, and a
number that is not in a table would be a guess. Objects of TensorRT go by the same names everywhere here: `trt` is the
module, then `builder`, `network`, `config`, `parser`, `profile`, `cache`, `runtime`, `engine`, `context`, `inspector`.
"""

from device_tests.agent.tensorrt import layer_names

# CUDA compute capabilities of Jetson Nano and TX1, and of TX2: their GPUs do not compute in int8.
WITHOUT_INT8 = ("5.3", "6.2")

# 2:4 sparsity came with Ampere. The builder flag is in every version and proves nothing.
SPARSE_SINCE = 8


def version(trt):
    """TensorRT's own version, as text."""
    return str(trt.__version__)


def create_network(trt, builder):
    """An empty network whose batch is a dimension like any other."""
    flags = 0
    # Needed up to 8.6, without effect in 10, gone in 11.
    if hasattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH"):
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    return builder.create_network(flags)


def create_parser(trt, network, log, version_compatible):
    """A parser of ONNX. A version-compatible engine must hold no plugin of this version's library."""
    parser = trt.OnnxParser(network, log)
    if not version_compatible or not hasattr(trt, "OnnxParserFlag") or not hasattr(parser, "set_flag"):
        return parser
    if hasattr(trt.OnnxParserFlag, "NATIVE_INSTANCENORM"):
        parser.set_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)
    return parser


def limit_workspace(trt, config, size_bytes):
    """What a layer may use beside its tensors."""
    if hasattr(trt, "MemoryPoolType") and hasattr(config, "set_memory_pool_limit"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size_bytes)
    elif hasattr(config, "max_workspace_size"):
        config.max_workspace_size = size_bytes


def has_precision_flags(trt):
    """Whether the builder chooses precisions. Where it does not, from 11 on, those of the ONNX file hold."""
    return hasattr(trt.BuilderFlag, "FP16") and hasattr(trt.BuilderFlag, "INT8")


def set_precision(trt, config, precision):
    """Lets the builder use float16 and int8 beside float32; where it has no say, the file's own types hold."""
    if "fp16" in precision and hasattr(trt.BuilderFlag, "FP16"):
        config.set_flag(trt.BuilderFlag.FP16)
    if "int8" in precision and hasattr(trt.BuilderFlag, "INT8"):
        config.set_flag(trt.BuilderFlag.INT8)


def keep_in_float32(trt, network, config, nodes):
    """Has some nodes computed in float32 where the builder may use float16. Result: how many layers that are.

    The builder may still refuse for the sake of a kernel that has no float32; it logs that. 8.0 has an earlier word
    for the flag; from 11 on the file's own types hold, and None is the result.
    """
    if hasattr(trt.BuilderFlag, "PREFER_PRECISION_CONSTRAINTS"):
        config.set_flag(trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
    elif hasattr(trt.BuilderFlag, "STRICT_TYPES"):
        config.set_flag(trt.BuilderFlag.STRICT_TYPES)
    else:
        return None
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    return sum(_in_float32(trt, layer) for layer in layers if _is_of(layer, nodes))


def _is_of(layer, nodes):
    """Whether the parser made a layer of one of these nodes; from 8.6 on it says so of each layer of several."""
    metadata = layer.metadata if hasattr(layer, "metadata") else None
    return bool(layer_names.of(layer.name, nodes, metadata).names)


def _in_float32(trt, layer):
    """False for a layer of shapes or indices, which has no such choice."""
    outputs = [layer.get_output(index) for index in range(layer.num_outputs)]
    if not hasattr(layer, "precision") or not hasattr(layer, "set_output_type"):
        return False
    if any(tensor is None or tensor.dtype not in (trt.DataType.FLOAT, trt.DataType.HALF) for tensor in outputs):
        return False
    layer.precision = trt.DataType.FLOAT
    for index in range(len(outputs)):
        # Its result, too: what does not fit into float16 is lost where it is stored.
        layer.set_output_type(index, trt.DataType.FLOAT)
    return True


def computes_int8(builder, compute):
    """Whether this GPU computes in int8."""
    if compute in WITHOUT_INT8:
        return False
    if hasattr(builder, "platform_has_fast_int8"):
        return bool(builder.platform_has_fast_int8)
    return True


def computes_fp16(builder):
    """Whether this GPU gains from float16; every Jetson does."""
    if hasattr(builder, "platform_has_fast_fp16"):
        return bool(builder.platform_has_fast_fp16)
    return True


def dla_cores(builder):
    """How many deep learning accelerators this TensorRT can use here; None where it does not tell."""
    return int(builder.num_DLA_cores) if hasattr(builder, "num_DLA_cores") else None


def use_dla(trt, config, core):
    """Puts layers on a DLA core, and on the GPU those that it cannot compute."""
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def layers_on_dla(network, config):
    """(layers that the DLA takes, all layers), before anything is fused."""
    takes = [config.can_run_on_DLA(network.get_layer(index)) for index in range(network.num_layers)]
    return sum(map(bool, takes)), len(takes)


def use_sparsity(trt, config):
    """Lets the builder try kernels for weights with two zeros in every four."""
    config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)


def computes_sparse(compute):
    """Whether a GPU of that compute capability has kernels for 2:4 sparsity."""
    return int(compute.split(".")[0]) >= SPARSE_SINCE


def make_version_compatible(trt, config):
    """Builds for later versions, too. False where this version cannot."""
    if hasattr(trt.BuilderFlag, "VERSION_COMPATIBLE"):
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        return True
    return False


def set_optimization_level(config, level):
    """How long the builder may look for a faster kernel, 0 to 5. False where this version has no such choice."""
    if hasattr(config, "builder_optimization_level"):
        config.builder_optimization_level = level
        return True
    return False


def tell_everything(trt, config):
    """Has the engine remember what each of its layers is. 8.0 has an earlier word for it, and no inspector."""
    if hasattr(trt.ProfilingVerbosity, "DETAILED"):
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    elif hasattr(trt.ProfilingVerbosity, "VERBOSE"):
        config.profiling_verbosity = trt.ProfilingVerbosity.VERBOSE


def add_profile(builder, config, shapes):
    """The shapes that inputs with open sizes may have. `shapes`: input -> (smallest, likeliest, largest)."""
    profile = builder.create_optimization_profile()
    for name in sorted(shapes):
        low, likely, high = shapes[name]
        profile.set_shape(name, tuple(low), tuple(likely), tuple(high))
    return config.add_optimization_profile(profile) >= 0


def network_inputs(network):
    """(name, shape) of each, in the order of the file; an open size is -1."""
    found = [network.get_input(index) for index in range(network.num_inputs)]
    return [(tensor.name, [int(size) for size in tensor.shape]) for tensor in found]


def network_outputs(network):
    """Names, in the order of the file."""
    return [network.get_output(index).name for index in range(network.num_outputs)]


def runtime_for(trt, log, dla_core, version_compatible):
    """What engines are read with."""
    runtime = trt.Runtime(log)
    if dla_core is not None and hasattr(runtime, "DLA_core"):
        runtime.DLA_core = dla_core
    # Such an engine brings a piece of its own version's library; it is one that we have built.
    if version_compatible and hasattr(runtime, "engine_host_code_allowed"):
        runtime.engine_host_code_allowed = True
    return runtime


def device_memory_bytes(engine):
    """What the engine's tensors take on the device while it runs; None where it does not tell."""
    if hasattr(engine, "device_memory_size_v2"):
        return int(engine.device_memory_size_v2)
    if hasattr(engine, "device_memory_size"):
        return int(engine.device_memory_size)
    return None
