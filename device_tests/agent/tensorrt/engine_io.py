"""An engine's inputs and outputs: by name from TensorRT 8.5 on, by number before."""

import collections

import numpy as np

from device_tests.agent.protocol import Refusal

Tensor = collections.namedtuple("Tensor", "number name is_input dtype shape")
"""`number` among all inputs and outputs of the engine; `shape` as built, -1 where a size is open."""

# TensorRT's names of types. `trt.nptype` is not used: up to 8.6 it asks numpy for `np.bool`, which is gone.
_DTYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}


def tensors(trt, engine):
    """All inputs and outputs, in the engine's own order."""
    if (
        hasattr(engine, "num_io_tensors")
        and hasattr(engine, "get_tensor_name")
        and hasattr(engine, "get_tensor_mode")
        and hasattr(engine, "get_tensor_dtype")
        and hasattr(engine, "get_tensor_shape")
        and hasattr(trt, "TensorIOMode")
    ):
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        inputs = [engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names]
        dtypes = [engine.get_tensor_dtype(name) for name in names]
        shapes = [engine.get_tensor_shape(name) for name in names]
    elif (
        hasattr(engine, "num_bindings")
        and hasattr(engine, "get_binding_name")
        and hasattr(engine, "binding_is_input")
        and hasattr(engine, "get_binding_dtype")
        and hasattr(engine, "get_binding_shape")
    ):
        numbers = range(engine.num_bindings)
        names = [engine.get_binding_name(number) for number in numbers]
        inputs = [engine.binding_is_input(number) for number in numbers]
        dtypes = [engine.get_binding_dtype(number) for number in numbers]
        shapes = [engine.get_binding_shape(number) for number in numbers]
    else:
        raise Refusal("unknown-tensorrt", "its engines have neither tensor names nor bindings: it is newer than we are")
    return [
        Tensor(number, name, bool(inputs[number]), _dtype(trt, name, dtypes[number]), _sizes(shapes[number]))
        for number, name in enumerate(names)
    ]


def set_input_shape(context, tensor, shape):
    """Fixes the shape of an input for the runs that follow."""
    if hasattr(context, "set_input_shape"):
        taken = context.set_input_shape(tensor.name, tuple(shape))
    elif hasattr(context, "set_binding_shape"):
        taken = context.set_binding_shape(tensor.number, tuple(shape))
    else:
        taken = False
    if not taken:
        raise Refusal(
            "shape-refused", "the engine does not take %s for input %r" % (list(shape), tensor.name), input=tensor.name
        )


def shape(context, tensor):
    """The shape of an output, once those of all inputs are fixed."""
    if hasattr(context, "get_tensor_shape"):
        found = _sizes(context.get_tensor_shape(tensor.name))
    elif hasattr(context, "get_binding_shape"):
        found = _sizes(context.get_binding_shape(tensor.number))
    else:
        found = [-1]
    if any(size < 0 for size in found):
        raise Refusal(
            "model-refused", "the size of output %r depends on the values of the inputs: %s" % (tensor.name, found)
        )
    return found


def set_addresses(context, found, addresses):
    """Tells the engine where its tensors lie, by name; where it has no names, `enqueue` and `execute` tell."""
    if hasattr(context, "set_tensor_address"):
        for tensor in found:
            if not context.set_tensor_address(tensor.name, addresses[tensor.number]):
                raise Refusal("model-refused", "the engine does not take an address for %r" % tensor.name)


def enqueue(context, addresses, stream):
    """Puts one run on a stream; False where it was not taken. `addresses` in the engine's own order."""
    if hasattr(context, "execute_async_v3"):
        return context.execute_async_v3(stream)
    if hasattr(context, "execute_async_v2"):
        return context.execute_async_v2(addresses, stream)
    return False


def execute(context, addresses):
    """One run that is over when this returns; False where it was not taken."""
    return context.execute_v2(addresses)


def _dtype(trt, name, told):
    """The type that numpy has for one of TensorRT."""
    for word, dtype in _DTYPES.items():
        if hasattr(trt.DataType, word) and told == getattr(trt.DataType, word):
            return np.dtype(dtype)
    raise Refusal("model-refused", "%r is %s, which numpy does not have" % (name, told))


def _sizes(dims):
    return [int(size) for size in dims]
