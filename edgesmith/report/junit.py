"""junit.xml: one suite per device, target and variant, one case per line of the budget.

FAIL is a failure. ERROR and INCONCLUSIVE are errors, of type "error" and "inconclusive": a board that could not answer
never counts as a broken model, and never as a pass. Suites and their properties follow the Ant JUnit schema.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement, indent, tostring

from edgesmith.report import figures, gate, statement
from edgesmith.report.checks import Check, checks
from edgesmith.report.figures import one_line
from edgesmith.result import DeviceResult, FindingRecord, Result
from edgesmith.types import Verdict


def render_junit(result: Result) -> str:
    """The XML document."""
    root = Element("testsuites", name="edgesmith")
    _run_suite(root, result)
    for record in result.results:
        if record.variant != "uniform":  # measured for the price of the float layers only: it can break nothing
            _suite(root, record, result)
    if result.gate:
        _gate_suite(root, result)
    for suite in root:
        _count(suite)
    for outcome in ("tests", "failures", "errors"):
        root.set(outcome, str(sum(int(suite.get(outcome, "0")) for suite in root)))
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _run_suite(root: Element, result: Result) -> None:
    """The run itself: a run that stopped, or measured nothing, must not look green."""
    suite = _new_suite(root, "run", result.started_at, {"model": result.model, "config_sha256": result.config_sha256})
    case = _case(suite, "edgesmith.run", "finished")
    if result.state != "finished" or not result.results:
        _problem(case, "error", "error", " ".join(statement.headline(result).sentences), "")
    for finding in result.findings:
        if finding.severity == "error":
            _problem(_case(suite, "edgesmith.run", finding.code), "error", "error", finding.text, finding.next_step)


def _suite(root: Element, record: DeviceResult, result: Result) -> None:
    where = f"{record.device}.{record.target}.{record.variant}"
    suite = _new_suite(root, where, record.measured_at or result.started_at, _properties(record, result))
    held = checks(record, result)
    decided = {check.key for check in held}
    # What the judge found beside the budget: it belongs to the measurement as a whole.
    other = [f for f in record.findings if f.severity == "error" and f.code not in decided]
    case = _case(suite, where, "measured")
    # A budget that decided the verdict has its own case; anything else that spoilt the row is told here.
    if record.verdict is not Verdict.PASS and (other or all(check.outcome == "met" for check in held)):
        _verdict(case, record, other)
    for check in held:
        _check(_case(suite, where, check.key), check, other)


def _gate_suite(root: Element, result: Result) -> None:
    """A case for everything that was accepted: a regression is a failure, what cannot be told is an error."""
    suite = _new_suite(root, "gate", result.started_at, {"config_sha256": result.config_sha256})
    for record in result.gate:
        case = _case(suite, f"edgesmith.gate.{record.device}", record.target)
        kind = record.outcome.lower().replace(" ", "-")
        text = " ".join(gate.texts(record))
        if record.outcome in gate.RED:
            _problem(case, "failure", kind, text, record.next_step)
        elif record.outcome in gate.LOST | gate.UNDECIDED:
            _problem(case, "error", kind, text, record.next_step)
        else:
            SubElement(case, "system-out").text = _xml(f"{record.outcome}: {text}")


def _check(case: Element, check: Check, other: list[FindingRecord]) -> None:
    finding = [check.finding] if check.finding else other
    text = " ".join(f.text for f in finding) or f"{check.requirement}: {check.measured}"
    steps = "\n".join(f.next_step for f in finding if f.next_step)
    if check.outcome == "broken":
        _problem(case, "failure", check.key, text, steps)
    elif check.outcome == "not measured":
        _problem(case, "error", "error" if check.record.verdict is Verdict.ERROR else "inconclusive", text, steps)
    elif check.outcome == "not judged":
        _problem(case, "error", "inconclusive", text, steps)
    else:
        SubElement(case, "system-out").text = _xml(f"{check.requirement}: {check.measured}. {text}")


def _verdict(case: Element, record: DeviceResult, findings: list[FindingRecord]) -> None:
    text = " ".join(f.text for f in findings) or " ".join(record.validity_reasons) or f"verdict {record.verdict.value}"
    steps = "\n".join(f.next_step for f in findings if f.next_step)
    if record.verdict is Verdict.FAIL:
        _problem(case, "failure", findings[0].code if findings else "fail", text, steps)
    else:
        _problem(case, "error", str(record.verdict.value).lower(), text, steps)


def _properties(record: DeviceResult, result: Result) -> dict[str, str]:
    artifact = record.artifact
    toolchain = artifact.toolchain if artifact and artifact.toolchain else result.toolchain
    return {
        "device": record.device,
        "target": record.target,
        "variant": record.variant,
        "emulated": figures.NA if record.emulated is None else str(record.emulated).lower(),
        "fake": str(record.fake).lower(),
        "runtime": record.runner or figures.NA,
        "toolchain": ", ".join(f"{name} {version}" for name, version in sorted(toolchain.items())) or figures.NA,
        "artifact_sha256": artifact.sha256 if artifact else figures.NA,
        "precision": artifact.precision if artifact else figures.NA,
        "reused": str(record.reused).lower(),
    }


def _new_suite(root: Element, name: str, at: str, properties: dict[str, str]) -> Element:
    suite = SubElement(root, "testsuite", name=_xml(name), timestamp=_xml(at[:19]))
    listed = SubElement(suite, "properties")
    for key, value in properties.items():
        SubElement(listed, "property", name=key, value=_xml(value))
    return suite


def _case(suite: Element, where: str, name: str) -> Element:
    return SubElement(suite, "testcase", classname=_xml(where), name=_xml(name))


def _problem(case: Element, tag: str, kind: str, text: str, next_step: str) -> None:
    problem = SubElement(case, tag, type=_xml(kind), message=_xml(text))
    problem.text = _xml(f"{text}\n{next_step}".strip())


def _count(suite: Element) -> None:
    cases = suite.findall("testcase")
    suite.set("tests", str(len(cases)))
    suite.set("failures", str(sum(case.find("failure") is not None for case in cases)))
    suite.set("errors", str(sum(case.find("error") is not None for case in cases)))


def _xml(text: str) -> str:
    """Text without the characters that XML 1.0 cannot hold."""
    return "\n".join(one_line(line) for line in text.splitlines())
