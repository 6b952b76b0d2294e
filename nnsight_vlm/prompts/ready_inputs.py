"""What a ready encoding must be, so that a model can be run on it and which token is what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..arguments import refuse, text
from ..device.positions import CACHE_NAMES
from ..errors import SpecError
from ..families import Model, view_of
from ..grids import video_spec
from .known_inputs import refuse_unknown
from .row_inputs import ENTRIES
from .token_map import TokenMap

NOT_OF_AN_ENCODING = (
    *(*CACHE_NAMES, "use_cache", "cache_position", "logits_to_keep", "inputs_embeds", "decoder_inputs_embeds"),
    *("encoder_outputs", "return_dict", "output_attentions", "output_hidden_states"),
    *("remote", "backend", "blocking", "job_id"),
)
"""Arguments of a model's forward, or of an nnsight trace, that are no part of a prompt."""


def checked_inputs(model: Model, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs with an attention mask, and with the first token of a decoder that reads an encoder.

    Raises:
        SpecError: an input is missing, has the wrong shape, or is not part of an encoding.
    """
    family, text_config = view_of(model).family, view_of(model).text_config
    if not isinstance(inputs, Mapping):
        refuse("inputs", inputs, "encoding", 'inputs=processor(text=..., images=..., return_tensors="pt")')
    by_the_way = {"labels"}.intersection(getattr(view_of(model).processor, "model_input_names", None) or ())
    named = ((family.renamed.get(name, name), value) for name, value in inputs.items())
    given = {name: value for name, value in named if value is not None and name not in by_the_way}
    _refuse_options(given)
    _refuse_videos(model, given)
    refuse_unknown(model, given)
    given = _in_model_dtype(model, given)
    ids = given.get("input_ids")
    if not isinstance(ids, torch.Tensor) or ids.dim() != 2:
        raise SpecError(
            "inputs need input_ids as a tensor [row, token]; a processor gives one with return_tensors='pt'"
        )
    _check_ids(model, ids)
    if family.tokens not in given:
        given[family.tokens] = torch.full((len(ids), 1), int(text_config.decoder_start_token_id))
    mask = given.setdefault("attention_mask", torch.ones_like(ids))
    if not isinstance(mask, torch.Tensor) or mask.shape != ids.shape:
        raise SpecError(
            f"attention_mask has shape {tuple(np.shape(mask))} and input_ids {tuple(ids.shape)}; they must be equal"
        )
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise SpecError("attention_mask must be 1 at tokens and 0 at padding, and has other values")
    _check_position_ids(model, given)
    _check_per_token(model, given)
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
    for name in given:
        text("a name in inputs", name)
    if "labels" in given:
        raise SpecError(
            "the inputs have labels, which only a loss reads, and none is computed here; leave them out: "
            '{name: value for name, value in inputs.items() if name != "labels"}'
        )
    options = [name for name in given if name in NOT_OF_AN_ENCODING]
    if options:
        raise SpecError(
            f"the inputs have {options[0]}, which is not part of an encoding: a prompt is its token ids, masks and "
            "pixels, as a processor returns them. Leave it out; how a model generates is said to nv.generate"
        )


def _refuse_videos(model: Model, given: Mapping[str, Any]) -> None:
    """Refuse a video of a family whose videos are not taken."""
    of_videos = [name for name in given if "video" in name and name not in view_of(model).family.inputs]
    if of_videos:
        try:
            video_spec(view_of(model))
        except SpecError as error:
            raise SpecError(f"the inputs have {of_videos[0]}: {error}") from None


def _check_ids(model: Model, ids: torch.Tensor) -> None:
    """Refuse token ids that are none, or that the model has no embedding for."""
    view, words = view_of(model), view_of(model).embedded_words
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool or not ids.numel():
        raise SpecError(f"input_ids of shape {tuple(ids.shape)} and {ids.dtype} are no token ids; give whole numbers")
    beyond = ids[(ids < 0) | (ids >= words)]
    placeholders = [getattr(view.config, "image_token_id", None), view.video_token]  # they need not have an embedding
    beyond = beyond[[int(token) not in placeholders for token in beyond]]
    if len(beyond):
        raise SpecError(f"input_ids hold {int(beyond[0])}, and the model has embeddings of tokens 0..{words - 1}")


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
    if value.is_floating_point():
        raise SpecError(f"position_ids are of {value.dtype}; give whole numbers, position_ids.long()")


def _check_per_token(model: Model, given: Mapping[str, Any]) -> None:
    """Refuse pixels that are no tensors, and an input with an entry for every token that has not as many."""
    family, ids = view_of(model).family, given["input_ids"]
    for name in family.inputs:
        parts = given[name] if isinstance(given.get(name), (list, tuple)) else [given.get(name)]
        if name in given and not all(isinstance(part, torch.Tensor) for part in parts):
            refuse(name, given[name], "tensor", "what a processor gives with return_tensors='pt'")
    for name in family.needs:
        value = given.get(name)
        if value is not None and name not in family.inputs and np.shape(value)[:2] != tuple(ids.shape):
            raise SpecError(
                f"{name} has shape {tuple(np.shape(value))} and input_ids {tuple(ids.shape)}; it needs an entry for "
                "each row and token, padding included, as the processor returns it"
            )


UNCOUNTED = ("group", "column")
"""What is not compared with the rows: the entries themselves say how many pictures go together, and how many columns a
token has is known where they are read (`grids.flexible.sliced`).
"""


def check_entries(model: Model, inputs: Mapping[str, Any], rows: Sequence[TokenMap]) -> None:
    """Refuse pixels, and what goes with them, of another number of pictures than the rows have.

    Raises:
        SpecError: with both numbers.
    """
    for name, counted in view_of(model).family.inputs.items():
        if name not in inputs or counted in UNCOUNTED:
            continue
        expected = sum(ENTRIES[counted](inputs[name], rows))
        if len(inputs[name]) != expected:
            raise SpecError(
                f"the input {name} has {len(inputs[name])} entries, and the rows have {expected} ({counted}s); both "
                "must come from one call of the processor"
            )


def _in_model_dtype(model: Model, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs with pixels in the model's dtype; processors return another. Seconds of a video stay as they are."""
    dtype, counted = view_of(model).dtype, view_of(model).family.inputs
    seconds = [name for name in inputs if counted.get(name) == "video" and np.ndim(inputs[name]) == 1]
    given = {**inputs, **{name: torch.as_tensor(inputs[name]) for name in seconds}}  # as exact as they were
    return {
        name: value.to(dtype)
        if isinstance(value, torch.Tensor) and value.is_floating_point() and name not in seconds
        else value
        for name, value in given.items()
    }
