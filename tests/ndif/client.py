"""The client: nnsight in this process is set to the tests' server, and set back afterwards."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import nnsight
import pytest
from nnsight.modeling import huggingface
from nnsight.schema.request import RequestModel


@contextlib.contextmanager
def connected(url: str) -> Iterator[None]:
    """Remote runs go to `url`. The user's own settings are neither read nor written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nnsight.CONFIG.API, "HOST", url)
        patch.setattr(nnsight.CONFIG.API, "APIKEY", "none-needed")
        patch.setattr(nnsight.CONFIG.APP, "REMOTE_LOGGING", False)
        yield


@contextlib.contextmanager
def trust(trusted: bool) -> Iterator[None]:
    """Requests are trusted and run in the model's process, or are not and run in a sandbox.

    A public server decides this by the user's key. A server without keys lets the request say so.
    """
    stock = RequestModel.metadata

    def metadata(request: RequestModel) -> str:
        return json.dumps({**json.loads(stock(request)), "trusted": trusted})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RequestModel, "metadata", metadata)
        yield


@contextlib.contextmanager
def addressed(folder: Path) -> Iterator[str]:
    """The folder's path as a model's name, which nnsight does not look up on the hub."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(huggingface._ID_CACHE, str(folder), str(folder))
        yield str(folder)
