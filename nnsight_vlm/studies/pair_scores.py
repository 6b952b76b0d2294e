"""How far a changed run moves from one picture's answer to the other's: the measures of all recipes on pairs.

With y the other picture's answer and x the prompt's own:

- `restoration`, `(P(y|changed) - P(y|prompt)) / (P(y|other) - P(y|prompt))`, as in NOTICE (Golovanevsky et al. 2024,
  arXiv 2406.16320): 0 for no effect, 1 where y is as probable as in the other run;
- `indirect_effect`, `P(y|changed) - P(y|prompt)`, as in Meng et al. 2022 (arXiv 2202.05262);
- `logit_diff`, the logit of y minus that of x in the changed run; `logit_diff_change`, the same minus that of the
  prompt's own run; `logit_diff_restored`, the change as a share of the other run's;
- `flipped`, 1 where y becomes the most probable token.

Probabilities saturate and logit differences do not: a change that comes late to the brim of an answer shows in the
second alone. Pairs of which the model does not answer both questions right have NaN in all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from ..execution.forward import run
from ..families import Model
from ..prompts.prompt import Prompt
from ..remote.batching import together
from ..remote.model_call import Remote
from ..specs.interventions import Intervention
from ..sweeping.table import sweep
from ..sweeping.wanted import answer_token
from .pairs import Pair
from .work import Work

LOGIT_DIFFS = ("logit_diff", "logit_diff_change", "logit_diff_restored")


class Condition(NamedTuple):
    """A changed run, and what the table says of it.

    Attributes:
        labels: what the columns say.
        first: the first position that is changed, which says what the run may share with others.
        intervention: what is changed.
    """

    labels: Mapping[str, Any]
    first: int
    intervention: Intervention


class ChangedScore(NamedTuple):
    """An answer in a changed run.

    Attributes:
        labels: what the columns say.
        logprob: of the answer.
        rank: of the answer; 0 is the most probable.
        logit_diff: its logit minus that of the answer it is compared with.
    """

    labels: Mapping[str, Any]
    logprob: float
    rank: float
    logit_diff: float


class ClearRun(NamedTuple):
    """An answer in a run without changes: its probability, its logit minus the compared one's, the most probable."""

    probability: float
    logit_diff: float
    top: int


def pair_rows(
    model: Model,
    pair: Pair,
    image: int,
    conditions: Iterable[Condition],
    measures: Sequence[str],
    work: Work,
    remote: Remote,
) -> list[dict[str, Any]]:
    """Rows of one pair, from its two clean runs and one sweep for each batch of conditions.

    Args:
        model: an nnsight model.
        pair: the conditions change its `prompt`.
        image: the pair's number.
        conditions: the changed runs.
        measures: which of the measures of this module.
        work, remote: of the recipe.
    """
    answer, other_answer = answer_token(model, pair.answer), answer_token(model, pair.other_answer)
    own, other = Base(pair.prompt), Base(pair.other)
    before, after, scores = scored(model, own, other, conditions, other_answer, answer, work, remote)
    known = before.top == answer and after.top == other_answer
    rows = list[dict[str, Any]]()
    for score in scores:
        found = measures_of(score, before, after, known=known)
        rows.append({"image": image, **score.labels, **{name: found[name] for name in measures}})
    return rows


class Base(NamedTuple):
    """A run: a prompt, and what is changed in it throughout."""

    prompt: Prompt
    change: Intervention | None = None


class Scored(NamedTuple):
    """The run that the conditions change, the run whose answer they may bring, and every changed run."""

    before: ClearRun
    after: ClearRun
    scores: list[ChangedScore]


def scored(
    model: Model,
    base: Base,
    goal: Base,
    conditions: Iterable[Condition],
    answer: int,
    against: int | None,
    work: Work,
    remote: Remote,
) -> Scored:
    """An answer in a base run under each condition, and in the base and the goal themselves.

    Args:
        model: an nnsight model.
        base: the run that every condition changes; what it changes itself comes before the condition.
        goal: the run whose answer is looked for.
        conditions: the changed runs. They are two sweeps: changes behind the image can share one packed forward, and
            earlier ones cannot.
        answer: the goal's answer, a token.
        against: the token that its logit is compared with; None gives NaN for logit differences.
        work, remote: of the recipe.
    """
    computations: list[Callable[[], Any]] = [
        partial(_clear_run, model, each, answer, against, remote) for each in (base, goal)
    ]
    for batch in _batches(base, conditions):
        computations.append(partial(_scores, model, base, batch, answer, against, work, remote))
    before, after, *by_batch = together(computations, remote)
    return Scored(before, after, list(chain.from_iterable(by_batch)))


def _clear_run(model: Model, base: Base, answer: int, against: int | None, remote: Remote) -> ClearRun:
    """An answer in a run without conditions."""
    logits = run(model, base.prompt, base.change, remote=remote).logits.double()
    logit_diff = math.nan if against is None else float(logits[answer] - logits[against])
    return ClearRun(float(logits.softmax(-1)[answer]), logit_diff, int(logits.argmax()))


def measures_of(score: ChangedScore, before: ClearRun, after: ClearRun, *, known: bool) -> dict[str, float]:
    """All measures of one changed run; NaN where the pair does not count."""
    found = {
        "restoration": share_restored(math.exp(score.logprob), before.probability, after.probability),
        "indirect_effect": math.exp(score.logprob) - before.probability,
        "flipped": math.nan if math.isnan(score.rank) else float(score.rank == 0),
        "logit_diff": score.logit_diff,
        "logit_diff_change": score.logit_diff - before.logit_diff,
        "logit_diff_restored": share_restored(score.logit_diff, before.logit_diff, after.logit_diff),
    }
    return found if known else dict.fromkeys(found, math.nan)


def share_restored(value: float, before: float, after: float) -> float:
    """How far a value has come from one to another, as a share of the way; NaN where they are equal.

    >>> share_restored(0.75, 0.5, 1.0)
    0.5
    """
    return (value - before) / (after - before) if after != before else math.nan


def _batches(base: Base, conditions: Iterable[Condition]) -> tuple[list[Condition], list[Condition]]:
    """Two batches: changes of text behind the image, which can share one packed forward, and earlier ones."""
    first_text = min(base.prompt["query"], default=base.prompt.rows[0].answer)
    late, early = list[Condition](), list[Condition]()
    for condition in conditions:
        (early if condition.first < first_text or base.change is not None else late).append(condition)
    return late, early


def _scores(
    model: Model, base: Base, batch: Sequence[Condition], answer: int, against: int | None, work: Work, remote: Remote
) -> list[ChangedScore]:
    if not batch:
        return []
    given = [condition.intervention for condition in batch]
    cases = given if base.change is None else [base.change | case for case in given]
    frame = sweep(model, base.prompt, cases, answer=answer, against=against, memory=work.memory, remote=remote)
    return [
        ChangedScore(condition.labels, score.logprob, score.rank, math.nan if against is None else score.logit_diff)
        for condition, score in zip(batch, frame.itertuples(), strict=True)
    ]
