"""NVIDIA's own ONNX parser and builder, without a GPU: what they say to each Q/DQ rule, and to what we lower.

TensorRT-RTX 1.7.1, not the compiler of a Jetson.
"""

from __future__ import annotations

import platform
import sys

import pytest

from tests import rtx
from tests.qdq_graphs import CASES, Case, Says, conv

if (sys.platform, platform.machine()) != ("linux", "x86_64"):
    pytest.skip("NVIDIA's parser is on PyPI for Linux on x86-64 only", allow_module_level=True)

EACH = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def says(proto: object) -> Says:
    """In the words of the table."""
    try:
        answer = rtx.ask(proto)
    except rtx.Crash:
        return "crash"
    if not answer.parsed:
        return "refused"
    if not answer.built:
        return "not built"
    if not answer.in_int8("conv"):
        return "float"
    return "int8, with a warning" if answer.warnings else "int8"


@EACH
def test_the_recorded_answer_to_a_broken_graph_still_holds(case: Case):
    assert says(case.broken()) == case.says


@EACH
def test_the_recorded_answer_to_its_twin_still_holds(case: Case):
    assert says(case.twin()) == case.says_to_twin


def test_an_open_batch_is_built_with_a_profile():
    answer = rtx.ask(conv(batch="N"), batch=8)
    assert answer.built
    assert answer.in_int8("conv")


def test_a_crash_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(rtx.Crash, match="exit 1"):
        rtx.ask(conv())
