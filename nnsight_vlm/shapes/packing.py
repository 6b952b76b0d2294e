"""Many questions about one image in one sequence: how a training batch is laid out and what may see what.

A sequence is the prefix (system text and image) and after it ``ROWS`` rows of ``LENGTH`` tokens; a row holds one or
more *branches*, each a question with its answer. A branch sees the prefix and itself, and counts its positions from the
prefix's end, so that it computes what it would compute alone. Causal attention makes this exact.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from .language import COLORS, DESCRIPTIONS, NUMBERS, PLACES, SHAPES, SIZES, SYSTEM, Question, ask, tokens
from .model import IMAGE_TOKENS, vocabulary
from .world import Scene

ROWS, LENGTH = 4, 48
PREFIX = 1 + len(tokens(SYSTEM)) + IMAGE_TOKENS
IDS = vocabulary()
PREFIX_IDS = [IDS["<s>"], *(IDS[word] for word in tokens(SYSTEM)), *[IDS["<image>"]] * IMAGE_TOKENS]

# How often a short question is of a family. First those that one look-up answers, then all.
LOOKUPS = {"where": 3, "color": 3, "shape": 3, "size": 2, "exists": 1, "count": 0.3}
SHARES = {"where": 3, "exists": 4, "color": 2, "left-of": 4, "above": 4, "size": 2, "shape": 2, "count": 0.6}

# What the first rows begin with, one of each tuple: when training `shapes`, and when fine-tuning `shapes-gist`.
LEADS = (("describe", "describe", "describe-short", "list"), ("facts",))
DESCRIBING = (("describe",), ("describe", "describe-short", "list"))

# Loss weight of words that the image decides, and of all other words: in short answers, longer ones, questions.
CONTENT = frozenset(IDS[word] for word in (*COLORS, *SHAPES, *SIZES, *PLACES, *NUMBERS, "yes", "no"))
SHORT, LONG, QUESTION = (2.0, 0.1), (0.8, 0.2), (0.4, 0.02)


@dataclass(frozen=True, kw_only=True)
class Branch:
    """One question with its answer as ids: how many belong to the prompt, and each one's weight in the loss."""

    family: str
    ids: list[int]
    prompt: int
    weights: list[float]


def branch(question: Question) -> Branch:
    """``user: ... assistant: ... </s>`` with the loss weight of every token (the weight with which it is predicted)."""
    asked = [IDS[word] for word in ("user:", *tokens(question.text), "assistant:")]
    told = [IDS[word] for word in tokens(question.answer)]
    kind = LONG if question.family in (*DESCRIPTIONS, "facts") else SHORT
    weights = [QUESTION[it not in CONTENT] for it in asked] + [kind[it not in CONTENT] for it in (*told, IDS["</s>"])]
    return Branch(family=question.family, ids=[*asked, *told, IDS["</s>"]], prompt=len(asked), weights=weights)


def branches(
    scene: Scene,
    rng: random.Random,
    shares: dict[str, float] = SHARES,
    leads: tuple[tuple[str, ...], ...] = LEADS,
) -> list[list[Branch]]:
    """Rows full of branches about a scene: a long one first in each row of ``leads``, short questions to fill up."""
    rows: list[list[Branch]] = []
    for row in range(ROWS):
        first = leads[row] if row < len(leads) else tuple(shares)
        rows.append([_asked(scene, rng.choice(first), rng)])
        while sum(len(it.ids) for it in rows[-1]) <= LENGTH:
            rows[-1].append(_asked(scene, rng.choices(tuple(shares), tuple(shares.values()))[0], rng))
        if len(rows[-1]) > 1:
            rows[-1].pop()
    return rows


