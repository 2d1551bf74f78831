"""Matplotlib as a source of inline SVG that takes colours and fonts from the page, so that it follows light and dark.

Matplotlib draws with stand-in colours, which become CSS variables. No date, no random id: equal figures give equal
bytes.
"""

from __future__ import annotations

import contextlib
import html
import io
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edgesmith.report.figures import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that no drawing needs, each standing for a variable of the page's style sheet.
INK, MUTED, GRID, LIMIT = "#010101", "#020202", "#030303", "#040404"
SERIES_COLOURS = tuple(f"#0505{n:02d}" for n in range(4))
"""One for each target, in order; `--series-0` and on in the style sheet."""
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", LIMIT: "--limit"} | {
    colour: f"--series-{n}" for n, colour in enumerate(SERIES_COLOURS)
}
_FONT = re.compile(r"font-family: [^;\"]*")
_ID = re.compile(r'<g id="[^"]*"')


@contextlib.contextmanager
def drawing_settings() -> Iterator[None]:
    """Matplotlib set up for this page, and as it was afterwards.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    from matplotlib import rc_context

    settings: Any = {
        "svg.fonttype": "none",
        # A name with a dollar sign is a name, not a formula.
        "text.parse_math": False,
        "text.color": INK,
        "axes.labelcolor": MUTED,
        "axes.edgecolor": GRID,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "font.size": 10.5,
    }
    with rc_context(settings), warnings.catch_warnings():
        # The reader's browser draws the text, in a font that has the letter.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        yield


WIDTH, HEIGHT = 6.2, 4.1
"""Of a picture, in inches."""


def blank(kind: str, device: str, *, left: float = 0.115, height: float = HEIGHT) -> tuple[Figure, Axes]:
    """Empty axes on a transparent ground.

    Args:
        kind: of picture.
        device: it is about; both make the ids of the drawing its own.
        left: share of the width that names beside the axes take.
        height: in inches.
    """
    from matplotlib import rcParams
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # Ids inside an SVG are hashed with this salt: two pictures on one page must not share them.
    rcParams["svg.hashsalt"] = f"{kind} {device}"
    figure = Figure(figsize=(WIDTH, height), dpi=72)
    FigureCanvasSVG(figure)
    # What stands above and below needs the same room in a picture of any height.
    below, above = 0.15 * HEIGHT / height, 0.07 * HEIGHT / height
    axes = figure.add_axes((left, below, 0.94 - left, 1 - below - above))
    axes.patch.set_visible(False)
    figure.patch.set_visible(False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=3, labelsize=9.5)
    return figure, axes


def to_svg(figure: Figure, title: str, description: str) -> str:
    """The drawing as an <svg> element of an HTML page, with a text for those who cannot see it."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg ") :]
    svg = _FONT.sub("font-family: inherit", svg)
    svg = _ID.sub("<g", svg)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*\n\s*", " ", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    box = re.search(r'viewBox="[^"]*"', svg)
    if box is None:
        raise AssertionError("Matplotlib wrote an SVG without a viewBox")
    label = html.escape(one_line(f"{title}. {description}".rstrip(". ") + "."), quote=True)
    body = svg[svg.index(">") + 1 :].strip()
    return f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {box[0]} role="img" aria-label="{label}">{body}'
