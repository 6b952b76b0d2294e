"""What each open page has shown to the model. It is in memory only, and gone once the page is closed."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from PIL import Image

from ..errors import SpecError
from ..execution.decoding import Generation
from ..prompts.prompt import Prompt
from .fields import FieldError

MOST_PAGES = 8
"""How many pages are open at a time, in browsers on several machines."""
MOST_HERE = 4
"""How many are in the browser of one person: it makes six connections to an address, and each open page holds one."""
IDLE = 600.0
"""A page that was not heard of for so many seconds is closed."""
MOST_ANSWERS = 8
"""How many answers a page keeps: of its present picture, by question and length."""

MISSING = {
    "picture": "there is no picture yet; choose one",
    "other": "a patch takes states from another picture, and there is none yet; choose one",
}
"""What a page is told that asks without a picture, by role."""


class Question(NamedTuple):
    """What the model was asked about a page's picture."""

    text: str
    max_new_tokens: int


@dataclass(kw_only=True)
class OpenPage:
    """One open page.

    Attributes:
        pictures: by role: `picture`, which questions are about, and `other`, whose states are patched in.
        answers: of the model as it is, about `picture`.
        seen: when the page was last heard of.
    """

    pictures: dict[str, Image.Image] = field(default_factory=dict)
    answers: dict[Question, Generation] = field(default_factory=dict)
    prompts: dict[tuple[str, str], Prompt] = field(default_factory=dict)
    seen: float = 0.0

    def show(self, role: str, picture: Image.Image) -> None:
        """Take another picture, and forget what was made of the one before."""
        self.pictures[role] = picture
        self.prompts = {key: prompt for key, prompt in self.prompts.items() if key[0] != role}
        if role == "picture":
            self.answers.clear()

    def prompt(self, role: str, question: str, make: Callable[[str, Image.Image], Prompt]) -> Prompt:
        """The prompt of a question about a picture, made once.

        Raises:
            FieldError: the page has no such picture yet.
        """
        if role not in self.pictures:
            raise FieldError(MISSING[role], role)
        if (role, question) not in self.prompts:
            self.prompts = dict(list(self.prompts.items())[-MOST_ANSWERS:])
            self.prompts[role, question] = make(question, self.pictures[role])
        return self.prompts[role, question]

    def keep(self, question: Question, answer: Generation) -> None:
        """Keep an answer, and the latest others."""
        self.answers = dict(list(self.answers.items())[-(MOST_ANSWERS - 1) :]) | {question: answer}


class OpenPages:
    """All open pages, by an id that nobody can guess.

    Args:
        clock: the time in seconds.
        most: how many are open at a time.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, most: int = MOST_PAGES) -> None:
        self._pages: dict[str, OpenPage] = {}
        self._clock, self._most = clock, most

    def __len__(self) -> int:
        return len(self._pages)

    def open(self, **pictures: Any) -> str:
        """A new page's id.

        Args:
            pictures: by role.

        Raises:
            SpecError: too many are open.
        """
        self.close_idle()
        if len(self._pages) >= self._most:
            raise SpecError(f"{self._most} pages are open already; close one of them, and load this one again")
        name = secrets.token_urlsafe(12)
        self._pages[name] = OpenPage(pictures=dict(pictures), seen=self._clock())
        return name

    def find(self, name: str) -> OpenPage | None:
        """An open page, which is heard of now; None where it is closed."""
        page = self._pages.get(name)
        if page is not None:
            page.seen = self._clock()
        return page

    def close(self, name: str) -> None:
        """Forget a page and all that it showed."""
        self._pages.pop(name, None)

    def close_idle(self) -> None:
        """Forget pages that were not heard of for long."""
        now = self._clock()
        for name in [name for name, page in self._pages.items() if now - page.seen > IDLE]:
            self.close(name)
