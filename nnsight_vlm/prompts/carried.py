"""Which layouts can carry what a prompt gives to the model.

Rows of a batch, packed copies and what continues a cache are made from a prompt's inputs, so it must be known what each
of them counts. Inputs of the family are known, and so are position ids. Of the others:

- a *setting*, a number, text or bool, holds for a whole forward, in whatever layout;
- an input `[row, token, ...]` follows its tokens; only what continues a cache is not given it;
- whatever else there is (*uncounted*) is carried by a forward of the prompt as it is, and by no other.

What a layout cannot carry is refused by its name, or the prompt runs by itself.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import torch

from ..errors import SpecError
from ..families import view_of
from .pixel_tokens import said_pixel_tokens

if TYPE_CHECKING:
    from .prompt import Prompt

TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids")
"""Inputs of transformers that say which tokens are an image's or a video's."""


def counts_tokens(prompt: Prompt, name: str) -> bool:
    """Whether an input has an entry for every token, `[row, token, ...]`."""
    value, ids = prompt.inputs[name], prompt.inputs["input_ids"]
    may_count = name not in view_of(prompt.model).family.inputs and isinstance(value, torch.Tensor)
    return may_count and value.shape[:2] == ids.shape


def settings(prompt: Prompt) -> dict[str, Any]:
    """The inputs that hold for a whole forward."""
    return {name: value for name, value in prompt.inputs.items() if isinstance(value, (bool, int, float, str))}


def foreign(prompt: Prompt) -> tuple[str, ...]:
    """The inputs that are neither the family's nor settings."""
    held = settings(prompt)
    return tuple(name for name in prompt.inputs if name not in held and not is_known(prompt, name))


def uncounted(prompt: Prompt) -> tuple[str, ...]:
    """The foreign inputs that do not follow the tokens, or follow them in more than one dimension."""
    width = prompt.inputs["input_ids"].shape[1]
    return tuple(
        name
        for name in foreign(prompt)
        if not counts_tokens(prompt, name) or width in tuple(prompt.inputs[name].shape[2:])
    )


def is_known(prompt: Prompt, name: str) -> bool:
    """Whether the family table says what an input is, or transformers does."""
    family = view_of(prompt.model).family
    if name in TOKEN_TYPES:
        return _has_usual_types(prompt, name)
    named = {family.tokens, family.image_mask, "input_ids", "attention_mask", "position_ids"}
    return name in named or any(name in column for column in (family.inputs, family.needs, family.new_token_values))


def _has_usual_types(prompt: Prompt, name: str) -> bool:
    """Whether text tokens are of the type that a model takes them for if it is told nothing."""
    if not counts_tokens(prompt, name) or prompt.inputs[name].dim() != 2:
        return False
    if view_of(prompt.model).family.blocks == "marked":  # their blocks say it, which prompts are compared by
        return True
    text = torch.ones(prompt.inputs[name].shape, dtype=torch.bool)
    for row, tokens in enumerate(prompt.rows):
        text[row, [position for position in tokens.visual_tokens if position >= 0]] = False
    of_text = set(prompt.inputs[name].cpu()[text].unique().tolist())
    return of_text <= {0, view_of(prompt.model).family.new_token_values.get(name, 0)}


# what follows for batches and answers -------------------------------------------------------------


def company(prompt: Prompt) -> Hashable | None:
    """Prompts of equal company may be rows of one batch; None for a prompt that runs by itself."""
    if uncounted(prompt) or any(said_pixel_tokens(prompt)):  # beside another's pixels they are no words
        return None
    held = tuple(sorted(settings(prompt).items()))
    return frozenset(foreign(prompt)), held, pictures(prompt), length(prompt), any(row.videos for row in prompt.rows)


def pictures(prompt: Prompt) -> int | None:
    """What the pictures of a batch's rows must have in common: text reads the padding of missing pictures or tiles.

    Of videos whose input is padded to the longest, the number of frames.
    """
    family = view_of(prompt.model).family
    if family.image_at == "cross":
        return len(prompt.rows[0].images)
    video = family.video
    if video is not None and video.equal_frames and video.pixels in prompt.inputs:
        return int(prompt.inputs[video.pixels].shape[1])
    shown = family.grid == "equal tiles" and family.pixels in prompt.inputs
    return int(prompt.inputs[family.pixels].shape[1]) if shown else None


def length(prompt: Prompt) -> int | None:
    """How long the rows of a batch must be; None where they are padded, which decoders of an encoder are not."""
    return None if view_of(prompt.model).family.tokens == "input_ids" else prompt.width


def same_clean_run(prompt: Prompt, other: Prompt) -> bool:
    """Whether equal tokens at equal positions say that two prompts run alike: no input says anything else."""
    marked = view_of(prompt.model).family.blocks == "marked"
    alike = not marked or [row.blocks for row in prompt.rows] == [row.blocks for row in other.rows]
    return alike and not foreign(prompt) and not foreign(other) and settings(prompt) == settings(other)


def why_alone(prompt: Prompt) -> str:
    """Why a prompt cannot share a forward with others, or with itself; empty where it can."""
    return next((f"{_unknown(prompt, name)}, so its prompt runs by itself" for name in uncounted(prompt)), "")


def why_uncached(prompt: Prompt) -> str:
    """Why what a prompt begins with cannot be run by itself; empty where it can."""
    return next((f"{_unknown(prompt, name)}, so all its tokens run together" for name in foreign(prompt)), "")


def _unknown(prompt: Prompt, name: str) -> str:
    value, family = prompt.inputs[name], view_of(prompt.model).family
    shape = f" of shape {list(value.shape)}" if isinstance(value, torch.Tensor) else f" of type {type(value).__name__}"
    return f"nothing says what the input {name!r}{shape} means to models of type {family.name!r}"


def check_rows(prompt: Prompt, number: int) -> None:
    """Refuse to take a row out of an encoding one of whose inputs may have no rows.

    Raises:
        SpecError: naming the input.
    """
    for name in uncounted(prompt):
        if len(prompt) > 1 or _may_count_tokens(prompt, name):
            raise SpecError(
                f"{_unknown(prompt, name)}, so the part of row {number} cannot be told; encode each row by itself"
            )


def check_growing(prompt: Prompt) -> None:
    """Refuse to add tokens to a prompt one of whose inputs may have an entry for each token, in an unknown way.

    Raises:
        SpecError: naming the input.
    """
    if len(prompt) > 1:
        check_rows(prompt, 0)
    for name in uncounted(prompt):
        if _may_count_tokens(prompt, name):
            raise SpecError(
                f"{_unknown(prompt, name)}, so it cannot be continued at generated tokens; leave it out, or use nv.run"
            )


def _may_count_tokens(prompt: Prompt, name: str) -> bool:
    """Whether an uncounted input has a dimension that is as long as the sequence."""
    value = prompt.inputs[name]
    if not isinstance(value, torch.Tensor):
        return True
    lengths = value.shape if value.dim() == 1 else value.shape[1:]
    return bool({prompt.width, prompt.inputs["input_ids"].shape[1]} & set(lengths))
