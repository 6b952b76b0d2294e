"""What a model still answers after an ablation of image tokens: one token, yes or no, a description, a box."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..families import Model, view_of
from ..prompts.prompt import Prompt
from ..prompts.token_text import tokenizer_of
from ..remote.model_call import Remote
from ..specs.interventions import CLEAN
from ..studies.box_formats import BoxFormat, Size, box_of, box_scores
from ..studies.words import Objects, Thing, agreement
from ..sweeping.table import sweep
from .token_variants import Target, Variant


def answer_rows(
    model: Model,
    target: Target,
    variants: Sequence[Variant],
    against: int | None,
    memory: int | None,
    remote: Remote,
) -> list[dict[str, Any]]:
    """Rows of an answer of one token, from one sweep.

    Args:
        model: an nnsight model from `load`.
        target: the object, the prompt and the answer.
        variants: the ablations, the first of which is none.
        against: the token of the other reply, of a question that has two.
        memory: see `nv.sweep`.
        remote: see `nv.run`.
    """
    cases = [CLEAN if variant.intervention is None else variant.intervention for variant in variants]
    scores = sweep(model, target.before, cases, answer=target.answer, against=against, memory=memory, remote=remote)
    return [
        _answer_row(target, variant, score, against is not None)
        for variant, (_, score) in zip(variants, scores.iterrows(), strict=True)
    ]


def _answer_row(target: Target, variant: Variant, score: Mapping[str, Any], polled: bool) -> dict[str, Any]:
    """One row, of a question with two replies or of another one."""
    row = {**_row(target, variant), "logprob_change": float(score["logprob"] - score["clean_logprob"])}
    if not polled:
        return {**row, "kept": math.nan if math.isnan(score["rank"]) else float(score["rank"] == 0)}
    share, before = (_logistic(float(score[name])) for name in ("logit_diff", "clean_logit_diff"))
    return {**row, "yes": share, "yes_change": share - before, "kept": float(share > 0.5)}


def _row(target: Target, variant: Variant) -> dict[str, Any]:
    return {"image": target.image, "thing": target.found.thing, **variant.labels}


def _logistic(difference: float) -> float:
    """The probability of one of two tokens among the two, from the difference of their logits."""
    return float(1 / (1 + np.exp(-difference)))


def description_rows(
    target: Target, variants: Sequence[Variant], texts: Sequence[str], truth: Sequence[Thing], objects: Objects
) -> Iterator[dict[str, Any]]:
    """Rows of one picture's descriptions; the first is the model's own."""
    own, true = objects(texts[0]), [thing.name for thing in truth]
    for variant, text in zip(variants, texts, strict=True):
        names = objects(text)
        yield {
            **_row(target, variant),
            "named": float(target.found.thing in names),
            **agreement(names, own),
            **{f"{measure}_true": value for measure, value in agreement(names, true).items()},
            "objects": float(len(names)),
            "text": text,
        }


class BoxReading(NamedTuple):
    """How a model's answer is read as a box.

    Attributes:
        format: how it writes boxes.
        size: of the picture in pixels.
        resized: of the picture as the model sees it, where that is known.
    """

    format: BoxFormat
    size: Size
    resized: Size | None


def box_rows(
    target: Target, variants: Sequence[Variant], texts: Sequence[str], truth: Sequence[Thing], reading: BoxReading
) -> Iterator[dict[str, Any]]:
    """Rows of a picture's answers with boxes; the first is the model's own."""
    masks = [thing.mask for thing in truth if thing.name == target.found.thing and thing.mask is not None]
    true = [box for mask in masks if (box := box_of(mask)) is not None]
    for variant, text in zip(variants, texts, strict=True):
        score = box_scores(text, true, format=reading.format, size=reading.size, resized=reading.resized)
        scored = {"box_iou": score.iou, "box_hit": float(score.hit), "boxes": float(score.boxes), "text": text}
        yield {**_row(target, variant), **scored}


def resized_size(prompt: Prompt) -> Size | None:
    """`(width, height)` of a picture as the vision tower is handed it, where an input lists its rows and columns."""
    counts = prompt.inputs.get("image_grid_thw")
    if counts is None:
        return None
    side = int(view_of(prompt.model).config.vision_config.patch_size)
    _, rows, columns = (int(count) for count in counts[0])
    return columns * side, rows * side


def whole_text(model: Model, tokens: Sequence[int]) -> str:
    """An answer with its special tokens, some of which write boxes."""
    return str(tokenizer_of(model).decode(list(tokens), skip_special_tokens=False))
