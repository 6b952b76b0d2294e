"""The recipes that a report runs, and why one of them is not run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

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
from .config import ReportConfig
from .study import TOP, Study


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One recipe of a report.

    Attributes:
        name: of its frames.
        run: measures every image, and gives the rows of each.
        sum_up: from these rows to means with intervals.
        optional: whether the report goes on, and says why, where the recipe refuses what it is given.
    """

    name: str
    run: Callable[[Work], pd.DataFrame]
    sum_up: Callable[[pd.DataFrame], pd.DataFrame]
    optional: bool = False


def steps(model: Model, study: Study, config: ReportConfig) -> list[Step]:
    """The recipes that a study permits, in the order in which they run."""
    common: dict[str, Any] = {"seed": config.seed, "per_image": True, "remote": config.remote}
    generating: dict[str, Any] = {**common, "max_new_tokens": config.max_new_tokens, "rows": config.rows}
    scored: dict[str, Any] = {**generating, "truths": study.truths, "objects": study.objects}
    grounded = study.grounded()

    def describe(work: Work) -> pd.DataFrame:
        return knockout_windows(model, study.asked, answers=False, routes=study.routes, work=work, **scored)

    def ground(work: Work) -> pd.DataFrame:
        by_name = None if study.knows_objects else study.objects
        given: dict[str, Any] = {**generating, "truths": study.truths, "objects": by_name, "top": TOP}
        return patch_grounding(model, grounded, work=work, **given)

    def share(work: Work) -> pd.DataFrame:
        return attention_share(model, study.asked, work=work, **generating)

    def ablate(work: Work) -> pd.DataFrame:
        return prompt_ablation(model, study.asked, work=work, **scored)

    chosen = [Step(name="knockout_windows", run=describe, sum_up=knockout_summary)]
    if len(grounded):
        chosen.append(Step(name="patch_grounding", run=ground, sum_up=grounding_summary))
    chosen.append(Step(name="attention_share", run=share, sum_up=share_summary))
    chosen.append(Step(name="prompt_ablation", run=ablate, sum_up=ablation_summary))
    return [*chosen, *_steps_on_answers(model, study, common)]


def _steps_on_answers(model: Model, study: Study, common: dict[str, Any]) -> list[Step]:
    """The recipes that need questions with one-token answers."""
    answered, pairs = study.answered, study.pairs
    # patched image tokens cost a whole forward each
    patched = pairs if isinstance(pairs, Items) else pairs[: max(FEWEST, len(pairs) // 2)]

    def answer(work: Work) -> pd.DataFrame:
        if isinstance(pairs, Items) or answered is not None:
            return knockout_windows(model, answered, work=work, **common)
        questions, answers = [asked.prompt for asked in pairs], [asked.answer for asked in pairs]
        return knockout_windows(model, questions, answers=answers, work=work, **common)

    def patch(work: Work) -> pd.DataFrame:
        return query_patching(model, patched, work=work, **common)

    chosen, optional = list[Step](), answered is not None
    if answered is not None or len(pairs):
        chosen.append(Step(name="knockout_answers", run=answer, sum_up=knockout_summary, optional=optional))
    if len(pairs):
        chosen.append(Step(name="query_patching", run=patch, sum_up=patching_summary, optional=optional))
    return chosen
