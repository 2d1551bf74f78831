"""Reads what a Keras file would build, as JSON, before anything in it is built.

Deserialising a Keras model can run code of the file: a Lambda layer holds Python bytecode, a `TFOpLambda` names any
function of TensorFlow (`io.write_file` among them), and a custom class is looked up by module name. So the config is
judged here as plain data, and what is not on a list of known, harmless things is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edgesmith.errors import ModelError

MAX_CONFIG_BYTES = 64 << 20
"""A real config is a few hundred kB; past this the file is a decompression bomb, not a network."""

_CONTAINERS = frozenset({"Functional", "Sequential", "Model"})
_CODE = frozenset({"Lambda", "__lambda__"})
_OPAQUE = frozenset({"TFSMLayer", "TorchModuleWrapper", "FlaxLayer", "JaxLayer"})
_STRINGS = frozenset({"TextVectorization", "StringLookup", "IntegerLookup", "Hashing", "HashedCrossing"})
# Modules of keras whose classes only compute; keras.utils and keras.saving, for two, also reach the network and disk.
_KERAS_PARTS = frozenset(
    {"activations", "applications", "constraints", "dtype_policies", "initializers", "layers", "models", "ops"}
    | {"quantizers", "random", "regularizers"}
)
_KERAS_ROOTS = frozenset({"keras", "tf_keras"})
_CLASSES_OF_KERAS_ITSELF = frozenset({"DTypePolicy", "FloatDTypePolicy", "Model", "Sequential", "Variable"})
_WRAPPED = ("layer", "backward_layer", "cell")
_TFMOT = ("PruneLowMagnitude", "ClusterWeights", "QuantizeWrapper", "QuantizeLayer", "QuantizeAnnotate")


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the config holds.

    Attributes:
        lambdas: Lambda layers, or anything else that carries Python code.
    """

    lambdas: bool


def parse(raw: bytes | str, *, where: str) -> dict[str, Any]:
    """The config as a JSON object.

    Raises:
        ModelError: over `MAX_CONFIG_BYTES`, not JSON, or not an object.
    """
    if len(raw) > MAX_CONFIG_BYTES:
        raise ModelError(
            f"{where}: the model's config is larger than {MAX_CONFIG_BYTES >> 20} MB. No network needs that.",
            next_step="Save the model again from the program that made it.",
        )
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{where}: the model's config is not JSON ({error}). The file is damaged.",
            next_step="Copy or save the model again.",
        ) from None
    if not isinstance(value, dict) or not isinstance(value.get("config"), dict | list):
        raise ModelError(f"{where}: the config describes no model.", next_step="Pass a file that model.save() wrote.")
    return value


def inspect(config: dict[str, Any], *, where: str, keras_major: int, allow_lambda: bool) -> Inspection:
    """Judges a parsed model config.

    Args:
        config: as `parse` gives it: `{"class_name": ..., "config": ...}`.
        where: the file, for messages.
        keras_major: 2 or 3; Keras 3 names the module of each object, Keras 2 mostly does not.
        allow_lambda: the user trusts the file to run code.

    Raises:
        ModelError: Lambda layers that were not allowed, a subclassed model, a custom, opaque or stateful layer.
    """
    _refuse_subclassed(config, where)
    lambdas: list[str] = []
    for node in _objects(config["config"]):
        if node["class_name"] in _CODE or _own(node).get("function_type") == "lambda":
            lambdas.append(_name(node))
        elif keras_major >= 3:
            _refuse_custom_3(node, where)
    for node in _layers(config):
        _refuse_layer(node, where)
        if keras_major == 2:
            _refuse_custom_2(node, where)
    if lambdas and not allow_lambda:
        names = list(dict.fromkeys(filter(None, lambdas)))  # the function inside a Lambda layer has no name of its own
        raise ModelError(
            f"{where}: holds Python code in {_counted('Lambda layer', names)}. "
            "It was not read, since loading it would run it.",
            next_step="Replace the Lambda with Keras layers or keras.ops calls; or, if you trust the file, "
            "pass --allow-lambda (allow_lambda: true).",
        )
    return Inspection(lambdas=bool(lambdas))


