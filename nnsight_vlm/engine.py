"""Running a model under interventions: one forward, cached generation, or plain nnsight from there on.

Everything here does the same three things: check what the user wrote, fetch the hidden states that
patches take from other runs, and lower the cases at the seats of a layout (`prepare`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby
from typing import Any

import torch

from . import readouts
from .blind import refuse_blind_rows
from .errors import SpecError
from .families import family, lacking, reach
from .interventions import CLEAN, Capture, Intervention
from .layouts import Layout, Seat, as_it_is, in_rows, rows_of_one
from .plan import Plan, Written, compile_plan, read_outside
from .prefixes import SHARERS, behind_images, cache_for, cuts, prefix_of, sharers
from .prompts import Prompt
from .reads import Readout, Residual
from .remote import waits
from .rows import Where, ascending, frozen, to_positions
from .scope import Lent, Scope, scope
from .sites import ATTENDS, SITES, located
from .spelling import spell_answer
from .starts import Start, start_of, whole
from .traces import ReadStep, check_decoding, decode, forward, install_plan, lend, logit_columns, no_logits
from .wire import Remote, together

Values = dict[int, torch.Tensor | Lent]
"""What patches take from other runs, by `id` of the patch."""
Ready = tuple[Prompt, Intervention]
TOGETHER = 3
"""Conditions on one prompt from which on they are answered by themselves; fewer share a batch with other prompts."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """What one forward gave.

    Attributes:
        logits: float32 `[vocab]` at the last position, or `[position, vocab]` at `positions=`; for a
            prompt of several rows `[row, ...]`, or a tuple where rows differ in their positions.
        reads: what was asked for, in order; for several rows a tuple of one tensor a row.
    """

    logits: Any
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


# before the model runs ------------------------------------------------------------------------


def as_intervention(given: Any) -> Intervention:
    """What the user gave as an intervention; None is the clean run.

    Raises:
        SpecError: something else.
    """
    if given is None:
        return CLEAN
    if not isinstance(given, Intervention):
        raise SpecError(
            f"{given!r} is no intervention; write a Knockout, Allow, Patch or Ablate, and compose them with |"
        )
    return given


def check(model: Any, prompt: Prompt, intervention: Intervention) -> None:
    """All that can be wrong with an intervention on a prompt, found before any model runs.

    Raises:
        SpecError: see `Intervention.lower`; also a row that is left without any key.
    """
    for found in (part.capture() for part in intervention.parts):
        if found is not None and found.under is not None:
            check(model, found.prompt, as_intervention(found.under))
    for seat in as_it_is(prompt).seats:
        here = scope(model, seat)
        cuts: dict[tuple[str, int], list[Any]] = {}
        for stage, site, layer, write in intervention.lower(replace(here, captured=_foretold(here, intervention))):
            if site == "mask":
                cuts.setdefault((stage, layer), []).append(write)
        distinct = {(stage, tuple(found), reach(model, stage, layer)) for (stage, layer), found in cuts.items()}
        for stage, writes, sees in distinct:
            refuse_blind_rows(writes, seat.tokens.stage(stage), sees)


def _foretold(here: Scope, intervention: Intervention) -> Values:
    """The shapes of what will be captured, without values."""
    shapes: Values = {}
    for part in intervention.parts:
        found = part.capture()
        if found is not None:
            if len(found.prompt) > 1:
                raise SpecError("the source of a patch must be a prompt of one row; write source=prompt.row(0)")
            shapes[id(part)] = _shape_of(replace(here, seat=as_it_is(found.prompt).seats[0]), found)
    return shapes


def _shape_of(here: Scope, found: Capture) -> torch.Tensor:
    """A tensor without values, of the shape of what a patch takes from the run that `here` stands for."""
    source = here.at(found.stage)
    count, layers = source.closed_places(found.site, found.where)[2], source.state_layers(found.site, found.layers)
    return torch.empty(len(layers), count, source.width(found.site), device="meta")


def capture(
    model: Any, cases: Sequence[Intervention], remote: Remote = False, *, kept: bool = False, lent: bool = False
) -> Values:
    """The hidden states that patches take from other runs, by `id` of the patch.

    Patches that share a source run are served by one forward; with `kept`, by one that is kept for what comes.
    States that are `lent` never come home from a server: what will be asked with them needs that forward.
    """
    wanted = {id(part): found for case in cases for part in case.parts if (found := part.capture()) is not None}
    runs: dict[tuple[int, int], list[tuple[int, Capture]]] = {}
    for key, found in wanted.items():
        runs.setdefault((id(found.prompt), id(found.under)), []).append((key, found))
    values: Values = {}
    for group in runs.values():
        some = [found for _, found in group]
        taken: Sequence[torch.Tensor | Lent] | None = None
        if kept and remote is False:
            taken = _states_of(model, some)
        elif lent and remote is not False:
            taken = _lent(model, some, remote)
        if taken is None:
            reads = [_state_read(each) for each in some]
            states = run(model, some[0].prompt, some[0].under, reads=reads, remote=remote).reads
            taken = [value if value.dim() == 3 else value[None] for value in states]
        values |= {key: value for (key, _), value in zip(group, taken, strict=True)}
    return values


def _state_read(wanted: Capture) -> Residual:
    return Residual(wanted.where, layers=wanted.layers, site=wanted.site, stage=wanted.stage)


def _lent(model: Any, wanted: Sequence[Capture], remote: Remote) -> list[torch.Tensor | Lent]:
    """What several patches take from one run, which stays where the model is."""
    prompt, under = wanted[0].prompt, wanted[0].under
    layout, here = as_it_is(prompt), scope(model, as_it_is(prompt).seats[0])
    cases, values = _checked_rows(model, prompt, under, remote)
    asked = [list(read_steps(model, layout, _state_read(each))) for each in wanted]
    request, boxes = lend(model, layout, prepare(model, layout, cases, values), asked, *no_logits(layout))
    shapes = [_shape_of(here, each) for each in wanted]
    return [Lent(like=like, boxes=tuple(filled), request=request) for like, filled in zip(shapes, boxes, strict=True)]


def _states_of(model: Any, wanted: Sequence[Capture]) -> list[torch.Tensor] | None:
    """What several patches take from the text of one clean run, which is kept as the prefix of a prompt is."""
    prompt = wanted[0].prompt
    here = scope(model, as_it_is(prompt).seats[0])
    plain = all((each.under, each.site, each.stage) == (None, "residual", "decoder") for each in wanted)
    if len(wanted) < SHARERS or not plain or not cuts(model) or "prefix" in lacking(here.row) or prompt.rows[0].start:
        return None
    places = [to_positions(here.ranges(each.where), prompt.rows[0].stop) for each in wanted]
    if min((place for some in places for place in some), default=-1) < behind_images(prompt):
        return None
    kept = prefix_of(model, prompt, prompt.rows[0].stop)
    if kept.states is None:
        return None
    found = []
    for each, some in zip(wanted, places, strict=True):
        rows = [place - kept.first for place in some]
        layers = here.state_layers(each.site, each.layers)
        found.append(torch.stack([kept.states[layer][rows].cpu() for layer in layers]))
    return found


def lower(model: Any, layout: Layout, cases: Sequence[Intervention], values: Values) -> list[Written]:
    """The writes of all cases at their seats."""
    seated = zip(layout.seats, cases, strict=True)
    return [write for seat, case in seated for write in case.lower(scope(model, seat, values))]


def prepare(model: Any, layout: Layout, cases: Sequence[Intervention], values: Values) -> Plan:
    """The plan of cases, which have been checked, in a layout."""
    plan = compile_plan(model, layout, lower(model, layout, cases, values))
    taken = [values[id(part)] for case in cases for part in case.parts if id(part) in values]
    needs = {id(each.request): each.request for each in taken if isinstance(each, Lent)}
    return replace(plan, needs=tuple(needs.values())) if needs else plan


def _checked_rows(
    model: Any, prompt: Prompt, given: Any, remote: Remote, *, lent: bool = True
) -> tuple[list[Intervention], Values]:
    """One checked intervention a row, from one for all or one for each, with what their patches need."""
    listed = list(given) if isinstance(given, (list, tuple)) else [given] * len(prompt)
    if len(listed) != len(prompt):
        raise SpecError(f"{len(listed)} interventions for a prompt of {len(prompt)} row(s); compose several with |")
    cases = [as_intervention(case) for case in listed]
    for row, case in zip(prompt.rows, cases, strict=True):
        check(model, replace(prompt, rows=(row,)), case)
    return cases, capture(model, cases, remote, lent=lent)


# one forward ----------------------------------------------------------------------------------


@waits
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
        remote: nnsight's own meaning: here, on a server, or on the server at an address. With `blocking=False` as
            well, a `remote.Job` is returned at once.

    Raises:
        SpecError: anything wrong with the intervention or the reads, before the model runs.
        RemoteError: a server that does not answer, or not as it should.

    >>> import nnsight_vlm as nv
    >>> model = nv.load("shapes")
    >>> prompt = nv.encode(model, "describe the image .", nv.shapes.scene(3).image)
    >>> seen = nv.run(model, prompt, nv.Knockout("image", "last"), reads=[nv.Attention("last", "image")])
    >>> float(seen.reads[0].sum())
    0.0
    """
    layout, listed = as_it_is(prompt), [reads] if isinstance(reads, Readout) else list(reads)
    places = [_logit_places(seat, frozen(positions)) for seat in layout.seats]
    asked = [list(read_steps(model, layout, read)) for read in listed]
    cases, values = _checked_rows(model, prompt, intervention, remote)
    kept = sorted({place for wanted in places for place in wanted})
    columns = logit_columns(layout, kept)
    picks = tuple((number, tuple(columns[place] for place in wanted)) for number, wanted in enumerate(places))
    plan = prepare(model, layout, cases, values)
    numbers = sum(map(len, places)) * words_of(model)
    numbers += sum(read.numbers(scope(model, seat)) for read in listed for seat in layout.seats)
    scored = (readouts.logit_rows, picks)
    gathered, *found = forward(model, layout, plan, asked, scored, kept, remote, numbers=numbers)
    logits = [rows[0] if positions is None else rows for rows in gathered]
    return Run(
        logits=logits[0] if len(prompt) == 1 else _joined(logits),
        reads=tuple(_assembled(read, got, len(prompt)) for read, got in zip(listed, found, strict=True)),
    )


