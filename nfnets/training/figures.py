"""Pictures that need no display, written as PNG files; matplotlib loads when used."""

from __future__ import annotations

import io
from typing import Any

from etils import epath

from nfnets.training.storage import write_atomically


def new_figure(width: float, height: float, title: str = "") -> Any:
    """An empty matplotlib figure, in inches, that lays itself out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title)
    return figure


def save_figure(figure: Any, path: epath.Path) -> epath.Path:
    """Writes a figure as a PNG and returns its path."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    write_atomically(path, buffer.getvalue())
    return path
