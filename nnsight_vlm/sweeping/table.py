"""Many variants of one prompt, few forwards, one tidy table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import pandas as pd
import torch

from ..arguments import listed, one_of
from ..errors import SpecError
from ..execution.checking import as_intervention, check_interventions, check_prompt
from ..execution.emptiness import Call, Empty, check_empty, refuse_empty_read
from ..execution.memory import check_memory
from ..families import Model
from ..families.locks import one_thread
from ..lowering.layers import label
from ..lowering.layouts import one_case_per_row
from ..lowering.resolve import resolver
from ..prompts.given import single_prompt
from ..prompts.prompt import Prompt
from ..remote.background import Job, can_run_in_background
from ..remote.model_call import Remote
from ..specs.interventions import CLEAN, Intervention
from ..specs.measurements import Readout
from .columns import asked_for, columns_of
from .execute import score
from .non_finite import name_non_finite, require_finite
from .schedule import EXECUTIONS, Execution
from .wanted import Answer, Metric, refuse_unsaid, wanted_of


@overload
def sweep(
    model: Model,
    prompt: Prompt,
    variants: Sequence[Intervention] | Mapping[str, Intervention],
    *,
    answer: Answer | list[Answer] | None = None,
    against: Answer | None = None,
    metric: Metric | None = None,
    reads: Readout | Sequence[Readout] | Mapping[str, Readout] = (),
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
    answer: Answer | list[Answer] | None = None,
    against: Answer | None = None,
    metric: Metric | None = None,
    reads: Readout | Sequence[Readout] | Mapping[str, Readout] = (),
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
    answer: Answer | list[Answer] | None = None,
    against: Answer | None = None,
    metric: Metric | None = None,
    reads: Readout | Sequence[Readout] | Mapping[str, Readout] = (),
    execution: Execution = "auto",
    memory: int | None = None,
    empty: Empty = "error",
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
) -> pd.DataFrame | Job[pd.DataFrame]:
    """The scores of answers under every variant, and in the clean run; other numbers of it, and what is read of it.

    Args:
        model: an nnsight model from `load`.
        prompt: a prompt of one row; an answer begins at what its last token predicts.
        variants: interventions, or names for them.
        answer: a text, a token id or a tuple of token ids; a list of them for several answers, from the same forwards.
            Text that one token spells, as written or without its space, is that token; other text is its tokens as
            written. The tokens of a longer answer are given to the model one after the other behind the prompt, and
            count as `"generated"`: what acts there, acts on them, as in cached generation.
        against: another answer, which every answer is compared with.
        metric: a function of logits `[position, word]`, float32 or float64, at the positions that predict the answer's
            tokens, or at the last one without `answer`; it gives one number. It is called on this machine. With
            `blocking=False` it would have to be found again by its name, so none is taken there.
        reads: what to look at in every variant, see `nv.run`: of the prompt, whatever answers follow.
        execution: `packed` shares everything before the first changed position between the
            variants, `rows` makes them rows of a batch, `single` runs them one by one, `auto` chooses.
            All give the same numbers. To check that, compare with `single`: `rows` share a pass as well. Where a
            model has parts that may depend on what else is in the pass (quantised layers, hooks), that is compared
            first; if it is so, the variants run one by one, with a warning, whatever was asked for.
        memory: bytes that a forward may take beside the weights, the prompt's own run that variants share included;
            default a quarter of what is free on the model's device. Where memory runs out all the same, fewer variants
            are run at once. Not with `single`, which runs one at a time.
        empty: see `nv.run`. Tokens of the longest answer that are given to the model, all but its last, are generated
            ones: with answers of one token, a variant at `"generated"` is empty.
        remote, blocking, path: see `nv.run`.

    Returns:
        One row per variant, and answer where `answer` is a list: `variant`, `answer` (as it was given), the variant's
        fields, then

        - `logit`, `rank` (0 is best) and `top_token`: of the answer's first token, at the prompt's last;
        - `logprob`: of the whole answer, the sum over its tokens; where answers may be longer than one token also
          `logprob_mean`, the mean over them;
        - `logit_diff` and `logprob_diff`: `logit` and `logprob` minus those of `against`;
        - `metric`;
        - `clean_logit`, `clean_logprob` and so on: the same of the clean run;
        - a column for each read, `read` for one, `read.0`, `read.1` for several, or by the names that were given: the
          tensor that `nv.run` gives for the variant, or a number where it is one. To read the clean run too, make None
          one of the variants.

        Without `answer` there are `top_token` and what was asked for. `frame.attrs["execution"]` says what was done,
        and `frame.attrs["answer"]` has the tokens. A variant whose logits are infinite or not a number runs by itself,
        has no `logprob`, `rank` and `top_token`, and is named.

    Raises:
        InterventionError: the clean run's logits are infinite or not a number.
        SpecError: anything wrong with a variant, an answer or a read; packing asked for where it is not exact; a model
            in train mode with an active dropout; a prompt of which not even one variant fits into `memory`, or into
            what is free.

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
    wanted = wanted_of(model, answer, against, metric, reads)
    given = max(len(each) for each in wanted.scored) - 1
    refuse_unsaid(prompt, wanted.scored)
    check_prompt(model, prompt)
    for name, case in zip(names, cases, strict=True):
        check_interventions(model, prompt, case, Call(f"variant {name!r}: ", decoded=given or None, empty=empty))
    for read in wanted.reads.values() if empty != "ignore" else ():
        refuse_empty_read(resolver(model, one_case_per_row(prompt).placements[0]), read)
    with one_thread(model, here=remote is False):
        scores, done = score(model, prompt, [CLEAN, *cases], wanted, execution=execution, remote=remote, memory=memory)
    clean, *by_variant = scores
    require_finite(clean)
    name_non_finite(names, by_variant)
    rows = [
        {"variant": name, **first, **_fields(case), **last}
        for name, case, scored in zip(names, cases, by_variant, strict=True)
        for first, last in columns_of(model, wanted, scored, clean)
    ]
    frame = _uniform(pd.DataFrame(rows))
    frame.attrs.update(**done, **asked_for(wanted))
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
        if known.map(lambda value: isinstance(value, torch.Tensor)).any():
            continue
        if known.map(type).nunique() > 1:
            frame[name] = frame[name].where(frame[name].isna(), frame[name].astype(str))
    return frame
