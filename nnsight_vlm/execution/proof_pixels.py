"""Proof that no logit depends on the pixels: the prompt is run with others.

Proofs of attention and of states hold what an intervention names against what the model used. That says nothing of a
route that the intervention does not name: a token of the image's surroundings that nobody counted, a state that is
carried past attention. Here nothing is named. The pixels change, and the logits may not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch

from ..errors import InterventionError, SpecError
from ..families import Model, view_of
from ..families.support import unsupported
from ..lowering.layouts import one_case_per_row
from ..lowering.plan import Plan, compile_plan
from ..lowering.resolve import resolver
from ..lowering.writes import EdgeCut, PlannedWrite
from ..prompts.prompt import Prompt
from ..remote.batching import together
from ..remote.model_call import Remote
from ..specs.interventions import Intervention
from .decoding import decode_logits
from .proof_rounding import SINGLE, Rounding
from .requests import LogitRead, run_forward

DECODED = 4
"""How many tokens are decoded to prove cached generation."""
LEAST_SHARE = 64
"""Under the intervention, pixels may move logits by this much less than without, where rounding lets them move."""


class _Runs(NamedTuple):
    """Logits of one prompt under one plan: for each row, at its text tokens `[position, vocab]`."""

    own: list[torch.Tensor]
    other: list[torch.Tensor]


def check_pixels(model: Model, prompt: Prompt, intervention: Intervention) -> None:
    """Refuse what cannot be proved by changing pixels, before the model runs.

    Raises:
        SpecError: a prompt without pixels, or an intervention that neither cuts the image off from anything nor writes
            any states.
    """
    if not _pixels_of(prompt) or not any(row.visuals for row in prompt.rows):
        raise SpecError("the prompt has no pixels that could change; leave pixels=True out, or give it a picture")
    if not any(_acts_on_image(model, prompt, part) for part in intervention.parts):
        raise SpecError(
            f"this intervention neither cuts attention to the image nor writes states, so it cannot make logits "
            f"independent of the pixels; leave pixels=True out, or write {_complete_cut(model, prompt)}"
        )


def can_decode(prompt: Prompt) -> bool:
    """Whether tokens can be generated from all rows at once: those padded on the right, say, cannot grow."""
    unpadded = all(row.start == 0 for row in prompt.rows)
    is_able = unpadded or "padded generation" not in view_of(prompt.model).family.limitations
    return is_able and all(row.stop == prompt.width for row in prompt.rows)


def _acts_on_image(model: Model, prompt: Prompt, part: Intervention) -> bool:
    """Whether a part cuts the image off from anything, or writes states anywhere."""
    if part.capture() is not None:
        return True
    for placement in one_case_per_row(prompt).placements:
        for stage, _, _, write in part.lower(resolver(model, replace(placement, vision=0))):
            if not isinstance(write, EdgeCut):
                return True
            if any(position in write.sources for position in placement.tokens.stage(stage).visual_tokens):
                return True
    return False


def _complete_cut(model: Model, prompt: Prompt) -> str:
    """The intervention that cuts all images and videos off from all text."""
    if "encoder" in view_of(model).family.stages:
        return (
            'nv.Knockout("image", ("all", "generated"), layers="attention") | '
            'nv.Knockout("image", "text", stage="encoder")'
        )
    kinds = sorted({visual.kind for row in prompt.rows for visual in row.visuals}) or ["image"]
    source = f'"{kinds[0]}"' if len(kinds) == 1 else '("image", "video")'
    return f'nv.Knockout({source}, "text", layers="attention")'


def prove_pixels(
    model: Model, prompt: Prompt, writes: Sequence[PlannedWrite], remote: Remote, *, rounding: Rounding
) -> int:
    """Run the prompt with other pixels, with the writes and without.

    Logits at all text tokens must be equal under the writes, up to rounding, and differ without. Where the writes act
    on tokens to come, `DECODED` tokens are decoded with each of the two pictures, and their logits must be equal too.

    Returns:
        How many positions and decoded tokens were compared.

    Raises:
        InterventionError: logits depend on the pixels; or they do not even without the writes, which proves nothing.
    """
    other = with_other_pixels(prompt)
    layout = one_case_per_row(prompt)
    cut, clean = compile_plan(model, layout, writes), compile_plan(model, layout, ())
    computations = [
        partial(_text_logits, model, each, plan, remote) for plan in (cut, clean) for each in (prompt, other)
    ]
    own, changed, clean_own, clean_changed = together(computations, remote)
    least = rounding.least
    by_rounding = [rounding.attention * _scale(logits, least) for logits in clean_own]
    allowed = [
        _allowed(row, float(gap_of(one, two, least).max()), most) if prompt.rows[row].visuals else most
        for row, (one, two, most) in enumerate(zip(clean_own, clean_changed, by_rounding, strict=True))
    ]
    compared = 0
    for row, (one, two) in enumerate(zip(own, changed, strict=True)):
        places = text_places(prompt, row)
        _expect_equal(prompt, gap_of(one, two, least), allowed[row], [f"position {place}" for place in places], row)
        compared += len(places)
    if can_decode(prompt) and any(write.write.targets.is_open for write in writes):
        compared += _prove_decoding(model, (prompt, other), cut, allowed, least, remote)
    return compared


def _prove_decoding(
    model: Model, prompts: Sequence[Prompt], plan: Plan, allowed: Sequence[float], least: float, remote: Remote
) -> int:
    """The logits of a few decoded tokens, up to the first that differs because two words are equally probable."""
    (tokens, logits), (other_tokens, other_logits) = together(
        [partial(decode_logits, model, prompt, plan, DECODED, remote) for prompt in prompts], remote
    )
    compared = 0
    for row, limit in enumerate(allowed):
        parted = (tokens[row] != other_tokens[row]).nonzero().flatten().tolist()
        steps = min(parted, default=DECODED - 1) + 1
        gaps = gap_of(logits[row, :steps], other_logits[row, :steps], least)
        single = 16 * SINGLE * _scale(logits[row], least)  # generation hands out logits in float32
        _expect_equal(prompts[0], gaps, max(limit, single), [f"decoded token {step}" for step in range(steps)], row)
        compared += steps
    return compared


# pixels and logits ----------------------------------------------------------------------------------


def with_other_pixels(prompt: Prompt) -> Prompt:
    """The prompt with uniform noise of the same shape in place of its pixels; padding stays padding."""
    noise = {name: _noise(prompt.inputs[name]) for name in _pixels_of(prompt)}
    return replace(prompt, inputs={**prompt.inputs, **noise}, images=(), videos=())


def _pixels_of(prompt: Prompt) -> list[str]:
    """The inputs of a prompt that hold pixels."""
    return [name for name in view_of(prompt.model).family.all_pixels if name in prompt.inputs]


def _noise(pixels: Any) -> Any:
    """Noise from -1 to 1; patches and tiles of which every value is 0, which are padding, stay so."""
    if not isinstance(pixels, torch.Tensor):
        return [_noise(each) for each in pixels]
    noise = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    noise = noise.to(device=pixels.device, dtype=pixels.dtype)
    within = tuple(range(-3, 0)) if pixels.dim() > 3 else (-1,)
    is_padding = (pixels == 0).all(-1, keepdim=True)
    for dim in within[:-1]:
        is_padding = is_padding.all(dim, keepdim=True)
    return noise if bool(is_padding.all()) else noise.masked_fill(is_padding, 0)


def text_places(prompt: Prompt, row: int) -> list[int]:
    """Where a row's tokens are in the sequence, those of images and videos left out."""
    tokens = prompt.rows[row]
    return [position for position in range(tokens.start, tokens.stop) if position not in tokens.visual_tokens]


