"""The addresses of the server: what each takes, and what it answers.

Requests and answers are JSON. What takes the model's time answers in lines of JSON, one piece of news a line, as they
come: `{"waiting": 2}`, `{"column": "clean", "text": "a small"}`, last of all the result or `{"error": "words"}`, with
`"field"` where they are about one field.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ..errors import Worded
from ..families import Model
from ..notebook.pictures import picture_uri
from ..viewing.asking import LONGEST
from .answers import ask, facts_of, prove
from .live_page import live_page
from .open_pages import OpenPage, OpenPages
from .turns import News, Turn, Turns
from .uploads import MOST_BYTES, opened

ROLES = ("picture", "other")
MOST_TEXT = 64 * 2**10
"""How many bytes a request in JSON may have."""
PATIENCE = 30.0
"""For how many seconds a body may pause while it is sent."""
BEAT = 2.0
"""How often the server looks whether a page is still there."""
SIDE = 1024
"""The longest side of the picture that a page is shown, in pixels."""
CLOSE = {"connection": "close"}
DROPPED = 3
"""How many times as much as it may have a body is read, and dropped, before its connection is closed."""
LOG = logging.getLogger("nnsight_vlm.serving")


@dataclass(frozen=True, kw_only=True, eq=False)
class Server:
    """What the addresses share.

    Attributes:
        model: that answers.
        first: pictures that every new page begins with, by role.
        question: that every new page begins with; None for no question.
        examples: questions that the model knows, to choose from.
        longest: how many tokens an answer may have.
        pages, turns: open pages, and who has the model.
        ending: set once the server is to stop.
        unpacking: held by who unpacks a picture, which may take a gigabyte.
    """

    model: Model
    first: dict[str, Image.Image] = field(default_factory=dict)
    question: str | None = None
    examples: tuple[str, ...] = ()
    longest: int = LONGEST
    pages: OpenPages = field(default_factory=OpenPages)
    turns: Turns = field(default_factory=lambda: Turns(report))
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    unpacking: asyncio.Lock = field(default_factory=asyncio.Lock)

    def app(self) -> Starlette:
        """The server as an application, which nobody guards yet."""
        page = "/api/pages/{page}"
        routes = [
            Route("/", self.show),
            Route("/api/pages", self.open, methods=["POST"]),
            Route(page, self.close, methods=["DELETE"]),
            Route(f"{page}/alive", self.alive),
            Route(f"{page}/pictures/{{role}}", self.take_picture, methods=["PUT"]),
            Route(f"{page}/ask", self.ask, methods=["POST"]),
            Route(f"{page}/prove", self.prove, methods=["POST"]),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: in_words, Exception: broken})

    def end(self) -> None:
        """End all answers that are under way."""
        self.ending.set()
        self.turns.give_up()

    async def show(self, request: Request) -> Response:  # noqa: ARG002
        """The page."""
        return HTMLResponse(*live_page())

    async def open(self, request: Request) -> Response:  # noqa: ARG002
        """A new page: its id, what can be asked, and what it begins with."""
        try:
            name = self.pages.open(**self.first)
        except Worded as error:
            raise HTTPException(429, str(error)) from error
        shown = {role: await self._shown(picture) for role, picture in self.first.items()}
        limits = {"longest": self.longest, "bytes": MOST_BYTES}
        begun = {"page": name, "question": self.question, "examples": self.examples, "pictures": shown}
        return JSONResponse({**facts_of(self.model), **limits, **begun}, 201)

    async def close(self, request: Request) -> Response:
        """Forget a page."""
        self.pages.close(request.path_params["page"])
        return Response(status_code=204)

    async def alive(self, request: Request) -> Response:
        """A line now and then, for as long as the page is there; once it has gone, it is forgotten."""
        name, _ = request.path_params["page"], self._page(request)

        async def beats() -> AsyncIterator[str]:
            try:
                while self.pages.find(name) is not None and not self.ending.is_set():
                    yield "{}\n"
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self.ending.wait(), BEAT)
            finally:
                self.pages.close(name)

        return lines(beats())

    async def take_picture(self, request: Request) -> Response:
        """The bytes of a picture's file become the page's picture, or the other one."""
        page, role = self._page(request), request.path_params["role"]
        if role not in ROLES:
            raise HTTPException(404, f"there is no picture {role!r}; it is one of {', '.join(ROLES)}")
        content = await body_of(request, MOST_BYTES)
        try:
            async with self.unpacking:
                picture = await run_in_threadpool(opened, content)
        except Worded as error:
            raise HTTPException(400, str(error)) from error
        page.show(role, picture)
        return JSONResponse(await self._shown(picture))

    async def _shown(self, picture: Image.Image) -> dict[str, Any]:
        """A picture as a page shows it, made beside what else is answered."""
        async with self.unpacking:
            return await run_in_threadpool(shown_picture, picture)

    async def ask(self, request: Request) -> Response:
        """The answer to a question, word by word, and then the page's data."""
        return await self._at_work(request, lambda page, given, turn: ask(self.model, page, given, turn, self.longest))

    async def prove(self, request: Request) -> Response:
        """Whether a change does what it says."""
        return await self._at_work(request, lambda page, given, _: prove(self.model, page, given, self.longest))

    async def _at_work(self, request: Request, work: Callable[[OpenPage, Any, Turn], News]) -> Response:
        page, content = self._page(request), await body_of(request, MOST_TEXT)
        try:
            given = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise HTTPException(400, "the request is not JSON") from error
        news = self.turns.take(lambda turn: work(page, given, turn))
        return lines(json.dumps(each, allow_nan=False) + "\n" async for each in news)

    def _page(self, request: Request) -> OpenPage:
        page = self.pages.find(request.path_params["page"])
        if page is None:
            raise HTTPException(410, "this page was closed, or was silent for long; load it again")
        return page


