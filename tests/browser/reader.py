"""A person in front of a page: what they do with it, and what they see of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from payloads import SIDE
from pixels import seen
from watching import Watched


@dataclass
class Reader:
    """A page that is drawn."""

    page: Any
    watched: Watched

    def word(self, index: int, column: int = 0) -> Any:
        return self.page.locator(f'[data-word="{column}.{index}"]')

    def panel(self, index: int = 0) -> Any:
        return self.page.locator(f'canvas[data-panel="{index}"]')

    def twin(self, index: int = 0) -> Any:
        """The second column's canvas, beside the first's."""
        return self.page.locator(f'canvas[data-twin="{index}"]')

    def box(self, name: str) -> Any:
        """A control by its id."""
        return self.page.locator(f"#{name}")

    def hears(self, *texts: str) -> None:
        """Waits until the live region says all of these."""
        self.page.wait_for_function(
            "texts => texts.every(text => document.getElementById('said').textContent.includes(text))", arg=list(texts)
        )

    def settled(self) -> None:
        """Waits until what was asked for is drawn: two frames later."""
        self.page.evaluate(
            "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done())))"
        )

    def seen(self, panel: int = 0) -> np.ndarray:
        """A panel's pixels on the screen."""
        self.settled()
        return seen(self.page, self.panel(panel))

    def painted(self, row: int, column: int = 0) -> np.ndarray:
        """The values that are painted for a row, as the page has unpacked them, `[token]`."""
        return np.asarray(
            self.page.evaluate("([column, row]) => Array.from(window.nnsightVlmView.paint(column, row))", [column, row])
        )

    def state(self) -> Any:
        return self.page.evaluate("JSON.parse(JSON.stringify(window.nnsightVlmView.state))")

    def at_address(self) -> str:
        """The address, when it has caught up with the state."""
        self.page.wait_for_function("() => '#' + window.nnsightVlmView.state.fragment === location.hash")
        return self.page.url

    def focused(self) -> str:
        """What has the focus, by its id or its mark."""
        return self.page.evaluate(
            "(({ id, dataset, localName }) => id || dataset.word || dataset.panel && `panel ${dataset.panel}`"
            " || localName)(document.activeElement)"
        )

    def point_at(self, token: int, panel: int = 0, *, click: bool = False) -> None:
        """Moves the pointer over the middle of a patch of the square picture."""
        box = self.panel(panel).bounding_box()
        row, column = divmod(token, SIDE)
        place = [
            box[edge] + (at + 0.5) / SIDE * box[length]
            for edge, at, length in (("x", column, "width"), ("y", row, "height"))
        ]
        self.page.mouse.move(*place)
        if click:
            self.page.mouse.click(*place)

    def let_go(self) -> None:
        """Nothing is kept and nothing pointed at."""
        self.away()
        self.page.evaluate("() => void window.nnsightVlmView.open('')")
        assert self.state()["word"] is None

    def away(self) -> None:
        """Moves the pointer where nothing is."""
        self.page.mouse.move(1, 1)
