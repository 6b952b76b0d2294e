"""Runs the Python of every page once, and puts what a block printed and drew behind it.

All blocks of a page run in order in one namespace, in a folder that is thrown away, with warnings as errors. What they
printed, and the figures that they made, follow each block on the site; in the repository the page is as it was written.
An error in a block is a warning of the build, which `-W` makes an error. Blocks of doctests are pytest's, and a block
behind `<!-- not run: why -->` is only shown.

Models are opened once for all pages. What a page gave is kept in `_made/` under a key of its code, of the package's
source and of the versions that matter, so that a build after a change of words runs nothing.

Why not myst-nb: it starts a Jupyter kernel for each page, so that torch is imported and every model opened some sixty
times, and it wants its own kind of fence, with which a page no longer reads well in the repository.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import linecache
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .fences import Block, blocks

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent.parent
MADE = "_made"
"""The folder of figures and of what was printed, beside the pages; no part of the repository."""
VERSIONS = ("torch", "transformers", "nnsight", "pandas", "numpy", "matplotlib")
RAN = "page-code-ran"
"""The event after a page's code has run; handlers take `(app, docname, namespace)` and may raise."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure that a block drew: its name in the folder, and what it shows in words."""

    file: str
    alt: str


@dataclass(frozen=True, kw_only=True)
class Output:
    """What one block gave."""

    printed: str
    figures: tuple[Figure, ...]

    def markdown(self) -> str:
        """What stands behind the block."""
        parts = (
            [f"```{{code-block}} none\n:class: printed\n{self.printed.rstrip()}\n```\n"] if self.printed.strip() else []
        )
        parts += [f"![{figure.alt}](/{MADE}/{figure.file})\n" for figure in self.figures]
        return "".join(f"\n{part}" for part in parts)


