"""Chromium and Firefox as the distribution has them, without a window."""

from __future__ import annotations

import shutil
from typing import Any

COMMANDS = {"chromium": ("chromium", "chromium-browser", "google-chrome"), "firefox": ("firefox-esr", "firefox")}
"""What each browser may be called on this machine."""


SCHEMES = ("dark", "light")
"""In the order of Firefox's own numbers for them."""


def path_of(name: str) -> str | None:
    """Where a browser is, or None."""
    return next((path for command in COMMANDS[name] if (path := shutil.which(command))), None)


def launched(playwright: Any, name: str, scheme: str = "light") -> Any:
    """A browser without a window, whose person likes pages light or dark.

    Firefox is the unpatched one, spoken to in WebDriver BiDi, which cannot say so later.
    """
    path = path_of(name)
    if path is None:
        raise RuntimeError(f"{name} is not on this machine; run `python tests/browser/setup.py`")
    if name == "firefox":
        preferences = {"layout.css.prefers-color-scheme.content-override": SCHEMES.index(scheme)}
        return playwright.firefox.launch(channel="moz-firefox", executable_path=path, firefox_user_prefs=preferences)
    return playwright.chromium.launch(executable_path=path)
