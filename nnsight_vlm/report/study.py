"""What a report measures: the pictures and questions, and the recipes that run on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import SpecError
from ..families import Model
from ..prompts.encoding import encode
from ..prompts.pictures import open_picture
from ..prompts.prompt import Prompt
from ..recipes import Pair, attention_share, knockout_windows, patch_grounding, prompt_ablation, query_patching
from ..recipes.layer_windows import summary as knockout_summary
from ..recipes.prompt_parts import summary as ablation_summary
from ..recipes.query_states import summary as patching_summary
from ..recipes.routes import default_routes
from ..recipes.token_groups import summary as share_summary
from ..recipes.word_patches import summary as grounding_summary
from ..shapes import pair, scene
from ..statistics import FEWEST
from ..studies.image_patches import has_patches
from ..studies.words import Objects, Thing, shape_objects, shape_truth, vocabulary
from ..studies.work import Work
from ..sweeping.wanted import answer_token
from .config import ReportConfig

ROUTES = ("image->generated", "image->query", "query->generated", "image->text")
"""Routes that are cut while the model writes descriptions.

`image->last` is not among them: it acts on the answer's first token, so it is measured on one-token answers.
"""

TRIES = 20
"""How many pairs of scenes are drawn for each pair that is wanted; many have no question with one right answer."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """Pictures, questions and truths, encoded for one model.

    Attributes:
        prompts: the query about every picture.
        truths: the objects that are really in each picture; None where they are not known.
        pairs: one question about two pictures with different answers; empty where no such pairs are known.
        objects: finds the objects that a description names; None for the recipes' default.
    """

    prompts: tuple[Prompt, ...]
    truths: tuple[tuple[Thing, ...], ...] | None
    pairs: tuple[Pair, ...]
    objects: Objects | None


def gather(model: Model, config: ReportConfig) -> Study:
    """Encode a report's pictures: those of a folder, or synthetic scenes with their truths and pairs."""
    names = vocabulary(config.objects) if config.objects else None
    if config.images is not None:
        prompts = tuple(_encoded(model, config.query, Path(config.images) / name) for name in config.pictures)
        return Study(prompts=prompts, truths=None, pairs=(), objects=names)
    scenes = [scene(config.first_scene + number) for number in range(config.scenes)]
    return Study(
        prompts=tuple(encode(model, config.query, drawn.image) for drawn in scenes),
        truths=tuple(shape_truth(drawn) for drawn in scenes),
        pairs=color_pairs(model, config.first_scene, config.scenes),
        objects=names or shape_objects,
    )


def _encoded(model: Model, query: str, picture: Path) -> Prompt:
    """The query about a picture of a file.

    Raises:
        SpecError: naming the picture.
    """
    try:
        return encode(model, query, open_picture(picture))
    except SpecError as error:
        raise SpecError(f"{str(picture)!r}: {error}") from error


def color_pairs(model: Model, first: int, count: int) -> tuple[Pair, ...]:
    """Up to `count` pairs of scenes that differ in the colour of one object, each with the question for this colour.

    Colours that the model's tokenizer spells with several tokens are left out, because answers of one token are scored.

    Args:
        model: encodes the questions.
        first: the seed of the first pair that is tried.
        count: how many pairs are wanted.
    """
    pairs: list[Pair] = []
    for seed in range(first, first + TRIES * count):
        if len(pairs) == count:
            break
        one, other = pair(seed, "color")
        before, after = next((a, b) for a, b in zip(one.objects, other.objects, strict=True) if a.color != b.color)
        has_one_answer = sum(shape.shape == before.shape for shape in one.objects) == 1
        if has_one_answer and all(_is_one_token(model, shape.color) for shape in (before, after)):
            question = f"what color is the {before.shape}?"
            prompt, other_prompt = (encode(model, question, drawn.image) for drawn in (one, other))
            pairs.append(Pair(prompt, other_prompt, before.color, after.color))
    return tuple(pairs)


def _is_one_token(model: Model, answer: str) -> bool:
    try:
        answer_token(model, answer)
    except SpecError:
        return False
    return True


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One recipe of a report.

    Attributes:
        name: of its frames.
        run: measures every image, and gives the rows of each.
        sum_up: from these rows to means with intervals.
    """

    name: str
    run: Callable[[Work], pd.DataFrame]
    sum_up: Callable[[pd.DataFrame], pd.DataFrame]


def steps(model: Model, study: Study, config: ReportConfig) -> list[Step]:
    """The recipes that a study permits, in the order in which they run."""
    common: dict[str, Any] = {"seed": config.seed, "per_image": True, "remote": config.remote}
    generating: dict[str, Any] = {**common, "max_new_tokens": config.max_new_tokens, "rows": config.rows}
    scored: dict[str, Any] = {**generating, "truths": study.truths, "objects": study.objects}
    prompts, routes = study.prompts, default_routes(study.prompts, ROUTES)

    def describe(work: Work) -> pd.DataFrame:
        return knockout_windows(model, prompts, routes=routes, work=work, **scored)

    def ground(work: Work) -> pd.DataFrame:
        by_name = None if study.truths is not None else study.objects
        return patch_grounding(model, prompts, truths=study.truths, objects=by_name, work=work, **generating)

    def share(work: Work) -> pd.DataFrame:
        return attention_share(model, prompts, work=work, **generating)

    def ablate(work: Work) -> pd.DataFrame:
        return prompt_ablation(model, prompts, work=work, **scored)

    chosen = [Step(name="knockout_windows", run=describe, sum_up=knockout_summary)]
    if all(has_patches(prompt) for prompt in prompts):
        chosen.append(Step(name="patch_grounding", run=ground, sum_up=grounding_summary))
    chosen.append(Step(name="attention_share", run=share, sum_up=share_summary))
    chosen.append(Step(name="prompt_ablation", run=ablate, sum_up=ablation_summary))
    return [*chosen, *_steps_on_pairs(model, study.pairs, common)] if study.pairs else chosen


def _steps_on_pairs(model: Model, pairs: tuple[Pair, ...], common: dict[str, Any]) -> list[Step]:
    """The recipes that need questions with one-token answers."""
    patched = pairs[: max(FEWEST, len(pairs) // 2)]  # patched image tokens cost a whole forward each

    def answer(work: Work) -> pd.DataFrame:
        questions, answers = [asked.prompt for asked in pairs], [asked.answer for asked in pairs]
        return knockout_windows(model, questions, answers=answers, work=work, **common)

    def patch(work: Work) -> pd.DataFrame:
        return query_patching(model, patched, work=work, **common)

    return [
        Step(name="knockout_answers", run=answer, sum_up=knockout_summary),
        Step(name="query_patching", run=patch, sum_up=patching_summary),
    ]
