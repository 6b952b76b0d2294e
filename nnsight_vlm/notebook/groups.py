"""Token groups as coloured chips.

The hues are those of Okabe and Ito, as in the figures. Chips bring their own background and dark letters, so they read
alike on light and dark pages, and a group is never told by its colour alone: its name stands before its tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

from .elements import Html, element, joined

HUES = {
    "system": (204, 121, 167),
    "image": (0, 114, 178),
    "video": (240, 228, 66),
    "markup": (86, 180, 233),
    "query": (230, 159, 0),
    "generated": (0, 158, 115),
}
"""Red, green and blue of each group's edge."""
GREY = (140, 140, 140)
STRENGTH = 0.3
"""How much of the hue is in a chip's background; the rest is white."""
LETTERS = "#1a1a1a"
PAGE = "font:13px/1.7 system-ui,sans-serif;color:inherit;background:transparent;max-width:100%;margin:4px 0"
SMALL = "font-size:11px;opacity:.8"
"""The letters of captions."""


def _rgb(hue: tuple[int, int, int], strength: float = 1) -> str:
    return f"rgb({','.join(str(round(255 - (255 - part) * strength)) for part in hue)})"


def chip(group: str, text: str, title: str = "", *, marked: bool = False) -> Html:
    """A token, or several, in the colour of its group; `marked` puts a line around it."""
    hue = HUES.get(group, GREY)
    edge = f"outline:2px solid {_rgb(hue)};outline-offset:-1px;" if marked else ""
    style = (
        f"display:inline-block;background:{_rgb(hue, STRENGTH)};color:{LETTERS};border-bottom:3px solid {_rgb(hue)};"
        f"{edge}border-radius:3px;padding:0 4px;margin:1px;min-width:5px;min-height:1.5em;white-space:pre-wrap;"
        "overflow-wrap:anywhere;font:12px/1.5 ui-monospace,monospace"
    )
    return element("span", text, style=style, **({"title": title} if title else {}))


def legend(groups: Mapping[str, str], note: str = "") -> Html:
    """One chip for each group, and what is said of it; at the end a note about all of them."""
    entries = (
        element("span", chip(name, name), " ", element("span", said, style=SMALL), style="margin-right:14px")
        for name, said in groups.items()
    )
    return element("div", *entries, element("span", note, style=SMALL), style="margin-top:6px")


def panel(title: str, said: str, *content: str) -> Html:
    """A value: its type, one line about it, and what it shows."""
    head = element("div", element("b", title), " ", said)
    return element("div", joined([head, *content]), style=PAGE)
