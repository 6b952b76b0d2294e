"""Pairs: one question about two pictures with different answers, which interchange patching compares."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..arguments import listed, refuse
from ..errors import SpecError
from ..execution.checking import require_model
from ..families import Model
from ..prompts.given import single_prompt
from ..prompts.prompt import Prompt
from ..sweeping.wanted import answer_token

PAIRS = 'pairs=[(prompt, other_prompt, "red", "blue"), ...]'


class Pair(NamedTuple):
    """One question about two pictures with different answers.

    Attributes:
        prompt: the run that is patched.
        other: the run whose hidden states are written into it.
        answer: the right answer to `prompt`, one token.
        other_answer: the right answer to `other`, one token.
    """

    prompt: Prompt
    other: Prompt
    answer: str | int
    other_answer: str | int


def pairs_given(model: Model, given: Any) -> list[Pair]:
    """Pairs as a user gives them.

    Raises:
        SpecError: no list of pairs, prompts whose text differs or of another model, answers that are equal or not one
            token each.
    """
    pairs = listed("pairs", given, PAIRS, kind=(tuple, list))
    if not pairs:
        raise SpecError(f"no pairs to measure; write {PAIRS}")
    return [_checked(model, number, pair) for number, pair in enumerate(pairs)]


def _checked(model: Model, number: int, given: Any) -> Pair:
    if len(given) != 4:
        refuse(f"pairs[{number}]", given, "pair of prompts with their answers", PAIRS)
    pair = Pair(*given)
    for prompt in (pair.prompt, pair.other):
        require_model(model, single_prompt(prompt, f"pairs[{number}]"))
    tokens, other_tokens = pair.prompt.rows[0], pair.other.rows[0]
    if (tokens.tokens, tokens.outside_tokens) != (other_tokens.tokens, other_tokens.outside_tokens):
        raise SpecError(
            f"pair {number}: the two prompts differ in their words; a pair is one question about two pictures"
        )
    if answer_token(model, pair.answer) == answer_token(model, pair.other_answer):
        raise SpecError(f"pair {number}: both answers are {pair.answer!r}; nothing could be restored")
    return pair
