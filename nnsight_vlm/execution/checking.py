"""All that can be wrong with an intervention on a prompt, found before any model runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch

from ..arguments import spelled
from ..errors import SpecError
from ..families import VISION, Model, check_attention, view_of
from ..identity import same_model, weights_digest
from ..lowering.emptiness import Reachable
from ..lowering.empty_attention import refuse_empty_rows
from ..lowering.layouts import one_case_per_row
from ..lowering.placements import Placement
from ..lowering.plan import Plan
from ..lowering.resolve import Resolver, resolver
from ..lowering.state_values import StateValues
from ..lowering.writes import PlannedWrite
from ..prompts.overwritten import refuse_overwritten
from ..prompts.pixel_tokens import refuse_said_pixel_tokens
from ..prompts.prompt import Prompt
from ..specs.interventions import CLEAN, Capture, Intervention
from .emptiness import Call, check_empty, refuse_empty_part
from .moved_keys import refuse_moved_keys


def as_intervention(given: Any) -> Intervention:
    """What the user gave, as an intervention; None is the clean run.

    Raises:
        SpecError: something else was given.
    """
    if given is None:
        return CLEAN
    if not isinstance(given, Intervention):
        raise SpecError(
            f"{spelled(given)} is no intervention; write a Knockout, Patch, Add or the like, and compose them with |"
        )
    return given


def check(model: Model, prompt: Prompt, given: Intervention | Sequence[Intervention], call: Call | None = None) -> None:
    """Refuse an intervention, or one for each row, that cannot be carried out on a prompt, or that changes nothing.

    It is lowered as it will be when it runs, with tensors without values in place of the states that its patches take
    from other runs.

    Args:
        model: an nnsight model.
        prompt: a prompt of one row or several.
        given: one intervention for all rows, or one for each.
        call: what is asked; default one forward. Emptiness is decided for each row and each part of a composition.

    Raises:
        SpecError: see `Intervention.lower`; also a row that is left without any key, an intervention that changes
            nothing, and a prompt of another model.
    """
    call = Call() if call is None else call
    check_empty(call.empty)
    check_prompt(model, prompt)
    check_interventions(model, prompt, given, call)


def check_prompt(model: Model, prompt: Prompt) -> None:
    """What `check` asks of a prompt, whatever the intervention: that a model can run it as it was encoded."""
    require_model(model, prompt)
    refuse_said_pixel_tokens(prompt)


def check_interventions(model: Model, prompt: Prompt, given: Intervention | Sequence[Intervention], call: Call) -> None:
    """What `check` asks of interventions, where the prompt has been checked already."""
    cases = [given] * len(prompt) if isinstance(given, Intervention) else given
    for part in {id(part): part for case in cases for part in case.parts}.values():
        _check_source(model, part, call)
    for placement, case in zip(one_case_per_row(prompt).placements, cases, strict=True):
        try:
            _check_case(model, prompt, replace(placement, vision=0), case, call)  # in positions of the row alone
        except SpecError as error:
            row = f"row {placement.row}: " if len(prompt) > 1 else ""
            raise SpecError(f"{call.name}{row}{error}") from None


def _check_source(model: Model, part: Intervention, call: Call) -> None:
    """Check the run that a patch takes its states from."""
    capture = part.capture()
    if capture is None:
        return
    require_model(model, capture.prompt)
    refuse_said_pixel_tokens(capture.prompt)
    _require_weights(model, capture.prompt)
    if len(capture.prompt) > 1:
        raise SpecError("the source of a patch must be a prompt of one row; write source=prompt.row(0)")
    if capture.under is not None:
        check(model, capture.prompt, as_intervention(capture.under), Call(f"{call.name}under=: ", empty=call.empty))


def _require_weights(model: Model, source: Prompt) -> None:
    """Refuse the prompt of a model with other weights as a source: its states would be those of the model that runs.

    Weights of another precision, or that are not loaded, are not compared.
    """
    theirs, ours = view_of(source.model), view_of(model)
    if theirs.module is ours.module or theirs.dtype != ours.dtype:
        return
    if any(weight.is_meta for view in (theirs, ours) for weight in view.module.parameters()):
        return
    if weights_digest(theirs.module) != weights_digest(ours.module):
        raise SpecError(
            "the source prompt was encoded for another model of the same kind, and its states would be computed by the "
            "model that is given. Encode it with that one; or give the other model's states as a tensor, "
            "source=nv.run(other, prompt, reads=nv.Residual(...)).reads[0]"
        )


def _check_case(model: Model, prompt: Prompt, placement: Placement, case: Intervention, call: Call) -> None:
    """Lower a case, and look at what comes of it."""
    here = resolver(model, placement)
    here = replace(here, captured=_expected_shapes(here, case))
    by_part = [list(part.lower(here)) for part in case.parts]
    for part in case.parts:
        refuse_moved_keys(model, prompt, placement, part)
    _refuse_blind_queries(model, here, list(chain.from_iterable(by_part)), call)
    if call.empty == "ignore":
        return
    reachable = Reachable(
        view=view_of(model),
        inputs=prompt.inputs,
        tokens=placement.tokens,
        row=placement.row,
        decoded=call.decoded or 0,
    )
    for number, (part, writes) in enumerate(zip(case.parts, by_part, strict=True), start=1):
        whose = f"part {number} of {len(by_part)}, " if len(by_part) > 1 else ""
        refuse_empty_part(here, reachable, call, part, writes, whose)


def _refuse_blind_queries(model: Model, here: Resolver, writes: Sequence[PlannedWrite], call: Call) -> None:
    """Refuse cuts that leave a query without any key, of the prompt's or of the tokens that are written after it.

    The last of these counts too, on which the model is not run: as part of a prompt it would be refused.
    """
    to_come = 0 if call.decoded is None else call.decoded + 1
    cuts: dict[tuple[str, int], list[Any]] = {}
    for stage, site, layer, write in writes:
        if site == "mask":
            cuts.setdefault((stage, layer), []).append(write)
    view = view_of(model)
    cut = {stage: [layer for other, layer in cuts if other == stage] for stage, _ in cuts}
    reaches = {stage: view.reaches(stage, layers) for stage, layers in cut.items()}
    if any(stage == VISION for stage, _ in cuts):
        check_attention(view.config_of(view.family.stages[VISION])._attn_implementation, VISION)
    # layers with equal cuts that see equally far need one check
    distinct = {(stage, tuple(some), reaches[stage][layer]) for (stage, layer), some in cuts.items()}
    for stage, some, reach in distinct:
        refuse_empty_rows(some, here.placement.tokens.stage(stage), reach, to_come if stage == "decoder" else 0)


_INSTALLED: WeakKeyDictionary[Any, tuple[Any, ...]] = WeakKeyDictionary()
"""The layouts of the prompts that an intervention was installed for, by the edited copy of the model."""


_CHANGED: WeakSet[Any] = WeakSet()
"""Edited copies of models in which attention weights are changed behind the softmax."""


def remember_installed(edited: Model, model: Model, prompt: Prompt, plan: Plan) -> None:
    """Note for which prompt an edited copy of a model was made: its edits name that prompt's positions."""
    _INSTALLED[edited] = (*_INSTALLED.get(model, ()), _shape_of(prompt))
    if plan.changes or model in _CHANGED:
        _CHANGED.add(edited)


