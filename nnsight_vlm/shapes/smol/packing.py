"""Training batches for `shapes-smol`: many questions behind one image, in one sequence, and the mask between them.

A row is a prefix (the beginning of a conversation, with the image) followed by *branches*, each a question with its
answer. A branch attends to the prefix and to itself, and its positions continue from the prefix's end, so it computes
exactly what it would compute alone behind that prefix. Rows are made as numpy arrays: the processes that make them
need no PyTorch.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..model import IMAGE_TOKENS
from ..world import FIRST_TRAINING_SEED, Scene, scene
from .extra_families import EXTRA_FAMILIES
from .language_model import END, IMAGE_ID, START
from .wordings import DESCRIBING, Family, Turn, plain, worded

ROW_TOKENS = 512
"""Tokens of a row: prefix, image and branches."""
PLAIN_SHARE = 0.5
"""The share of questions that are asked and answered in the words of `language.py`."""
SHARES: Mapping[Family, float] = {
    "describe": 1,
    "describe-short": 0.7,
    "list": 0.7,
    "color": 2,
    "shape": 2,
    "size": 2,
    "where": 2.5,
    "count": 1,
    "exists": 4,
    "left-of": 3,
    "above": 3,
    "what-at": 1,
    "color-at": 1,
    "empty": 1,
    "count-of": 1.5,
    "is-color": 1.5,
    "right-of": 1,
    "below": 1,
}
"""How often each family is asked, relative to the others; every row begins with a description."""
DECISIONS = ("exists", "left-of", "above", "is-color", "right-of", "below", "empty")
"""Families whose answer is yes or no."""
SHORT_ANSWER, DECISION, DESCRIPTION = 1.0, 2.0, 0.5
"""Weights in the loss of each token of an answer, by what was asked."""
ENDING = 0.3
"""The weight of the token that ends an answer, as a share of the others'."""

SYSTEMS = (
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    "You are a helpful assistant that answers questions about pictures.",
    "Answer questions about the image.",
)
"""System messages that some conversations begin with."""
SYSTEM_SHARE = 0.3

PREFIX_TEXTS = tuple(
    (f"{START}system\n{system}{END}\n" if system else "") + f"{START}user\n" for system in ("", *SYSTEMS)
)
"""What comes before the image."""


@dataclass(frozen=True, kw_only=True)
class Branch:
    """One question with its answer.

    Attributes:
        family: what is asked for.
        ids: the token ids from the end of the image to the end of the answer.
        question_tokens: how many of the ids come before the answer.
    """

    family: Family
    ids: list[int]
    question_tokens: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is asked about one scene: the ids of the text before the image, and the branches behind it."""

    scene: Scene
    before: list[int]
    branches: list[Branch]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows as arrays.

    Attributes:
        pixels: the images, uint8 `[row, 80, 80, 3]`.
        ids: token ids `[row, token]`.
        positions: position ids `[row, token]`.
        branch_numbers: the branch that a token belongs to, from 1; 0 is the prefix, -1 padding `[row, token]`.
        targets: the token to predict at each place `[row, token]`.
        weights: the weight of that prediction in the loss, float32 `[row, token]`.
    """

    pixels: np.ndarray
    ids: np.ndarray
    positions: np.ndarray
    branch_numbers: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Writer:
    """Turns text into token ids; each piece of text once.

    Attributes:
        encode: the ids of a text, control tokens included.
    """

    encode: Callable[[str], list[int]]
    known: dict[str, list[int]] = field(default_factory=dict, repr=False)

    def ids(self, text: str) -> list[int]:
        """The ids of a text that occurs again and again."""
        if text not in self.known:
            self.known[text] = self.encode(text)
        return self.known[text]

    def branch(self, turn: Turn) -> Branch:
        """A question and its answer as token ids.

        They are encoded apart: the model's tokenizer never joins what a line end or a control token keeps apart.
        """
        asked = self.ids(f"\n{turn.request}{END}\n{START}assistant\n")
        answer = [*self.encode(turn.answer), *self.ids(END)]
        return Branch(family=turn.family, ids=asked + answer, question_tokens=len(asked))


def _turn(about: Scene, family: Family, rng: random.Random) -> Turn | None:
    if family not in EXTRA_FAMILIES and rng.random() < PLAIN_SHARE:
        return plain(about, family, rng)  # type: ignore[arg-type]
    return worded(about, family, rng)


def row_about(about: Scene, rng: random.Random, writer: Writer, tokens: int = ROW_TOKENS) -> Row:
    """A row of at most so many tokens: a description, then questions of all families."""
    before = writer.ids(rng.choice(PREFIX_TEXTS[1:]) if rng.random() < SYSTEM_SHARE else PREFIX_TEXTS[0])
    left = tokens - len(before) - IMAGE_TOKENS
    families, shares = list(SHARES), list(SHARES.values())
    row, asked = Row(scene=about, before=before, branches=[]), set[str]()
    family = rng.choice(DESCRIBING)
    while True:
        turn = _turn(about, family, rng)
        if turn is not None and turn.request not in asked:
            asked.add(turn.request)
            branch = writer.branch(turn)
            if len(branch.ids) > left:
                return row
            row.branches.append(branch)
            left -= len(branch.ids)
        family = rng.choices(families, shares)[0]


def pack(rows: Sequence[Row], tokens: int = ROW_TOKENS) -> Batch:
    """Rows as arrays, padded to one length."""
    shape = (len(rows), tokens)
    ids, positions, targets = (np.zeros(shape, np.int32) for _ in range(3))
    branch_numbers, weights = np.full(shape, -1, np.int32), np.zeros(shape, np.float32)
    for number, row in enumerate(rows):
        prefix = [*row.before, *[IMAGE_ID] * IMAGE_TOKENS]
        start = len(prefix)
        ids[number, :start], positions[number, :start], branch_numbers[number, :start] = prefix, np.arange(start), 0
        for branch_number, branch in enumerate(row.branches, 1):
            stop = start + len(branch.ids)
            ids[number, start:stop] = branch.ids
            positions[number, start:stop] = len(prefix) + np.arange(len(branch.ids))
            branch_numbers[number, start:stop] = branch_number
            targets[number, start : stop - 1] = branch.ids[1:]
            # a token is predicted at the place before its own
            weights[number, start + branch.question_tokens - 1 : stop - 1] = _weight(branch.family)
            weights[number, stop - 2] *= ENDING
            start = stop
    return Batch(
        pixels=np.stack([np.asarray(row.scene.image) for row in rows]),
        ids=ids,
        positions=positions,
        branch_numbers=branch_numbers,
        targets=targets,
        weights=weights,
    )


def _weight(family: Family) -> float:
    if family in DESCRIBING:
        return DESCRIPTION
    return DECISION if family in DECISIONS else SHORT_ANSWER


@dataclass(frozen=True, kw_only=True)
class Batches:
    """The batches of a run, by the number of the step; no scene is drawn twice.

    Attributes:
        seed: of the questions.
        rows: scenes in a batch.
        writer: the tokenizer.
        tokens: of a row.
    """

    seed: int
    rows: int
    writer: Writer
    tokens: int = ROW_TOKENS

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step: always the same."""
        rows = []
        for number in range(self.rows):
            index = step * self.rows + number
            about = scene(FIRST_TRAINING_SEED + index)
            rows.append(row_about(about, random.Random(f"{self.seed}/{index}"), self.writer, self.tokens))
        return pack(rows, self.tokens)
