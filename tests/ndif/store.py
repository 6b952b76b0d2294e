"""The object store for large results: moto's S3 on loopback, which refuses requests when the tests ask it to.

Run as `python store.py PORT FILE`. While FILE holds a number, optionally followed by an HTTP method, that many requests
(of that method) are answered with 503, and the number is counted down.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple


class Refusing:
    """A web application in front of another that refuses requests."""

    def __init__(self, application: Callable[..., Iterable[bytes]], orders: Path) -> None:
        self.application = application
        self.orders = orders
        self.counting = threading.Lock()

    def refuses(self, method: str) -> bool:
        """Whether to refuse this request; if so, the number is counted down."""
        with self.counting:
            words = self.orders.read_text().split() if self.orders.exists() else []
            if not words or int(words[0]) < 1 or words[1:] not in ([], [method]):
                return False
            self.orders.write_text(" ".join([str(int(words[0]) - 1), *words[1:]]))
            return True

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not self.refuses(environ["REQUEST_METHOD"]):
            return self.application(environ, start_response)
        start_response("503 Service Unavailable", [("Content-Type", "text/plain"), ("Connection", "close")])
        return [b"refused, as a test asked"]


if __name__ == "__main__":
    store = DomainDispatcherApplication(create_backend_app)
    application = Refusing(store, Path(sys.argv[2]))
    run_simple("127.0.0.1", int(sys.argv[1]), application, threaded=True, request_handler=MotoRequestHandler)
