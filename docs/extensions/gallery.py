"""Figures of examples: those of the package are not pyplot's, which sphinx-gallery would look for.

Examples are the one other code that a build of the site runs; an error in one ends the build.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from .page_code import alt_text, new_figures

DOTS = 150
"""Dots per inch of figures; thumbnails are made of them."""
_watched: list[Any] = []
_watching = ExitStack()


def begin(settings: dict[str, Any], name: str) -> None:
    """Watch for figures from here on; sphinx-gallery calls this before each example and after it."""
    global _watched  # noqa: PLW0603
    _watching.close()
    _watched = _watching.enter_context(new_figures())


def drawn(block: Any, places: dict[str, Any], settings: dict[str, Any]) -> str:
    """Save the figures that a cell has made, and give the text that shows them."""
    from sphinx_gallery.scrapers import figure_rst

    figures = [figure for figure in _watched if figure.axes]
    _watched.clear()
    saved, words = [], []
    for figure, path in zip(figures, places["image_path_iterator"], strict=False):
        figure.savefig(path, dpi=DOTS, bbox_inches="tight")
        saved.append(Path(path))
        words.append(alt_text(figure, block[1]))
    return figure_rst([str(path) for path in saved], settings["src_dir"], "; ".join(words)) if saved else ""
