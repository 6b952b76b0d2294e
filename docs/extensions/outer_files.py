"""Files of the repository outside of the pages' folder: some are pages themselves, others are shown as source.

`outer_pages` in conf.py names files such as CHANGELOG.md that take the place of a stub. Their links, and those of pages
to them, lead to pages of the site. Any other file that a page links to gets a page with its text, so that the site is
whole without an address of the repository.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from pathlib import Path, PurePosixPath
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes
from sphinx.application import Sphinx

from .fences import outside

ROOT = Path(__file__).parent.parent.parent
DOCS = "docs"
PICTURES = "docs/pictures"
"""Where the README's pictures are; conf.py has them among the static files."""
LINK = re.compile(r"(?<=\]\()(?P<path>[^)#\s:]+)(?P<anchor>#[^)\s]*)?(?=\))")
"""A link to a file, as `](path#anchor)`."""
BINARY = (".safetensors",)
"""What files end with that nobody reads; they are named without a link."""
SHOWN = "source"
"""The folder of the site in which files are shown; the role of a link to one."""


def take_the_place(app: Sphinx, docname: str, text: list[str]) -> None:
    """Put the text of an outer page in the place of its stub, and let all links lead to pages of the site."""
    outer = app.config.outer_pages.get(docname)
    written = (ROOT / outer).read_text() if outer else text[0]
    home = PurePosixPath(outer or f"{DOCS}/{docname}.md").parent
    pages = {outer: f"{page}.md" for page, outer in app.config.outer_pages.items()} | app.config.outer_links
    here = PurePosixPath(docname).parent

    def led(found: re.Match[str]) -> str:
        path = _normal(home / found["path"])
        if (ROOT / path).is_dir() and (ROOT / path / "README.md").exists():
            path = f"{path}/README.md"
        page = pages.get(path, path.removeprefix(f"{DOCS}/") if path.startswith(f"{DOCS}/") else None)
        leads = _relative(here, page) if page else f"{_relative(here, '')}../{path}"
        return f"{leads}{found['anchor'] or ''}"

    text[0] = "".join(LINK.sub(led, piece) if is_text else piece for is_text, piece in outside(written))
    text[0] = text[0].replace(f'="{PICTURES}/', f'="{_relative(here, "_static")}/')  # in HTML, for light and dark


def _normal(path: PurePosixPath) -> str:
    """A path of the repository without `..`."""
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts:
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def _relative(folder: PurePosixPath, page: str) -> str:
    """How a page in a folder of the pages calls another."""
    return f"{'../' * len(folder.parts)}{page}"


def lead_to_source(app: Sphinx, document: nodes.document) -> None:
    """Let links to files that are no pages lead to the page that shows their text, instead of a download."""
    docname = app.env.docname
    shown = app.env.__dict__.setdefault("shown_sources", {})
    shown[docname] = set()
    for link in list(document.findall(addnodes.download_reference)):
        path = _normal(PurePosixPath(DOCS) / PurePosixPath(docname).parent / link["reftarget"])
        if path.endswith(BINARY):
            link.replace_self(link.children)
        elif (ROOT / path).is_file() and _is_text(ROOT / path):
            shown[docname].add(path)
            uri = app.builder.get_relative_uri(docname, f"{SHOWN}/{path}")
            link.replace_self(nodes.reference("", "", *link.children, refuri=uri, internal=True))


def pages_of_source(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for each file that a page links to."""
    formatter = HtmlFormatter(linenos=False)
    for path in sorted(set().union(*app.env.__dict__.get("shown_sources", {}).values())):
        text = highlight((ROOT / path).read_text(), _lexer(path), formatter)
        body = f"<h1>{escape(path)}</h1>{text}"
        yield f"{SHOWN}/{path}", {"title": path, "body": body}, "page.html"


def _is_text(path: Path) -> bool:
    """Whether a file can be shown; others are downloads."""
    try:
        path.read_text()
    except UnicodeDecodeError:
        return False
    return True


def _lexer(path: str) -> Any:
    try:
        return get_lexer_for_filename(path)
    except ClassNotFound:
        return TextLexer()


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.add_config_value("outer_pages", {}, "env", dict)
    app.add_config_value("outer_links", {}, "env", dict)
    app.connect("source-read", take_the_place, priority=400)
    app.connect("doctree-read", lead_to_source, priority=100)
    app.connect("html-collect-pages", pages_of_source)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}
