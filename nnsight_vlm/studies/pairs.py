"""Pairs: one question about two pictures with different answers, which interchange patching compares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..arguments import listed, refuse
from ..errors import SpecError
from ..execution.checking import require_model
from ..families import Model
from ..prompts.given import single_prompt
from ..prompts.prompt import Prompt
from ..sweeping.wanted import answer_token
from .controls import same_pictures
from .item_prompts import ItemPrompts, Made

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


class ItemPairs(Made[Pair]):
    """Pairs of items, encoded when they are asked for.

    Attributes:
        prompts, others: the prompts of the pairs.
        answers: `(answer, other_answer)` of each.
    """

    def __init__(self, prompts: ItemPrompts, others: ItemPrompts, keep: int) -> None:
        super().__init__(len(prompts), keep)
        self.prompts, self.others = prompts, others
        self.answers = [(str(line.answer), str(line.other_answer)) for line in prompts.items.lines]

    def make(self, number: int) -> Pair:
        return Pair(self.prompts[number], self.others[number], *self.answers[number])

    def only(self, numbers: Sequence[int]) -> ItemPairs:
        """Some of the pairs."""
        return ItemPairs(self.prompts.only(numbers), self.others.only(numbers), self.keep)


def answers_of(pairs: Sequence[Pair], number: int) -> tuple[str | int, str | int]:
    """The two answers of a pair."""
    return pairs.answers[number] if isinstance(pairs, ItemPairs) else pairs[number][2:]


def shows_picture_of(pairs: Sequence[Pair], number: int, other: int) -> bool:
    """Whether the prompt that is patched in one pair shows one of the two pictures of another."""
    if isinstance(pairs, ItemPairs):  # told apart without opening them again
        keys = [pairs.prompts.picture_keys[other], pairs.others.picture_keys[other]]
        return pairs.prompts.picture_keys[number] in keys
    return any(same_pictures(pairs[number].prompt, own) for own in pairs[other][:2])


def have_same_words(pairs: Sequence[Pair], number: int, other: int) -> bool:
    """Whether the prompts that are patched in two pairs have the same tokens."""
    if isinstance(pairs, ItemPairs):
        return pairs.prompts.words[number] == pairs.prompts.words[other]
    return pairs[number].prompt.rows[0].tokens == pairs[other].prompt.rows[0].tokens


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
    check_pair(model, pair, f"pair {number}: ")
    return pair


def check_pair(model: Model, pair: Pair, called: str) -> None:
    """Refuse prompts whose text differs, and answers that are equal or not one token.

    Args:
        model: an nnsight model.
        pair: of prompts of one row.
        called: how the message begins.

    Raises:
        SpecError: see above.
    """
    tokens, other_tokens = pair.prompt.rows[0], pair.other.rows[0]
    if (tokens.tokens, tokens.outside_tokens) != (other_tokens.tokens, other_tokens.outside_tokens):
        raise SpecError(f"{called}the two prompts differ in their words; a pair is one question about two pictures")
    if answer_token(model, pair.answer) == answer_token(model, pair.other_answer):
        raise SpecError(f"{called}both answers are {pair.answer!r}; nothing could be restored")