def words_of(model: Any) -> int:
    """How many words the model chooses from."""
    return int(model._module.config.get_text_config().vocab_size)


def _logit_places(seat: Seat, positions: Where | None) -> tuple[int, ...]:
    if positions is None:
        return (seat.place(seat.tokens.stop - 1),)
    ascending(positions)
    found = to_positions(seat.places(seat.tokens.ranges(positions)), seat.place(seat.tokens.stop - 1) + 1)
    if not found:
        raise SpecError(f"there is no token at positions={positions!r} to take logits at")
    return found


def _joined(rows: Sequence[torch.Tensor]) -> Any:
    return torch.stack(list(rows)) if len({row.shape for row in rows}) == 1 else tuple(rows)


def read_steps(model: Any, layout: Layout, read: Readout) -> Iterator[ReadStep]:
    """The steps of a readout, one a layer, each with the requests of all seats."""
    if not isinstance(read, Readout):
        raise SpecError(f"{read!r} is no readout; reads are nv.Attention and nv.Residual")
    row = family(model)
    per_seat = [list(read.lower(scope(model, seat))) for seat in layout.seats]
    for same in zip(*per_seat, strict=True):
        stage, layer, site, function, _ = same[0]
        path, place = located(row, stage, site, layer)
        if site in ATTENDS:
            place = getattr(row.stages[stage], ATTENDS[site]).call
        requests = tuple(request[4] for request in same)
        outside = read_outside(layout, stage, site)
        yield stage, layer, SITES[site].rank, path, place, function, requests, outside


