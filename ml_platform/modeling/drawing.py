"""Drawing: pictures without a display, inline where a page shows them; nothing heavy but matplotlib."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLUE, GREY, GREEN, RED, AMBER = "#2a6fdb", "#9aa3ad", "#2f9e5b", "#d33f49", "#e0a030"


def empty(width: float = 5.0, height: float = 3.4, columns: int = 1) -> tuple[Figure, Any]:
    """An empty picture, inches wide and high, and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns)


def as_png(figure: Figure) -> bytes:
    """The picture as a PNG file."""
    out = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(out, format="png", dpi=72)
    return out.getvalue()


def as_markdown(name: str, figure: Figure) -> str:
    """A picture inline, as Dagster's page shows it."""
    return _inline(name, as_png(figure))


def files_as_markdown(files: Sequence[Path]) -> str:
    """PNG files inline, as Dagster's page shows them."""
    return "\n\n".join(_inline(file.stem, file.read_bytes()) for file in files)


def _inline(name: str, png: bytes) -> str:
    return f"![{name}](data:image/png;base64,{base64.b64encode(png).decode()})"
