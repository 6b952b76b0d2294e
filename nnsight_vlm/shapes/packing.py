"""Training batches: many questions about one image in one sequence, and the mask that keeps them apart.

A sequence is a prefix (system text and image) followed by `SEGMENTS` segments of `SEGMENT_TOKENS` tokens. A segment
holds one or more *branches*, each a question with its answer. A branch attends to the prefix and to itself, and its
positions continue from the prefix's end, so it computes exactly what it would compute alone behind that prefix.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from .language import (
    COLORS,
    DESCRIPTIONS,
    NUMBERS,
    PLACES,
    SHAPES,
    SIZES,
    SYSTEM,
    Question,
    TrainingFamily,
    ask,
    tokens,
)
from .model import IMAGE_TOKENS, vocabulary
from .world import Scene

SEGMENTS, SEGMENT_TOKENS = 4, 48
IDS = vocabulary()
PREFIX_IDS = [IDS["<s>"], *(IDS[word] for word in tokens(SYSTEM)), *[IDS["<image>"]] * IMAGE_TOKENS]
PREFIX_TOKENS = len(PREFIX_IDS)
MASKED = -1e9
"""Added to the attention score of a key that must not be seen."""

Shares = Mapping[TrainingFamily, float]
"""How often each family is asked, relative to the others."""
LOOKUPS: Shares = {"where": 3, "color": 3, "shape": 3, "size": 2, "exists": 1, "count": 0.3}
"""Short questions at the start of training: look-ups, which ask for no relation between objects."""
SHARES: Shares = {"where": 3, "exists": 4, "color": 2, "left-of": 4, "above": 4, "size": 2, "shape": 2, "count": 0.6}
"""Short questions afterwards."""

Leads = Sequence[Sequence[TrainingFamily]]
"""The families that the first branch of each of the first segments is drawn from."""
LEADS: Leads = (("describe", "describe", "describe-short", "list"), ("facts",))
GIST_LEADS: Leads = (("describe",), ("describe", "describe-short", "list"))
"""For fine-tuning `shapes-gist`."""


class LossWeights(NamedTuple):
    """Weights in the loss: of words that the image decides, and of all other words."""

    content: float
    other: float


CONTENT = frozenset(IDS[word] for word in (*COLORS, *SHAPES, *SIZES, *PLACES, *NUMBERS, "yes", "no"))
"""Ids of the words that the image decides."""
QUESTION_LOSS = LossWeights(0.4, 0.02)
SHORT_ANSWER_LOSS = LossWeights(2.0, 0.1)
LONG_ANSWER_LOSS = LossWeights(0.8, 0.2)


@dataclass(frozen=True, kw_only=True)
class Branch:
    """One question with its answer.

    Attributes:
        family: the question's family.
        ids: the token ids of `user: <question> assistant: <answer> </s>`.
        question_tokens: how many of the ids come before the answer.
        weights: the weight of each id in the loss, where it is the token to predict.
    """

    family: TrainingFamily
    ids: list[int]
    question_tokens: int
    weights: list[float]


Segment = list[Branch]


def branch(question: Question) -> Branch:
    """A question and its answer as token ids with loss weights."""
    asked = [IDS[word] for word in ("user:", *tokens(question.text), "assistant:")]
    answer = [*(IDS[word] for word in tokens(question.answer)), IDS["</s>"]]
    answer_loss = LONG_ANSWER_LOSS if question.family in (*DESCRIPTIONS, "facts") else SHORT_ANSWER_LOSS
    weights = [_weight(token, QUESTION_LOSS) for token in asked] + [_weight(token, answer_loss) for token in answer]
    return Branch(family=question.family, ids=[*asked, *answer], question_tokens=len(asked), weights=weights)


def _weight(token: int, weights: LossWeights) -> float:
    return weights.content if token in CONTENT else weights.other


def segments_about(scene: Scene, rng: random.Random, shares: Shares = SHARES, leads: Leads = LEADS) -> list[Segment]:
    """Segments filled with branches about a scene.

    Args:
        scene: what is asked about.
        rng: chooses the questions.
        shares: how often short questions are of each family.
        leads: the families of the first branch in the first segments; in the others it is a short question.
    """
    segments: list[Segment] = []
    for number in range(SEGMENTS):
        families = leads[number] if number < len(leads) else tuple(shares)
        segment = [_branch_about(scene, rng.choice(families), rng)]
        while sum(len(each.ids) for each in segment) <= SEGMENT_TOKENS:
            segment.append(_branch_about(scene, rng.choices(tuple(shares), tuple(shares.values()))[0], rng))
        if len(segment) > 1:
            segment.pop()  # the branch that no longer fits
        segments.append(segment)
    return segments


def _branch_about(scene: Scene, family: TrainingFamily, rng: random.Random) -> Branch:
    """A branch of this family, or a "where" question if the scene does not permit one."""
    question = ask(scene, family, rng)
    return _branch_about(scene, "where", rng) if question is None else branch(question)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Packed sequences as tensors; *place* counts tokens behind the prefix, all segments end to end.

    Attributes:
        pixels: the images `[batch, 3, 80, 80]`.
        ids: token ids `[batch, place]`.
        positions: position ids `[batch, place]`.
        targets: the token to predict at each place `[batch, place]`.
        weights: the weight of that prediction in the loss `[batch, place]`.
        branch_numbers: which branch of its segment a token belongs to `[batch, segment, token]`, from 1; 0 is padding.
        blind: which tokens must not see the image `[batch, place]`.
    """

    pixels: torch.Tensor
    ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    branch_numbers: torch.Tensor
    blind: torch.Tensor

    def to(self, device: str) -> Batch:
        """The same batch on another device."""
        return Batch(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def pack(
    scenes: Sequence[Scene],
    segments: Sequence[Sequence[Segment]],
    rng: random.Random,
    text_only: float = 0.0,
    cut: float = 0.0,
) -> Batch:
    """One sequence for each scene.

    Args:
        scenes: the images.
        segments: the segments about each scene.
        rng: chooses the branches that do not see the image.
        text_only: the share of branches in which no token sees the image.
        cut: the share of branches in which the question sees the image and the answer does not (for `shapes-gist`).
    """
    shape = (len(scenes), SEGMENTS, SEGMENT_TOKENS)
    ids, targets, branch_numbers = (np.zeros(shape, np.int64) for _ in range(3))
    positions = np.full(shape, PREFIX_TOKENS, np.int64)
    weights, blind = np.zeros(shape, np.float32), np.zeros(shape, bool)
    for scene_number, about_scene in enumerate(segments):
        for segment_number, segment in enumerate(about_scene):
            start, at = 0, (scene_number, segment_number)
            for number, each in enumerate(segment, 1):
                stop, draw = start + len(each.ids), rng.random()
                ids[at][start:stop] = each.ids
                positions[at][start:stop] += np.arange(len(each.ids))
                targets[at][start : stop - 1] = each.ids[1:]
                weights[at][start : stop - 1] = each.weights[1:]
                branch_numbers[at][start:stop] = number
                if draw < text_only:
                    blind[at][start:stop] = True
                elif draw < text_only + cut:
                    blind[at][start + each.question_tokens : stop] = True
                start = stop
    arrays: dict[str, np.ndarray] = {
        "ids": ids,
        "positions": positions,
        "targets": targets,
        "weights": weights,
        "blind": blind,
    }
    tensors = {name: torch.from_numpy(array.reshape(len(scenes), -1)) for name, array in arrays.items()}
    return Batch(pixels=pixels(scenes), branch_numbers=torch.from_numpy(branch_numbers), **tensors)


def pixels(scenes: Sequence[Scene]) -> torch.Tensor:
    """Images as the processor prepares them: float32 `[batch, 3, 80, 80]` in [-1, 1]."""
    stacked = torch.from_numpy(np.stack([np.asarray(scene.image) for scene in scenes]))
    return stacked.permute(0, 3, 1, 2).contiguous() / 127.5 - 1


class PackedMasks(NamedTuple):
    """What is added to the attention scores of the tokens behind the prefix.

    Attributes:
        segment: for the keys of their own segment `[batch, 1, segment, query, key]`.
        prefix: for the keys of the prefix `[batch, 1, place, key]`.
    """

    segment: torch.Tensor
    prefix: torch.Tensor


def masks(batch: Batch) -> PackedMasks:
    """The masks under which a branch sees itself and the prefix, and a blind token no image."""
    same_branch = batch.branch_numbers[:, :, :, None] == batch.branch_numbers[:, :, None, :]
    device = same_branch.device
    causal = torch.ones(SEGMENT_TOKENS, SEGMENT_TOKENS, dtype=torch.bool, device=device).tril()
    is_image = torch.arange(PREFIX_TOKENS, device=device) >= PREFIX_TOKENS - IMAGE_TOKENS
    return PackedMasks(
        segment=torch.where(same_branch & causal, 0.0, MASKED)[:, None],
        prefix=torch.where(batch.blind[:, None, :, None] & is_image, MASKED, 0.0),
    )


def packed_attention(
    _: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: PackedMasks,
    scaling: float,
    **_unused: object,
) -> tuple[torch.Tensor, None]:
    """Attention over packed sequences `[batch, head, token, channel]`, in the form that transformers calls."""
    head_count, channels = query.shape[1], query.shape[-1]
    prefix = F.scaled_dot_product_attention(
        query[:, :, :PREFIX_TOKENS],
        key[:, :, :PREFIX_TOKENS],
        value[:, :, :PREFIX_TOKENS],
        is_causal=True,
        scale=scaling,
    )
    by_segment = (query.shape[0], head_count, SEGMENTS, SEGMENT_TOKENS, channels)
    q, k, v = (states[:, :, PREFIX_TOKENS:].reshape(by_segment) for states in (query * scaling, key, value))
    to_segment = q @ k.transpose(-1, -2) + attention_mask.segment
    to_prefix = q.flatten(2, 3) @ key[:, :, :PREFIX_TOKENS].transpose(-1, -2) + attention_mask.prefix
    scores = torch.cat([to_prefix.reshape(*to_segment.shape[:-1], PREFIX_TOKENS), to_segment], -1)
    shares = scores.softmax(-1)
    from_prefix = shares[..., :PREFIX_TOKENS].flatten(2, 3) @ value[:, :, :PREFIX_TOKENS]
    from_segment = (shares[..., PREFIX_TOKENS:] @ v).flatten(2, 3)
    return torch.cat([prefix, from_prefix + from_segment], 2).transpose(1, 2).contiguous(), None
