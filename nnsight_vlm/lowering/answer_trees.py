"""Answers that are given to the model token by token: as a tree behind the prompt.

An answer of n tokens is scored by running its first n - 1 behind the prompt. Answers that begin alike share these
tokens, so several answers are the branches of a tree: a token sees the prompt and what its own branch says before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

AnswerTokens = tuple[int, ...]
"""The token ids of one answer."""
PROMPT = -1
"""The parent of an answer's first token: the prompt's last token."""


@dataclass(frozen=True, kw_only=True)
class AnswerTree:
    """Tokens of answers that run behind a prompt.

    Attributes:
        tokens: their ids; each comes after the one before it in its answer.
        parents: for each the number of the token before it; `PROMPT` where the prompt is before it.
    """

    tokens: AnswerTokens = ()
    parents: tuple[int, ...] = ()

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """For each token how many tokens of its answer come before it."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(0 if parent == PROMPT else depths[parent] + 1)
        return tuple(depths)

    @property
    def is_chain(self) -> bool:
        """Whether there is one branch at most, so that each token sees all before it."""
        return self.parents == tuple(range(PROMPT, len(self.parents) - 1))

    @property
    def longest(self) -> AnswerTokens:
        """The longest branch."""
        if not self.tokens:
            return ()
        branch, number = [], max(range(len(self.tokens)), key=self.depths.__getitem__)
        while number != PROMPT:
            branch.append(self.tokens[number])
            number = self.parents[number]
        return tuple(reversed(branch))

    def predicting(self, answer: AnswerTokens) -> tuple[int, ...]:
        """For each token of an answer the number of the token that predicts it; `PROMPT` for the first."""
        children = {pair: number for number, pair in enumerate(zip(self.parents, self.tokens, strict=True))}
        numbers = [PROMPT]
        for token in answer[:-1]:
            numbers.append(children[numbers[-1], token])
        return tuple(numbers)


def tree_of(answers: Sequence[AnswerTokens]) -> AnswerTree:
    """The tree in which all these answers are branches.

    >>> tree_of([(5, 7, 9), (5, 8, 9), (5,)])
    AnswerTree(tokens=(5, 7, 8), parents=(-1, 0, 0))
    """
    children: dict[tuple[int, int], int] = {}
    for answer in answers:
        parent = PROMPT
        for token in answer[:-1]:
            parent = children.setdefault((parent, token), len(children))
    parents, tokens = zip(*children, strict=True) if children else ((), ())
    return AnswerTree(tokens=tuple(tokens), parents=tuple(parents))


class Branches(NamedTuple):
    """A tree, and which of several answers are among its branches, by their numbers."""

    tree: AnswerTree
    answers: tuple[int, ...]


NO_BRANCHES = Branches(AnswerTree(), ())


def all_at_once(answers: Sequence[AnswerTokens]) -> list[Branches]:
    """All answers as one tree."""
    return [Branches(tree_of(answers), tuple(range(len(answers))))]


def one_by_one(answers: Sequence[AnswerTokens]) -> list[Branches]:
    """Trees of one branch each, as few as possible: an answer with which a longer one begins is scored with that.

    >>> [branches.answers for branches in one_by_one([(5,), (5, 7, 9), (5, 8)])]
    [(0, 1, 2)]
    """
    chains: dict[AnswerTokens, list[int]] = {}
    for number in sorted(range(len(answers)), key=lambda number: -len(answers[number])):
        given = answers[number][:-1]
        chain = next((each for each in chains if each[: len(given)] == given), given)
        chains.setdefault(chain, []).append(number)
    trees = [Branches(tree_of([(*chain, 0)]), tuple(sorted(numbers))) for chain, numbers in chains.items()]
    return sorted(trees, key=lambda branches: branches.answers)