def insert(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put behind each block of a page what it gave."""
    shown = [block for block in blocks(source[0]) if block.is_run]
    if not shown:
        return
    outputs = _kept(app, docname, shown) or _run_page(app, docname, shown)
    text = source[0]
    for block, output in reversed(list(zip(shown, outputs, strict=False))):  # a page that failed has fewer
        text = text[: block.end] + output.markdown() + text[block.end :]
    source[0] = text


def outdated(app: Sphinx, env: Any, *_: Any) -> list[str]:
    """Pages whose code must run again although their words are the same, because the package has changed."""
    pages = [docname for docname in env.all_docs if _record(app, docname).exists()]
    return [docname for docname in pages if _read(_record(app, docname))["source"] != source_key()]


@cache
def source_key() -> str:
    """What tells apart the package's source and the versions of what it computes and draws with."""
    digest = hashlib.sha256("".join(f"{name} {version(name)}\n" for name in VERSIONS).encode())
    for path in sorted((ROOT / "nnsight_vlm").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


# one page -------------------------------------------------------------------------------------------------


def _run_page(app: Sphinx, docname: str, shown: Sequence[Block]) -> list[Output]:
    """Run all blocks of a page, and keep what they gave; up to the first that fails, where one does."""
    outputs: list[Output] = []
    space: dict[str, Any] = {"__name__": docname}
    place = shown[0]
    try:
        with surroundings():
            for place in shown:
                stem = f"{docname.replace('/', '-')}-{len(outputs) + 1}"
                outputs.append(run_block(place, space, app.env.doc2path(docname), _folder(app) / stem))
            app.emit(RAN, docname, space)
    except Exception:
        _warn(docname, place.line)
        return outputs
    kept = {"source": source_key(), "code": _code(shown), "outputs": [asdict(output) for output in outputs]}
    _record(app, docname).write_text(json.dumps(kept, indent=1))
    return outputs


def _warn(docname: str, line: int) -> None:
    """Say what happened; a build with `-W` fails."""
    from sphinx.util import logging

    said = traceback.format_exc(limit=-3)
    logging.getLogger(__name__).warning("the code of a page failed:\n%s", said, location=(docname, line))


def run_block(block: Block, space: dict[str, Any], page: str, stem: Path) -> Output:
    """Run one block; errors name the line of the page.

    Args:
        block: what to run.
        space: the names that earlier blocks have left, and in which this one leaves its own.
        page: the path of the page.
        stem: what the paths of figures begin with.
    """
    said = io.StringIO()
    with new_figures() as made, contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
        file, source = f"{page}:{block.line}", "\n" * (block.line - 1) + block.code
        lines = source.splitlines(keepends=True)
        linecache.cache[file] = (len(source), None, lines, file)  # where nnsight reads traces
        exec(compile(source, file, "exec"), space)
    figures = []
    for number, figure in enumerate((each for each in made if each.axes), 1):
        file = stem.with_name(f"{stem.name}-{number}.svg")
        figure.savefig(file, bbox_inches="tight", metadata={"Date": None})
        figures.append(Figure(file=file.name, alt=alt_text(figure, block.code)))
    return Output(printed=said.getvalue(), figures=tuple(figures))


def alt_text(figure: Any, code: str) -> str:
    """A figure in words: its titles, the axes' names, or the comment of the code that drew it."""
    titles = [figure.get_suptitle(), *(axis.get_title() or axis.get_title("left") for axis in figure.axes)]
    labels = [f"{axis.get_ylabel()} over {axis.get_xlabel()}" for axis in figure.axes if axis.get_ylabel()]
    comments = [line.partition("# ")[2] for line in code.splitlines() if "# " in line]
    said = [" ".join(each.split()) for each in (*titles, *labels[:1]) if each] or comments[-1:]
    return "; ".join(dict.fromkeys(said)).translate(str.maketrans("[]", "()")) or "figure drawn by the code above"


@contextlib.contextmanager
def new_figures() -> Iterator[list[Any]]:
    """Every figure that is made meanwhile; the package's own are not pyplot's."""
    from matplotlib.figure import Figure

    made: list[Any] = []
    original = Figure.__init__

    def noted(self: Any, *given: Any, **named: Any) -> None:
        original(self, *given, **named)
        made.append(self)

    Figure.__init__ = noted  # type: ignore[method-assign]
    try:
        yield made
    finally:
        Figure.__init__ = original  # type: ignore[method-assign]


@contextlib.contextmanager
def surroundings() -> Iterator[None]:
    """What a page's code runs in: an empty folder, models that are open already, warnings as errors, tables in full."""
    import matplotlib
    import matplotlib.pyplot as plt
    import pandas as pd

    import nnsight_vlm as nv

    original = nv.load
    drawing = {"backend": "agg", "svg.hashsalt": "nnsight_vlm"}
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        warnings.catch_warnings(),
        matplotlib.rc_context(drawing),
        pd.option_context("display.width", 1000, "display.max_columns", None),  # a row is a line; the box scrolls
    ):
        warnings.simplefilter("error")
        nv.load = _opened_once(original)
        try:
            yield
        finally:
            nv.load = original
            plt.close("all")


_OPEN: dict[str, Any] = {}


def _opened_once(load: Callable[..., Any]) -> Callable[..., Any]:
    """`nv.load`, that gives the same model again where the same name is asked for."""

    def opened(model: Any, /, **options: Any) -> Any:
        if not isinstance(model, str):
            return load(model, **options)
        asked = repr((model, sorted(options.items())))
        if asked not in _OPEN:
            _OPEN[asked] = load(model, **options)
        return _OPEN[asked]

    return opened


# what is kept ---------------------------------------------------------------------------------------------


def _folder(app: Sphinx) -> Path:
    folder = Path(app.srcdir) / MADE
    folder.mkdir(exist_ok=True)
    return folder


def _record(app: Sphinx, docname: str) -> Path:
    return _folder(app) / f"{docname.replace('/', '-')}.json"


def _read(path: Path) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(path.read_text())
    return kept


def _code(shown: Sequence[Block]) -> str:
    return "\n".join(block.code for block in shown)


def _kept(app: Sphinx, docname: str, shown: Sequence[Block]) -> list[Output]:
    """What the page gave when the same code ran with the same package; nothing where it never did."""
    if not (path := _record(app, docname)).exists():
        return []
    kept = _read(path)
    if kept["source"] != source_key() or kept["code"] != _code(shown):
        return []
    return [
        Output(printed=each["printed"], figures=tuple(Figure(**figure) for figure in each["figures"]))
        for each in kept["outputs"]
    ]


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.add_event(RAN)
    app.connect("source-read", insert, priority=600)  # after other files have taken the place of stubs
    app.connect("env-get-outdated", outdated)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}
