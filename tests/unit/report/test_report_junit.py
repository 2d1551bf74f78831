"""junit.xml: a broken budget is a failure; what could not be measured or judged is an error, never a pass."""

from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from edgesmith.report import render_junit
from edgesmith.result import FindingRecord
from edgesmith.types import Verdict


def parse(made: Any):
    # The document is our own, made one line above: no entity of a stranger can be in it.
    return ET.fromstring(render_junit(made.result))  # noqa: S314


def cases(root: ET.Element, suite: str):
    found = root.find(f"testsuite[@name='{suite}']")
    return {case.get("name"): case for case in found.findall("testcase")}


@pytest.mark.parametrize("name", ["passing_run", "mixed_run", "empty_run", "rack_run", "unchanged_run", "hostile_run"])
def test_well_formed_and_counts_add_up(name: str, request: pytest.FixtureRequest):
    root = parse(request.getfixturevalue(name))
    assert root.tag == "testsuites"
    assert int(root.get("tests")) == len(root.findall(".//testcase"))
    assert int(root.get("failures")) == len(root.findall(".//failure"))
    assert int(root.get("errors")) == len(root.findall(".//error"))
    for suite in root:
        # The order that the Ant schema asks for.
        assert suite[0].tag == "properties"
        assert {child.tag for child in suite} <= {"properties", "testcase"}
        for case in suite.findall("testcase"):
            assert len(case) <= 1


def test_all_well(passing_run: Any):
    root = parse(passing_run)
    assert (root.get("failures"), root.get("errors")) == ("0", "0")
    assert set(cases(root, "local.tflite.compressed")) == {
        "measured",
        "latency_p95_ms",
        "latency_p50_ratio",
        "accuracy_drop_pp",
        "size_bytes",
    }
    assert set(cases(root, "local.tflite.float")) == {"measured"}


def test_a_broken_budget_is_one_failure(mixed_run: Any):
    found = cases(parse(mixed_run), "pi5-lab.onnxruntime.compressed")
    failure = found["latency_p95_ms"].find("failure")
    assert failure.get("type") == "latency_p95_ms"
    assert failure.get("message").startswith("p95 is 2.75 ms")
    assert "Raise the budget" in failure.text
    assert [name for name, case in found.items() if case.find("failure") is not None] == ["latency_p95_ms"]


def test_an_unreachable_board_is_an_error_and_no_failure(mixed_run: Any):
    found = cases(parse(mixed_run), "jetson-nano.onnxruntime.compressed")
    assert {case.find("error").get("type") for case in found.values()} == {"error"}
    assert "ssh to 10.0.0.7:22 refused" in found["measured"].find("error").get("message")


def test_an_inconclusive_budget_is_an_error_of_its_own_type(mixed_run: Any):
    found = cases(parse(mixed_run), "pi3-shelf.tflite.compressed")
    assert found["latency_p95_ms"].find("error").get("type") == "inconclusive"
    assert found["accuracy_drop_pp"].find("error") is None
    assert found["measured"].find("error") is None


@pytest.mark.parametrize(("verdict", "tag"), [("FAIL", "failure"), ("INCONCLUSIVE", "error")])
def test_a_verdict_that_no_budget_explains_is_never_green(one_pair: Callable[..., Any], verdict: str, tag: str):
    finding = FindingRecord(severity="error", code="something_new", text="what happened")
    found = cases(parse(one_pair(verdict=Verdict(verdict), findings=(finding,))), "pi5-lab.tflite.compressed")
    assert found["measured"].find(tag).get("message") == "what happened"
    found = cases(parse(one_pair(verdict=Verdict(verdict))), "pi5-lab.tflite.compressed")
    assert found["measured"].find(tag).get("message") == f"verdict {verdict}"


def test_a_run_that_stopped_or_measured_nothing_is_never_green(empty_run: Any):
    assert cases(parse(empty_run), "run")["finished"].find("error").get("message") == "Ctrl-C while training."


def test_properties_tell_what_ran(passing_run: Any):
    suite = parse(passing_run).find("testsuite[@name='local.tflite.compressed']")
    told = {p.get("name"): p.get("value") for p in suite.iter("property")}
    assert told["device"] == "local"
    assert told["runtime"] == "ai-edge-litert 2.3.0 (XNNPACK)"
    assert told["toolchain"] == "tensorflow 2.21.0"
    assert told["artifact_sha256"] == passing_run.result.results[1].artifact.sha256