def layer_classes(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(class, layer name) of every layer in the config, nested models and wrapped layers included."""
    for node in _layers(config):
        yield node["class_name"], _name(node)


def tf_functions(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(TensorFlow function, layer name) of every `TFOpLambda` in a Keras 2 config."""
    for node in _layers(config):
        if node["class_name"] == "TFOpLambda":
            yield str(_own(node).get("function")), _name(node)


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every serialised object in the value, outermost first. Compile settings are left out: they are never loaded."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if isinstance(item.get("class_name"), str) and ("config" in item or "module" in item):
                yield item
            stack.extend(part for key, part in reversed(item.items()) if key != "compile_config")
        elif isinstance(item, list):
            stack.extend(reversed(item))


def _layers(model: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every layer entry, however deep; the model itself is not among them."""
    config = model["config"]
    children = config if isinstance(config, list) else config.get("layers", [])
    stack = [child for child in children if isinstance(child, dict)][::-1]
    while stack:
        node = stack.pop()
        if not isinstance(node.get("class_name"), str):
            continue
        yield node
        own = node.get("config")
        inner: list[Any] = own if isinstance(own, list) else []
        if isinstance(own, dict):
            inner = [own[key] for key in _WRAPPED if isinstance(own.get(key), dict)]
            for key in ("layers", "cells"):
                inner += own[key] if isinstance(own.get(key), list) else []
        stack.extend(child for child in reversed(inner) if isinstance(child, dict))


def _counted(what: str, names: list[str]) -> str:
    return f"{what}{'s' if len(names) > 1 else ''} {', '.join(names)}" if names else f"a {what}"


def _own(node: dict[str, Any]) -> dict[str, Any]:
    config = node.get("config")
    return config if isinstance(config, dict) else {}


def _name(node: dict[str, Any]) -> str:
    return str(_own(node).get("name") or node.get("name") or "")


def _refuse_subclassed(config: dict[str, Any], where: str) -> None:
    name = str(config.get("class_name"))
    module = config.get("module")
    ours = module is None or str(module).split(".")[0] in _KERAS_ROOTS
    own = config["config"]
    has_graph = isinstance(own, list) or "layers" in own
    if name in _CONTAINERS and ours and has_graph:
        return
    of = f" of module {module}" if isinstance(module, str) else ""
    raise ModelError(
        f"{where}: the model is the subclass {name}{of}. Its graph exists only in the Python code of that class.",
        next_step="Pass a functional model: inputs = keras.Input(...); "
        f"keras.Model(inputs, {name}(...)'s layers applied to inputs), then save() it.",
    )


def _refuse_custom_3(node: dict[str, Any], where: str) -> None:
    name, module, registered = node["class_name"], node.get("module"), node.get("registered_name")
    if module == "builtins" and name == "function":
        raise ModelError(
            f"{where}: uses the custom function {node.get('config')}, which is not in the file.",
            next_step="Use a function of keras.activations, or write it with keras.ops in the functional model.",
        )
    package, _, _ = registered.partition(">") if isinstance(registered, str) and ">" in registered else ("", "", "")
    if module is None and not package:
        return  # __keras_tensor__, __slice__ and their kind: plain values
    parts = str(module or "").split(".")
    known = parts[0] in _KERAS_ROOTS and (
        name in _CLASSES_OF_KERAS_ITSELF
        if len(parts) == 1
        else (parts[2] if parts[1] == "src" and len(parts) > 2 else parts[1]) in _KERAS_PARTS
    )
    if (known and not package) or module == "builtins":
        return
    _refuse_custom(name, _name(node), str(module) if module is not None else f"package {package}", where)


def _refuse_custom_2(node: dict[str, Any], where: str) -> None:
    name, module = node["class_name"], node.get("module")
    root = str(module).split(".")[0] if isinstance(module, str) else None
    if ">" in name or (root is not None and root not in _KERAS_ROOTS):
        _refuse_custom(name.rpartition(">")[2], _name(node), str(module or name.partition(">")[0]), where)


def refuse_unknown_2(config: dict[str, Any], *, known: frozenset[str], where: str) -> None:
    """Refuses a Keras 2 config with a layer class that tf_keras does not have.

    Raises:
        ModelError: names the class and the layer.
    """
    for name, layer in layer_classes(config):
        if name not in known:
            _refuse_custom(name, layer, "the program that saved it", where)


def refuse_unknown_3(config: dict[str, Any], *, known: frozenset[str], where: str) -> None:
    """Refuses a Keras 3 `.h5` with a layer class that Keras does not have: this format names no modules.

    Raises:
        ModelError: names the class and the layer.
    """
    for name, layer in layer_classes(config):
        if name not in known:
            raise ModelError(
                f"{where}: layer {layer} is {name}, which is no class of keras.layers. Its code is not in the file, "
                "and an .h5 cannot hold keras.ops calls.",
                next_step=f"If {name} comes from keras.ops or an operator such as +, save as .keras. "
                "If it is your own class, express it with Keras layers first.",
            )


def _refuse_custom(name: str, layer: str, module: str, where: str) -> None:
    if name.startswith(_TFMOT):
        raise ModelError(
            f"{where}: layer {layer} is {name} of tensorflow_model_optimization: a model in training, not a result.",
            next_step="Save the plain network: tfmot.sparsity.keras.strip_pruning(model), strip_clustering(model), or "
            "the model from before quantize_model.",
        )
    raise ModelError(
        f"{where}: {f'layer {layer} is ' if layer else 'holds '}{name} of {module}, which is no class of Keras. "
        "Its code is not in the file.",
        next_step=f"Express {name} with Keras layers or keras.ops calls in the functional model, then save it again.",
    )


def _refuse_layer(node: dict[str, Any], where: str) -> None:
    name, layer = node["class_name"], _name(node)
    if name in _OPAQUE:
        raise ModelError(
            f"{where}: layer {layer} is {name}, a foreign graph in a wrapper: it can be neither pruned nor rebuilt.",
            next_step="Pass the original Keras model instead of the wrapper.",
        )
    if name in _STRINGS:
        raise ModelError(
            f"{where}: layer {layer} is {name}, a lookup on strings or in Python: no edge runtime has it.",
            next_step="Do that lookup before the model and give the network numbers.",
        )
    if _own(node).get("stateful") is True:
        raise ModelError(
            f"{where}: layer {layer} is a {name} with stateful=True: it remembers the samples before, so no answer is "
            "one sample's own, and neither ranges nor a board's figures could be repeated.",
            next_step=f"Build {layer} with stateful=False. To go on from sample to sample on the device, make its "
            "state an input and an output of the model (initial_state=..., return_state=True).",
        )
