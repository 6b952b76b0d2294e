"""Many variants of one prompt, few forwards, one tidy table."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch

from . import readouts
from .engine import Values, as_intervention, capture, check, prepare
from .errors import SpecError
from .families import family, lacking
from .interventions import CLEAN, Intervention
from .layers import label
from .layouts import Layout, behind, in_rows, packed, rows_embedded, rows_of_one
from .memory import cases_that_fit, out_of_memory
from .prefixes import Prefix, branch_point, prefix_of, sees_once, shares, why_not_shared
from .prompts import Prompt
from .spelling import spell, tokenizer_of
from .traces import Remote, embed, forward, logit_columns

EXECUTIONS = ("auto", "packed", "rows", "single")
TOKENS_PER_PASS = 512
"""Tokens of variants that one forward behind a prefix holds: more would look at each other for nothing."""
ALONE = 4096
"""The same where the prefix is run with them."""
PASS = 64
"""How many tokens cost as much as a forward's fixed part."""


def sweep(
    model: Any,
    prompt: Prompt,
    variants: Sequence[Intervention] | Mapping[str, Intervention],
    *,
    answer: str | int,
    execution: str = "auto",
    memory: int | None = None,
    remote: Remote = False,
) -> pd.DataFrame:
    """The answer's score under every variant, and in the clean run.

    Args:
        model: an nnsight model from `load`.
        prompt: a prompt of one row; the answer is what its last token predicts.
        variants: interventions, or names for them.
        answer: one token, as text or id.
        execution: `packed` shares everything before the first changed position between the
            variants, `rows` makes them rows of a batch, `single` runs them one by one, `auto` chooses.
            All give the same numbers.
        memory: bytes that a forward may take beside the weights; default a quarter of what is free on the
            model's device. Where memory runs out all the same, fewer variants are run at once.
        remote: nnsight's own meaning.

    Returns:
        One row per variant: `variant`, its fields, `logit`, `logprob`, `rank` (0 is best),
        `top_token`, `clean_logit`, `clean_logprob`. `frame.attrs["execution"]` says what was done.

    Raises:
        SpecError: anything wrong with a variant or the answer; packing asked for where it is not exact.
    """
    names, cases = _named(variants)
    if len(prompt) > 1:
        raise SpecError(f"a sweep takes a prompt of one row and this one has {len(prompt)}; write prompt.row(0)")
    token = answer_token(model, answer)
    for case in cases:
        check(model, prompt, case)
    chosen = choose(model, prompt, cases, execution)
    values = capture(model, cases, remote)
    clean, *scores = score(model, prompt, [CLEAN, *cases], values, token, chosen, remote, memory)
    known = {"clean_logit": clean[0], "clean_logprob": clean[1]}
    rows = [
        {"variant": name, **_fields(case), **_columns(model, found), **known}
        for name, case, found in zip(names, cases, scores, strict=True)
    ]
    frame = _uniform(pd.DataFrame(rows))
    frame.attrs.update(execution=chosen, answer=token)
    return frame


def _named(variants: Any) -> tuple[list[Any], list[Intervention]]:
    if isinstance(variants, Intervention):
        raise SpecError("variants are several; write a list, [nv.Knockout(...), ...], or names for them, {name: ...}")
    names = list(variants) if isinstance(variants, Mapping) else None
    cases = [as_intervention(case) for case in (variants.values() if isinstance(variants, Mapping) else variants)]
    if not cases:
        raise SpecError("no variants to sweep over")
    return list(range(len(cases))) if names is None else names, cases


def _fields(case: Intervention) -> dict[str, Any]:
    return {key: label(value) for key, value in case.fields().items()}


