"""All that can be wrong with an intervention on a prompt, found before any model runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ..errors import SpecError
from ..families import Model, view_of
from ..identity import same_model
from ..lowering.empty_attention import refuse_empty_rows
from ..lowering.layouts import one_case_per_row
from ..lowering.resolve import Resolver, StateValues, resolver
from ..prompts.prompt import Prompt
from ..specs.interventions import CLEAN, Capture, Intervention


def as_intervention(given: Any) -> Intervention:
    """What the user gave, as an intervention; None is the clean run.

    Raises:
        SpecError: something else was given.
    """
    if given is None:
        return CLEAN
    if not isinstance(given, Intervention):
        raise SpecError(
            f"{given!r} is no intervention; write a Knockout, Allow, Patch or Ablate, and compose them with |"
        )
    return given


def check(model: Model, prompt: Prompt, intervention: Intervention, *, to_come: int = 0) -> None:
    """Refuse an intervention that cannot be carried out on a prompt, and on as many tokens as may be decoded.

    It is lowered as it will be when it runs, with tensors without values in place of the states that its patches take
    from other runs.

    Raises:
        SpecError: see `Intervention.lower`; also a row that is left without any key, and a prompt of another model.
    """
    require_model(model, prompt)
    for capture in (part.capture() for part in intervention.parts):
        if capture is not None:
            require_model(model, capture.prompt)
            if capture.under is not None:
                check(model, capture.prompt, as_intervention(capture.under))
    for placement in one_case_per_row(prompt).placements:
        here = resolver(model, placement)
        _check_lowered(model, replace(here, captured=_expected_shapes(here, intervention)), intervention, to_come)


def _check_lowered(model: Model, here: Resolver, intervention: Intervention, to_come: int) -> None:
    cuts: dict[tuple[str, int], list[Any]] = {}
    for stage, site, layer, write in intervention.lower(here):
        if site == "mask":
            cuts.setdefault((stage, layer), []).append(write)
    view = view_of(model)
    # layers with equal cuts that see equally far need one check
    distinct = {(stage, tuple(writes), view.reach(stage, layer)) for (stage, layer), writes in cuts.items()}
    for stage, writes, reach in distinct:
        refuse_empty_rows(writes, here.placement.tokens.stage(stage), reach, to_come if stage == "decoder" else 0)


def require_model(model: Model, prompt: Prompt) -> None:
    """Refuse a prompt that was encoded for another model than the one given, see `identity.same_model`.

    Raises:
        SpecError: naming what to write.
    """
    if not same_model(prompt.model, model):
        raise SpecError(
            "the prompt was encoded for another model than the one given: its tokens and image positions are that "
            "model's. Encode it again, nv.encode(model, ...), with the model that runs it"
        )


def _expected_shapes(here: Resolver, intervention: Intervention) -> StateValues:
    """For every patch the shape of the states that it will take, without values."""
    shapes: StateValues = {}
    for part in intervention.parts:
        capture = part.capture()
        if capture is not None:
            if len(capture.prompt) > 1:
                raise SpecError("the source of a patch must be a prompt of one row; write source=prompt.row(0)")
            source = replace(here, placement=one_case_per_row(capture.prompt).placements[0])
            shapes[id(part)] = captured_shape(source, capture)
    return shapes


def captured_shape(source: Resolver, capture: Capture) -> torch.Tensor:
    """A tensor without values, of the shape `[layer, position, width]` of what is captured from a run."""
    stage = source.at(capture.stage)
    count = stage.closed_places(capture.site, capture.where).size
    layers = stage.state_layers(capture.site, capture.layers)
    return torch.empty(len(layers), count, stage.width(capture.site), device="meta")
