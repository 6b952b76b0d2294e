"""A server in this process that takes requests as NDIF's does, and answers them with a model that it is given.

It misbehaves as it is told, for what a client must bear. Whether real servers take them is a matter of `tests/ndif`.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import nnsight
import pytest
import torch
import travel
import zstandard

KEY = "3e0b9a52-7a1c-4b1e-9d70-5f6e0c2d1a99"
COMPLETED = {"status": "COMPLETED", "description": "Your job has been completed."}


class Answering:
    """What the server holds, and how it behaves.

    Attributes:
        model: what requests run on.
        jobs: requests that were taken, by id.
        before: called with `(server, method, path)` before anything is answered; may return `(status, body)` instead.
        states: what is said of a job, one status a question; the last stays.
        spoil: what becomes of an answer's bytes.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.jobs: dict[str, bytes] = {}
        self.asked: dict[str, int] = {}
        self.headers: list[dict[str, str]] = []
        self.before: Callable[[Answering, str, str], tuple[int, Any] | None] = lambda *_: None
        self.states: list[dict[str, Any]] = [COMPLETED]
        self.spoil: Callable[[bytes], bytes] = lambda content: content
        self.lock = threading.Lock()

    def take(self, body: bytes, kind: str) -> dict[str, Any]:
        """Take a request."""
        parts = BytesParser().parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + body).get_payload()
        blob = next(part.get_payload(decode=True) for part in parts if part.get_filename())
        name = f"job-{len(self.jobs)}"
        self.jobs[name] = blob
        return {"id": name, "status": "RECEIVED", "description": "Your job has been received."}

    def state(self, name: str, host: str) -> tuple[int, Any]:
        """What is said of a job."""
        if name not in self.jobs:
            return 404, {"detail": f"No response for request {name}."}
        number = self.asked.get(name, 0)
        self.asked[name] = number + 1
        told = self.states[min(number, len(self.states) - 1)]
        link = {"data": f"{host}/results/{name}"} if told["status"] == "COMPLETED" else {}
        return 200, {"id": name, **link, **told}

    def answer(self, name: str) -> bytes:
        """Run a request, and what it saved."""
        with self.lock:
            found = travel.answer(self.model, zstandard.ZstdDecompressor().decompress(self.jobs[name]))
        file = io.BytesIO()
        torch.save(found, file)
        return self.spoil(zstandard.ZstdCompressor().compress(file.getvalue()))


@contextmanager
def served(model: Any) -> Iterator[Answering]:
    """A running server, and the client turned to it."""
    held = Answering(model)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def reply(self, status: int, body: Any) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            held.headers.append(dict(self.headers))
            self.reply(*(held.before(held, "POST", self.path) or (200, held.take(body, self.headers["Content-Type"]))))

        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            instead = held.before(held, "GET", self.path)
            if instead is None and self.path.startswith("/results/"):
                instead = 200, held.answer(name)
            self.reply(*(instead or held.state(name, f"http://127.0.0.1:{server.server_port}")))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nnsight.CONFIG.API, "HOST", f"http://127.0.0.1:{server.server_port}")
        patch.setattr(nnsight.CONFIG.API, "APIKEY", KEY)
        patch.setattr(nnsight.CONFIG.APP, "REMOTE_LOGGING", False)
        yield held
    server.shutdown()
    server.server_close()
