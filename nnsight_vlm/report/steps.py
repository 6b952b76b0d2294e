"""The recipes that a report runs, and why one of them is not run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from ..errors import SpecError
from ..families import Model
from ..questions.item_lists import Items
from ..recipes import attention_share, knockout_windows, patch_grounding, prompt_ablation, query_patching
from ..recipes.layer_windows import summary as knockout_summary
from ..recipes.prompt_parts import summary as ablation_summary
from ..recipes.query_states import summary as patching_summary
from ..recipes.token_groups import summary as share_summary
from ..recipes.word_patches import summary as grounding_summary
from ..statistics import FEWEST
from ..studies.work import Work
from .chosen import chosen_parts
from .config import ReportConfig
from .section import Section
from .section_inputs import given_to
from .sections import SECTIONS
from .study import TOP, Study


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One part of a report.

    Attributes:
        name: of its frames.
        run: measures every image, and gives the rows of each.
        sum_up: from these rows to means with intervals.
        lacks: why it cannot be run; empty where it can.
    """

    name: str
    run: Callable[[Work], pd.DataFrame]
    sum_up: Callable[[pd.DataFrame, Work], pd.DataFrame]
    lacks: str = ""


def steps(model: Model, study: Study, config: ReportConfig) -> list[Step]:
    """The parts that a user wants, in the order in which they run."""
    common: dict[str, Any] = {"seed": config.seed, "per_image": True, "remote": config.remote}
    generating: dict[str, Any] = {**common, "max_new_tokens": config.max_new_tokens, "rows": config.rows}
    scored: dict[str, Any] = {**generating, "truths": study.truths, "objects": study.objects}
    grounded = study.grounded()
    # no part of the prompt is shared by the runs without it, so this takes as long as all knockouts
    halved = study.asked if isinstance(study.asked, Items) else study.asked[: _half(study.asked)]

    def describe(work: Work) -> pd.DataFrame:
        return knockout_windows(model, study.asked, answers=False, routes=study.routes, work=work, **scored)

    def ground(work: Work) -> pd.DataFrame:
        by_name = None if study.knows_objects else study.objects
        given: dict[str, Any] = {**generating, "truths": study.truths, "objects": by_name, "top": TOP}
        return patch_grounding(model, grounded, work=work, **given)

    def share(work: Work) -> pd.DataFrame:
        return attention_share(model, study.asked, work=work, **generating)

    def ablate(work: Work) -> pd.DataFrame:
        some = {**scored, "truths": None if study.truths is None else study.truths[: len(halved)]}
        return prompt_ablation(model, halved, work=work, **some)

    every = [Step(name="knockout_windows", run=describe, sum_up=_by(knockout_summary))]
    if len(grounded):
        every.append(Step(name="patch_grounding", run=ground, sum_up=_by(grounding_summary)))
    every.append(Step(name="attention_share", run=share, sum_up=_by(share_summary)))
    every.append(Step(name="prompt_ablation", run=ablate, sum_up=_by(ablation_summary)))
    every += _steps_on_answers(model, study, common)
    every += [_step_of(section, model, study, config) for section in SECTIONS]
    chosen = chosen_parts(config.only, config.without)
    return [step for step in every if step.name in chosen]


def _half(prompts: Sequence[Any]) -> int:
    """Half of the scenes, and enough for an interval: of what takes long and decides no claim."""
    return max(FEWEST, len(prompts) // 2)


def _by(summary: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[pd.DataFrame, Work], pd.DataFrame]:
    """The means of rows, which need nothing else."""
    return lambda rows, _: summary(rows)


def _steps_on_answers(model: Model, study: Study, common: dict[str, Any]) -> list[Step]:
    """The recipes that need questions with one-token answers."""
    answered, pairs = study.answered, study.pairs
    # patched image tokens cost a whole forward each
    patched = pairs if isinstance(pairs, Items) else pairs[: _half(pairs)]

    def answer(work: Work) -> pd.DataFrame:
        if isinstance(pairs, Items) or answered is not None:
            return knockout_windows(model, answered, work=work, **common)
        questions, answers = [asked.prompt for asked in pairs], [asked.answer for asked in pairs]
        return knockout_windows(model, questions, answers=answers, work=work, **common)

    def patch(work: Work) -> pd.DataFrame:
        return query_patching(model, patched, work=work, **common)

    asks = answered is not None or len(pairs)
    why_not = ("" if asks else study.lacks["questions"], "" if len(pairs) else study.lacks["pairs"])
    return [
        Step(name="knockout_answers", run=answer, sum_up=_by(knockout_summary), lacks=why_not[0]),
        Step(name="query_patching", run=patch, sum_up=_by(patching_summary), lacks=why_not[1]),
    ]


def _step_of(section: Section, model: Model, study: Study, config: ReportConfig) -> Step:
    """A further analysis; its recipe gives the means itself, from the journal that the rows are in."""
    given = given_to(section, model, study, config)

    def run(work: Work, *, per_image: bool = True) -> pd.DataFrame:
        if isinstance(given, str):
            raise SpecError(given)
        return section.function(model, work=work, per_image=per_image, **given)

    def sum_up(_: pd.DataFrame, work: Work) -> pd.DataFrame:
        return run(replace(work, progress=False), per_image=False)

    return Step(name=section.name, run=run, sum_up=sum_up, lacks=given if isinstance(given, str) else "")