def _text_logits(model: Model, prompt: Prompt, plan: Plan, remote: Remote) -> list[torch.Tensor]:
    """For each row the logits at its text tokens, `[position, vocab]`."""
    layout = one_case_per_row(prompt)
    places = [text_places(prompt, row) for row in range(len(prompt))]
    numbers = sum(map(len, places)) * view_of(model).vocab_size
    return run_forward(model, layout, plan, [], LogitRead.at(layout, places), remote, numbers=numbers).logits


# comparisons ------------------------------------------------------------------------------------------


def gap_of(one: torch.Tensor, two: torch.Tensor, least: float) -> torch.Tensor:
    """The largest difference at each position, over the tokens that the model may say: logits above `least`."""
    said = (one > least) | (two > least)
    return (one - two).abs().where(said, torch.zeros((), dtype=one.dtype)).amax(-1)


def _scale(logits: torch.Tensor, least: float) -> float:
    """The largest logit of a token that the model may say."""
    return float(logits[logits > least].abs().max())


def _allowed(row: int, moved: float, by_rounding: float) -> float:
    """How far logits of a row may move: what rounding may do, and much less than the pixels move them by themselves.

    Raises:
        InterventionError: the pixels do not move them by more than rounding.
    """
    if not moved > by_rounding:
        raise InterventionError(
            f"row {row}: without the intervention, other pixels move no logit at a text token by more than {moved:.3g},"
            f" which rounding may do (up to {by_rounding:.3g}), so equal logits prove nothing",
            plain="Other pixels change no prediction of the model as it is, so this proves nothing.",
        )
    return min(by_rounding, moved / LEAST_SHARE)


def _expect_equal(prompt: Prompt, gaps: torch.Tensor, allowed: float, names: Sequence[str], row: int) -> None:
    """Raise InterventionError, with numbers, where other pixels move a logit."""
    if bool((gaps <= allowed).all()):
        return
    model, worst = prompt.model, int(gaps.nan_to_num(float("inf")).argmax())
    why = unsupported(view_of(model).family).get("complete cut")
    raise InterventionError(
        f"row {row}, {names[worst]}: other pixels move a logit by {float(gaps[worst]):.3g} under the intervention (at "
        f"most {allowed:.3g} is rounding), and they do so at {int((~(gaps <= allowed)).sum())} of {len(names)} places: "
        f"the image still reaches the text{f'. In models of this type, {why}' if why else ''}",
        plain="Other pixels still change what the model predicts, so the picture reaches the text by another route.",
        advice="" if why else f". To cut the image off from all text, write {_complete_cut(model, prompt)}",
    )