def _uniform(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns of one type each, so that any file format holds them."""
    for name in frame.columns:
        known = frame[name].dropna()
        if known.map(type).nunique() > 1:
            frame[name] = frame[name].where(frame[name].isna(), frame[name].astype(str))
    return frame


def _columns(model: Any, found: Sequence[float]) -> dict[str, Any]:
    logit, logprob, rank, top = found
    return {"logit": logit, "logprob": logprob, "rank": int(rank), "top_token": spell(model, int(top))}


def answer_token(model: Any, answer: str | int) -> int:
    """The id of an answer that is one token.

    Raises:
        SpecError: the text is several tokens, or none that the tokenizer knows; no such id.
    """
    if not isinstance(answer, str):
        words = int(model._module.config.get_text_config().vocab_size)
        token = operator.index(answer)
        if not 0 <= token < words:
            raise SpecError(f"the answer {token} is no token id; the model has 0..{words - 1}")
        return token
    tokenizer = tokenizer_of(model)
    spellings = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (answer, answer.strip())]
    for ids in spellings:
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
            return int(ids[0])
    pieces = tokenizer.convert_ids_to_tokens(spellings[0])
    raise SpecError(f"the answer {answer!r} is not one token but {pieces}; give the id of the token to score")


def choose(model: Any, prompt: Prompt, cases: Sequence[Intervention], execution: str) -> str:
    """`packed`, `rows` or `single`.

    Raises:
        SpecError: no such execution, or packing asked for where it would not be exact.
    """
    if execution not in EXECUTIONS:
        raise SpecError(f"no execution {execution!r}; there are {', '.join(EXECUTIONS)}")
    obstacle = why_not_packed(model, prompt, cases)
    if execution == "packed" and obstacle:
        raise SpecError(f'{obstacle}; write execution="rows"')
    if execution != "auto":
        return execution
    return "rows" if obstacle else "packed"


def why_not_packed(model: Any, prompt: Prompt, cases: Sequence[Intervention]) -> str:
    """Why variants cannot share the prefix before the first changed position; empty where they can."""
    row = family(model)
    if "packed" in lacking(row):
        return f"models of type {row.name!r} cannot run variants behind a shared prefix: {lacking(row)['packed']}"
    return why_not_shared(prompt, cases, branch_point(model, prompt, cases))


def score(
    model: Any,
    prompt: Prompt,
    cases: Sequence[Intervention],
    values: Values,
    token: int,
    execution: str,
    remote: Remote,
    memory: int | None = None,
) -> list[list[float]]:
    """`[logit, logprob, rank, top token]` of the last position, one list a case."""
    found: dict[int, list[float]] = {}
    branches = [branch_point(model, prompt, [case]) for case in cases]
    local = execution != "single" and remote is False
    sharing = local and shares(model, prompt, cases, min(branches))
    seen_once = local and not sharing and execution == "rows" and prompt.rows[0].images and sees_once(model, cases)
    embedded = embed(model, prompt) if seen_once else None
    for numbers, branch in _by_branch(branches) if sharing else [(list(range(len(cases))), min(branches))]:
        shared = prefix_of(model, prompt, branch, len(numbers)) if sharing else None
        start = branch if shared is None else shared.length
        size = _size(model, prompt, start, execution, shared, memory)
        left = numbers
        while left:
            some = left[:size]
            layout = _layout(prompt, len(some), start, execution, shared, embedded)
            try:
                scored = _score_layout(model, layout, [cases[number] for number in some], values, token, remote)
            except RuntimeError as error:
                if len(some) == 1 or not out_of_memory(error):
                    raise
                size = len(some) // 2
                continue
            found |= dict(zip(some, scored, strict=True))
            left = left[len(some) :]
    return [found[number] for number in range(len(cases))]


def _size(model: Any, prompt: Prompt, start: int, execution: str, shared: Prefix | None, memory: int | None) -> int:
    """How many cases one forward takes."""
    if execution == "single":
        return 1
    rows = execution == "rows"
    each = prompt.width if rows and shared is None else prompt.rows[0].stop - start
    room = TOKENS_PER_PASS if shared is not None else ALONE - (0 if rows else start)
    before = 0 if rows and shared is None else start
    return cases_that_fit(model, max(1, room // each), each, before, rows, memory)


def _by_branch(branches: Sequence[int]) -> list[tuple[list[int], int]]:
    """Numbers of the cases that run together behind a cached prefix, and the first position that any of them changes.

    Cases that change late positions only are not made to run the earlier ones, unless that would save little.
    Late groups come first, so that a prefix is made once and then cut.
    """
    groups: list[tuple[list[int], int]] = []
    for start in sorted(set(branches)):
        numbers = [number for number, branch in enumerate(branches) if branch == start]
        if groups and len(numbers) * (start - groups[-1][1]) < PASS:
            groups[-1][0].extend(numbers)
        else:
            groups.append((numbers, start))
    return groups[::-1]


def _layout(
    prompt: Prompt, cases: int, start: int, execution: str, shared: Prefix | None, embedded: torch.Tensor | None
) -> Layout:
    if execution == "packed":
        layout = packed(prompt, cases, start)
        return layout if shared is None else behind(layout, start, shared.for_rows(1))
    if shared is None and embedded is not None:
        return rows_embedded(prompt, cases, embedded)
    if shared is None:
        return in_rows([prompt] * cases)
    return behind(rows_of_one(prompt, cases), start, shared.for_rows(cases))


def _score_layout(
    model: Any, layout: Layout, cases: Sequence[Intervention], values: Values, token: int, remote: Remote
) -> list[list[float]]:
    places = [seat.place(seat.tokens.stop - 1) for seat in layout.seats]
    kept = sorted(set(places))
    columns = logit_columns(layout, kept)
    requests = tuple((seat.row, columns[place], token) for seat, place in zip(layout.seats, places, strict=True))
    plan = prepare(model, layout, cases, values)
    scores = forward(model, layout, plan, [], (readouts.answer_scores, requests), kept, remote)[0]
    return [[float(number) for number in line] for line in scores]
