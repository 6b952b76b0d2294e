"""Texts that a terminal, rich, Markdown, HTML or matplotlib would carry out, each with what people must see of it."""

from __future__ import annotations

import unicodedata

from hypothesis import strategies as st

SHOWN = {
    "[/INST]": "[/INST]",
    "[red]x[/red]": "[red]x[/red]",
    "[link=http://x]y[/link]": "[link=http://x]y[/link]",
    "\x1b[31mred": r"\x1b[31mred",
    "\x1b]8;;http://x\x1b\\y": r"\x1b]8;;http://x\x1b\y",
    "\x9b31m": r"\x9b31m",
    "a\x07b\x08c": r"a\x07b\x08c",
    "over\rwritten\ttab": r"over\rwritten\ttab",
    "user\u202etxt.exe": r"user\u202etxt.exe",
    "a\u2066b\u2069\u200e\ufeff": r"a\u2066b\u2069\u200e\ufeff",
    "a|b\nc": r"a|b\nc",
    "a\u2028b\x85c": r"a\u2028b\x85c",
    "\udcff.png": r"\udcff.png",
    "`x`": "`x`",
    "``": "``",
    "`": "`",
    "<script>alert(1)</script>": "<script>alert(1)</script>",
    "&lt;b&gt; &amp;": "&lt;b&gt; &amp;",
    "![x](y)": "![x](y)",
    "[x]: http://y": "[x]: http://y",
    "# no title": "# no title",
    "- no item": "- no item",
    "1. no item": "1. no item",
    "*a* _b_ ~~c~~ **d**": "*a* _b_ ~~c~~ **d**",
    "$\\frac{": "$\\frac{",
    "$x$ costs $5": "$x$ costs $5",
    "$\\undefined$": "$\\undefined$",
    "\\$": "\\$",
    "]": "]",
    "[": "[",
    "\\[": "\\[",
    "\\": "\\",
    ":dog: :smile:": ":dog: :smile:",
    "{x} %s %(x)s {0}": "{x} %s %(x)s {0}",
    " between spaces ": " between spaces ",
    "   ": "   ",
    "": "",
    "😀 👩\u200d🔬": "😀 👩\u200d🔬",
    "中文图": "中文图",
    "naïve café": "naïve café",
    "_underscored": "_underscored",
    "long " * 40 + "end": "long " * 40 + "end",
    "unbroken" * 60: "unbroken" * 60,
}
"""What people see of a text, by the text."""

IN_FRAMES = [text for text in SHOWN if "\udcff" not in text]
"""The texts that a pandas frame can hold."""
IDS = [ascii(text)[1:31] or "empty" for text in SHOWN]

PIECES = ["[/", "]", "[red]", "$", "\\", "`", "|", "\n", "\x1b[", "<b>", "&", "*", "_", " ", "a", "中", "\u202e"]
texts = st.one_of(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), st.text(max_size=12))
"""Any text, and texts of pieces with a meaning."""


def seen(text: str) -> str:
    """What people must see of any text, by Python's own idea of what can be printed; the joiners are seen in emoji."""
    return "".join(letter if letter.isprintable() or _has_a_shape(letter) else ascii(letter)[1:-1] for letter in text)


def _has_a_shape(letter: str) -> bool:
    """Python also escapes spaces other than ` `, joiners, and characters without a meaning of their own."""
    return letter in "\u200c\u200d" or unicodedata.category(letter) in ("Zs", "Co", "Cn")
