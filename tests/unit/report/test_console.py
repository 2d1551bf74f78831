"""The console: 100 columns, the verdict first, nothing invented; progress that fits where it is shown."""

import dataclasses
import io
import threading
from typing import Any

import pytest
from rich.console import Console

from edgesmith.report.console import ConsoleProgress, print_result
from edgesmith.result import Result


def shown(made: Any, width: int = 100):
    out = io.StringIO()
    print_result(made.result, made.run_dir, console=Console(file=out, width=width, color_system=None))
    return out.getvalue()


def lines_of(made: Any, width: int = 100):
    return shown(made, width).splitlines()


@pytest.mark.parametrize("name", ["passing_run", "mixed_run", "empty_run", "rack_run", "unchanged_run", "hostile_run"])
def test_nothing_is_wider_than_a_hundred_columns(name: str, request: pytest.FixtureRequest):
    text = lines_of(request.getfixturevalue(name))
    assert [line for line in text[:-1] if len(line) > 100] == []
    assert text[-1].startswith("Report ")


def test_the_verdict_is_first_and_the_table_is_aligned(passing_run: Any):
    text = lines_of(passing_run)
    assert text[1] == "PASS  All 2 compressed artifacts on 1 device met the budget."
    table = text.index("local · tflite  ai-edge-litert 2.3.0 (XNNPACK), 1 thread")
    assert text[table - 2 : table + 3] == [
        " model         p50    p95  speed-     size     gzip         top1  drop  agree  peak RSS  verdict",
        "                ms     ms      up                              %    pp      %",
        "local · tflite  ai-edge-litert 2.3.0 (XNNPACK), 1 thread",
        " float       0.623  0.666     ref   214 kB   197 kB  91.52 ±0.55   ref  100.0   24.1 MB  PASS",
        " compressed  0.245  0.261   2.54×  73.1 kB  44.6 kB  91.30 ±0.55  0.22   98.7   18.3 MB  PASS",  # noqa: RUF001
    ]


def test_a_board_without_figures_shows_n_a_and_the_reason_below(mixed_run: Any):
    text = lines_of(mixed_run)
    row = next(line for line in text if line.startswith(" compressed") and line.endswith("ERROR"))
    assert row.split() == ["compressed", *["n/a"] * 3, "86.5", "kB", "52.8", "kB", *["n/a"] * 4, "ERROR"]
    assert " latency, accuracy, agreement, peak RSS n/a: jetson-nano was never reached (jetson-nano)" in text


def test_marks_stand_with_their_row(mixed_run: Any):
    text = lines_of(mixed_run)
    assert "pi4-emulated · tflite  ai-edge-litert 2.3.0 (XNNPACK), 1 thread  emulated" in text
    assert text[text.index("   reused") - 1].startswith(" compressed")
    assert text[text.index("   THROTTLED") - 1].endswith("INCONCLUSIVE")


def test_findings_come_with_the_next_step(mixed_run: Any):
    text = lines_of(mixed_run)
    at = text.index(" error  p95 is 2.75 ms (2.71 to 2.80), the budget is 2 ms. (pi5-lab onnxruntime compressed)")
    assert text[at + 1].startswith("    -> Raise the budget")


def test_the_recipe_is_an_ablation(passing_run: Any):
    text = lines_of(passing_run)
    row = next(line for line in text if line.startswith(" prune "))
    cells = [
        "231",
        "kB",
        "122",
        "kB",
        "98.7",
        "kB",
        "4,812,544",
        "50,186",
        "50.0",
        "91.39",
        "±0.55",
        "99.0",
        "41.7",
        "s",
    ]
    assert row.split() == ["prune", *cells]
    assert " size, gzip, accuracy, agreement n/a: int8 is made by each target's compiler (quantize)" in text
    assert " packed n/a: only Keras models can be packed (quantize)" in text


