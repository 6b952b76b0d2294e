"""From a ready encoding to a `Prompt`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import SpecError
from ..families import Model
from .conversation import READY
from .pictures import per_row
from .prompt import Prompt, PromptBatch, make_prompt
from .ready_inputs import check_entries, checked_inputs
from .token_roles import token_maps
from .token_text import known_tokenizer
from .turns import speaking, unspoken


def from_inputs(model: Model, inputs: Mapping[str, Any], images: Any) -> Prompt | PromptBatch:
    """A prompt from an encoding and its pictures.

    Raises:
        SpecError: see `checked_inputs`; another number of pictures than the rows have images.
    """
    inputs = checked_inputs(model, inputs)
    tokenizer = known_tokenizer(model)
    rows = tuple(speaking(row, unspoken(row, tokenizer, READY)) for row in token_maps(model, inputs))
    check_entries(model, inputs, rows)
    pictures = per_row(images, len(rows))
    image_counts, given_counts = [len(tokens.images) for tokens in rows], list(map(len, pictures))
    if any(pictures) and given_counts != image_counts:
        raise SpecError(
            f"{given_counts} picture(s) were given for the {len(rows)} row(s), whose input_ids have tokens of "
            f"{image_counts} image(s)"
        )
    return make_prompt(model, inputs, rows, pictures if any(pictures) else ())
