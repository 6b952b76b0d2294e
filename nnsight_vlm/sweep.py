"""Many variants of one prompt, few forwards, one tidy table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from . import readouts
from .engine import Generation, Remote, Values, capture, check, decode, forward, generation, lower
from .errors import SpecError
from .families import family
from .interventions import CLEAN, Intervention
from .layouts import Layout, in_rows, packed
from .plan import compile_plan, label, scope
from .prompts import Prompt

EXECUTIONS = ("auto", "packed", "rows", "single")
TOKENS_PER_PASS = 4096
"""Tokens that one forward may hold before variants are split over several."""


def sweep(
    model: Any,
    prompt: Prompt,
    variants: Sequence[Intervention] | Mapping[str, Intervention],
    *,
    answer: str | int,
    execution: str = "auto",
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
        remote: nnsight's own meaning.

    Returns:
        One row per variant: `variant`, its fields, `logit`, `logprob`, `rank` (0 is best),
        `top_token`, `clean_logit`, `clean_logprob`. `frame.attrs["execution"]` says what was done.

    Raises:
        SpecError: anything wrong with a variant or the answer; packing asked for where it is not exact.
    """
    names = list(variants) if isinstance(variants, Mapping) else list(range(len(variants)))
    cases = list(variants.values()) if isinstance(variants, Mapping) else list(variants)
    if len(prompt) > 1:
        raise SpecError(f"a sweep takes a prompt of one row and this one has {len(prompt)}; write prompt.row(0)")
    if not cases:
        raise SpecError("no variants to sweep over")
    token = answer_token(model, answer)
    values = capture(model, cases, remote)
    for case in cases:
        check(model, prompt, case, values)
    chosen = choose(model, prompt, cases, values, execution)
    clean, *scores = score(model, prompt, [CLEAN, *cases], values, token, chosen, remote)
    rows = [
        {
            "variant": name,
            **{key: label(value) for key, value in case.fields().items()},
            **_columns(model, found),
            **_clean(clean),
        }
        for name, case, found in zip(names, cases, scores, strict=True)
    ]
    frame = pd.DataFrame(rows)
    frame.attrs.update(execution=chosen, answer=token)
    return frame


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
        model: an nnsight model from `load`.
        cases: `(prompt of one row, intervention or None)`; prompts of different length are padded.
        max_new_tokens, options: see `generate`.
        rows: cases that share a batch.
        remote: nnsight's own meaning.

    Yields:
        One `Generation` a case, in order, as soon as its batch is done.

    Raises:
        SpecError: anything wrong with any case, before the model runs.
    """
    ready = [(prompt, CLEAN if case is None else case) for prompt, case in cases]
    values = capture(model, [case for _, case in ready], remote)
    for prompt, case in ready:
        check(model, prompt, case, values)
    for start in range(0, len(ready), rows):
        prompts, chunk = zip(*ready[start : start + rows], strict=True)
        answers = decode(model, in_rows(prompts), chunk, values, {"max_new_tokens": max_new_tokens, **options}, remote)
        yield from (generation(model, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True))


def _columns(model: Any, found: Sequence[float]) -> dict[str, Any]:
    logit, logprob, rank, top = found
    return {"logit": logit, "logprob": logprob, "rank": int(rank), "top_token": _token_text(model, int(top))}


def _clean(found: Sequence[float]) -> dict[str, float]:
    return {"clean_logit": found[0], "clean_logprob": found[1]}


def _token_text(model: Any, token: int) -> str | int:
    return token if model.tokenizer is None else str(model.tokenizer.decode([token]))


def answer_token(model: Any, answer: str | int) -> int:
    """The id of an answer that is one token.

    Raises:
        SpecError: the text is several tokens, or none that the tokenizer knows.
    """
    if isinstance(answer, int):
        return answer
    if model.tokenizer is None:
        raise SpecError(
            f"reading the answer {answer!r} needs a tokenizer; give a token id, or nv.load(model, processor=...)"
        )
    spellings = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (answer, answer.strip())]
    for ids in spellings:
        if len(ids) == 1 and ids[0] != model.tokenizer.unk_token_id:
            return int(ids[0])
    pieces = model.tokenizer.convert_ids_to_tokens(spellings[0])
    raise SpecError(f"the answer {answer!r} is not one token but {pieces}; give the id of the token to score")


def branch_point(model: Any, prompt: Prompt, cases: Sequence[Intervention], values: Values) -> int:
    """First position that any case changes; the last token at the latest."""
    layout_scope = scope(model, in_rows([prompt]).seats[0], values)
    return min([prompt.rows[0].stop - 1, *(case.first_position(layout_scope) for case in cases)])


def choose(model: Any, prompt: Prompt, cases: Sequence[Intervention], values: Values, execution: str) -> str:
    """`packed`, `rows` or `single`.

    Raises:
        SpecError: no such execution, or packing asked for where it would not be exact.
    """
    if execution not in EXECUTIONS:
        raise SpecError(f"no execution {execution!r}; there are {', '.join(EXECUTIONS)}")
    obstacle = why_not_packed(model, prompt, branch_point(model, prompt, cases, values))
    if execution == "packed" and obstacle:
        raise SpecError(f'{obstacle}; write execution="rows"')
    if execution != "auto":
        return execution
    return "rows" if obstacle else "packed"


def why_not_packed(model: Any, prompt: Prompt, branch: int) -> str:
    """Why variants cannot share the prefix before `branch`; empty where they can."""
    row = prompt.rows[0]
    if not family(model).packable:
        return f"models of type {family(model).model_type!r} let the prefix see the text, so it cannot be shared"
    if any(position >= branch for image in row.images for position in image):
        return "a variant changes image tokens, or text before the image, which cannot be shared"
    if row.start > 0 or "position_ids" in prompt.inputs:
        return "a padded prompt cannot be packed"
    return ""


def score(
    model: Any,
    prompt: Prompt,
    cases: Sequence[Intervention],
    values: Values,
    token: int,
    execution: str,
    remote: Remote,
) -> list[list[float]]:
    """`[logit, logprob, rank, top token]` of the last position, one list a case."""
    branch = branch_point(model, prompt, cases, values)
    each = prompt.rows[0].stop - branch if execution == "packed" else prompt.width
    room = TOKENS_PER_PASS - (branch if execution == "packed" else 0)
    size = 1 if execution == "single" else max(1, room // each)
    found: list[list[float]] = []
    for start in range(0, len(cases), size):
        chunk = cases[start : start + size]
        layout = packed(prompt, len(chunk), branch) if execution == "packed" else in_rows([prompt] * len(chunk))
        found += _score_layout(model, layout, chunk, values, token, remote)
    return found


def _score_layout(
    model: Any, layout: Layout, cases: Sequence[Intervention], values: Values, token: int, remote: Remote
) -> list[list[float]]:
    places = [seat.place(seat.tokens.stop - 1) for seat in layout.seats]
    kept = sorted(set(places))
    requests = tuple((seat.row, kept.index(place), token) for seat, place in zip(layout.seats, places, strict=True))
    plan = compile_plan(model, layout, lower(model, layout, cases, values))
    scores = forward(model, layout, plan, [], (readouts.answer_scores, requests), kept, remote)[0]
    return [[float(number) for number in line] for line in scores]
