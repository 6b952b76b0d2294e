"""Many variants of one prompt, few forwards, one tidy table."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from .engine import as_intervention, check, words_of
from .errors import SpecError
from .interventions import CLEAN, Intervention
from .layers import label
from .passes import score
from .prompts import Prompt
from .remote import waits
from .spelling import spell, tokenizer_of
from .wire import Remote


@waits
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
        remote: see `nv.run`.

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
    found, done = score(model, prompt, [CLEAN, *cases], token, execution=execution, remote=remote, memory=memory)
    clean, *scores = found
    known = {"clean_logit": clean[0], "clean_logprob": clean[1]}
    rows = [
        {"variant": name, **_fields(case), **_columns(model, found), **known}
        for name, case, found in zip(names, cases, scores, strict=True)
    ]
    frame = _uniform(pd.DataFrame(rows))
    frame.attrs.update(**done, answer=token)
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
        words = words_of(model)
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
