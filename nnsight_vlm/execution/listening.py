"""Answers heard while they are written: by whoever watches, who may leave before they end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..remote.watching import Watcher, present_watcher


def listening(width: int) -> list[Any]:
    """The stopping criteria of transformers' `generate` that let the present watcher hear; none where none wants to.

    An answer of several rows is not heard.

    Args:
        width: how many tokens the prompt has.
    """
    watcher = present_watcher()
    return [] if watcher.words is None else [_Hears(watcher, watcher.words, width)]


class _Hears:
    """Tells of every token, and stops once nobody waits."""

    def __init__(self, watcher: Watcher, words: Callable[[tuple[int, ...]], None], width: int) -> None:
        self.watcher, self.words, self.width = watcher, words, width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:  # noqa: ARG002
        rows, is_over = len(input_ids), False
        if rows == 1:
            self.words(tuple(input_ids[0, self.width :].tolist()))
            is_over = self.watcher.has_left()
        return torch.full((rows,), is_over, dtype=torch.bool, device=input_ids.device)
