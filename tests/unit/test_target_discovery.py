"""Targets are found by their file names, and listing them is cheap."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

import targets
from edgesmith.errors import ConfigError, InternalError
from targets import base


def test_the_targets_are_found_and_support_modules_are_not():
    assert targets.names() == ("onnxruntime", "tensorrt", "tflite")


def test_an_unknown_target_is_told_with_a_suggestion():
    with pytest.raises(ConfigError, match="There is no target 'tflit'; did you mean 'tflite'") as caught:
        targets.get("tflit")
    assert caught.value.next_step == "Targets: onnxruntime, tensorrt, tflite."


def test_a_module_that_calls_itself_otherwise_is_refused():
    module = ModuleType("targets.coral")
    module.NAME = "edgetpu"  # type: ignore[attr-defined]
    with pytest.raises(InternalError, match=r"targets/coral\.py calls itself 'edgetpu': the file name is the key"):
        targets.check("coral", module)


def test_a_target_that_lacks_a_verb_is_refused():
    module = ModuleType("targets.coral")
    module.NAME, module.FORMAT, module.compile = "coral", "tflite", print  # type: ignore[attr-defined]
    with pytest.raises(InternalError, match="lacks state, capabilities, signature, kernels, tensors, outputs"):
        targets.check("coral", module)


def test_listing_targets_and_their_state_imports_no_framework():
    script = (
        "import sys, targets\n"
        "for name in targets.names():\n"
        "    targets.get(name).state(), targets.get(name).capabilities()\n"
        "heavy = {'tensorflow', 'keras', 'onnx', 'onnxruntime', 'tf2onnx', 'ai_edge_litert'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_a_missing_package_is_named_with_its_cure():
    state = base.packages_state({"json": "json", "no_such_module": "no-such-package"}, extra="onnx")
    assert not state.available
    assert state.reason == "needs no-such-package"
    assert state.fix == 'pip install "edgesmith[onnx]"'
