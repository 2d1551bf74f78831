"""One result -> report.html, summary.md and junit.xml. The console's own view is in `edgesmith.report.console`."""

from __future__ import annotations

from pathlib import Path

from edgesmith.files import write_text
from edgesmith.report.html import render_html
from edgesmith.report.junit import render_junit
from edgesmith.report.markdown import render_markdown
from edgesmith.result import Result

__all__ = ["render_html", "render_junit", "render_markdown", "write_reports"]


def write_reports(result: Result, run_dir: Path) -> tuple[Path, ...]:
    """Writes the reports into the run folder; each is whole or absent.

    Args:
        result: what they are about.
        run_dir: the run folder: raw samples are read from it, reports go into it.

    Returns:
        The files, report.html first.
    """
    written = []
    for name, text in (
        ("report.html", render_html(result, run_dir)),
        ("summary.md", render_markdown(result)),
        ("junit.xml", render_junit(result)),
    ):
        write_text(run_dir / name, text)
        written.append(run_dir / name)
    return tuple(written)
