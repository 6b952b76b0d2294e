"""From a ready encoding to a `Prompt`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..errors import SpecError
from ..families import Model, view_of
from .conversation import READY
from .known_inputs import refuse_unknown
from .pictures import per_row
from .prompt import Prompt, PromptBatch, make_prompt
from .token_roles import token_maps
from .token_text import known_tokenizer
from .turns import speaking, unspoken

NOT_OF_AN_ENCODING = (
    *("past_key_values", "use_cache", "cache_position", "logits_to_keep", "inputs_embeds", "decoder_inputs_embeds"),
    *("encoder_outputs", "return_dict", "output_attentions", "output_hidden_states"),
    *("remote", "backend", "blocking", "job_id"),
)
"""Arguments of a model's forward, or of an nnsight trace, that are no part of a prompt."""


def from_inputs(model: Model, inputs: Mapping[str, Any], images: Any) -> Prompt | PromptBatch:
    """A prompt from an encoding and its pictures."""
    inputs = _checked_inputs(model, inputs)
    tokenizer = known_tokenizer(model)
    rows = tuple(speaking(row, unspoken(row, tokenizer, READY)) for row in token_maps(model, inputs))
    pictures = per_row(images, len(rows))
    image_counts, given_counts = [len(tokens.images) for tokens in rows], list(map(len, pictures))
    if any(pictures) and given_counts != image_counts:
        raise SpecError(
            f"{given_counts} picture(s) were given for the {len(rows)} row(s), whose input_ids have tokens of "
            f"{image_counts} image(s)"
        )
    return make_prompt(model, inputs, rows, pictures if any(pictures) else ())


def _in_model_dtype(model: Model, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs with pixels in the model's dtype; processors return another."""
    dtype = view_of(model).dtype
    return {
        name: value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }


def _checked_inputs(model: Model, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs with an attention mask, and with the first token of a decoder that reads an encoder.

    Raises:
        SpecError: an input is missing, has the wrong shape, or is not part of an encoding.
    """
    family, text_config = view_of(model).family, view_of(model).text_config
    left_out = ("labels",)
    given = {name: value for name, value in inputs.items() if value is not None and name not in left_out}
    _refuse_options(given)
    refuse_unknown(model, given)
    given = _in_model_dtype(model, given)
    ids = given.get("input_ids")
    if not isinstance(ids, torch.Tensor) or ids.dim() != 2:
        raise SpecError(
            "inputs need input_ids as a tensor [row, token]; a processor gives one with return_tensors='pt'"
        )
    if family.tokens not in given:
        given[family.tokens] = torch.full((len(ids), 1), int(text_config.decoder_start_token_id))
    mask = given.setdefault("attention_mask", torch.ones_like(ids))
    if not isinstance(mask, torch.Tensor) or mask.shape != ids.shape:
        raise SpecError(
            f"attention_mask has shape {tuple(np.shape(mask))} and input_ids {tuple(ids.shape)}; they must be equal"
        )
    _check_position_ids(model, given)
    missing = [name for name in family.needs if name not in given]
    decides_attention = family.blocks == "prompt"  # which tokens see each other, with pixels or without
    if missing and (decides_attention or any(name in given for name in family.inputs)):
        raise SpecError(
            f"the inputs have no {missing[0]}, without which models of type {family.name!r} silently compute something "
            "else; the processor returns it"
        )
    return given


def _refuse_options(given: Mapping[str, Any]) -> None:
    """Refuse entries that say how a model is run, which this package decides, or that stand in for what it checks."""
    options = [name for name in given if name in NOT_OF_AN_ENCODING]
    if options:
        raise SpecError(
            f"the inputs have {options[0]}, which is not part of an encoding: a prompt is its token ids, masks and "
            "pixels, as a processor returns them. Leave it out; how a model generates is said to nv.generate"
        )


def _check_position_ids(model: Model, given: Mapping[str, Any]) -> None:
    """Refuse position ids that the model does not read, or that are not one for each row and token."""
    family, value, ids = view_of(model).family, given.get("position_ids"), given["input_ids"]
    if value is None:
        return
    if family.positions == "own":
        raise SpecError(
            f"models of type {family.name!r} compute position ids themselves and do not read the inputs' position_ids; "
            "leave them out"
        )
    if not isinstance(value, torch.Tensor) or value.dim() not in (2, 3) or value.shape[-2:] != ids.shape:
        raise SpecError(
            f"position_ids have shape {tuple(np.shape(value))} and input_ids {tuple(ids.shape)}; give one for each row "
            "and token, [row, token], or [3, row, token] where the model has three numbers for each"
        )
