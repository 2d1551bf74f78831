"""The quantization plan in the reports: what was decided and why, in the user's layer names, and nothing made up."""

import io
import re
import sys
import warnings
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from rich.console import Console

from edgesmith.report import html, quantization, quantization_plots, render_html, render_junit, render_markdown
from edgesmith.report.console import print_result
from edgesmith.result import CalibrationPoint, DeviationRecord, LayerQuantization

HOSTILE = "<script>alert(1)</script>|[red]`$x_1$\x1b[31m\u202e"


class Words(HTMLParser):
    """The text of a page, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.feed(text)
        self.close()

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def section(made: Any) -> str:
    """The part of the page about quantization; its markup."""
    text = render_html(made.result, made.run_dir)
    return text[text.index('<h2 id="quantization">') : text.index('<h2 id="recipe">')]


def words(made: Any) -> str:
    return " ".join(" ".join(Words(section(made)).parts).split())


def on_console(made: Any, width: int = 100) -> str:
    out = io.StringIO()
    print_result(made.result, made.run_dir, console=Console(file=out, width=width, color_system=None))
    return out.getvalue()


def row(name: str, db: float | None = 30.0, **changes: Any) -> LayerQuantization:
    fields = {"layer": name, "kinds": ("Conv",), "precision": "int8", "alone_db": db, "alone_db_reason": None}
    return LayerQuantization.model_validate(fields | changes)


def test_without_a_plan_nothing_is_said(passing_run: Any):
    assert 'id="quantization"' not in render_html(passing_run.result, passing_run.run_dir)
    assert "Quantization" not in render_markdown(passing_run.result)
    assert "Quantization" not in on_console(passing_run)
    assert quantization.lines(passing_run.result) == ()
    assert quantization.deviations(passing_run.result) == ()
    assert quantization.without_deviations(passing_run.result) == ()


def test_the_page_tells_what_was_decided_and_on_which_samples(planned_run: Any):
    told = words(planned_run)
    for part in (
        (
            "One int8-float-io plan for every target, made with auto ranges, equalized, fitted weight scales, the best "
            "of 3 variants on samples set aside: 33.3 dB SQNR at the outputs, where minmax ranges alone give 24.6 dB."
        ),
        (
            "5 layers stay float32: block1_depthwise (costs 1.8 pp of top1), stem (alone costs 0.6 pp of top1), head "
            "(the user's keep_float), 2 others."
        ),
        (
            "Met its budget of 1 pp: drop of top1 0.42 pp (0.11 to 0.73), 2.31 pp with nothing kept in float32; 14 "
            "trials, decided on 2,000 samples of data/tuning.npz."
        ),
        "256 samples, enough from 64 on.",
        "Cross-layer equalization scaled 800 channels in 12 groups",
        "1 min 14 s.",
    ):
        assert part in told


def test_layers_that_stay_float_stand_in_a_table_with_the_whole_reason(planned_run: Any):
    told = words(planned_run)
    assert "Layers that stay float32 Layer Precision" in told
    assert "block1_depthwise float32 14.2 1.62 costs 1.8 pp of top1 (95 % 1.1 to 2.6)" in told
    assert "norm2 float32 n/a n/a no int8 kernel for LayerNormalization" in told
    assert "SQNR n/a: quantizing it changes nothing (rescaling)" in told
    assert "SQNR n/a: it is not quantized (norm1, norm2, head)" in told
    assert "Drop alone n/a: the metric is measured for the layers with the lowest SQNR only." in told
    assert "17 layers one by one" in told


def test_deviations_are_counted_by_cause_and_listed_by_tensor(planned_run: Any):
    told = words(planned_run)
    assert "tflite: 3 tensors artifacts/compressed.tflite" in told
    assert (
        "LiteRT's LOGISTIC gives no other output 2 times gate1 gate1/out rounded twice, first with scale 0.0039 gate2 "
        "gate2/out rounded twice, first with scale 0.0039 LiteRT has no such kernel 1 time norm1 norm1/out computed in "
        "float32"
    ) in told
    assert "No deviation is on record for onnxruntime." in told


def test_console_and_comment_say_it_in_four_lines(planned_run: Any):
    said = quantization.lines(planned_run.result)
    assert said == (
        (
            "int8-float-io plan: auto ranges, equalized, fitted weight scales; 5 layers stay float32: block1_depthwise "
            "(costs 1.8 pp of top1), stem (alone costs 0.6 pp of top1), 3 others"
        ),
        "Search: met its budget of 1 pp: drop of top1 0.42 pp (0.11 to 0.73), 2.31 pp with nothing kept in float32",
        "Calibration: 256 samples, enough from 64 on",
        "3 tensors of the tflite file deviate from the plan: see report.html",
    )
    shown = on_console(planned_run)
    assert all(line in " ".join(shown.split()) for line in said)
    assert max(map(len, shown.splitlines()[:-1])) <= 100
    comment = render_markdown(planned_run.result)
    assert "- Calibration: 256 samples, enough from 64 on\n" in comment
    assert "block1\\_depthwise" in comment


def test_a_comment_keeps_to_sixty_lines_with_a_plan(planned_run: Any, rack_run: Any):
    rows = [r.model_copy(update={"device": f"{r.device}-{n}"}) for n in range(5) for r in rack_run.result.results]
    full = planned_run.result.model_copy(update={"results": tuple(rows)})
    assert len(render_markdown(full).splitlines()) < 60
    assert "rows, none worse than the last one here" in render_markdown(full)


def test_junit_does_not_change(planned_run: Any):
    without = planned_run.result.model_copy(update={"quantization": None})
    assert render_junit(planned_run.result) == render_junit(without)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"met": False, "over_pp": 0.3, "drop_pp": 1.3, "drop_low_pp": 0.9, "drop_high_pp": 1.7},
            "missed its budget of 1 pp by 0.30 pp: drop of top1 1.30 pp (0.90 to 1.70), 2.31 pp with nothing",
        ),
        (
            {"met": False, "over_pp": 0.2, "drop_pp": 0.8, "drop_low_pp": 0.4, "drop_high_pp": 1.2},
            "missed its budget of 1 pp by 0.20 pp: drop of top1 0.80 pp (0.40 to 1.20), counted at its upper end,",
        ),
        (
            {"drop_low_pp": None, "drop_high_pp": None, "full_drop_pp": None},
            "met its budget of 1 pp: drop of top1 0.42 pp",
        ),
        ({"drop_pp": -0.001, "full_drop_pp": None}, "drop of top1 0.00 pp"),
        ({"full_drop_pp": 0.42}, "drop of top1 0.42 pp (0.11 to 0.73)"),
    ],
)
def test_how_the_search_ended(planned_run: Any, run_with_plan: Callable[..., Any], changes: Any, said: str):
    search = planned_run.result.quantization.search.model_copy(update=changes)
    line = quantization.lines(run_with_plan(search=search).result)[1]
    assert line.startswith("Search: ")
    assert said in line
    assert ("nothing kept" in line) == ("full_drop_pp" not in changes)


@pytest.mark.parametrize(
    ("stopped", "said"),
    [("trials", "It stopped at its limit of trials."), ("time", "It stopped when its time was over.")],
)
def test_a_search_that_was_cut_short_says_so(
    planned_run: Any, run_with_plan: Callable[..., Any], stopped: str, said: str
):
    search = planned_run.result.quantization.search.model_copy(update={"stopped": stopped, "trials": 1, "samples": 1})
    told = words(run_with_plan(search=search))
    assert f"1 trial, decided on 1 sample of data/tuning.npz. {said}" in told
    assert "It stopped" not in words(planned_run)


def test_no_search_has_its_reason(run_with_plan: Callable[..., Any]):
    made = run_with_plan(search=None, search_reason="the budget names no accuracy_drop_pp")
    assert "Search None for layers to keep in float32: the budget names no accuracy_drop_pp." in words(made)
    assert not [line for line in quantization.lines(made.result) if line.startswith("Search")]


def test_a_plan_with_nothing_measured_is_told(run_with_plan: Callable[..., Any]):
    made = run_with_plan(
        chosen="",
        variants=(),
        repairs=(),
        layers=(),
        kept_float=(),
        search=None,
        calibration_samples=1,
        calibration_curve=(CalibrationPoint(samples=1, distance=0.0),),
        enough_samples=None,
        enough_samples_reason=None,
        cached=True,
    )
    told = words(made)
    assert "One int8-float-io plan for every target. Layers No layer stays float32." in told
    assert "1 sample; not known to be enough: no reason was recorded." in told
    assert "1 min 14 s, in an earlier run." in told
    assert "Repairs" not in told
    assert "<svg" not in section(made)
    assert quantization.lines(made.result)[0] == "int8-float-io plan: no layer stays float32"


def test_a_kept_layer_without_a_row_is_still_named(run_with_plan: Callable[..., Any]):
    made = run_with_plan(layers=(row("conv"),), kept_float=("old", "old"))
    assert "1 layer stays float32: old (no reason was recorded)" in quantization.lines(made.result)[0]
    assert "old float32 n/a no reason was recorded" in words(made)


def test_a_part_of_a_layer_is_named_with_its_ops(run_with_plan: Callable[..., Any]):
    kernel = {"precision": "float32", "reason": "no int8 kernel for Gelu", "alone_db_reason": "it is not quantized"}
    made = run_with_plan(layers=(row("dense"), row("dense", None, kinds=("Gelu",), **kernel)), kept_float=("dense",))
    assert "1 layer stays float32: dense: Gelu (no int8 kernel for Gelu)" in quantization.lines(made.result)[0]


def test_other_precisions_are_exceptions_too(run_with_plan: Callable[..., Any]):
    rows = (
        row("a", 20.0, precision="int16", reason="alone gives 20.0 dB SQNR"),
        row("b", 22.0, precision="int16", reason="chosen for this op"),
        row("c", 25.0, precision="float32", reason="the user's keep_float"),
        row("d", 40.0),
    )
    made = run_with_plan(layers=rows, kept_float=("c",))
    assert quantization.lines(made.result)[0].endswith(
        "1 layer stays float32: c (the user's keep_float); 2 layers compute in int16: a (alone gives 20.0 dB SQNR), b "
        "(chosen for this op)"
    )
    assert "Layers with a precision of their own" in words(made)
    assert all(f"series-{n}" in section(made) for n in (0, 1, 2))


def test_many_layers_share_a_reason_in_few_words(run_with_plan: Callable[..., Any]):
    kernel = {"precision": "float32", "reason": "no int8 kernel for LayerNormalization"}
    rows = (*(row(f"norm{n}", None, **kernel) for n in range(25)), row("flat", None, precision="float32"))
    rows = (*rows[:-1], rows[-1].model_copy(update={"reason": "only float32 ops around it"}))
    made = run_with_plan(layers=rows, kept_float=tuple(one.layer for one in rows))
    assert quantization.lines(made.result)[0].endswith(
        "26 layers stay float32: norm0, norm1 and 23 more (no int8 kernel for LayerNormalization), flat (only float32 "
        "ops around it)"
    )


def bars(made: Any) -> int:
    """Bars that are drawn: paths filled with a colour of a series, each in a clipped group of its own."""
    picture = section(made).split("<figure>")[1]
    return len(re.findall(r'<path d="[^"]*" clip-path="[^"]*" style="fill: var\(--series-\d\)"', picture))


def test_every_layer_has_a_bar_the_lowest_first(planned_run: Any):
    assert bars(planned_run) == 13
    picture = section(planned_run).split("<figure>")[1]
    order = [picture.index(f">{name}</text>") for name in ("block1_depthwise", "stem", "block0_pointwise")]
    assert order == sorted(order)
    assert "Sensitivity of the layers. block1_depthwise 14.2 dB; stem 21.8 dB; block0_pointwise 29.7 dB" in picture
    assert "14.2 (1.62 pp)" in picture
    assert "4 layers without such a figure." in picture


def test_three_hundred_layers_keep_the_picture_readable(run_with_plan: Callable[..., Any]):
    rows = tuple(row(f"very/long/path/of/a/model/block_{n}/conv", 60.0 - n / 10) for n in range(300))
    made = run_with_plan(layers=rows, kept_float=())
    assert bars(made) == quantization_plots.MOST_BARS
    assert "275 more layers, none below 32.6 dB, not drawn." in words(made)
    assert "300 layers one by one" in words(made)
    assert "very/long/…odel/block_299/conv</text>" in section(made)
    assert len(render_html(made.result, made.run_dir).encode()) < 400_000


@pytest.mark.parametrize("values", [(-12.0, -3.0), (-5.0, 200.0), (0.0,), (0.0, 0.0)])
def test_any_figure_is_drawn(run_with_plan: Callable[..., Any], values: tuple[float, ...]):
    made = run_with_plan(layers=tuple(row(f"l{n}", db) for n, db in enumerate(values)), kept_float=())
    assert bars(made) == len(values)


def test_the_curve_has_a_mark_where_it_was_enough(planned_run: Any):
    curve = section(planned_run).split("<figure>")[2]
    assert ">enough: 64</text>" in curve
    assert "Convergence of the calibration. 8 samples 21.2 %; 16 samples 13.1 %" in curve
    assert "from those of all 256" in curve


def test_a_curve_that_never_settled_has_no_mark(run_with_plan: Callable[..., Any]):
    why = "the ranges still moved with the last samples"
    made = run_with_plan(enough_samples=None, enough_samples_reason=why)
    assert "enough: 64" not in section(made)
    assert f"No mark: {why}." in words(made)
    assert f"Calibration: 256 samples; not known to be enough: {why}" in quantization.lines(made.result)


@pytest.mark.parametrize("points", [((8, 0.0), (9, 0.0)), ((8, 4.0), (16, 0.5), (17, 0.0))])
def test_flat_and_crowded_curves_are_drawn(run_with_plan: Callable[..., Any], points: Any):
    curve = tuple(CalibrationPoint(samples=n, distance=far) for n, far in points)
    made = run_with_plan(calibration_curve=curve, calibration_samples=points[-1][0], enough_samples=None)
    assert section(made).count("<figure>") == 2


def test_without_matplotlib_the_words_stay(planned_run: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert render_html(planned_run.result, planned_run.run_dir).count("Plots need Matplotlib") == 1
    told = words(planned_run)
    assert "block1_depthwise float32 14.2" in told
    nothing_measured = planned_run.result.model_copy(update={"results": ()})
    alone = type(planned_run)(nothing_measured, planned_run.run_dir)
    assert "Plots need Matplotlib" in words(alone)


def test_a_layer_name_is_never_markup(planned_run: Any, run_with_plan: Callable[..., Any]):
    rows = (
        row(HOSTILE, 20.0, precision="float32", reason=HOSTILE, kinds=(HOSTILE,)),
        row(f"two\nlines {HOSTILE}", None, alone_db_reason=HOSTILE),
        row("", 31.0),
        row("слой 層 \N{GRINNING FACE}", 33.0),
    )
    made = run_with_plan(
        scheme=HOSTILE,
        chosen=HOSTILE,
        variants=({"name": HOSTILE, "output_sqnr_db": "high"},),
        repairs=(HOSTILE,),
        layers=rows,
        kept_float=(HOSTILE,),
        search=planned_run.result.quantization.search.model_copy(update={"metric": HOSTILE, "source": HOSTILE}),
        enough_samples=None,
        enough_samples_reason=HOSTILE,
    )
    bad = DeviationRecord(layer=HOSTILE, tensor=HOSTILE, what=HOSTILE, why=HOSTILE)
    results = tuple(
        r.model_copy(update={"artifact": r.artifact.model_copy(update={"deviations": (bad,)})})
        for r in made.result.results
    )
    made = type(made)(made.result.model_copy(update={"results": results}), made.run_dir)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = section(made)
    for shown in (text, render_markdown(made.result), on_console(made)):
        assert "\x1b" not in shown
        assert "\u202e" not in shown
    assert "<script" not in text
    assert "<script" not in render_markdown(made.result)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "слой 層" in text


def test_several_files_of_a_target_are_told_apart(planned_run: Any):
    first = planned_run.result.results[1]
    other = first.artifact.model_copy(update={"sha256": "0" * 64, "deviations": first.artifact.deviations[:1]})
    again = first.model_copy(update={"device": "pi4"})
    results = (
        *planned_run.result.results,
        again,
        first.model_copy(update={"device": "pi5", "artifact": other}),
    )
    said = quantization.lines(planned_run.result.model_copy(update={"results": results}))
    assert said[-2:] == (
        "3 tensors of the tflite file (local, pi4) deviate from the plan: see report.html",
        "1 tensor of the tflite file (pi5) deviates from the plan: see report.html",
    )


def test_a_long_list_of_deviations_is_cut_with_a_word(planned_run: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(html, "MOST_DEVIATIONS", 2)
    why = "TensorRT's activations are symmetric"
    found = tuple(DeviationRecord(layer="a", tensor=f"t{n}", what="symmetric", why=why) for n in range(5))
    compressed = planned_run.result.results[1]
    artifact = compressed.artifact.model_copy(update={"deviations": found + found[:1]})
    result = planned_run.result.model_copy(update={"results": (compressed.model_copy(update={"artifact": artifact}),)})
    told = words(type(planned_run)(result, planned_run.run_dir))
    assert f"{why} 5 times a t0 symmetric a t1 symmetric 3 more are in result.json." in told


def test_the_page_is_the_same_every_time(planned_run: Any):
    first = render_html(planned_run.result, planned_run.run_dir)
    assert first == render_html(planned_run.result, planned_run.run_dir)


def test_pictures_take_their_colours_from_the_page(planned_run: Any):
    for svg in re.findall(r"<svg [^>]*role=\"img\".*?</svg>", section(planned_run), re.DOTALL):
        assert set(re.findall(r"(?:fill|stroke): (#\w+)", svg)) == set()
        assert "DejaVu" not in svg
