"""Takes channels out of a network: the same layers, built narrower, with what is left of their weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.errors import InternalError
from edgesmith.frameworks import import_keras
from optimizer.base import KerasModel
from optimizer.channels.groups import Channels
from optimizer.graph import is_model


def without(model: KerasModel, channels: Channels, units: Collection[int]) -> KerasModel:
    """A network without some of its units.

    Args:
        model: stays as it is.
        channels: of that model.
        units: numbers out of `channels.groups`; at least one of each group has to stay.

    Returns:
        A new model of the same structure and names. Where every unit was zero, it computes the same.

    Raises:
        InternalError: a group would be empty, or a unit cannot be taken out.
    """
    gone = np.array(sorted(units), dtype=np.int64)
    _check(channels, gone)
    return _Surgery(channels, gone).of(model)


def _check(channels: Channels, gone: NDArray[np.int64]) -> None:
    allowed = np.concatenate([group.units for group in channels.groups] or [np.array([], dtype=np.int64)])
    if not np.isin(gone, allowed).all():
        raise InternalError("channels were to be taken out that have to stay")
    for group in channels.groups:
        if np.isin(group.units, gone).all():
            raise InternalError(f"all channels of {group.name} were to be taken out")


class _Surgery:
    """One rebuilding."""

    def __init__(self, channels: Channels, gone: NDArray[np.int64]) -> None:
        self._keras = import_keras()
        self._channels = channels
        self._gone = gone
        self._paths = {id(layer): path for path, layer in channels.layers.items()}
        self._settings: dict[str, dict[str, Any]] = defaultdict(dict)
        for setting in channels.settings:
            config = channels.layers[setting.layer].get_config()  # type: ignore[attr-defined]
            count = int(self._stays(setting.ids).sum())
            known = self._settings[setting.layer]
            if setting.index is None:
                known[setting.key] = count
            else:
                value = list(known.get(setting.key, config[setting.key]))
                value[setting.index] = count
                known[setting.key] = tuple(value)
        self._made: dict[int, Any] = {}

    def of(self, model: KerasModel) -> KerasModel:
        """The whole network, with its weights."""
        made = self._model(model, None)
        for path, old in self._channels.layers.items():
            if isinstance(old, self._keras.Layer) and not is_model(old):
                self._fill(path, old, self._made[id(old)])
        return made

    def _stays(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        stays: NDArray[np.bool_] = ~np.isin(self._channels.unit_of[ids], self._gone)
        return stays

    def _model(self, model: Any, shapes: Any) -> Any:
        """A model or nested model, built on inputs of these shapes; None: on its own."""
        inputs = None
        if shapes is not None:
            inputs = self._keras.tree.map_structure(
                lambda x, given: self._keras.Input(batch_shape=given.shape, dtype=x.dtype, name=x.name),
                model.input,
                shapes,
            )
        return self._keras.models.clone_model(
            model,
            clone_function=self._layer,
            call_function=None if _sequential(self._keras, model) else self._call,
            input_tensors=inputs,
        )

    def _layer(self, layer: Any) -> Any:
        """A layer, narrower where channels went; a nested model as it is, until it is called."""
        if is_model(layer) or not isinstance(layer, self._keras.Layer):
            return layer
        if id(layer) not in self._made:
            config = {**layer.get_config(), **self._settings.get(self._paths[id(layer)], {})}
            self._made[id(layer)] = type(layer).from_config(config)
        return self._made[id(layer)]

    def _call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        if is_model(layer):
            if id(layer) not in self._made:
                self._made[id(layer)] = self._model(layer, args[0])
            layer = self._made[id(layer)]
        return layer(*args, **kwargs)

    def _fill(self, path: str, old: Any, new: Any) -> None:
        """What is left of a layer's weights."""
        values = {id(variable): np.asarray(variable.numpy()) for variable in old.variables}
        for touch in self._channels.touches:
            if touch.layer == path:
                variable = old
                for part in touch.weight.split("."):
                    variable = getattr(variable, part)
                stays = self._stays(touch.ids)
                values[id(variable)] = values[id(variable)].compress(stays, axis=touch.axis)
        for variable, before in zip(new.variables, old.variables, strict=True):
            variable.assign(values[id(before)])


def _sequential(keras: Any, model: Any) -> bool:
    return isinstance(model, keras.Sequential)