def refuse_unseen_weights(model: Model) -> None:
    """Refuse to read attention of a copy in which weights are changed behind the softmax, where no call shows it.

    Raises:
        SpecError: naming what to write.
    """
    if model in _CHANGED:
        raise SpecError(
            'this model is a copy in which nv.install changes attention weights behind the softmax (how="zero" or '
            "nv.Limit), and what is read of an attention is from before that; read with the intervention in the call, "
            "nv.run(model, prompt, intervention, reads=...)"
        )


def _shape_of(prompt: Prompt) -> tuple[Any, ...]:
    """Where a prompt's groups lie, answers left out, and the tokens of its vision tower."""
    towers = (dict(tokens.stages).get(VISION) for tokens in prompt.rows)
    return tuple(
        (tokens.start, tokens.answer, tokens.images, tokens.videos, tokens.outside, tower)
        for tokens, tower in zip(prompt.rows, towers, strict=True)
    )


def require_model(model: Model, prompt: Prompt) -> None:
    """Refuse a prompt that was encoded for another model than the one given, see `identity.same_model`.

    And one whose groups lie elsewhere than in the prompt that an intervention was installed for, or than its own inputs
    say by now.

    Raises:
        SpecError: naming what to write.
    """
    if not same_model(prompt.model, model):
        raise SpecError(
            "the prompt was encoded for another model than the one given: its tokens and image positions are that "
            "model's. Encode it again, nv.encode(model, ...), with the model that runs it"
        )
    refuse_overwritten(prompt)
    if any(shape != _shape_of(prompt) for shape in _INSTALLED.get(model, ())):
        raise SpecError(
            "this model is a copy in which nv.install put an intervention at the positions of another prompt, and they "
            "are not those of this prompt; install it for this one, nv.install(model, prompt, intervention)"
        )


def _expected_shapes(here: Resolver, intervention: Intervention) -> StateValues:
    """For every patch the shape of the states that it will take, without values."""
    shapes: StateValues = {}
    for part in intervention.parts:
        capture = part.capture()
        if capture is not None:
            source = replace(here, placement=one_case_per_row(capture.prompt).placements[0])
            shapes[id(part)] = captured_shape(source, capture)
    return shapes


def captured_shape(source: Resolver, capture: Capture) -> torch.Tensor:
    """A tensor without values, of the shape `[layer, position, width]` of what is captured from a run."""
    stage = source.at(capture.stage)
    count = stage.closed_places(capture.site, capture.where).size
    layers = stage.state_layers(stage.site_of(capture.site, capture.where), capture.layers)
    width = stage.width(capture.site, layers, capture.heads)
    return torch.empty(len(layers), count, width, device="meta")