def shown_picture(picture: Image.Image) -> dict[str, Any]:
    """A picture as a page shows it: its size, and a copy no larger than a screen shows."""
    width, height = picture.size
    return {"width": width, "height": height, "uri": picture_uri(picture, SIDE)}


def lines(news: AsyncIterator[str]) -> StreamingResponse:
    """An answer in lines of JSON, which nothing on the way holds back."""
    return StreamingResponse(news, media_type="application/x-ndjson", headers={"x-accel-buffering": "no"})


async def body_of(request: Request, most: int) -> bytes:
    """What a request holds, where that is no more than it may be.

    Of a larger one the rest is read and dropped, up to `DROPPED` times as much: a browser that is cut off while it
    sends tells its page nothing of the answer. Of one that goes on the connection is closed.

    Raises:
        HTTPException: it is larger, or pauses for long.
    """
    content, size, parts = bytearray(), 0, request.stream().__aiter__()
    while size <= DROPPED * most:
        try:
            part = await asyncio.wait_for(anext(parts), PATIENCE)
        except StopAsyncIteration:
            break
        except (TimeoutError, ClientDisconnect) as error:
            raise HTTPException(408, "the request was not sent to its end", CLOSE) from error
        size += len(part)
        if size <= most:
            content += part
    if size > most:
        closing = CLOSE if size > DROPPED * most else None
        raise HTTPException(413, f"at most {most:,} bytes can be sent here", closing)
    return bytes(content)


async def in_words(request: Request, error: Exception) -> Response:  # noqa: ARG001
    """A refusal, as JSON."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def broken(request: Request, error: Exception) -> Response:  # noqa: ARG001
    """An error that nobody expected, of which the page is told no more than its kind."""
    report(error)
    return JSONResponse({"error": f"something went wrong here ({type(error).__name__})"}, 500)


def report(error: BaseException) -> None:
    """Show an error that nobody expected in the window in which the server runs."""
    with contextlib.suppress(Exception):
        LOG.error("a request failed", exc_info=error)
