"""A real `nnsight-vlm serve` in a process of its own, and a person in front of its page."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from watching import ASKED, Watched

import nnsight_vlm as nv

ROOT = Path(nv.__file__).parent.parent
WATCH = """
window.heard = [];
window.asked = [];
const own = window.fetch;
window.fetch = (to, request) => {
    if (/[/](ask|prove)$/.test(to)) {
        window.asked.push([to, JSON.parse(request.body)]);
    }
    return own(to, request);
};
new MutationObserver(() => {
    const text = key => document.getElementById(`stream-${key}`)?.textContent ?? "";
    const [clean, changed] = [text("clean"), text("changed")];
    const last = window.heard.at(-1);
    const now = { clean, changed, isShown: document.querySelector("#view canvas") !== null, at: performance.now() };
    if (last === undefined || last.clean !== clean || last.changed !== changed || last.isShown !== now.isShown) {
        window.heard.push(now);
    }
}).observe(document, { subtree: true, childList: true, characterData: true });
"""
"""Notes what the page asks, and every state of both answers, and whether the viewer was there."""


class Serving:
    """The command at work."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "nnsight_vlm", "serve", *arguments, "--no-open", "--json"]
        settings = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=settings, cwd=ROOT)
        self.said: list[str] = []
        self._listener = threading.Thread(target=lambda: self.said.extend(self.process.stderr), daemon=True)
        self._listener.start()
        lines = "".join(iter(self.process.stdout.readline, "}\n")) + "}"
        self.facts = json.loads(lines)

    @property
    def address(self) -> str:
        return self.facts["address"]

    @property
    def base(self) -> str:
        return self.address.partition("?")[0]

    def post(self, path: str) -> int:
        """The status of a request without a body."""
        headers = {"x-token": self.address.partition("token=")[2]}
        try:
            with urlopen(Request(self.base + path, b"", headers), timeout=10) as answer:
                return answer.status
        except HTTPError as error:
            return error.code

    def stop(self, number: int = signal.SIGINT) -> int:
        """Tells it to stop; its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(20)
        self._listener.join()
        self.process.stdout.close()
        self.process.stderr.close()
        return code


@dataclass
class Visitor:
    """A person in front of the page."""

    page: Any
    serving: Serving
    watched: Watched

    @property
    def asked(self) -> list[dict[str, Any]]:
        """What the page asked the model, as it sent it."""
        return [body for _, body in self.page.evaluate("window.asked")]

    @property
    def name(self) -> str:
        """What the server calls this page."""
        return self.page.evaluate("window.asked.at(-1)[0]").split("/")[-2]

    def box(self, name: str) -> Any:
        """A control by its id."""
        return self.page.locator(f"#{name}")

    def text(self, name: str) -> str:
        return self.box(name).text_content()

    def put(self, name: str, text: str) -> None:
        """Types a text in place of a control's own, as a person does; `fill` adds to numbers in Firefox."""
        self.box(name).focus()
        self.page.keyboard.press("ControlOrMeta+a")
        self.page.keyboard.type(text)

    def done(self, act: Callable[[], Any]) -> None:
        """Does something that asks the model, and waits until that is over."""
        before = int(self.page.locator("html").get_attribute("data-done") or 0)
        act()
        self.page.wait_for_selector(f'html[data-done="{before + 1}"]', state="attached")

    def ask(self, question: str = "") -> None:
        if question:
            self.box("ask-question").fill(question)
        self.done(self.box("do-ask").click)

    def strays(self) -> list[str]:
        """Addresses of others that were asked for."""
        every = [*self.watched.asked, *self.page.evaluate(ASKED)]
        own = (self.serving.base, "data:", "blob:", "about:")
        return [url[:200] for url in every if not url.startswith(own)]


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    """Whether something comes to be so in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
