"""index.html: the report as one page that asks for nothing else, made of what report.md is made of."""

from __future__ import annotations

import base64
import functools
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup
from PIL import Image

from ..families import Model
from ..showing import visible
from ..versions import installed
from ..viewing.pages import CONTENT, asset
from . import pieces
from .left_out import as_frame
from .page_methods import methods_of
from .page_pictures import shown_pictures
from .page_tables import MOST_MEANS, frame_tables, table_of
from .results import Results
from .section_text import FURTHER, introduction, sections_told

SCRIPT, STYLE = "report.js", "report.css"
LOSSLESS = {"lossless": True, "quality": 40}


class ShownFigure(NamedTuple):
    """A figure in the page.

    Attributes:
        name: of its file.
        title: what it shows.
        uri: its pixels.
        width, height: in pixels of the screen.
    """

    name: str
    title: str
    uri: str
    width: int
    height: int


def page(results: Results, model: Model, folder: Path) -> str:
    """The HTML of `index.html`.

    Args:
        results: what was found.
        model: the model, which is asked for the pictures that are shown.
        folder: of the report, in which its figures are.
    """
    told = sections_told(results)
    return (
        _templates()
        .get_template("index.html")
        .render(
            content=CONTENT,
            style=Markup(asset(STYLE)),
            script=Markup(asset(SCRIPT)),
            version=installed("nnsight_vlm") or "",
            results=results,
            title=pieces.title(results.config),
            plain_title=f"What's in the image? {results.config.model}",
            about=pieces.about(results),
            claims=pieces.claim_lines(results.claims),
            claims_frame=table_of("claims", results.claims, MOST_MEANS),
            left_out=table_of("left-out", as_frame(results.notes), MOST_MEANS),
            quality=pieces.quality_lines(results.frames),
            figures={name: _figure(folder, name) for name in results.figures},
            apart=pieces.figures_apart(results),
            pictures=shown_pictures(model, results),
            further=FURTHER,
            introduction=introduction(told),
            told=told,
            tables=list(frame_tables(results)),
            methods=methods_of(results, model),
            pieces=pieces,
        )
    )


def _figure(folder: Path, name: str) -> ShownFigure:
    """A figure that was drawn, half as wide in pixels of the screen as in its own."""
    with Image.open(folder / "figures" / f"{name}.png") as drawn:
        width, height = drawn.size
        file = BytesIO()
        # photographs take ten times as much without loss, and the file itself is beside the page
        drawn.convert("RGB").save(file, "webp", method=0, **({"quality": 90} if name == "overlays" else LOSSLESS))
    uri = f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
    return ShownFigure(name, pieces.FIGURE_TITLES[name], uri, width // 2, height // 2)


@functools.cache
def _templates() -> Environment:
    """The templates. Every text is escaped, and characters that are not seen are spelled out."""
    made = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"words": _words, "paragraphs": _paragraphs}
    return made


def _shown(value: Any) -> Any:
    return visible(value, keep_lines=True) if isinstance(value, str) and not isinstance(value, Markup) else value


@functools.cache
def _markdown() -> MarkdownIt:
    """Markdown without HTML, links and pictures."""
    return MarkdownIt("commonmark", {"html": False}).disable(["link", "image", "autolink", "html_inline", "html_block"])


def _words(text: str) -> Markup:
    """Markdown inside a paragraph."""
    return Markup(_markdown().renderInline(text))


def _paragraphs(text: str) -> Markup:
    """Markdown in paragraphs and lists."""
    return Markup(_markdown().render(text))
