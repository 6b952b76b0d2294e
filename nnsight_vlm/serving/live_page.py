"""The HTML of the live page: its script and style, and no data; those it asks for."""

from __future__ import annotations

import secrets
from typing import NamedTuple

from ..viewing.pages import asset

CONTENT = (
    "default-src 'none'; connect-src 'self'; img-src data: blob:; style-src 'nonce-{nonce}'; "
    "script-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may load: what is in it, and what this server answers."""
ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 4 4'%3E"
    "%3Cpath fill='%230b57d0' d='M0 0h4v4H0z'/%3E%3Cpath fill='%23ffb24d' d='M2 1h1v1H2z'/%3E%3C/svg%3E"
)
"""A picture with one of its patches; a browser would ask for a file otherwise."""
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>nnsight_vlm</title>
<link rel="icon" href="{icon}">
<style nonce="{nonce}">
{style}
</style>
</head>
<body>
<noscript>This page asks and draws with a script, and scripts are switched off here.</noscript>
<script nonce="{nonce}">
{script}
</script>
</body>
</html>
"""


class LivePage(NamedTuple):
    """A page, and how it is sent.

    Attributes:
        content: its HTML.
        status_code: of the answer.
        headers: of the answer.
    """

    content: str
    status_code: int
    headers: dict[str, str]


def live_page() -> LivePage:
    """The page, whose own script and style are the only ones that a browser runs in it."""
    nonce = secrets.token_urlsafe(16)
    content = PAGE.format(nonce=nonce, icon=ICON, style=asset("live.css"), script=asset("live.js"))
    return LivePage(content, 200, {"content-security-policy": CONTENT.format(nonce=nonce)})
