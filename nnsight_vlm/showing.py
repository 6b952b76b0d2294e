r"""How text of others is shown: what a model, a tokenizer, a file, a server or a user wrote, as exactly its characters.

Such text may hold whatever a terminal, Markdown or a figure would carry out instead of showing: `[/INST]` and `[red]`
(rich), escape sequences (a terminal), `|`, `<script>` and `![](...)` (Markdown), `$...$` (matplotlib). It is taken as
it is everywhere inside the package, and goes through one of these functions where it is shown, and nowhere before.

Characters that cannot be seen (controls, direction marks, halves of a pair) are shown as Python would write them,
`\x1b` or `\u202e`. Only the two joiners stay, which emoji and several scripts are spelled with. A backslash stays as it
is, so an escape cannot be told from the same escape that someone typed out.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.ft2font import FT2Font
    from rich.text import Text

UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's categories of characters that are not seen but may act: controls, formats, surrogates, line separators."""
JOINERS = "\u200c\u200d"
"""Characters of these categories that only say how their neighbours are drawn."""
LONGEST_IN_FIGURE = 60
"""Most characters of one text in a figure; a figure is as wide as the longest text in it."""


def visible(text: str, *, keep_lines: bool = False) -> str:
    r"""A text with characters that cannot be seen as escapes.

    Args:
        text: any text.
        keep_lines: leave line breaks as they are, where a text of several lines may stand.

    >>> print(visible("a\x1b[31mred\u202e\n"))
    a\x1b[31mred\u202e\n
    """
    if text.isprintable():  # nearly always, and much faster
        return text
    return "".join(
        _escaped(letter) if _is_unseen(letter) and not (keep_lines and letter == "\n") else letter for letter in text
    )


def for_terminal(text: str) -> Text:
    """A text in one line, as rich shows it: no markup, no emoji codes, no highlighting, no control of the terminal."""
    from rich.text import Text

    return Text(visible(text))


def for_markdown(text: str) -> str:
    """A text as a code span of Markdown, in which nothing is markup, HTML, a link or a shortcode.

    Not for cells of tables: there a code span cannot hold every text.

    >>> print(for_markdown("a ` b"))
    `` a ` b ``
    """
    shown = visible(text)
    if not shown:
        return ""
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    # Markdown takes one space away at both ends, unless there are only spaces
    space = " " if "`" in shown or (shown[0] == shown[-1] == " " and shown.strip(" ")) else ""
    return f"{fence}{space}{shown}{space}{fence}"


def escaped_markdown(text: str) -> str:
    r"""A text inside a paragraph of Markdown, in which no character is markup, HTML, a link or a shortcode.

    It may not begin a line: a number and a point would begin a list there.

    >>> print(escaped_markdown("a_b <i> https://x"))
    a\_b \<i\> https\://x
    """
    return re.sub(r"([\\`*_{}\[\]()<>#!|~$&@]|:(?=\S)|(?<=www)\.)", r"\\\1", visible(text))


def for_figure(text: str, *, longest: int = LONGEST_IN_FIGURE) -> str:
    r"""A text as matplotlib draws it: in one line, not as a formula, and without letters that the font has not got.

    Letters that no font of `matplotlib.rcParams["font.family"]` has are shown as escapes, `\u4e2d`; name a font there
    that has them, and they are drawn. Texts that are too long end in `...`.

    >>> print(for_figure("$x$"))
    \$x\$
    """
    fonts, shown = _fonts(), ""
    for letter in text:
        is_drawn = not _is_unseen(letter) and any(font.get_char_index(ord(letter)) for font in fonts)
        shown += letter if is_drawn else _escaped(letter)
        if len(shown) > longest:
            shown = shown[: longest - 3] + "..."
            break
    return shown.replace("$", r"\$")


def _fonts() -> list[FT2Font]:
    """The fonts that matplotlib draws text with, those to fall back on included."""
    import matplotlib
    from matplotlib.font_manager import FontProperties, findfont, get_font

    fonts = []
    for family in matplotlib.rcParams["font.family"]:
        try:
            fonts.append(get_font(findfont(FontProperties(family=family), fallback_to_default=False)))
        except ValueError:  # no such font here
            continue
    return fonts or [get_font(findfont(FontProperties()))]


def _is_unseen(letter: str) -> bool:
    return unicodedata.category(letter) in UNSEEN and letter not in JOINERS


def _escaped(letter: str) -> str:
    """A character as Python would write it, all in ASCII."""
    return letter.encode("unicode_escape").decode("ascii")
