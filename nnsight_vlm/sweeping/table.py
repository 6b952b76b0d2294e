"""Many variants of one prompt, few forwards, one tidy table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import pandas as pd

from ..arguments import as_index, listed, one_of, spelled
from ..errors import SpecError
from ..execution.checking import as_intervention, check_interventions, check_prompt
from ..execution.emptiness import Call, Empty, check_empty
from ..execution.memory import check_memory
from ..families import Model, view_of
from ..families.locks import lock_of, one_thread
from ..lowering.layers import label
from ..prompts.given import single_prompt
from ..prompts.prompt import Prompt
from ..prompts.token_text import spell, tokenizer_of
from ..remote.background import Job, can_run_in_background
from ..remote.model_call import Remote
from ..specs.interventions import CLEAN, Intervention
from .execute import Score, score
from .non_finite import name_non_finite, require_finite
from .schedule import EXECUTIONS, Execution


@overload
def sweep(
    model: Model,
    prompt: Prompt,
    variants: Sequence[Intervention] | Mapping[str, Intervention],
    *,
    answer: str | int,
    execution: Execution = "auto",
    memory: int | None = None,
    empty: Empty = "error",
    remote: Remote = False,
    blocking: Literal[True] = True,
    path: None = None,
) -> pd.DataFrame: ...
@overload
def sweep(
    model: Model,
    prompt: Prompt,
    variants: Sequence[Intervention] | Mapping[str, Intervention],
    *,
    answer: str | int,
    execution: Execution = "auto",
    memory: int | None = None,
    empty: Empty = "error",
    remote: Remote,
    blocking: Literal[False],
    path: str | Path | None = None,
) -> Job[pd.DataFrame]: ...
@can_run_in_background
def sweep(
    model: Model,
    prompt: Prompt,
    variants: Sequence[Intervention] | Mapping[str, Intervention],
    *,
    answer: str | int,
    execution: Execution = "auto",
    memory: int | None = None,
    empty: Empty = "error",
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
) -> pd.DataFrame | Job[pd.DataFrame]:
    """The answer's score under every variant, and in the clean run.

    Args:
        model: an nnsight model from `load`.
        prompt: a prompt of one row; the answer is what its last token predicts.
        variants: interventions, or names for them.
        answer: one token, as text or id.
        execution: `packed` shares everything before the first changed position between the
            variants, `rows` makes them rows of a batch, `single` runs them one by one, `auto` chooses.
            All give the same numbers. To check that, compare with `single`: `rows` share a pass as well. Where a
            model has parts that may depend on what else is in the pass (quantised layers, hooks), that is compared
            first; if it is so, the variants run one by one, with a warning, whatever was asked for.
        memory: bytes that a forward may take beside the weights, the prompt's own run that variants share included;
            default a quarter of what is free on the model's device. Where memory runs out all the same, fewer variants
            are run at once. Not with `single`, which runs one at a time.
        empty: see `nv.run`. The prompt's own tokens alone are there: a variant at `"generated"` is empty.
        remote, blocking, path: see `nv.run`.

    Returns:
        One row per variant: `variant`, its fields, `logit`, `logprob`, `rank` (0 is best),
        `top_token`, `clean_logit`, `clean_logprob`. `frame.attrs["execution"]` says what was done. A variant whose
        logits are infinite or not a number runs by itself, has no `logprob`, `rank` and `top_token`, and is named.

    Raises:
        InterventionError: the clean run's logits are infinite or not a number.
        SpecError: anything wrong with a variant or the answer; packing asked for where it is not exact; a model in
            train mode with an active dropout; a prompt of which not even one variant fits into `memory`, or into what
            is free.

    Warns:
        NonFiniteWarning: naming such variants.
        PassesDifferWarning: the variants ran one by one, because shared passes give other numbers in this model.
    """
    prompt = single_prompt(prompt)
    names, cases = _named(variants)
    one_of("execution", execution, EXECUTIONS)
    check_empty(empty)
    memory = check_memory(memory)
    if memory is not None and execution == "single":
        raise SpecError(
            'memory= says how many variants run at once, and execution="single" runs one; leave one of them out'
        )
    token = answer_token(model, answer)
    check_prompt(model, prompt)
    for name, case in zip(names, cases, strict=True):
        check_interventions(model, prompt, case, Call(f"variant {name!r}: ", empty=empty))
    with one_thread(model, here=remote is False):
        scores, done = score(model, prompt, [CLEAN, *cases], token, execution=execution, remote=remote, memory=memory)
    clean, *by_variant = scores
    require_finite(clean)
    name_non_finite(names, by_variant)
    known = {"clean_logit": clean.logit, "clean_logprob": clean.logprob}
    rows = [
        {"variant": name, **_fields(case), **_columns(model, scored), **known}
        for name, case, scored in zip(names, cases, by_variant, strict=True)
    ]
    frame = _uniform(pd.DataFrame(rows))
    frame.attrs.update(**done, answer=token)
    return frame


VARIANTS = "a list, [nv.Knockout(...), ...], or names for them, {name: nv.Knockout(...)}"


def _named(variants: Any) -> tuple[list[Any], list[Intervention]]:
    if isinstance(variants, Intervention):
        raise SpecError(f"variants are several; write {VARIANTS}")
    names = list(variants) if isinstance(variants, Mapping) else None
    given = list(variants.values()) if isinstance(variants, Mapping) else variants
    cases = [as_intervention(case) for case in listed("variants", given, VARIANTS)]
    if not cases:
        raise SpecError(f"no variants to sweep over; write {VARIANTS}")
    return list(range(len(cases))) if names is None else names, cases


def _fields(case: Intervention) -> dict[str, Any]:
    return {key: label(value) for key, value in case.fields().items()}


def _uniform(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns of one type each, so that Parquet can store them."""
    for name in frame.columns:
        if frame[name].dtype != object:  # of one type as it is
            continue
        known = frame[name].dropna()
        if known.map(type).nunique() > 1:
            frame[name] = frame[name].where(frame[name].isna(), frame[name].astype(str))
    return frame


def _columns(model: Model, score: Score) -> dict[str, Any]:
    top_token = None if score.top_token is None else spell(model, score.top_token)
    return {"logit": score.logit, "logprob": score.logprob, "rank": score.rank, "top_token": top_token}


def answer_token(model: Model, answer: str | int) -> int:
    """The id of an answer that is one token.

    Raises:
        SpecError: the text is several tokens, or none that the tokenizer knows; no such id.
    """
    words = view_of(model).vocab_size
    if not isinstance(answer, str):
        token = as_index(answer)
        if token is None:
            raise SpecError(f"answer={spelled(answer)} is no answer; write its text, or its token id")
        if not 0 <= token < words:
            raise SpecError(f"the answer {token} is no token id; the model has 0..{words - 1}")
        return token
    tokenizer = tokenizer_of(model)
    with lock_of(view_of(model).module):  # a tokenizer serves one thread at a time
        spellings = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (answer, answer.strip())]
    for ids in spellings:
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
            return int(ids[0])
    pieces = tokenizer.convert_ids_to_tokens(spellings[0])
    raise SpecError(f"the answer {answer!r} is not one token but {pieces}; give the id of the token to score")
