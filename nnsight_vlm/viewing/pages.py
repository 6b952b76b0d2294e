"""A payload as one HTML file that asks for nothing else, and as what a notebook shows."""

from __future__ import annotations

import functools
import json
import secrets
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any

from ..storage import WRITER

CONTENT = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""What the page may load: pictures, styles and the script that are in it."""
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{content}">
<meta name="generator" content="{writer}">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<noscript>This page draws its pictures with a script, and scripts are switched off here.</noscript>
<script type="application/json" id="nnsight-vlm-view">{payload}</script>
<script>
{script}
</script>
</body>
</html>
"""
NOTEBOOK = """<iframe id="{name}" title="{title}" srcdoc="{page}" sandbox="allow-scripts allow-downloads"\
 style="width:100%;height:{height}px;border:0;resize:vertical">{note}</iframe>
<script>
(() => {{
  const frame = document.getElementById("{name}");
  addEventListener("message", (event) => {{
    if (!frame || event.source !== frame.contentWindow) return;
    const height = event.data && event.data.nnsightVlmHeight;
    if (Number.isFinite(height)) frame.style.height = `${{Math.min(Math.max(height, {least}), {most})}}px`;
  }});
}})();
</script>"""
NOTE = (
    "This page is not shown here, because the notebook is not trusted or its HTML is cleaned. Trust the notebook, or "
    'write view.save("view.html") and open the file.'
)
HEIGHT, LEAST, MOST = 720, 300, 4000
"""How high a page is in a notebook, in pixels, until it says how high it would be; and within which limits it may."""


def size_of(payload: Mapping[str, Any]) -> int:
    """How many bytes the HTML file of a payload has; without its script in a checkout in which that is not built."""
    return len(page_of(payload).encode()) if is_built() else len(json_of(payload))


def page_of(payload: Mapping[str, Any]) -> str:
    """The HTML file of a payload."""
    return PAGE.format(
        content=CONTENT,
        writer=WRITER,
        title=escape(str(payload["title"])),
        style=asset("viewer.css"),
        payload=json_of(payload),
        script=asset("viewer.js"),
    )


def json_of(payload: Mapping[str, Any]) -> str:
    """A payload as JSON that no HTML can end: a text in it that holds tags is letters."""
    text = json.dumps(payload, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def in_notebook(payload: Mapping[str, Any]) -> str:
    """The page in a frame of its own, in which its styles and its script reach nothing else.

    A notebook that is not trusted drops frames, and shows the note that is inside.
    """
    return NOTEBOOK.format(
        name=f"nnsight-vlm-{secrets.token_hex(6)}",
        title=escape(str(payload["title"]), quote=True),
        page=escape(page_of(payload), quote=True),
        note=escape(NOTE),
        height=HEIGHT,
        least=LEAST,
        most=MOST,
    )


def is_built() -> bool:
    """Whether the script of the page is there: it is part of every installed package."""
    return files(__package__).joinpath("assets", "viewer.js").is_file()


@functools.cache
def asset(name: str) -> str:
    """A file that was built of `page/`, as it may stand inside an HTML element."""
    text = files(__package__).joinpath("assets", name).read_text(encoding="utf-8")
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--").replace("</style", "<\\/style").strip()
