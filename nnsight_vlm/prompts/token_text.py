"""Tokens as text, for a model that may have been loaded without a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import SpecError
from ..families import Model


def known_tokenizer(model: Model) -> Any | None:
    """The tokenizer of the model's processor, or of the model; None if there is none."""
    return getattr(model.processor, "tokenizer", None) or model.tokenizer


def tokenizer_of(model: Model) -> Any:
    """The tokenizer of the model's processor, or of the model.

    Raises:
        SpecError: the model was loaded without one.
    """
    tokenizer = known_tokenizer(model)
    if tokenizer is None:
        raise SpecError("reading words needs a tokenizer; give token ids, or write nv.load(model, processor=...)")
    return tokenizer


def spell(model: Model, token: int) -> str:
    """One token as tables show it: its text, or its id where there is no tokenizer."""
    tokenizer = known_tokenizer(model)
    return str(token) if tokenizer is None else str(tokenizer.decode([token]))


def spell_answer(model: Model, tokens: Sequence[int]) -> str:
    """An answer's text without special tokens; empty where there is no tokenizer."""
    tokenizer = known_tokenizer(model)
    return "" if tokenizer is None else str(tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()
