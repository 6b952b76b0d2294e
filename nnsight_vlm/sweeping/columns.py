"""The columns of a sweep's table: what was asked for of one variant, beside what the clean run gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ..families import Model
from ..lowering.answer_trees import AnswerTokens
from ..prompts.token_text import spell
from .scores import CaseScore, Score
from .wanted import Wanted


def columns_of(
    model: Model, wanted: Wanted, case: CaseScore, clean: CaseScore
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """For each answer the columns before a variant's fields, and those behind them."""
    reads = {name: _cell(read) for name, read in zip(wanted.reads, case.reads, strict=True)}
    answers = wanted.answers or wanted.scored
    for number, answer in enumerate(answers):
        at = wanted.scored.index(answer)
        own = _numbers(wanted, case, at)
        known = {f"clean_{name}": value for name, value in _numbers(wanted, clean, at).items()}
        first = {"answer": wanted.labels[number]} if wanted.several else {}
        yield first, {**_in_order(own, _place(model, wanted, case.answers[at])), **known, **reads}


def _numbers(wanted: Wanted, case: CaseScore, at: int) -> dict[str, float]:
    """The numbers of an answer that a clean run has too."""
    score, found = case.answers[at], {}
    if wanted.answers:
        found = {"logit": score.logit, "logprob": score.logprob}
        if wanted.is_long:
            found["logprob_mean"] = score.logprob / len(wanted.scored[at])
    if wanted.against is not None:
        other = case.answers[wanted.scored.index(wanted.against)]
        found |= {"logit_diff": score.logit - other.logit, "logprob_diff": score.logprob - other.logprob}
    return found if wanted.metric is None else {**found, "metric": score.metric}


def _place(model: Model, wanted: Wanted, score: Score) -> dict[str, Any]:
    """Where an answer's first token stands among all words, and which word is the first of them."""
    top_token = None if score.top_token is None else spell(model, score.top_token)
    return {**({"rank": score.rank} if wanted.answers else {}), "top_token": top_token}


def _in_order(numbers: dict[str, float], place: dict[str, Any]) -> dict[str, Any]:
    """The numbers of one token, its place, and then all others."""
    usual = {name: value for name, value in numbers.items() if name in ("logit", "logprob")}
    return {**usual, **place, **numbers}


def _cell(read: torch.Tensor) -> Any:
    """A read as a table holds it: a number where it is one."""
    return float(read) if read.numel() == 1 else read


def asked_for(wanted: Wanted) -> dict[str, Any]:
    """The tokens of what was asked for, as the table's attributes have them: an answer of one token as that."""
    tokens = [_plain(answer) for answer in wanted.answers]
    answer = {"answer": tokens if wanted.several else tokens[0]} if tokens else {}
    return answer if wanted.against is None else {**answer, "against": _plain(wanted.against)}


def _plain(answer: AnswerTokens) -> Any:
    return answer[0] if len(answer) == 1 else answer
