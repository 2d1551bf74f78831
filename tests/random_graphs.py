"""Random functional Keras networks, tiny, of every layer that channels are followed through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.frameworks import import_keras
from optimizer.channels.groups import Channels, Group
from optimizer.channels.price import variable
from optimizer.channels.trace import Role

# Zero goes to zero: a channel that is zero stays so.
ACTIVATIONS = ("relu", "tanh", "relu6", "gelu", "silu", "leaky_relu", None)


def network(seed: int) -> Any:
    """A functional model with one or two images as inputs and one to three outputs; random weights and statistics."""
    model = _Builder(seed).build()
    randomise(model, seed)
    return model


def samples(model: Any, n: int = 2, *, seed: int = 0) -> list[NDArray[np.float32]]:
    """What it takes, one array for each input."""
    random = np.random.default_rng(seed)
    return [random.normal(size=(n, *x.shape[1:])).astype(np.float32) for x in model.inputs]


def answers(model: Any, x: list[NDArray[np.float32]]) -> list[NDArray[np.float64]]:
    """What it says, one array for each output."""
    found = model(x if len(x) > 1 else x[0], training=False)
    return [np.asarray(y, np.float64) for y in (found if isinstance(found, list | tuple) else [found])]


def randomise(model: Any, seed: int) -> None:
    """Gives biases, slopes and batch-norm statistics values as after training."""
    random = np.random.default_rng([seed, 1])
    for weight in model.weights:
        if weight.name in ("gamma", "moving_variance"):
            weight.assign(random.uniform(0.5, 1.5, size=weight.shape))
        elif weight.name in ("beta", "bias", "moving_mean", "alpha"):
            weight.assign(random.normal(size=weight.shape) * 0.3)


def silence(channels: Channels, group: Group, places: NDArray[np.int64]) -> None:
    """Sets to zero whatever makes or holds some units of a group; the layers that read them keep their weights."""
    for part in group.parts:
        if part.touch.role is Role.READS:
            continue
        weight = variable(channels.layers[part.touch.layer], part.touch.weight)
        value = np.array(weight.numpy())
        index: list[Any] = [slice(None)] * value.ndim
        index[part.touch.axis] = part.places[places].reshape(-1)
        value[tuple(index)] = 0.0
        weight.assign(value)


def some_units(channels: Channels, random: np.random.Generator) -> list[tuple[Group, NDArray[np.int64]]]:
    """Of every group some units, by their place in it; at least one of each stays."""
    chosen = []
    for group in channels.groups:
        gone = random.permutation(len(group))[: random.integers(0, len(group))]
        chosen.append((group, np.sort(gone)))
    return chosen


class _Builder:
    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._keras = import_keras()
        self._layers = self._keras.layers
        self._blocks: tuple[Callable[[Any], Any], ...] = (
            self._conv, self._conv, self._normed, self._normed, self._grouped, self._depthwise, self._separable,
            self._transposed, self._residual, self._residual, self._projected, self._dense_block, self._branches,
            self._excited, self._inverted, self._pooled, self._prelu, self._shared, self._nested, self._rows,
            self._u_net, self._attended,
        )  # fmt: skip

    def build(self) -> Any:
        inputs = [
            self._keras.Input((6, 6, int(self._pick(1, 2, 3))), name=f"image{n}") for n in range(self._pick(1, 1, 2))
        ]
        tensors = [self._normed(x) for x in inputs]
        x = tensors[0]
        if len(tensors) == 2:
            x = self._layers.Concatenate()(tensors)
        outputs = []
        for _ in range(int(self._random.integers(1, 3))):
            x = self._blocks[self._random.integers(len(self._blocks))](x)
            if self._random.random() < 0.15 and len(outputs) < 2:
                outputs.append(self._head(x))
        outputs.append(self._head(x))
        return self._keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs, name="random")

    def _pick(self, *values: Any) -> Any:
        return values[self._random.integers(len(values))]

    def _width(self) -> int:
        return int(self._random.integers(2, 7))

    def _act(self) -> Any:
        return self._pick(*ACTIVATIONS)

    def _conv(self, x: Any, filters: int | None = None) -> Any:
        return self._layers.Conv2D(
            filters or self._width(), self._pick(1, 3), padding="same", activation=self._act(),
            use_bias=bool(self._pick(True, False)), dilation_rate=self._pick(1, 1, 2),
        )(x)  # fmt: skip

    def _normed(self, x: Any, filters: int | None = None) -> Any:
        x = self._layers.Conv2D(filters or self._width(), 3, padding="same", use_bias=False)(x)
        x = self._layers.BatchNormalization(scale=self._pick(True, True, False))(x)
        return self._layers.Activation(self._act() or "relu")(x)

    def _grouped(self, x: Any) -> Any:
        groups = int(self._pick(2, 3))
        x = self._conv(x, groups * int(self._pick(1, 2, 3)))
        return self._layers.Conv2D(groups * int(self._pick(1, 2)), 3, padding="same", groups=groups)(x)

    def _depthwise(self, x: Any) -> Any:
        x = self._layers.DepthwiseConv2D(
            3, padding="same", depth_multiplier=self._pick(1, 1, 2), activation=self._act()
        )(x)
        return self._conv(x)

    def _separable(self, x: Any) -> Any:
        return self._layers.SeparableConv2D(self._width(), 3, padding="same", depth_multiplier=self._pick(1, 2))(x)

    def _transposed(self, x: Any) -> Any:
        return self._layers.Conv2DTranspose(self._width(), 3, padding="same", activation=self._act())(x)

    def _residual(self, x: Any) -> Any:
        y = self._normed(x)
        y = self._conv(y, x.shape[-1])
        kind = self._pick(self._layers.Add, self._layers.Add, self._layers.Average, self._layers.Subtract)
        return self._layers.ReLU()(kind()([x, y]))

    def _projected(self, x: Any) -> Any:
        filters = self._width()
        y = self._conv(self._normed(x), filters)
        return self._layers.Add()([self._conv(x, filters), y])

    def _dense_block(self, x: Any) -> Any:
        for _ in range(2):
            x = self._layers.Concatenate()([x, self._normed(x)])
        return self._layers.BatchNormalization()(x)

    def _branches(self, x: Any) -> Any:
        return self._layers.Concatenate()(
            [self._conv(x), self._conv(self._conv(x)), self._layers.MaxPooling2D(3, 1, "same")(x)]
        )

    def _excited(self, x: Any) -> Any:
        y = self._layers.GlobalAveragePooling2D()(x)
        y = self._layers.Dense(self._width(), activation="relu")(y)
        y = self._layers.Dense(x.shape[-1], activation="sigmoid")(y)
        return self._layers.Multiply()([x, self._layers.Reshape((1, 1, x.shape[-1]))(y)])

    def _inverted(self, x: Any) -> Any:
        y = self._normed(x, 2 * x.shape[-1])
        y = self._layers.BatchNormalization()(self._layers.DepthwiseConv2D(3, padding="same", use_bias=False)(y))
        y = self._layers.Conv2D(x.shape[-1], 1)(self._layers.ReLU(6.0)(y))
        return self._layers.Add()([x, y])

    def _pooled(self, x: Any) -> Any:
        if x.shape[1] < 4:
            return self._conv(x)
        return self._pick(self._layers.MaxPooling2D, self._layers.AveragePooling2D)(2)(self._layers.ZeroPadding2D(1)(x))

    def _prelu(self, x: Any) -> Any:
        return self._layers.PReLU(shared_axes=[1, 2])(self._layers.SpatialDropout2D(0.2)(x))

    def _shared(self, x: Any) -> Any:
        both = self._layers.Conv2D(x.shape[-1], 3, padding="same", activation="relu")
        return both(both(x))

    def _nested(self, x: Any) -> Any:
        inner = self._keras.Input(x.shape[1:])
        filters = self._width()
        y = self._layers.Conv2D(filters, 1)(self._normed(inner))
        if self._pick(True, False):
            y = self._layers.Add()([self._layers.Conv2D(filters, 1)(inner), y])
        return self._keras.Model(inner, y)(x)

    def _rows(self, x: Any) -> Any:
        """As a series of rows through a 1-D convolution, and back."""
        height, width, channels = x.shape[1:]
        y = self._layers.Reshape((height * width, channels))(x)
        y = self._layers.Conv1D(self._width(), 3, padding="causal", activation=self._act())(y)
        return self._layers.Reshape((height, width, y.shape[-1]))(y)

    def _u_net(self, x: Any) -> Any:
        down = self._layers.Conv2D(self._width(), 3, strides=1, padding="same", activation="relu")(x)
        up = self._layers.UpSampling2D(2)(self._layers.MaxPooling2D(2)(down)) if down.shape[1] % 2 == 0 else down
        return self._conv(self._layers.Concatenate()([self._conv(up), down]))

    def _attended(self, x: Any) -> Any:
        height, width, channels = x.shape[1:]
        y = self._layers.Reshape((height * width, channels))(x)
        z = self._layers.MultiHeadAttention(int(self._pick(2, 3)), 2)(y, y)
        return self._layers.Reshape((height, width, channels))(self._layers.Add()([y, z]))

    def _head(self, x: Any) -> Any:
        kind = self._pick("pool", "pool", "flatten", "map", "max")
        if kind == "map":
            return self._layers.Conv2D(2, 1)(x)
        if kind == "flatten":
            x = self._layers.Flatten()(x)
        elif kind == "max":
            x = self._layers.GlobalMaxPooling2D()(x)
        else:
            x = self._layers.GlobalAveragePooling2D()(x)
        x = self._layers.Dropout(0.3)(self._layers.Dense(self._width(), activation=self._act())(x))
        return self._layers.Dense(3, activation=self._pick("softmax", None, "sigmoid"))(x)
