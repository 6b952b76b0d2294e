"""HTML elements: every text and every attribute is escaped, for it may come from a model, a tokenizer or a user.

Styles are written into each element. A style sheet would reach the rest of the page, and notebooks that are not trusted
drop it.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

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
    said = "".join(f' {key.replace("_", "-")}="{escape(str(value))}"' for key, value in attributes.items())
    return Html(f"<{name}{said}/>" if name in VOID else f"<{name}{said}>{joined(content)}</{name}>")


def joined(content: Iterable[str]) -> Html:
    """Pieces one after the other; a text that is not `Html` is escaped."""
    return Html("".join(piece if isinstance(piece, Html) else escape(piece) for piece in content))


def visible(text: str) -> str:
    r"""A text with line breaks and characters that are not seen spelled out.

    >>> visible("a\n\x1b[31m")
    'a⏎\\x1b[31m'
    """
    spelled = (letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text.replace("\n", "⏎"))
    return "".join(spelled)
