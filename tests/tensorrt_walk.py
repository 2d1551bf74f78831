"""Walks through board code and finds what a version of TensorRT would not have, without running it.

The code is followed as that version would take it: `hasattr` is answered from the version's attributes, branches that
it cannot reach are left out, and whatever else decides is followed both ways. So an attribute is in order where it
exists, or where no path of that version leads to it.

Which variables hold TensorRT's objects is told by their names, see `NAMES`; what their methods give is known (`GIVES`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

Api = Mapping[str, AbstractSet[str]]
"""Class, or "tensorrt" for the module -> its names."""

NAMES = {
    "trt": "tensorrt",
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "layer": "ILayer",
    "parser": "OnnxParser",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
    "profile": "IOptimizationProfile",
    "cache": "ITimingCache",
}

GIVES = {
    ("Builder", "create_network"): "INetworkDefinition",
    ("Builder", "create_builder_config"): "IBuilderConfig",
    ("Builder", "create_optimization_profile"): "IOptimizationProfile",
    ("IBuilderConfig", "create_timing_cache"): "ITimingCache",
    ("IBuilderConfig", "get_timing_cache"): "ITimingCache",
    ("INetworkDefinition", "get_input"): "ITensor",
    ("INetworkDefinition", "get_output"): "ITensor",
    ("INetworkDefinition", "get_layer"): "ILayer",
    ("ILayer", "get_input"): "ITensor",
    ("ILayer", "get_output"): "ITensor",
    ("OnnxParser", "get_error"): "ParserError",
    ("Runtime", "deserialize_cuda_engine"): "ICudaEngine",
    ("ICudaEngine", "create_execution_context"): "IExecutionContext",
    ("ICudaEngine", "create_engine_inspector"): "EngineInspector",
}


@dataclass
class Found:
    """What a walk came by.

    Attributes:
        touched: "Class.attribute" on any path of the version.
        missing: those that the version has not, with file and line.
    """

    touched: set[str] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)


def walk(sources: Mapping[str, str], api: Api, others: Mapping[str, AbstractSet[str]] | None = None) -> Found:
    """Follows modules as one version of TensorRT would.

    Args:
        sources: file name -> text.
        api: of the version.
        others: file name -> those of `NAMES` that mean something else in it.
    """
    found = Found()
    trees = {name: ast.parse(text) for name, text in sources.items()}
    asked = _one_liners(trees.values())
    for name, tree in trees.items():
        names = {key: owner for key, owner in NAMES.items() if key not in (others or {}).get(name, ())}
        _Walker(name, names, api, asked, found).block(tree.body)
    return found


def files(*places: Path) -> dict[str, str]:
    """The sources in folders, and single files."""
    paths = [path for place in places for path in (sorted(place.glob("*.py")) if place.is_dir() else [place])]
    return {f"{path.parent.name}/{path.name}": path.read_text(encoding="utf-8") for path in paths}


def _one_liners(trees: Iterable[ast.Module]) -> dict[str, ast.expr]:
    """Functions that only answer a question, by name: a call of one is as good as the question itself."""
    found: dict[str, ast.expr] = {}
    for tree in trees:
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                body = [
                    one for one in node.body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))
                ]
                if len(body) == 1 and isinstance(body[0], ast.Return) and body[0].value is not None:
                    found[node.name] = body[0].value
    return found


class _Walker:
    """Follows one module."""

    def __init__(
        self, name: str, names: Mapping[str, str], api: Api, asked: Mapping[str, ast.expr], found: Found
    ) -> None:
        self._name, self._names, self._api, self._asked, self._found = name, names, api, asked, found
        self._locals: dict[str, str] = {}
        self._lists: dict[str, str] = {}
        self._forgiven = 0

    def block(self, body: Sequence[ast.stmt]) -> bool:
        """Statements in order; True where none after them is reached."""
        return any(self._statement(one) for one in body)

    def _statement(self, node: ast.stmt) -> bool:
        if isinstance(node, ast.If):
            return self._if(node)
        if isinstance(node, ast.FunctionDef):
            self._function(node)
            return False
        if isinstance(node, ast.ClassDef):
            for one in (*node.bases, *node.decorator_list):
                self._expression(one)
            self.block(node.body)
            return False
        if isinstance(node, ast.Try):
            return self._try(node)
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            self._assign(node)
            return False
        if isinstance(node, ast.With):
            for item in node.items:
                self._expression(item.context_expr)
            return self.block(node.body)
        if isinstance(node, ast.For | ast.While):
            self._expression(node.iter if isinstance(node, ast.For) else node.test)
            if isinstance(node, ast.For):
                self._bind(node.target, self._element(node.iter))
            # A loop may be passed over, or left in the middle.
            self.block(node.body)
            self.block(node.orelse)
            return False
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self._expression(child)
        return isinstance(node, ast.Return | ast.Raise | ast.Continue | ast.Break)

    def _if(self, node: ast.If) -> bool:
        self._expression(node.test)
        answer = self._answer(node.test)
        ends = []
        if answer is not False:
            ends.append(self.block(node.body))
        if answer is not True:
            ends.append(self.block(node.orelse))
        return all(ends)

    def _try(self, node: ast.Try) -> bool:
        forgives = any(_catches_attribute_error(handler.type) for handler in node.handlers)
        self._forgiven += forgives
        ended = self.block(node.body)
        self._forgiven -= forgives
        ends = [self.block(handler.body) for handler in node.handlers]
        rest = self.block(node.orelse)
        last = self.block(node.finalbody)
        return last or ((ended or rest) and all(ends))

    def _function(self, node: ast.FunctionDef) -> None:
        outer, self._locals = self._locals, dict(self._locals)
        # Its parameters are new: what a variable of that name was outside says nothing.
        for one in (*node.args.args, *node.args.kwonlyargs):
            self._locals.pop(one.arg, None)
            self._lists.pop(one.arg, None)
        for default in (*node.args.defaults, *node.args.kw_defaults, *node.decorator_list):
            if default is not None:
                self._expression(default)
        self.block(node.body)
        self._locals = outer

    def _assign(self, node: ast.Assign | ast.AnnAssign | ast.AugAssign) -> None:
        if node.value is not None:
            self._expression(node.value)
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            self._expression(target)
            self._bind(target, self._owner(node.value) if node.value is not None else None)
            if isinstance(target, ast.Name):
                self._lists[target.id] = (self._element(node.value) if node.value is not None else None) or ""

    def _bind(self, target: ast.expr, owner: str | None) -> None:
        """A variable is given a value: of a class of TensorRT, or of none that is known."""
        if isinstance(target, ast.Name):
            self._locals[target.id] = owner or ""

    def _expression(self, node: ast.expr) -> None:
        """Touches what an expression touches, on the paths that this version takes through it."""
        if isinstance(node, ast.BoolOp):
            stop = isinstance(node.op, ast.Or)
            for value in node.values:
                self._expression(value)
                if self._answer(value) is stop:
                    return
        elif isinstance(node, ast.IfExp):
            self._expression(node.test)
            answer = self._answer(node.test)
            for branch, other in ((node.body, False), (node.orelse, True)):
                if answer is not other:
                    self._expression(branch)
        elif isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
            self._comprehension(node)
        else:
            if isinstance(node, ast.Attribute):
                self._touch(node, self._owner(node.value), node.attr)
            elif isinstance(node, ast.Call) and (asked := _attribute_call("getattr", node, arguments=2)):
                self._touch(node, self._owner(asked[0]), asked[1])
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr):
                    self._expression(child)
                elif isinstance(child, ast.keyword):
                    self._expression(child.value)

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
        for generator in node.generators:
            self._expression(generator.iter)
            self._bind(generator.target, self._element(generator.iter))
            for test in generator.ifs:
                self._expression(test)
                if self._answer(test) is False:
                    return
        for element in [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]:
            self._expression(element)

    def _touch(self, node: ast.expr, owner: str | None, name: str) -> None:
        if owner is None or (name.startswith("__") and name != "__version__"):
            return
        self._found.touched.add(f"{owner}.{name}")
        if name not in self._api.get(owner, ()) and not self._forgiven:
            self._found.missing.append(f"{self._name}:{node.lineno}: {owner}.{name}")

    def _owner(self, node: ast.expr) -> str | None:
        """Of which class of TensorRT an expression is, or which class it is."""
        if isinstance(node, ast.Name):
            return self._names.get(node.id.lstrip("_")) or self._locals.get(node.id) or None
        if isinstance(node, ast.Attribute):
            owner = self._owner(node.value)
            if owner == "tensorrt":
                return node.attr
            return self._names.get(node.attr.lstrip("_")) if owner is None else None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = self._owner(node.func.value)
            return node.func.attr if owner == "tensorrt" else GIVES.get((owner or "", node.func.attr))
        return None

    def _element(self, node: ast.expr) -> str | None:
        """Of which class what a list holds is."""
        if isinstance(node, ast.ListComp | ast.GeneratorExp):
            return self._owner(node.elt)
        return self._lists.get(node.id) or None if isinstance(node, ast.Name) else None

    def _answer(self, node: ast.expr) -> bool | None:
        """What this version says to a question; None where it is not about what it has."""
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            answer = self._answer(node.operand)
            return None if answer is None else not answer
        if isinstance(node, ast.BoolOp):
            stop = isinstance(node.op, ast.Or)
            answers = [self._answer(value) for value in node.values]
            return stop if stop in answers else None if None in answers else not stop
        if isinstance(node, ast.Call):
            if asked := _attribute_call("hasattr", node, arguments=2):
                owner = self._owner(asked[0])
                return None if owner is None else asked[1] in self._api.get(owner, ())
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            return self._answer(self._asked[name]) if name in self._asked else None
        return None


def _attribute_call(name: str, node: ast.Call, *, arguments: int) -> tuple[ast.expr, str] | None:
    """The object and the attribute that `hasattr` or `getattr` is called with."""
    if not isinstance(node.func, ast.Name) or node.func.id != name or len(node.args) != arguments:
        return None
    asked = node.args[1]
    return (node.args[0], asked.value) if isinstance(asked, ast.Constant) and isinstance(asked.value, str) else None


def _catches_attribute_error(kind: ast.expr | None) -> bool:
    kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(isinstance(one, ast.Name) and one.id == "AttributeError" for one in kinds)
