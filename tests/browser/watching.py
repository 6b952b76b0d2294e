"""What a page did beside what was asked of it: requests, messages, breaches of its own policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

OWN = ("file:", "data:", "blob:", "about:")
NOTE_BREACHES = """
window.breaches = [];
addEventListener("securitypolicyviolation", event => window.breaches.push(event.violatedDirective));
"""
ASKED = 'performance.getEntriesByType("resource").map(entry => entry.name)'


@dataclass
class Watched:
    """A page and what is seen of it from outside, from its first line on."""

    page: Any
    asked: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.add_init_script(NOTE_BREACHES)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"uncaught: {error}"))

    def strays(self) -> list[str]:
        """Addresses outside the page that were asked for, as the browser and as the page itself know of them."""
        every = [*self.asked, *self.page.evaluate(ASKED)]
        return [url[:200] for url in every if not url.startswith(OWN)]

    def complaints(self) -> list[str]:
        """Errors and warnings, and what the page's policy forbade."""
        loud = [line for line in self.said if not line.startswith(("log:", "info:", "debug:"))]
        return loud + self.page.evaluate("window.breaches ?? []")
