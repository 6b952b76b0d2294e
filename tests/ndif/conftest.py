"""The server that the tests share, the client that talks to it, and a model that both can load.

Without a server the tests fail, wherever they run: to skip them would look like success.
"""

from __future__ import annotations

import contextlib
import signal

import client
import pytest
import setup
import tiny
import torch
from lock import ServerError
from server import Server

torch.set_num_threads(1)
PATIENCE = 300
"""Seconds to wait until other tests on this machine have stopped their server."""

LONGEST = 420
"""Seconds after which a test fails: on a crowded machine the server can lose a job, which is then awaited for ever."""

HELP = "Set the server up with `python tests/ndif/setup.py`, and see whether `python tests/ndif/server.py start` works."


@pytest.fixture(scope="session")
def server():
    """A running server, and nnsight set to it; afterwards no process, file or setting is left."""
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(Server(patience=PATIENCE))
        except (ServerError, setup.SetupError) as error:
            pytest.fail(f"{error}\n{HELP}", pytrace=False)
        stack.enter_context(client.connected(server.url))
        yield server
        processes, folder = server.processes(), server.folder
    assert not any(process.is_running() for process in processes) and not folder.exists()


@pytest.fixture(autouse=True)
def deadline():
    """Ends a test that waits for a job that the server has lost."""

    def stop(*_):
        raise TimeoutError(f"the test was not done after {LONGEST} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """The tiny model as a server finds it: the path of a folder with weights and processor."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny.save(folder)
    with client.addressed(folder) as path:
        yield path


@pytest.fixture(params=[True, False], ids=["trusted", "sandboxed"])
def trust(request):
    """Runs the test once with requests in the model's process, once in the sandbox."""
    with client.trust(request.param):
        yield request.param