def _assembled(read: Readout, per_layer: Sequence[Sequence[torch.Tensor]], rows: int) -> Any:
    per_row = [read.assemble([layer[row] for layer in per_layer]) for row in range(rows)]
    return per_row[0] if rows == 1 else tuple(per_row)


# cached generation ----------------------------------------------------------------------------


@waits
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
        SpecError: anything wrong with the intervention or the options, before the model runs.
    """
    options = {"max_new_tokens": max_new_tokens, **options}
    check_decoding(prompt, options)
    cases, values = _checked_rows(model, prompt, intervention, remote)
    found = decode(model, prompt, prepare(model, as_it_is(prompt), cases, values), options, remote)
    ends = _ends(model, options)
    told = [_told(model, prompt.row(number), line, ends) for number, line in enumerate(found.tolist())]
    if len(prompt) == 1:
        return told[0]
    return Generation(**{name: tuple(getattr(one, name) for one in told) for name in ("text", "tokens", "prompt")})


@waits
def generations(
    model: Any,
    cases: Sequence[tuple[Prompt, Intervention | None]],
    *,
    max_new_tokens: int = 64,
    rows: int = 32,
    remote: Remote = False,
    **options: Any,
) -> Iterator[Generation]:
    """Answers to many prompts, each under its own intervention, as rows of cached batches.

    Args:
        model, remote: see `run`.
        cases: `(prompt of one row, intervention or None)`; prompts of different length are padded.
        max_new_tokens, options: see `generate`.
        rows: cases that share a batch.

    Returns:
        An iterator of one `Generation` a case, in order, each as soon as its batch is done.

    Raises:
        SpecError: anything wrong with any case, before the model runs.
    """
    options = {"max_new_tokens": max_new_tokens, **options}
    ready = [(prompt, as_intervention(case)) for prompt, case in cases]
    for prompt, case in ready:
        if len(prompt) > 1:
            raise SpecError(f"a case takes a prompt of one row and one has {len(prompt)}; write prompt.row(0)")
        check_decoding(prompt, options)
        check(model, prompt, case)
    return _answers(model, ready, options, rows, remote)


def _answers(
    model: Any, ready: Sequence[Ready], options: dict[str, Any], rows: int, remote: Remote
) -> Iterator[Generation]:
    alone = model._edits or "padded generation" in family(model).lacks  # edits name rows and positions themselves
    rows = 1 if alone else rows
    groups = [partial(_group, model, group, options, rows, remote) for group in _groups(ready, rows)]
    if remote is not False:
        return chain.from_iterable(together(groups, remote))
    return (answer for group in groups for answer in group())


def _group(model: Any, group: Sequence[Ready], options: dict[str, Any], rows: int, remote: Remote) -> list[Generation]:
    """Answers to cases that are answered together, in batches."""
    starts, shared = _starts(model, group, remote)
    values = capture(model, [start.case for start in starts], remote, kept=True, lent=True)
    first = min((starts[number].position for number in shared), default=0)

    def answer(batch: Sequence[int]) -> list[Generation]:
        prompts, some = [group[number][0] for number in batch], [starts[number] for number in batch]
        layout, cache = in_rows(prompts), None
        if batch[0] in shared:
            layout, prefix = rows_of_one(prompts[0], len(batch)), prefix_of(model, prompts[0], first)
            cache = cache_for(model, prefix, some, prompts[0].width - first + options["max_new_tokens"])
        plan = prepare(model, layout, [start.case for start in some], values)
        found, ends = decode(model, layout.prompt, plan, options, remote, cache), _ends(model, options)
        return [_told(model, prompt, line, ends) for prompt, line in zip(prompts, found.tolist(), strict=True)]

    batches = list(_batches(len(group), shared, rows))
    answers = together([partial(answer, batch) for batch in batches], remote)
    told = {
        number: one
        for batch, some in zip(batches, answers, strict=True)
        for number, one in zip(batch, some, strict=True)
    }
    return [told[number] for number in range(len(group))]


def _groups(ready: Sequence[Ready], rows: int) -> Iterator[list[Ready]]:
    """Cases that are answered together: many of one prompt, or some of several."""
    mixed: list[Ready] = []
    for _, same in groupby(ready, key=lambda case: id(case[0])):
        run = list(same)
        if len(run) < TOGETHER and len(mixed) + len(run) <= rows:
            mixed += run
            continue
        if mixed:
            yield mixed
        yield run
        mixed = []
    if mixed:
        yield mixed


def _starts(model: Any, group: Sequence[Ready], remote: Remote) -> tuple[list[Start], list[int]]:
    """What is left to do of each case, and the numbers of those that begin in a cache of what they share."""
    prompt = group[0][0]
    if remote is not False or model._edits or any(other is not prompt for other, _ in group):
        return [whole(model, other, case) for other, case in group], []
    starts = [start_of(model, prompt, case, donors=True) for _, case in group]
    able = sharers(model, prompt, starts)
    first = min((starts[number].position for number in able), default=0)
    together = [number for number in able if starts[number].donor is None or starts[number].position == first]
    for number in set(range(len(group))) - set(together):
        starts[number] = whole(model, prompt, group[number][1])
    return starts, together


def _batches(cases: int, together: Sequence[int], rows: int) -> Iterator[list[int]]:
    """Numbers of the cases of each batch: those that begin together, and the others."""
    others = [number for number in range(cases) if number not in together]
    for some in (list(together), others):
        yield from (some[first : first + rows] for first in range(0, len(some), rows))


def _ends(model: Any, options: dict[str, Any]) -> set[int]:
    """Tokens that end an answer."""
    ends = options.get("eos_token_id", model._module.generation_config.eos_token_id)
    return {ends} if isinstance(ends, int) else set(ends or ())


def _told(model: Any, prompt: Prompt, tokens: Sequence[int], ends: set[int]) -> Generation:
    """An answer, cut behind the token that ends it, with its text and the prompt that it makes."""
    length = next((number + 1 for number, token in enumerate(tokens) if token in ends), len(tokens))
    answer = tuple(tokens[:length])
    return Generation(text=spell_answer(model, answer), tokens=answer, prompt=prompt.grown(answer))


# plain nnsight --------------------------------------------------------------------------------


def install(model: Any, prompt: Prompt, intervention: Intervention | None = None, *, remote: Remote = False) -> Any:
    """An edited copy of the model: every trace and generation of it runs under the intervention.

    The original stays as it is. In a trace of the copy, layers may be read in any order that
    nnsight allows. The copy runs encodings with as many rows as `prompt` has, and raises ValueError
    for others. `remote` is used for patches whose values come from another run.

    Raises:
        SpecError: see `run`.
    """
    cases, values = _checked_rows(model, prompt, intervention, remote, lent=False)
    return install_plan(model, prepare(model, as_it_is(prompt), cases, values))