def test_a_result_from_before_packed_files_shows_none(passing_run: Any):
    older = passing_run.result.model_dump(mode="json")
    for step in older["steps"]:
        del step["packed_bytes"], step["packed_bytes_reason"]
    text = shown(dataclasses.replace(passing_run, result=Result.model_validate(older)))
    assert " prune     231 kB  122 kB  4,812,544      50,186   50.0  91.39 ±0.55   99.0  41.7 s" in text.splitlines()
    assert "packed" not in text


def test_an_unchanged_run_says_so(unchanged_run: Any):
    text = shown(unchanged_run)
    assert "nothing measured anew: everything was unchanged" in text
    assert "1 thread  reused" in text


def test_synthetic_data_is_shouted(mixed_run: Any):
    assert "SYNTHETIC calibration data" in shown(mixed_run)


def test_a_narrow_console_drops_columns_and_says_which(passing_run: Any):
    text = lines_of(passing_run, width=72)
    assert max(map(len, text[:-1])) <= 72
    assert " No room here for gzip, peak RSS: see the report." in text


def test_names_are_not_markup(hostile_run: Any):
    text = shown(hostile_run)
    assert "<script>alert(1)</script>|[red]`$x_1$?[31m? · tflite" in text
    assert "\x1b" not in text


def test_the_path_of_the_report_is_last_and_real(passing_run: Any):
    assert lines_of(passing_run)[-1] == f"Report {passing_run.run_dir}"
    (passing_run.run_dir / "report.html").touch()
    assert lines_of(passing_run)[-1] == f"Report {passing_run.run_dir / 'report.html'}"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def plain(**options: Any):
    out = io.StringIO()
    clock = Clock()
    console = Console(file=out, width=40, force_terminal=False, color_system=None)
    return ConsoleProgress(console, clock=clock, **options), clock, out


def test_plain_progress_is_start_finish_and_a_line_every_few_seconds():
    progress, clock, out = plain(every_seconds=5)
    with progress.task("Training [bold]", total=10) as task:
        for _ in range(10):
            clock.now += 1.5
            task.advance(1, "loss 0.1")
    progress.note("a note that is longer than the forty columns of this console, and stays one line")
    assert out.getvalue().splitlines() == [
        "Training [bold] ...",
        "Training [bold]: 40 %, loss 0.1",
        "Training [bold]: 80 %, loss 0.1",
        "Training [bold]: done, 15.0 s",
        "a note that is longer than the forty columns of this console, and stays one line",
    ]


def test_plain_progress_without_a_known_end_counts():
    progress, clock, out = plain()
    with progress.task("Measuring") as task:
        clock.now = 6
        task.advance(3)
    assert "Measuring: 3\n" in out.getvalue()


def test_an_interrupted_task_is_not_called_done():
    progress, _, out = plain()
    with pytest.raises(KeyboardInterrupt), progress.task("Training"):
        raise KeyboardInterrupt
    assert out.getvalue().splitlines() == ["Training ...", "Training: stopped, 0.0 s"]


def test_quiet_shows_nothing():
    progress, _, out = plain(quiet=True)
    with progress.task("Training", 2) as task:
        task.advance(1, "x")
    progress.note("hello")
    assert out.getvalue() == ""


def test_bars_of_several_threads_on_a_terminal():
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True, color_system=None)
    progress = ConsoleProgress(console)
    both_open = threading.Barrier(2, timeout=30)

    def work(name: str) -> None:
        with progress.task(f"Measuring on {name}", 2) as task:
            both_open.wait()
            task.advance(1, "window 1")
            task.advance()

    threads = [threading.Thread(target=work, args=(name,)) for name in ("[red]", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    progress.note("after")
    text = out.getvalue()
    assert "Measuring on [red]: done" in text
    assert "Measuring on b: done" in text
    assert text.endswith("after\n")
    # The cursor that the bars had hidden is back.
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") > 0


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]):
    with ConsoleProgress().task("Loading"):
        pass
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Loading ...")
