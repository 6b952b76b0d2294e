"""Two browsers, and pages in them that are watched from the first line to the last.

Without browsers the tests fail, wherever they run: to skip them would look like success.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable
from typing import Any

import browsers
import pages
import payloads
import pytest
import torch
from living import WATCH, Serving, Visitor
from playwright.sync_api import sync_playwright
from reader import Reader
from watching import Watched

import nnsight_vlm as nv

torch.set_num_threads(1)
PATIENCE = 20_000
"""Milliseconds until what a test waits for is said not to come."""


@pytest.fixture(scope="session")
def playwright():
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="session")
def running(playwright):
    """Browsers by name and scheme, started when they are first needed."""
    started = {}

    def of(name: str, scheme: str) -> Any:
        key = (name, scheme if name == "firefox" else "any")
        if key not in started:
            started[key] = browsers.launched(playwright, name, scheme)
        return started[key]

    yield of
    for browser in started.values():
        browser.close()


@pytest.fixture(scope="session", params=browsers.COMMANDS)
def browser(request, running) -> Callable[..., Any]:
    """Chromium, then Firefox: makes contexts."""
    name = request.param

    def context(*, width: int = 1280, height: int = 1200, scheme: str = "light") -> Any:
        own = {"color_scheme": scheme} if name == "chromium" else {}
        made = running(name, scheme).new_context(viewport={"width": width, "height": height}, **own)
        made.set_default_timeout(PATIENCE)
        return made

    return context


@pytest.fixture
def show(browser, tmp_path) -> Callable[..., Reader]:
    """Opens payloads, pages or addresses; at the end no page may have asked for anything or complained of anything."""
    watched, contexts, numbers = [], [], itertools.count()

    def showing(
        what: Any,
        fragment: str = "",
        *,
        width: int = 1280,
        height: int = 1200,
        scheme: str = "light",
        quiet: bool = True,
    ) -> Reader:
        context = browser(width=width, height=height, scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        seen = Watched(page)
        if quiet:
            watched.append(seen)
        if isinstance(what, str) and what.startswith("file:"):
            address = what
        else:
            path = tmp_path / f"view{next(numbers)}.html"
            path.write_text(what if isinstance(what, str) else pages.page_of(what), encoding="utf-8")
            address = path.as_uri() + fragment
        page.goto(address)
        page.wait_for_selector("html[data-ready=true]", state="attached")
        return Reader(page, seen)

    yield showing
    found = [(one.strays(), one.complaints()) for one in watched]
    for context in contexts:
        context.close()
    assert all(strays == [] and complaints == [] for strays, complaints in found), found


@pytest.fixture
def square(show) -> Reader:
    """The square picture, without a second column."""
    return show(payloads.square())


@pytest.fixture
def pair(show) -> Reader:
    """The same in two columns."""
    return show(payloads.square(columns=("clean", "changed")))


@pytest.fixture(scope="session")
def serving(tmp_path_factory):
    """The command, with a picture and without a question."""
    path = tmp_path_factory.mktemp("serve") / "picture.png"
    nv.shapes.pair(3)[0].image.save(path)
    started = Serving(str(path))
    yield started
    assert started.stop(signal.SIGTERM) == 0
    assert "Traceback" not in "".join(started.said)


@pytest.fixture
def visit(browser, serving) -> Callable[..., Visitor]:
    """Opens live pages; at the end none may have asked for anything of others or complained of anything."""
    visitors = []

    def visiting(
        at: Serving = serving, *, width: int = 1280, height: int = 1200, scheme: str = "light", quiet: bool = True
    ) -> Visitor:
        page = browser(width=width, height=height, scheme=scheme).new_page()
        page.add_init_script(WATCH)
        visitor = Visitor(page, at, Watched(page))
        page.goto(at.address)
        page.wait_for_selector("html[data-ready=true]", state="attached")
        visitors.append((visitor, quiet))
        return visitor

    yield visiting
    found = [(one.strays(), one.watched.complaints() if quiet else []) for one, quiet in visitors]
    for one, _ in visitors:
        one.page.context.close()
    assert all(strays == [] and complaints == [] for strays, complaints in found), found


@pytest.fixture
def live(visit) -> Visitor:
    """The page as it opens."""
    return visit()
