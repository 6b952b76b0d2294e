"""The beginning and the end of every recipe: what it asks one model, and the frame that it gives.

A recipe opens a `Study` from what the user handed over, measures prompt by prompt, and ends in `Study.frame`:

    study = open_study("my_recipe", model, prompts, cluster=cluster, seed=seed, per_image=per_image, work=work)
    ...
    return study.frame(settings, measure, summary)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..families import Model
from ..prompts.given import prompts_given
from ..prompts.prompt import Prompt
from ..remote.model_call import Remote
from .clusters import clusters_of, with_clusters
from .given import answers_given, truths_given, usual_given
from .journal import Measure, measured
from .provenance import counted
from .words import Thing
from .work import PLAIN, Work

Summary = Callable[[pd.DataFrame], pd.DataFrame]
"""From the rows of every image to means over images with intervals."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """What a recipe asks one model, and how it goes about its work.

    Attributes:
        recipe: name of the recipe.
        model: an nnsight model from `load`.
        prompts: one row each; a recipe's rows call the number of a prompt `image`.
        answers: one single-token answer for each prompt; None where none are given.
        truths: the objects that are really in each picture; None where they are not known.
        clusters: for each prompt, the number of the first prompt about the same image.
        seed: of the random controls.
        per_image: whether the rows of every image are given in place of means.
        work: journal, progress bar, size of chunks and memory.
        remote: where the model runs, see `nv.run`.
    """

    recipe: str
    model: Model
    prompts: Sequence[Prompt]
    answers: Sequence[str | int] | None
    truths: Sequence[tuple[Thing, ...]] | None
    clusters: Sequence[int]
    seed: int
    per_image: bool
    work: Work
    remote: Remote

    def frame(
        self, settings: Mapping[str, Any], measure: Measure, summary: Summary, *, columns: Sequence[str] = ()
    ) -> pd.DataFrame:
        """Measure all prompts, chunk by chunk, and give the recipe's frame.

        Args:
            settings: all on which the rows depend beside the model, the prompts, answers, truths and the seed.
            measure: from the numbers of some prompts to their rows; each row has `image`, the number of its prompt.
            summary: from the rows of every image to means with intervals.
            columns: the columns of a frame without rows, for recipes that may find nothing to measure.

        Raises:
            SpecError: see `journal.measured`.
        """
        truths = None if self.truths is None else [[(thing.name, thing.mask) for thing in each] for each in self.truths]
        given = {"answers": self.answers, "truths": truths, "seed": self.seed}
        rows = measured(self.recipe, self.model, self.prompts, {**settings, **given}, measure, self.work, self.remote)
        frame = with_clusters(rows if len(rows) else pd.DataFrame(columns=columns), self.clusters)
        return counted(frame if self.per_image else summary(frame), self.clusters, settings)


def open_study(
    recipe: str,
    model: Model,
    prompts: Any,
    *,
    answers: Any = None,
    truths: Any = None,
    cluster: Sequence[Hashable] | None = None,
    seed: Any = 0,
    per_image: Any = False,
    work: Any = PLAIN,
    remote: Remote = False,
) -> Study:
    """Check what every recipe is given.

    Args:
        recipe: name of the recipe.
        model: an nnsight model from `load`.
        prompts, answers, truths, cluster, seed, per_image, work, remote: as the user gave them, see `Study` and
            `knockout_windows`.

    Raises:
        SpecError: naming the argument that is something else.
    """
    prompts = prompts_given(prompts)
    seed, per_image, work = usual_given(seed, per_image, work)
    return Study(
        recipe=recipe,
        model=model,
        prompts=prompts,
        answers=None if answers is None else answers_given(model, prompts, answers),
        truths=truths_given(prompts, truths),
        clusters=clusters_of(prompts, cluster),
        seed=seed,
        per_image=per_image,
        work=work,
        remote=remote,
    )
