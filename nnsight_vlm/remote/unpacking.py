"""Reading what a server sends back: tensors and plain data only, bound to the job by its digest."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import torch
import zstandard

from .model_call import ModelCall

MAX_ANSWER_BYTES = 256 * 2**20
"""Bytes of numbers that one job may bring back. An answer may unpack to twice as much, to leave room for the rest."""


def read_answer(content: bytes, digest: str, count: int, compressed: bool) -> list[Any]:
    """The answers to all calls of a job. No code in `content` is ever run.

    Args:
        content: what the server sent.
        digest: the job's digest, which the answer must repeat.
        count: how many calls the job has.
        compressed: whether the content is compressed.

    Raises:
        ValueError: the content is not an answer to this job.
    """
    try:
        if compressed:
            content = _decompress(content)
        saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except ValueError:
        raise
    except Exception as error:  # a foreign file can make the readers raise anything
        raise ValueError(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}") from None
    answer = saved.get("answer") if isinstance(saved, dict) else None
    if not isinstance(answer, list) or len(answer) != 2 or not isinstance(answer[1], list):
        raise ValueError("it is not in the format of an answer")
    if answer[0] != digest:
        raise ValueError("it answers another job")
    if len(answer[1]) != count:
        raise ValueError(f"it holds {len(answer[1])} answers to {count} calls")
    return answer[1]


def _decompress(content: bytes) -> bytes:
    size = zstandard.frame_content_size(content)
    if size > 2 * MAX_ANSWER_BYTES:
        raise ValueError(f"it unpacks to {size / 2**20:.0f} MiB")
    return zstandard.ZstdDecompressor().decompress(content, max_output_size=2 * MAX_ANSWER_BYTES)


def select_answers(answers: Sequence[Any], order: Sequence[ModelCall], wanted: Sequence[ModelCall]) -> list[Any]:
    """From the answers to all calls in `order`, those to the `wanted` ones."""
    places = {id(call): number for number, call in enumerate(order)}
    return [answers[places[id(call)]] for call in wanted]
