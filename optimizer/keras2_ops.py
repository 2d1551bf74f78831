"""TensorFlow functions that Keras 2 graphs hold as `TFOpLambda` layers, in terms of Keras 3.

A closed list: a name in the file is looked up here, never in TensorFlow, which also has functions that write files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_Make = Callable[[Any, Mapping[str, Any]], Any]


def _binary(op: str) -> tuple[tuple[str, ...], _Make]:
    return ("x", "y"), lambda keras, p: getattr(keras.ops, op)(p["x"], p["y"])


def _merge(layer: str, op: str) -> tuple[tuple[str, ...], _Make]:
    """A merge layer where both sides are tensors of one shape, since later steps know layers better than ops."""

    def make(keras: Any, p: Mapping[str, Any]) -> Any:
        x, y = p["x"], p["y"]
        if keras.backend.is_keras_tensor(x) and keras.backend.is_keras_tensor(y) and x.shape == y.shape and x is not y:
            return getattr(keras.layers, layer)()([x, y])
        return getattr(keras.ops, op)(x, y)

    return ("x", "y"), make


def _unary(parameter: str, op: str) -> tuple[tuple[str, ...], _Make]:
    return (parameter,), lambda keras, p: getattr(keras.ops, op)(p[parameter])


def _activation(parameter: str, name: str) -> tuple[tuple[str, ...], _Make]:
    return (parameter,), lambda keras, p: keras.layers.Activation(name)(p[parameter])


def _reduce(op: str) -> tuple[tuple[str, ...], _Make]:
    return ("input_tensor", "axis", "keepdims"), lambda keras, p: getattr(keras.ops, op)(
        p["input_tensor"], axis=_axis(p.get("axis")), keepdims=bool(p.get("keepdims"))
    )


def _axis(axis: Any) -> Any:
    return tuple(axis) if isinstance(axis, list | tuple) else axis


def _leaky(keras: Any, p: Mapping[str, Any]) -> Any:
    return keras.layers.LeakyReLU(negative_slope=p.get("alpha", 0.2))(p["features"])


def _getitem(keras: Any, p: Mapping[str, Any]) -> Any:
    del keras

    def index(part: Any) -> Any:
        return slice(part["start"], part["stop"], part["step"]) if isinstance(part, dict) else part

    spec = p["slice_spec"]
    return p["tensor"][tuple(index(part) for part in spec) if isinstance(spec, list | tuple) else index(spec)]


def _pad(keras: Any, p: Mapping[str, Any]) -> Any:
    mode = str(p.get("mode") or "constant").lower()
    value = (p.get("constant_values") or 0) if mode == "constant" else None
    return keras.ops.pad(p["tensor"], [tuple(pair) for pair in p["paddings"]], mode=mode, constant_values=value)


_OPS: dict[str, tuple[tuple[str, ...], _Make]] = {
    "math.add": _merge("Add", "add"),
    "__operators__.add": _merge("Add", "add"),
    "math.subtract": _merge("Subtract", "subtract"),
    "__operators__.sub": _merge("Subtract", "subtract"),
    "math.multiply": _merge("Multiply", "multiply"),
    "__operators__.mul": _merge("Multiply", "multiply"),
    "math.maximum": _merge("Maximum", "maximum"),
    "math.minimum": _merge("Minimum", "minimum"),
    "math.divide": _binary("divide"),
    "math.truediv": _binary("divide"),
    "__operators__.truediv": _binary("divide"),
    "math.pow": _binary("power"),
    "math.squared_difference": (("x", "y"), lambda keras, p: keras.ops.square(keras.ops.subtract(p["x"], p["y"]))),
    "math.negative": _unary("x", "negative"),
    "math.abs": _unary("x", "abs"),
    "math.square": _unary("x", "square"),
    "math.sqrt": _unary("x", "sqrt"),
    "math.rsqrt": _unary("x", "rsqrt"),
    "math.exp": _unary("x", "exp"),
    "math.log": _unary("x", "log"),
    "math.tanh": _activation("x", "tanh"),
    "math.sigmoid": _activation("x", "sigmoid"),
    "nn.relu": _activation("features", "relu"),
    "nn.relu6": _activation("features", "relu6"),
    "nn.elu": _activation("features", "elu"),
    "nn.selu": _activation("features", "selu"),
    "nn.silu": _activation("features", "silu"),
    "math.softplus": _activation("features", "softplus"),
    "nn.leaky_relu": (("features", "alpha"), _leaky),
    "nn.softmax": (
        ("logits", "axis"),
        lambda keras, p: keras.layers.Softmax(axis=-1 if p.get("axis") is None else p["axis"])(p["logits"]),
    ),
    "clip_by_value": (
        ("t", "clip_value_min", "clip_value_max"),
        lambda keras, p: keras.ops.clip(p["t"], p["clip_value_min"], p["clip_value_max"]),
    ),
    "math.reduce_mean": _reduce("mean"),
    "math.reduce_sum": _reduce("sum"),
    "math.reduce_max": _reduce("max"),
    "math.reduce_min": _reduce("min"),
    "reshape": (("tensor", "shape"), lambda keras, p: keras.ops.reshape(p["tensor"], tuple(p["shape"]))),
    "transpose": (("a", "perm"), lambda keras, p: keras.ops.transpose(p["a"], p.get("perm"))),
    "expand_dims": (("input", "axis"), lambda keras, p: keras.ops.expand_dims(p["input"], p["axis"])),
    "squeeze": (("input", "axis"), lambda keras, p: keras.ops.squeeze(p["input"], _axis(p.get("axis")))),
    "concat": (("values", "axis"), lambda keras, p: keras.layers.Concatenate(axis=p["axis"])(list(p["values"]))),
    "stack": (("values", "axis"), lambda keras, p: keras.ops.stack(list(p["values"]), axis=p.get("axis") or 0)),
    "cast": (("x", "dtype"), lambda keras, p: keras.ops.cast(p["x"], getattr(p["dtype"], "name", p["dtype"]))),
    "identity": (("input",), lambda keras, p: keras.layers.Identity()(p["input"])),
    "pad": (("tensor", "paddings", "mode", "constant_values"), _pad),
    "__operators__.getitem": (("tensor", "slice_spec"), _getitem),
    "linalg.matmul": (("a", "b"), lambda keras, p: keras.ops.matmul(p["a"], p["b"])),
}
# How the public functions are recorded where TensorFlow 2 forwards to its first version.
_OPS |= {f"compat.v1.{name}": ((*_OPS[name][0], "name"), _OPS[name][1]) for name in ("transpose", "squeeze", "concat")}
_OPS["compat.v1.pad"] = (("tensor", "paddings", "mode", "name", "constant_values"), _pad)
_IGNORED = frozenset({"name"})


def supported() -> frozenset[str]:
    """TensorFlow functions that can be carried over."""
    return frozenset(_OPS)


def apply(symbol: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, keras: Any) -> Any:
    """Applies the Keras 3 counterpart of a TensorFlow function to Keras tensors.

    Args:
        symbol: as Keras 2 stores it, e.g. "math.add"; one of `supported()`.
        args: positional arguments, Keras tensors already replaced.
        kwargs: the same by name.
        keras: the Keras 3 package.

    Raises:
        ValueError: an argument that the counterpart does not know.
    """
    names, make = _OPS[symbol]
    given = dict(zip(names, args, strict=False))
    given.update({key: value for key, value in kwargs.items() if key not in _IGNORED})
    extra = [key for key, value in given.items() if key not in names and value is not None and value is not False]
    if len(args) > len(names) or extra:
        raise ValueError(f"arguments {extra or list(args[len(names) :])} are not known")
    return make(keras, given)
