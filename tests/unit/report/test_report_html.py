"""report.html: the verdict first, nothing from outside, nothing invented, names stay names."""

import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from edgesmith.report import render_html, write_reports
from edgesmith.report.samples import NoSamples, read_samples

VOID = {"meta", "br", "link", "img", "line", "circle", "path", "use", "rect"}


class Page(HTMLParser):
    """Tags, attributes and text; fails on a tag that is never closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.text, self.stack = [], [], []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.stack or self.stack[-1] != "style":
            self.text.append(data)

    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def page(made: Any):
    return Page(render_html(made.result, made.run_dir))


@pytest.mark.parametrize(
    "name", ["passing_run", "mixed_run", "empty_run", "rack_run", "unchanged_run", "hostile_run", "planned_run"]
)
def test_every_kind_of_run_gives_a_sound_page(name: str, request: pytest.FixtureRequest):
    made = request.getfixturevalue(name)
    text = render_html(made.result, made.run_dir)
    parsed = Page(text)
    assert len(text.encode()) < 2_000_000
    tags = {tag for tag, _ in parsed.tags}
    assert not tags & {"script", "link", "img", "iframe", "object"}
    # Namespaces are names; nothing else may point out of the page.
    assert not re.findall(r"(?:https?:)?//(?!www\.w3\.org/)", text.split("</style>")[1])
    assert "url(" not in text.split("</style>")[0]
    assert "@import" not in text
    for tag, attributes in parsed.tags:
        if tag == "th":
            assert attributes["scope"] in {"row", "col", "rowgroup"}
        if tag == "svg":
            assert attributes.get("aria-hidden") or (attributes["role"] == "img" and attributes["aria-label"])
        for attribute in ("href", "xlink:href"):
            assert attributes.get(attribute, "#").startswith("#")
    ids = [attributes["id"] for _, attributes in parsed.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert ("html", {"lang": "en"}) in parsed.tags


def test_the_verdict_comes_before_every_figure(mixed_run: Any):
    words = page(mixed_run).words()
    assert words.index("✗ FAIL") < words.index("Float against compressed") < words.index("Findings")
    assert "1 broke the budget (pi5-lab onnxruntime)" in words


def test_the_table_holds_the_figures_of_the_result(passing_run: Any):
    words = page(passing_run).words()
    compressed = passing_run.result.results[1]
    for figure in (f"{compressed.latency_ms.p50:.3f}", f"{compressed.speedup_p50:.2f}×", "73.1 kB", "91.30 ±0.55"):  # noqa: RUF001
        assert figure in words
    assert "energy n/a: the board has no power sensor that edgesmith can read (all rows)" in words


def test_provenance_method_and_recipe_are_told(passing_run: Any):
    words = page(passing_run).words()
    for told in (
        passing_run.result.model_sha256,
        passing_run.result.config_sha256,
        passing_run.result.results[1].artifact.sha256,
        "8 turns (A B A B …), each for at least 200 runs and 2 s; 2,000 runs each",
        "Reading the clock twice costs 61 ns",
        "schedule polynomial, final_sparsity 0.5, epochs 2",
        "Zeros shrink the file, not the latency",
        "keras 3.15.1",
    ):
        assert told in words


def test_the_environment_shows_before_and_after(mixed_run: Any):
    assert "48.3 → 55.1 °C" in page(mixed_run).words()


def test_an_unreachable_board_has_reasons_and_no_figure(mixed_run: Any):
    words = page(mixed_run).words()
    assert "latency, accuracy, agreement, peak RSS, energy n/a: jetson-nano was never reached (jetson-nano)" in words
    assert "Nothing is known of this board: it was never reached." in words
    assert "ssh to 10.0.0.7:22 refused after 10 s." in words


def test_emulated_and_reused_rows_are_marked(mixed_run: Any):
    marks = [a["class"] for tag, a in page(mixed_run).tags if tag == "span" and a.get("class", "").startswith("mark ")]
    assert marks.count("mark emulated") == 2
    assert marks.count("mark reused") == 2  # a row, and the cached step
    assert "emulation time" in page(mixed_run).words()


def test_synthetic_data_stands_out(mixed_run: Any):
    parsed = page(mixed_run)
    assert ("p", {"class": "alarm", "role": "alert"}) in parsed.tags
    assert "SYNTHETIC calibration data" in parsed.words()
    assert ("span", {"class": "synthetic"}) in parsed.tags


def test_an_interrupted_run_says_so(empty_run: Any):
    words = page(empty_run).words()
    assert "NO VERDICT" in words
    assert "Ctrl-C while training." in words
    assert "No step was finished. Asked for: prune (schedule polynomial" in words


def test_a_name_is_never_markup(hostile_run: Any):
    text = render_html(hostile_run.result, hostile_run.run_dir)
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert page(hostile_run).words().count("$x_1$") >= 3


def test_the_page_is_the_same_every_time(mixed_run: Any):
    assert render_html(mixed_run.result, mixed_run.run_dir) == render_html(mixed_run.result, mixed_run.run_dir)


def test_plots_take_their_colours_from_the_page(passing_run: Any):
    svgs = re.findall(
        r"<svg [^>]*role=\"img\".*?</svg>", render_html(passing_run.result, passing_run.run_dir), re.DOTALL
    )
    assert len(svgs) == 2
    for svg in svgs:
        # Clip paths may stay black; everything drawn is a variable of the page.
        assert set(re.findall(r"(?:fill|stroke): (#\w+)", svg)) == set()
        assert "var(--series-0)" in svg
        assert "DejaVu" not in svg
    assert "tflite compressed" in svgs[1]
    assert "float less 1 pp" in svgs[1]


def test_without_matplotlib_the_tables_stay_and_the_way_to_plots_is_told(
    passing_run: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    words = page(passing_run).words()
    assert 'Plots need Matplotlib: pip install "edgesmith[report]"' in words
    assert "73.1 kB" in words


def test_missing_samples_are_told_and_the_rest_stays(passing_run: Any):
    (passing_run.run_dir / "samples" / "local-tflite-float.npy").unlink()
    words = page(passing_run).words()
    assert "tflite float: no distribution, samples/local-tflite-float.npy is not in the run folder." in words


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"junk", "cannot be read"),
        (np.array([[1, 2]]), "is not a list of nanoseconds"),
        (np.array([1.5, 2.0]), "is not a list of nanoseconds"),
        (np.array([], dtype=np.int64), "is not a list of nanoseconds"),
        (np.array([5, 0]), "holds times that are not above zero"),
        (np.array([{}], dtype=object), "cannot be read"),
    ],
)
def test_a_bad_sample_file_is_refused_with_the_reason(passing_run: Any, content: Any, why: str):
    record = passing_run.result.results[0]
    path = passing_run.run_dir / record.latency_ms.samples_path
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(NoSamples, match=why):
        read_samples(record, passing_run.run_dir)


@pytest.mark.parametrize(
    ("samples_path", "why"), [("../out.npy", "lies outside the run folder"), (None, "the raw samples were not kept")]
)
def test_samples_come_from_the_run_folder_only(passing_run: Any, samples_path: str | None, why: str):
    record = passing_run.result.results[0]
    latency = record.latency_ms.model_copy(update={"samples_path": samples_path})
    with pytest.raises(NoSamples, match=why):
        read_samples(record.model_copy(update={"latency_ms": latency}), passing_run.run_dir)


def test_samples_are_milliseconds_in_order(passing_run: Any):
    record = passing_run.result.results[0]
    np.save(passing_run.run_dir / record.latency_ms.samples_path, np.array([3_000_000, 1_500_000]))
    np.testing.assert_array_equal(read_samples(record, passing_run.run_dir), [1.5, 3.0])


@pytest.mark.parametrize("n", [1, 2, 10])
def test_few_runs_are_drawn(one_pair: Callable[..., Any], n: int):
    made = one_pair()
    for record in made.result.results:
        np.save(made.run_dir / record.latency_ms.samples_path, np.arange(1, n + 1) * 1_000_000)
    assert f"took at most this long; {n} runs each" in page(made).words()


def test_latencies_far_apart_are_drawn(one_pair: Callable[..., Any]):
    made = one_pair()
    np.save(made.run_dir / made.result.results[0].latency_ms.samples_path, np.arange(900, 999) * 1_000_000)
    far = made.result.results[0].latency_ms.model_copy(update={"p50": 950.0, "p95": 990.0})
    slow = made.result.results[0].model_copy(update={"latency_ms": far})
    made = type(made)(made.result.model_copy(update={"results": (slow, made.result.results[1])}), made.run_dir)
    assert "p95 latency, ms" in page(made).words()


def test_many_boards_stay_short_where_all_is_well(rack_run: Any):
    details = [a for tag, a in page(rack_run).tags if tag == "details"]
    assert len(details) == 10
    assert not [a for a in details if "open" in a]


def test_reports_are_written_beside_the_result(passing_run: Any):
    written = write_reports(passing_run.result, passing_run.run_dir)
    assert [path.name for path in written] == ["report.html", "summary.md", "junit.xml"]
    assert all(path.parent == passing_run.run_dir and path.stat().st_size for path in written)
