"""The engine: carries plans out. The only file that opens nnsight traces.

Cases (a prompt's rows, variants of one prompt) are lowered at their seats, compiled into one plan,
and installed as nnsight edits: one worker for what the model passes once a prompt, one for what it
passes once a token. Reads are the body of the trace, so they see what every edit left behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from nnsight import save

from . import readouts
from .errors import SpecError
from .families import attention_span, family, layer_count
from .interventions import CLEAN, Capture, Intervention, Written
from .layouts import Layout, Seat, as_it_is
from .plan import SITES, Plan, compile_plan, path_of, refuse_blind_rows, scope
from .prompts import Prompt
from .reads import Readout, Residual
from .rows import Where, ascending, to_positions
from .runner import collect, on_every_token, once

Remote = bool | str
Values = dict[int, torch.Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """What one forward gave.

    Attributes:
        logits: float32 `[vocab]` at the last position, or `[position, vocab]` at `positions=`;
            for a prompt of several rows `[row, ...]`.
        reads: what was asked for, in order; for several rows a tuple of one tensor a row.
    """

    logits: torch.Tensor
    reads: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Generation:
    """What one generation gave; for a prompt of several rows each field is a tuple.

    Attributes:
        text: the answer, special tokens left out.
        tokens: its token ids, padding left out.
        prompt: the prompt grown by the answer, so that `prompt["generated"]` finds it.
    """

    text: Any
    tokens: Any
    prompt: Any


def lower(model: Any, layout: Layout, cases: Sequence[Intervention], values: Values) -> list[Written]:
    """The writes of all cases at their seats."""
    seated = zip(layout.seats, cases, strict=True)
    return [write for seat, case in seated for write in case.lower(scope(model, seat, values))]


def check(model: Any, prompt: Prompt, intervention: Intervention, values: Values) -> None:
    """All that can be wrong with an intervention on a prompt, found before the model runs.

    Raises:
        SpecError: see `Intervention.lower`; also a row that is left without any key.
    """
    seats = as_it_is(prompt).seats
    for seat in seats:
        cuts: dict[int, list[Any]] = {}
        for site, layer, write in intervention.lower(scope(model, seat, values)):
            if site == "mask":
                cuts.setdefault(layer, []).append(write)
        for distinct, span in {(tuple(found), attention_span(model, layer)) for layer, found in cuts.items()}:
            refuse_blind_rows(distinct, seat.tokens, span)


def capture(model: Any, cases: Sequence[Intervention], remote: Remote = False) -> Values:
    """The hidden states that patches take from other runs, by `id` of the patch.

    Patches that share a source run are served by one forward.

    Raises:
        SpecError: a source of several rows.
    """
    wanted = {id(part): found for case in cases for part in case.parts if (found := part.capture()) is not None}
    runs: dict[tuple[int, int], list[tuple[int, Capture]]] = {}
    for key, found in wanted.items():
        if len(found.prompt) > 1:
            raise SpecError("the source of a patch must be a prompt of one row; write source=prompt.row(0)")
        runs.setdefault((id(found.prompt), id(found.under)), []).append((key, found))
    values: Values = {}
    for group in runs.values():
        reads = [Residual(found.where, layers=found.layers, site=found.site) for _, found in group]
        result = run(model, group[0][1].prompt, group[0][1].under, reads=reads, remote=remote)
        for (key, _), value in zip(group, result.reads, strict=True):
            values[key] = value if value.dim() == 3 else value[None]
    return values


def run(
    model: Any,
    prompt: Prompt,
    intervention: Intervention | None = None,
    *,
    reads: Sequence[Readout] = (),
    positions: Where | None = None,
    remote: Remote = False,
) -> Run:
    """One forward of a prompt under an intervention.

    Args:
        model: an nnsight model from `load`.
        prompt: from `encode`, of one row or several.
        intervention: what to change; None is the clean run.
        reads: what to look at, see `Attention` and `Residual`.
        positions: where to take logits; default the last token of the sequence.
        remote: nnsight's own meaning.

    Raises:
        SpecError: anything wrong with the intervention or the reads, before the model runs.

    >>> import nnsight_vlm as nv
    >>> model = nv.load("shapes")
    >>> prompt = nv.encode(model, "describe the image .", nv.shapes.scene(3).image)
    >>> seen = nv.run(model, prompt, nv.Knockout("image", "last"), reads=[nv.Attention("last", "image")])
    >>> float(seen.reads[0].sum())
    0.0
    """
    ascending(positions)
    intervention = CLEAN if intervention is None else intervention
    values = capture(model, [intervention], remote)
    check(model, prompt, intervention, values)
    layout = as_it_is(prompt)
    plan = compile_plan(model, layout, lower(model, layout, [intervention] * len(prompt), values))
    asked = [list(_requests(model, layout, read)) for read in reads]
    places = [_logit_places(seat, positions) for seat in layout.seats]
    kept = sorted({place for wanted in places for place in wanted})
    picks = tuple((number, tuple(map(kept.index, wanted))) for number, wanted in enumerate(places))
    gathered, *found = forward(model, layout, plan, asked, (readouts.logit_rows, picks), kept, remote)
    logits = [rows[0] if positions is None else rows for rows in gathered]
    joined = logits[0] if len(prompt) == 1 else torch.stack(logits)
    return Run(
        logits=joined, reads=tuple(_assembled(read, got, len(prompt)) for read, got in zip(reads, found, strict=True))
    )


def _logit_places(seat: Seat, positions: Where | None) -> tuple[int, ...]:
    if positions is None:
        return (seat.place(seat.tokens.stop - 1),)
    return to_positions(seat.places(seat.tokens.ranges(positions)), seat.place(seat.tokens.stop - 1) + 1)


def _requests(model: Any, layout: Layout, read: Readout) -> Any:
    """Read steps `(layer, stage, path, place, readout, requests of all seats)`, one a layer."""
    row = family(model)
    per_seat = [list(read.lower(scope(model, seat))) for seat in layout.seats]
    for same in zip(*per_seat, strict=True):
        layer, site, place, function, _ = same[0]
        path = path_of(row, SITES[site].module, layer)
        place = row.attention_call if place == "call" else place
        yield layer, SITES[site].stage, path, place, function, tuple(request[4] for request in same)


def _assembled(read: Readout, per_layer: Sequence[Sequence[torch.Tensor]], rows: int) -> Any:
    per_row = [read.assemble([layer[row] for layer in per_layer]) for row in range(rows)]
    return per_row[0] if rows == 1 else tuple(per_row)


def forward(
    model: Any,
    layout: Layout,
    plan: Plan,
    asked: Sequence[Sequence[Any]],
    scored: tuple[Any, tuple[Any, ...]],
    kept: Sequence[int],
    remote: Remote,
) -> list[Any]:
    """One traced forward: `[what `scored` gave, what each read gave per layer, ...]`.

    `scored` is a readout of the logits and its requests; logits exist at places `kept` only.
    """
    order = sorted(
        (step[0], step[1], read, number) for read, steps in enumerate(asked) for number, step in enumerate(steps)
    )
    steps = [asked[read][number] for _, _, read, number in order]
    last = (layer_count(model), "", "logits", scored[0], scored[1])
    body = (*((step[0], *step[2:]) for step in steps), last)
    decoder = family(model).decoder
    edited = install_plan(model, plan)
    with (
        torch.no_grad(),
        edited.trace(
            **layout.prompt.inputs, **_positions(layout.prompt), logits_to_keep=torch.tensor(kept), remote=remote
        ),
    ):
        found = save(collect(edited, decoder, body))
    results: list[list[Any]] = [[None] * len(steps) for steps in asked]
    for (_, _, read, number), value in zip(order, found, strict=False):
        results[read][number] = value
    return [found[-1], *results]


def _positions(prompt: Prompt) -> dict[str, torch.Tensor]:
    """Position ids of padded rows, as `generate` counts them: padding does not count."""
    mask = prompt.inputs["attention_mask"]
    if "position_ids" in prompt.inputs or bool(mask.all()):
        return {}
    return {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}


def generate(
    model: Any,
    prompt: Prompt,
    intervention: Intervention | Sequence[Intervention | None] | None = None,
    *,
    max_new_tokens: int = 64,
    remote: Remote = False,
    **options: Any,
) -> Generation:
    """Cached generation under an intervention; greedy unless `options` say otherwise.

    Args:
        model, prompt, remote: see `run`.
        intervention: what to change, in the prompt's forward and in every decoded token's; for a
            prompt of several rows also one for each row.
        max_new_tokens: at most this many tokens.
        options: handed to transformers' `generate`.

    Raises:
        SpecError: anything wrong with the intervention, before the model runs.
    """
    cases = _cases(prompt, intervention)
    values = capture(model, cases, remote)
    for number, case in enumerate(cases):
        check(model, replace(prompt, rows=(prompt.rows[number],)), case, values)
    answers = decode(model, as_it_is(prompt), cases, values, {"max_new_tokens": max_new_tokens, **options}, remote)
    given = [prompt.row(number) for number in range(len(prompt))]
    told = [generation(model, one, answer) for one, answer in zip(given, answers, strict=True)]
    if len(prompt) == 1:
        return told[0]
    return Generation(**{name: tuple(getattr(one, name) for one in told) for name in ("text", "tokens", "prompt")})


def decode(
    model: Any, layout: Layout, cases: Sequence[Intervention], values: Values, options: dict[str, Any], remote: Remote
) -> list[tuple[int, ...]]:
    """The answer tokens of every row of a layout, in one cached generation.

    Raises:
        SpecError: rows that are padded on the right, beams, several sequences an answer.
    """
    prompt = layout.prompt
    _refuse_beams(options)
    if any(row.stop != prompt.width for row in prompt.rows):
        raise SpecError("generation needs padding on the left; this encoding is padded on the right")
    edited = install_plan(model, compile_plan(model, layout, lower(model, layout, cases, values)))
    with torch.no_grad(), edited.generate(**prompt.inputs, **{"do_sample": False, **options}, remote=remote) as tracer:
        sequences = save(tracer.result.cpu())
    return [_answer(model, line) for line in sequences[:, prompt.width :].tolist()]


def _refuse_beams(options: dict[str, Any]) -> None:
    for name in ("num_beams", "num_return_sequences"):
        if options.get(name, 1) != 1:
            raise SpecError(
                f"{name}={options[name]} makes several rows of one, which an intervention does not follow; leave it out"
            )


def generation(model: Any, prompt: Prompt, answer: tuple[int, ...]) -> Generation:
    """An answer with its text and the prompt that it makes."""
    return Generation(text=_spell(model, answer), tokens=answer, prompt=prompt.grown(answer))


def _cases(prompt: Prompt, intervention: Any) -> list[Intervention]:
    listed = list(intervention) if isinstance(intervention, Sequence) else [intervention] * len(prompt)
    if len(listed) != len(prompt):
        raise SpecError(
            f"{len(listed)} interventions for a prompt of {len(prompt)} row(s); give one, or one for each row"
        )
    return [CLEAN if case is None else case for case in listed]


def _answer(model: Any, tokens: Sequence[int]) -> tuple[int, ...]:
    """An answer up to and with its end-of-sequence token."""
    ends = model._module.generation_config.eos_token_id
    ends = {ends} if isinstance(ends, int) else set(ends or ())
    for number, token in enumerate(tokens):
        if token in ends:
            return tuple(tokens[: number + 1])
    return tuple(tokens)


def _spell(model: Any, tokens: Sequence[int]) -> str:
    tokenizer = getattr(model.processor, "tokenizer", None) or model.tokenizer
    return "" if tokenizer is None else str(tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()


def install(model: Any, prompt: Prompt, intervention: Intervention | None = None, *, remote: Remote = False) -> Any:
    """An edited copy of the model: every trace and generation of it runs under the intervention.

    The original stays as it is. In a trace of the copy, layers may be read in any order that
    nnsight allows. `remote` is used for patches whose values come from another run.

    Raises:
        SpecError: see `run`.
    """
    intervention = CLEAN if intervention is None else intervention
    values = capture(model, [intervention], remote)
    check(model, prompt, intervention, values)
    layout = as_it_is(prompt)
    writes = lower(model, layout, [intervention] * len(prompt), values)
    return install_plan(model, compile_plan(model, layout, writes))


def install_plan(model: Any, plan: Plan) -> Any:
    """A copy of the model with one edit for each clock that the plan has steps for."""
    edited = model._shallow_copy()
    if plan.once:
        image_side = plan.once
        with edited.edit(inplace=True):
            once(edited, image_side)
    if plan.every_token:
        decoder, steps, rows = family(model).decoder, plan.every_token, plan.rows
        with edited.edit(inplace=True):
            on_every_token(edited, decoder, steps, rows)
    return edited
