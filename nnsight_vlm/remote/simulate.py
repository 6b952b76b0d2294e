"""`remote="local"`: a job that is packed and unpacked as for a server, and runs on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..families import view_of
from ..families.locks import one_thread
from .model_call import ModelCall, Remote, in_order
from .packing import pack, run_session
from .unpacking import select_answers


class SimulatedJob:
    """What `ServerJob` is for a server; it runs when it is first polled."""

    status = "simulated"

    def __init__(self, model: Any, calls: Sequence[ModelCall], remote: Remote) -> None:
        self._model, self._calls, self._remote = model, list(calls), remote
        self._answers: list[Any] | None = None

    def poll(self) -> list[Any]:
        """The answers, one for each call."""
        if self._answers is None:
            backend = view_of(self._model).remote_backend(self._remote)
            with one_thread(self._model):
                _, answers = run_session(self._model, "", pack(self._calls), backend)
            self._answers = select_answers(answers, in_order(self._calls), self._calls)
        return self._answers

    def wait(self) -> list[Any]:
        """The answers, one for each call."""
        return self.poll()
