"""Spelling: tokens as words, for a model that may have been loaded without a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import SpecError


def known_tokenizer(model: Any) -> Any | None:
    """The tokenizer of the model's processor, or of the model, or None."""
    return getattr(model.processor, "tokenizer", None) or model.tokenizer


def tokenizer_of(model: Any) -> Any:
    """The same where there must be one.

    Raises:
        SpecError: the model was loaded without.
    """
    tokenizer = known_tokenizer(model)
    if tokenizer is None:
        raise SpecError("reading words needs a tokenizer; give token ids, or write nv.load(model, processor=...)")
    return tokenizer


def spell(model: Any, token: int) -> str:
    """One token as a table shows it: its text, or its number where there is no tokenizer."""
    tokenizer = known_tokenizer(model)
    return str(token) if tokenizer is None else str(tokenizer.decode([token]))


def spell_answer(model: Any, tokens: Sequence[int]) -> str:
    """An answer's text, special tokens left out; empty where there is no tokenizer."""
    tokenizer = known_tokenizer(model)
    return "" if tokenizer is None else str(tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()
