"""Answers heard while they are written: by a page that shows them, and that may leave before they end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

Listener = Callable[[tuple[int, ...]], bool]
"""Is handed the tokens of an answer so far, one more each time, and returns whether the answer is to end there."""
_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Let a listener hear the answers that this thread's `nv.generate` writes on this machine, inside the block.

    An answer of several rows is not heard.
    """
    before = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(before)


def listening(width: int) -> list[Any]:
    """The stopping criteria of transformers' `generate` that let the present listener hear; none where there is none.

    Args:
        width: how many tokens the prompt has.
    """
    listener = _LISTENER.get()
    return [] if listener is None else [_Hears(listener, width)]


class _Hears:
    """Tells a listener of every token, and stops where it says so."""

    def __init__(self, listener: Listener, width: int) -> None:
        self.listener, self.width = listener, width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:  # noqa: ARG002
        rows, is_over = len(input_ids), False
        if rows == 1:
            is_over = self.listener(tuple(input_ids[0, self.width :].tolist()))
        return torch.full((rows,), is_over, dtype=torch.bool, device=input_ids.device)
