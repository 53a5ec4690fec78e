"""Drawing surface of the figures: one look, colour-blind-safe colours, SVG that follows the page.

Matplotlib's object interface is used without pyplot, so nothing global changes for a notebook.
Colours are those of Okabe and Ito (2008); heat maps use cividis.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from html import escape
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

INK = "#1d2733"
SOFT = "#66707c"
GRID = "#d9dee4"
PAPER = "#fffffe"
ROLE_COLORS = {
    "sink": "#d55e00",
    "random": "#0072b2",
    "segment": "#56b4e9",
    "bottom": "#e69f00",
    "value": "#cc79a7",
    "null": "#8a929c",
    "other": "#009e73",
    "difference": "#1d2733",
}
KIND_COLORS = {
    "image": "#0072b2",
    "text: bos": "#d55e00",
    "text: content": "#e69f00",
    "text: eos": "#cc79a7",
    "text: pad": "#009e73",
    "text: template": "#f0e442",
    "text": "#d55e00",
}
SPARE_COLORS = ("#56b4e9", "#8a929c", "#5b3a8c", "#7a5c2e")
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlepad": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.fonttype": "none",
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    "lines.linewidth": 1.8,
    "figure.constrained_layout.use": True,
}


class Drawing(Figure):
    """A figure that carries the words for a screen reader and the tip of each marked shape."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.caption = ""
        self.tips: dict[str, str] = {}


def tip(figure: Figure | SubFigure, artist: Artist, text: str) -> None:
    """Show `text` when the pointer rests on `artist` in the SVG of a `Drawing`."""
    if isinstance(figure, Drawing):
        name = f"tip-{len(figure.tips)}"
        artist.set_gid(name)
        figure.tips[name] = text


def style() -> Any:
    """The context in which every figure is drawn and saved."""
    return matplotlib.rc_context(STYLE)


def canvas(width: float, height: float, caption: str) -> tuple[Drawing, Axes]:
    """A figure of `width` x `height` inches with one axes; `caption` is its text alternative."""
    drawing = Drawing(figsize=(width, height), layout="constrained")
    drawing.caption = caption
    return drawing, drawing.subplots()


def kind_colors(names: list[str]) -> dict[str, str]:
    """A colour for each kind of key; the known ones always have the same."""
    spare = [name for name in names if name not in KIND_COLORS]
    return KIND_COLORS | {name: SPARE_COLORS[i % len(SPARE_COLORS)] for i, name in enumerate(spare)}


def to_svg(figure: Figure, name: str) -> str:
    """The figure as an inline `<svg>` element: real text, theme colours, unique ids and a title."""
    buffer = io.StringIO()
    with style(), matplotlib.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        # Text is left to the reader's browser, so a glyph missing from the measuring font does no harm.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(id="|url\(#|href="#)(?!tip-)', lambda m: f"{m.group(1)}{name}-", svg)
    svg = _with_tips(svg, getattr(figure, "tips", {}))
    svg = (
        svg.replace(INK, "currentColor")
        .replace(GRID, "var(--grid)")
        .replace(SOFT, "var(--soft)")
        .replace(PAPER, "var(--paper)")
    )
    svg = svg.replace("'DejaVu Sans'", "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans'")
    return _labelled(svg, name, str(getattr(figure, "caption", "") or name))


def _with_tips(svg: str, tips: Mapping[str, str]) -> str:
    for gid, text in tips.items():
        svg = svg.replace(f'<g id="{gid}">', f"<g><title>{escape(text)}</title>", 1)
    return svg


def _labelled(svg: str, name: str, caption: str) -> str:
    head, rest = svg.split(">", 1)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', head)
    width = float(size.group(1)) if size else 400.0
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    label = f'<title id="{name}-title">{escape(caption)}</title>'
    role = f'role="img" aria-labelledby="{name}-title" style="max-width:{width * 1.4:.0f}px"'
    return f"{head} {role}>{label}{rest}"
