"""A server in this process that accepts requests as NDIF does, and answers them with a model that it is given.

Tests make it misbehave, to see what the client does then. Whether a real server accepts our requests is tested in
`tests/ndif`.
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


class StubServer:
    """The server's state, and how it misbehaves.

    Attributes:
        model: the model that requests run on.
        jobs: the bytes of accepted requests, by job id.
        polls: how often each job's status was asked for, by job id.
        headers: the HTTP headers of each POST.
        intercept: called with `(server, method, path)` before a request is handled; returns `(status, body)` to answer
            instead, or None.
        states: the statuses that a job passes through, one for each poll; the last one stays.
        corrupt: changes the bytes of each answer.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.jobs: dict[str, bytes] = {}
        self.polls: dict[str, int] = {}
        self.headers: list[dict[str, str]] = []
        self.intercept: Callable[[StubServer, str, str], tuple[int, Any] | None] = lambda *_: None
        self.states: list[dict[str, Any]] = [COMPLETED]
        self.corrupt: Callable[[bytes], bytes] = lambda content: content
        self.lock = threading.Lock()

    def accept(self, body: bytes, content_type: str) -> dict[str, Any]:
        """Accept a request: its response."""
        parts = BytesParser().parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body).get_payload()
        payload = next(part.get_payload(decode=True) for part in parts if part.get_filename())
        job = f"job-{len(self.jobs)}"
        self.jobs[job] = payload
        return {"id": job, "status": "RECEIVED", "description": "Your job has been received."}

    def state(self, job: str, host: str) -> tuple[int, Any]:
        """The response to a poll: `(HTTP status, body)`."""
        if job not in self.jobs:
            return 404, {"detail": f"No response for request {job}."}
        number = self.polls.get(job, 0)
        self.polls[job] = number + 1
        state = self.states[min(number, len(self.states) - 1)]
        link = {"data": f"{host}/results/{job}"} if state["status"] == "COMPLETED" else {}
        return 200, {"id": job, **link, **state}

    def answer(self, job: str) -> bytes:
        """Run a job: the bytes of what it saved."""
        with self.lock:
            saved = travel.answer(self.model, zstandard.ZstdDecompressor().decompress(self.jobs[job]))
        file = io.BytesIO()
        torch.save(saved, file)
        return self.corrupt(zstandard.ZstdCompressor().compress(file.getvalue()))


@contextmanager
def served(model: Any) -> Iterator[StubServer]:
    """A running server; nnsight's client is set to it inside the `with` block."""
    stub = StubServer(model)

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
            stub.headers.append(dict(self.headers))
            instead = stub.intercept(stub, "POST", self.path)
            self.reply(*(instead or (200, stub.accept(body, self.headers["Content-Type"]))))

        def do_GET(self) -> None:
            job = self.path.rpartition("/")[2]
            instead = stub.intercept(stub, "GET", self.path)
            if instead is None and self.path.startswith("/results/"):
                instead = 200, stub.answer(job)
            self.reply(*(instead or stub.state(job, f"http://127.0.0.1:{server.server_port}")))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nnsight.CONFIG.API, "HOST", f"http://127.0.0.1:{server.server_port}")
        patch.setattr(nnsight.CONFIG.API, "APIKEY", KEY)
        patch.setattr(nnsight.CONFIG.APP, "REMOTE_LOGGING", False)
        yield stub
    server.shutdown()
    server.server_close()
