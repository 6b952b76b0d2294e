"""The server from its start to its end: the address that it listens on, the token, the browser, and a clean stop."""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import uvicorn
from PIL import Image

from ..arguments import whole_number
from ..errors import SpecError
from ..families import Model
from ..remote.anyio_parts import load_parts
from .app import Server
from .guard import Guard
from .open_pages import MOST_HERE, MOST_PAGES, OpenPages

HOST = "127.0.0.1"
HERE = {"0.0.0.0": HOST, "::": "::1"}
"""What this machine is reached at from itself, where all of its addresses are listened on."""
PATIENCE = 2
"""For how many seconds answers that are under way are waited for at the end."""
MOST_CONNECTIONS = 64


class Listening(NamedTuple):
    """Where a server listens.

    Attributes:
        bound: the open socket.
        host, port: its address.
        token: what the first address and all requests carry.
    """

    bound: socket.socket
    host: str
    port: int
    token: str

    @property
    def is_private(self) -> bool:
        """Whether only this machine reaches it."""
        return ipaddress.ip_address(self.bound.getsockname()[0]).is_loopback

    @property
    def address(self) -> str:
        """What a person opens on this machine."""
        named = self._replace(host=HERE.get(self.host, self.host)).named
        return f"http://{named}/?token={self.token}"

    @property
    def named(self) -> str:
        """Host and port, as a browser names them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def listen(host: str = HOST, port: int = 0) -> Listening:
    """Take an address.

    Args:
        host: of this machine; 127.0.0.1, which no other machine reaches, unless told otherwise.
        port: 0 for any that is free.

    Raises:
        SpecError: it cannot be had.
    """
    port = whole_number("port", port, least=0, most=65535)
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.create_server(place[:2], family=family, backlog=MOST_CONNECTIONS)
    except (OSError, OverflowError) as error:
        raise SpecError(
            f"cannot listen on {host} port {port}: {error}; choose another --port, or leave it out"
        ) from error
    return Listening(bound, host, bound.getsockname()[1], secrets.token_urlsafe(24))


def serve_until_stopped(
    model: Model,
    listening: Listening,
    *,
    pictures: dict[str, Image.Image],
    question: str | None,
    examples: tuple[str, ...],
    longest: int,
    started: Callable[[], None],
) -> None:
    """Answer until the process is told to stop (Ctrl-C, SIGTERM), and stop then within a few seconds.

    Args:
        model: that answers.
        listening: where.
        pictures: that pages begin with, by role.
        question: that they begin with.
        examples: questions that the model knows.
        longest: how many tokens an answer may have.
        started: called once pages can be opened.
    """
    load_parts()
    pages = OpenPages(most=MOST_HERE if listening.is_private else MOST_PAGES)
    server = Server(model=model, first=pictures, question=question, examples=examples, longest=longest, pages=pages)
    try:
        with contextlib.suppress(KeyboardInterrupt), ended_like_ctrl_c():  # uvicorn raises the signal again at its end
            running(server, listening, started).run(sockets=[listening.bound])
    finally:
        server.turns.stop(PATIENCE)
        listening.bound.close()


@contextlib.contextmanager
def ended_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM end what is inside as Ctrl-C does, and not this process at once."""
    if threading.current_thread() is not threading.main_thread():  # no other thread has a say in signals
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def running(server: Server, listening: Listening, started: Callable[[], None]) -> uvicorn.Server:
    """What answers, guarded, and not started yet; `load_parts` was called before.

    Args:
        server: the addresses.
        listening: where.
        started: called once pages can be opened.
    """
    names = {listening.named, f"localhost:{listening.port}"} if listening.is_private else set[str]()
    guarded = Guard(server.app(), token=listening.token, hosts=frozenset(names))
    config = uvicorn.Config(
        guarded,
        log_level="error",  # whatever strangers send would be warned of in the person's window
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=PATIENCE,
        limit_concurrency=MOST_CONNECTIONS,
        lifespan="off",
        ws="none",
    )
    return _Announced(config, started, server.end)


class _Announced(uvicorn.Server):
    """A server that says when it listens, and when it is to stop."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None], ending: Callable[[], None]) -> None:
        super().__init__(config)
        self._said, self._ending = started, ending

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._said()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._ending()  # answers without an end would be waited for, and then be cut off
        await super().shutdown(sockets)
