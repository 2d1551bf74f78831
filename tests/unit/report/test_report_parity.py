"""The same artifact on several boards: one line each, the same words everywhere."""

from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from edgesmith.report import render_html, render_markdown
from edgesmith.report.console import print_result
from edgesmith.report.parity import parity_lines
from edgesmith.result import ParityDevice, ParityRecord, Result


def on(
    device: str, different: int = 0, largest: float | None = 0.0, unit: str = "LSB", reason: str | None = None
) -> Any:
    return ParityDevice(
        device=device,
        identical=different == 0,
        different=different,
        max_abs_diff=largest,
        max_abs_diff_reason=reason,
        unit=unit,  # type: ignore[arg-type]
    )


def record(*devices: ParityDevice, reference: str | None = "local", target: str = "tflite") -> ParityRecord:
    return ParityRecord(
        artifact_sha256="a" * 64,
        target=target,
        variant="compressed",
        reference=reference,
        samples=647,
        elements=6470,
        devices=devices,
    )


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (record(on("pi")), "outputs on pi and local: identical in all 6,470 elements"),
        (record(on("pi", 12, 1.0)), "outputs on pi and local: differ in 12 of 6,470 elements, at most 1 LSB"),
        (
            record(on("pi", 5802, 1.19e-7, "absolute")),
            "outputs on pi and local: differ in 5,802 of 6,470 elements, by at most 1.2e-07",
        ),
        (
            record(on("pi", 6470, None, reason="int8[1] against int8[2]")),
            "outputs on pi and local: differ in 6,470 of 6,470 elements (int8[1] against int8[2])",
        ),
        (
            record(on("pi"), reference=None),
            "outputs on pi and this machine's check: identical in all 6,470 elements",
        ),
        (
            record(on("a"), on("b"), on("c", 3, 2.0)),
            (
                "outputs on a, b and local: identical in all 6,470 elements; "
                "outputs on c and local: differ in 3 of 6,470 elements, at most 2 LSB"
            ),
        ),
        (
            record(*(on(f"pi{number}") for number in range(49))),
            "outputs on 49 boards and local: identical in all 6,470 elements",
        ),
    ],
)
def test_one_line_for_an_artifact(passing_run: Any, found: ParityRecord, text: str):
    (line,) = parity_lines(passing_run.result.model_copy(update={"parity": (found,)}))
    assert (line.artifact, line.text) == ("tflite compressed", text)
    assert line.identical == ("differ" not in text)


def with_parity(made: Any) -> Result:
    records = (record(on("pi4")), record(on("pi4", 12, 1.0), target="onnxruntime"))
    return made.result.model_copy(update={"parity": records})


def test_every_report_has_it(passing_run: Any, tmp_path: Any):
    result = with_parity(passing_run)
    console = Console(width=100, record=True)
    print_result(result, console=console)
    for text in (console.export_text(), render_html(result, passing_run.run_dir), render_markdown(result)):
        assert "Same artifact, element by element" in text
        assert "outputs on pi4 and local: identical in all 6,470 elements" in text
        assert "outputs on pi4 and local: differ in 12 of 6,470 elements, at most 1 LSB" in text


def test_a_run_on_one_board_says_nothing(passing_run: Any):
    assert "element by element" not in render_markdown(passing_run.result)
    assert "element by element" not in render_html(passing_run.result, passing_run.run_dir)


def test_the_summary_stays_short_and_tells_what_differs_first(rack_run: Any, one_pair: Callable[..., Any]):
    records = [record(on("pi4"), target=f"t{number}") for number in range(9)]
    records.append(record(on("pi4", 1, 1.0), target="odd"))
    rows = rack_run.result.results
    more = [row.model_copy(update={"device": f"{row.device}-{n}"}) for n in range(5) for row in rows]
    result = rack_run.result.model_copy(update={"parity": tuple(records), "results": tuple(more)})
    lines = render_markdown(result).splitlines()
    assert len(lines) < 60
    first = lines.index("**Same artifact, element by element**") + 2
    assert lines[first].startswith("- odd compressed: outputs on pi4 and local: differ in 1 of")
    assert lines[first + 4] == "- 6 more in report.html"
