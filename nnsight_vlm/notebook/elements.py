"""HTML elements: every text and every attribute is shown as exactly its characters, whoever wrote it.

It may come from a model, a tokenizer or a user, so it is escaped, and characters that are not seen are spelled out.
Styles are written into each element. A style sheet would reach the rest of the page, and notebooks that are not trusted
drop it.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from ..showing import visible

VOID = ("img", "image", "path", "rect")
"""Elements without content."""


class Html(str):
    """A text that is HTML already."""

    __slots__ = ()


def element(name: str, *content: str, **attributes: str | float) -> Html:
    """One element.

    Args:
        name: its tag.
        content: what is in it; a text that is not `Html` is escaped.
        attributes: what is said in its tag, `_` for `-` in their names.

    >>> element("b", "x < y", title='"5"')
    '<b title="&quot;5&quot;">x &lt; y</b>'
    """
    said = "".join(f' {key.replace("_", "-")}="{_shown(str(value))}"' for key, value in attributes.items())
    return Html(f"<{name}{said}/>" if name in VOID else f"<{name}{said}>{joined(content)}</{name}>")


def joined(content: Iterable[str]) -> Html:
    """Pieces one after the other; a text that is not `Html` is escaped."""
    return Html("".join(piece if isinstance(piece, Html) else _shown(piece) for piece in content))


def _shown(text: str) -> str:
    """A text as HTML, with line breaks and characters that are not seen spelled out."""
    return escape(visible(text.replace("\n", "⏎")))