def _asked(scene: Scene, family: str, rng: random.Random) -> Branch:
    question = ask(scene, family, rng)
    return _asked(scene, "where", rng) if question is None else branch(question)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Packed sequences as tensors.

    ``ids`` and ``positions`` [batch, rows * length]; ``targets`` and ``weights`` likewise, already shifted to the
    position that predicts; ``owner`` [batch, rows, length] numbers the branches of a row, 0 is padding; ``blind``
    [batch, rows * length] marks tokens that must not see the image; ``pixels`` [batch, 3, 80, 80].
    """

    pixels: torch.Tensor
    ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    owner: torch.Tensor
    blind: torch.Tensor

    def to(self, device: str) -> Batch:
        """The same batch on another device."""
        return Batch(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def pack(
    scenes: list[Scene], layout: list[list[list[Branch]]], rng: random.Random, text_only: float = 0.0, cut: float = 0.0
) -> Batch:
    """Pack the branches of each scene (``layout[scene][row]``) into one sequence per scene.

    A share ``text_only`` of the branches never sees the image, in no token. In a share ``cut`` the answer's tokens do
    not see it while the question's do: used for ``shapes-gist`` alone.
    """
    shape = (len(scenes), ROWS, LENGTH)
    ids, positions, targets, owner = (np.zeros(shape, np.int64) for _ in range(4))
    weights, blind = np.zeros(shape, np.float32), np.zeros(shape, bool)
    for b, rows in enumerate(layout):
        for r, row in enumerate(rows):
            start = 0
            for number, it in enumerate(row, 1):
                stop, draw = start + len(it.ids), rng.random()
                ids[b, r, start:stop] = it.ids
                positions[b, r, start:stop] = np.arange(len(it.ids))
                targets[b, r, start : stop - 1] = it.ids[1:]
                weights[b, r, start : stop - 1] = it.weights[1:]
                owner[b, r, start:stop] = number
                hidden_from = start if draw < text_only else start + it.prompt if draw < text_only + cut else stop
                blind[b, r, hidden_from:stop] = True
                start = stop
    flat = (np.reshape(a, (len(scenes), -1)) for a in (ids, positions + PREFIX, targets, weights, blind))
    names = ("ids", "positions", "targets", "weights", "blind")
    tensors = {name: torch.from_numpy(array) for name, array in zip(names, flat, strict=True)}
    return Batch(pixels=pixels(scenes), owner=torch.from_numpy(owner), **tensors)


def pixels(scenes: list[Scene]) -> torch.Tensor:
    """Images as the processor prepares them: float32 [batch, 3, 80, 80] in [-1, 1]."""
    stacked = torch.from_numpy(np.stack([np.asarray(scene.image) for scene in scenes]))
    return stacked.permute(0, 3, 1, 2).contiguous() / 127.5 - 1


def packed_attention(
    _: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: tuple[torch.Tensor, torch.Tensor],
    scaling: float,
    **_unused: object,
) -> tuple[torch.Tensor, None]:
    """Attention over packed rows, [batch, head, token, channel]; ``attention_mask`` is the pair made by `masks`."""
    own_mask, prefix_mask = attention_mask
    heads, width = query.shape[1], query.shape[-1]
    prefix = F.scaled_dot_product_attention(
        query[:, :, :PREFIX], key[:, :, :PREFIX], value[:, :, :PREFIX], is_causal=True, scale=scaling
    )
    rows = (query.shape[0], heads, ROWS, LENGTH, width)
    q, k, v = (tensor[:, :, PREFIX:].reshape(rows) for tensor in (query * scaling, key, value))
    own = q @ k.transpose(-1, -2) + own_mask
    far = q.flatten(2, 3) @ key[:, :, :PREFIX].transpose(-1, -2) + prefix_mask
    both = torch.cat([far.reshape(*own.shape[:-1], PREFIX), own], -1).softmax(-1)
    suffix = (both[..., :PREFIX].flatten(2, 3) @ value[:, :, :PREFIX]) + (both[..., PREFIX:] @ v).flatten(2, 3)
    return torch.cat([prefix, suffix], 2).transpose(1, 2).contiguous(), None


def masks(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """What a row's tokens may see, as numbers to add: of their row [batch, 1, rows, length, length], of the prefix."""
    same = batch.owner[:, :, :, None] == batch.owner[:, :, None, :]
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool, device=same.device).tril()
    own = torch.where(same & causal, 0.0, -1e9)[:, None]
    is_image = torch.tensor([n >= PREFIX - IMAGE_TOKENS for n in range(PREFIX)], device=same.device)
    return own, torch.where(batch.blind[:, None, :, None] & is_image, -1e9, 0.0)
