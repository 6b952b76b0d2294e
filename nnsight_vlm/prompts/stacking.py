"""Several prompts as the rows of one encoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch.nn import functional

from ..errors import SpecError
from ..families import view_of
from ..identity import same_model
from .carried import counts_tokens, foreign, length, pictures, settings, uncounted
from .given import prompts_given
from .pixel_tokens import refuse_said_pixel_tokens
from .position_ids import position_ids
from .prompt import Prompt, PromptBatch, make_prompt
from .ranges import Ranges
from .row_inputs import counted_dimension, moved_indices, places_in
from .stage_maps import with_earlier_stages
from .token_roles import token_maps
from .turns import speaking, spoken


def stack(prompts: Sequence[Prompt]) -> Prompt | PromptBatch:
    """Prompts of one row each as the rows of one encoding, padded on the left.

    Inputs without an entry per token (pixels) are concatenated, as processors do. If one prompt has position ids of the
    caller's own, the others are given those that the model would compute.

    Raises:
        SpecError: a prompt of several rows, prompts of two models, or prompts whose results would change in one batch;
            inputs of which nothing says how they are stacked.
    """
    prompts = prompts_given(prompts, to="stack")
    _check_stackable(prompts)
    if len(prompts) == 1:
        return prompts[0]
    model = prompts[0].model
    width = max(prompt.width for prompt in prompts)
    input_width = max(prompt.inputs["input_ids"].shape[1] for prompt in prompts)
    names = dict.fromkeys(name for prompt in prompts for name in prompt.inputs)
    held = settings(prompts[0])
    inputs = {
        name: held[name]
        if name in held
        else _concatenated(list(_one_per_row(prompts, name, input_width)), counted_dimension(model, name))
        for name in names
        if name != "position_ids"
    }
    if "position_ids" in names:
        inputs["position_ids"] = _stacked_positions(prompts, input_width)
    images = tuple(prompt.images[0] if prompt.images else () for prompt in prompts)
    videos = tuple(prompt.videos[0] if prompt.videos else () for prompt in prompts)
    paddings = [width - prompt.width for prompt in prompts]
    if any(prompt.rows[0].outside for prompt in prompts):
        # how many keys lie outside the sequence depends on the other rows, so the token maps are made again
        answers = [prompt.rows[0].answer + padding for prompt, padding in zip(prompts, paddings, strict=True)]
        said = [
            spoken(prompt.rows[0]).mapped(partial(Ranges.shifted, by=padding))
            for prompt, padding in zip(prompts, paddings, strict=True)
        ]
        rows = tuple(
            speaking(replace(tokens, answer=answer), conversation)
            for tokens, answer, conversation in zip(token_maps(model, inputs, answers), answers, said, strict=True)
        )
    else:
        rows = tuple(
            prompt.rows[0].shifted(padding, filler=_padding_token(prompt))
            for prompt, padding in zip(prompts, paddings, strict=True)
        )
        rows = with_earlier_stages(view_of(model), inputs, rows)
    return make_prompt(model, inputs, rows, images, videos if any(videos) else ())


def _check_stackable(prompts: Sequence[Prompt]) -> None:
    """Refuse prompts that cannot be the rows of one encoding."""
    strangers = [number for number, prompt in enumerate(prompts) if not same_model(prompt.model, prompts[0].model)]
    if strangers:
        raise SpecError(
            f"prompt {strangers[0]} was encoded for another model than prompt 0, and one batch runs on one model; "
            "encode all of them with the model that runs them, nv.encode(model, ...)"
        )
    refuse_said_pixel_tokens(*prompts)
    _check_company(prompts)
    family = view_of(prompts[0].model).family
    if len(set(map(length, prompts))) > 1:
        raise SpecError(
            f"the answers of these prompts have different lengths, and models of type {family.name!r}, which have an "
            "encoder, cannot pad them; run them one at a time"
        )
    unequal = sorted({count for count in map(pictures, prompts) if count is not None})
    if family.image_at == "cross" and len(unequal) > 1:
        raise SpecError(
            f"prompts of models of type {family.name!r} share a batch only if they have equally many images, because "
            "text before an image reads the padding of missing images; run them one at a time"
        )
    if len(unequal) > 1:
        raise SpecError(
            f"the {'pictures' if family.video is None else 'videos'} of these prompts have "
            f"{' and '.join(map(str, unequal))} {'tiles' if family.video is None else 'frames'}, and models of type "
            f"{family.name!r} share a batch only if all have equally many, because they read empty ones as they do "
            "others; run the prompts one at a time"
        )


def _check_company(prompts: Sequence[Prompt]) -> None:
    """Refuse prompts with inputs that cannot be rows of one tensor, or that only some of the prompts have."""
    alone = [name for prompt in prompts for name in uncounted(prompt)]
    if alone and len(prompts) > 1:
        raise SpecError(
            f"nothing says what the input {alone[0]!r} counts in models of type "
            f"{view_of(prompts[0].model).family.name!r}, so it cannot be stacked; run such prompts one at a time"
        )
    own = [{**dict.fromkeys(foreign(prompt)), **settings(prompt)} for prompt in prompts]
    unequal = [name for each in own for name in each if any(each[name] != other.get(name, other) for other in own)]
    if unequal:
        raise SpecError(
            f"the prompts do not have the same input {unequal[0]!r}, or not all of them have it; run them one at a time"
        )


def _stacked_positions(prompts: Sequence[Prompt], width: int) -> torch.Tensor:
    """Position ids of all rows, padded with zeros on the left: `[row, token]`, or `[3, row, token]`."""
    each = [position_ids(prompt) for prompt in prompts]
    deepest = max(each, key=torch.Tensor.dim)
    if deepest.dim() > 2:
        each = [ids if ids.dim() > 2 else ids[None].expand(len(deepest), -1, -1) for ids in each]
        if len(set(map(len, each))) > 1:
            raise SpecError(
                f"position_ids of these prompts begin with dimensions of {sorted(set(map(len, each)))}; give all of "
                "them in one form"
            )
    return torch.cat([functional.pad(ids, (width - ids.shape[-1], 0)) for ids in each], dim=-2)


def _one_per_row(prompts: Sequence[Prompt], name: str, width: int) -> Iterator[torch.Tensor]:
    """An input of each prompt, padded to a width; zeros for a prompt without it, if the input has an entry per row."""
    first = next(prompt for prompt in prompts if name in prompt.inputs)
    in_every_row = view_of(first.model).family.inputs.get(name) == "row" or counts_tokens(first, name)
    indexed, before = view_of(first.model).family.indices.get(name), 0
    for prompt in prompts:
        if name in prompt.inputs and indexed:
            yield moved_indices(prompt.inputs[name], before)
            before += places_in(prompt.inputs[indexed])
        elif name in prompt.inputs:
            yield _padded(prompt, name, width)
        elif in_every_row:
            yield torch.zeros_like(_padded(first, name, width))


def _padded(prompt: Prompt, name: str, width: int) -> torch.Tensor:
    """An input; if it has an entry per token, padded on the left, or on the right for an encoder."""
    value: torch.Tensor = prompt.inputs[name]
    if not counts_tokens(prompt, name):
        return value
    entry = _padding_token(prompt) if name == "input_ids" else 0
    padding = value.new_full((1, width - value.shape[1], *value.shape[2:]), entry)
    has_encoder = view_of(prompt.model).family.tokens != "input_ids"
    return torch.cat([value, padding] if has_encoder else [padding, value], dim=1)


def _padding_token(prompt: Prompt) -> int:
    """The pad token (some models derive positions from it); if there is none, any token that stands for no pixels."""
    config, tokens = view_of(prompt.model).config, prompt.rows[0]
    pad = config.get_text_config().pad_token_id
    return tokens.filler if pad is None or pad == getattr(config, "image_token_id", None) else int(pad)


def _concatenated(values: Sequence[torch.Tensor], along: int) -> torch.Tensor:
    """Tensors along a dimension; along the first, the others are padded with zeros to the size of the largest."""
    if along:
        return torch.cat(list(values), dim=along)
    sizes = [max(lengths) for lengths in zip(*(value.shape[1:] for value in values), strict=True)]
    return torch.cat([_padded_to(value, sizes) for value in values])


def _padded_to(value: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    missing = [size - length for size, length in zip(sizes, value.shape[1:], strict=True)]
    return functional.pad(value, [padding for length in reversed(missing) for padding in (0, length)])
