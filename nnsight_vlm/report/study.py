"""What a report measures: the pictures and questions, and what is known about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..errors import SpecError
from ..families import Model
from ..prompts.encoding import encode
from ..prompts.prompt import Prompt
from ..questions.item_lists import Items, LeftOut
from ..recipes import Pair
from ..recipes.routes import default_routes
from ..shapes import scene
from ..shapes.pair_table import color_pair
from ..studies.image_patches import has_patches, patch_source
from ..studies.item_checks import look_at_all
from ..studies.words import Objects, Thing, shape_objects, shape_truth, vocabulary
from ..studies.work import Work
from ..sweeping.wanted import answer_token
from .asked import Asked, asked_of
from .config import ReportConfig, picture_names

ROUTES = ("image->generated", "image->query", "query->generated", "image->text")
"""Routes that are cut while the model writes descriptions.

`image->last` is not among them: it acts on the answer's first token, so it is measured on one-token answers.
"""

TRIES = 20
"""How many pairs of scenes are drawn for each pair that is wanted; many have no question with one right answer."""
TOP = 5
"""How many of a word's best patches count in `patch_grounding`, as it has them itself."""
NO_PATCHES = "nothing tells which patches the image tokens of this model show"

OF_SCENES = dict.fromkeys(("questions", "pairs"), "no two scenes have one question with two answers of one token each")
OF_A_FOLDER = {
    "questions": "a folder of pictures has no answers; --items (items=) takes a table that has",
    "pairs": "a folder of pictures has no pairs of them; --items (items=) takes a table that has",
}
OF_A_TABLE = {
    "questions": "the table has no column answer",
    "pairs": "the table has no columns other_image and other_answer",
}
"""Why there are no questions with answers, or no pairs of pictures."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """Pictures, questions and truths, for one model.

    Attributes:
        asked: what recipes measure descriptions of: prompts of scenes, or items, which are encoded one by one.
        prompts: the prompts of these.
        ids: what each is called.
        table: what the table is called; empty where there is none.
        truths: the objects that are really in each scene; None for items, which have their own.
        knows_objects: whether it is known where the objects of the pictures are.
        answered: items with answers of their own; None where there are none.
        pairs: one question about two pictures with different answers; empty where no such pairs are known.
        pair_truths: the objects in the first picture of each pair of scenes.
        objects: finds the objects that a description names; None for the recipes' default.
        routes: those that are cut in all prompts.
        patches: for each prompt why its patches are not known; empty where they are.
        left_out: items that no recipe can measure, and why.
        lacks: why there are no `questions` with answers, or no `pairs`.
    """

    asked: tuple[Prompt, ...] | Items
    prompts: Sequence[Prompt]
    ids: Sequence[str | int]
    table: str = ""
    truths: tuple[tuple[Thing, ...], ...] | None = None
    knows_objects: bool = False
    answered: Items | None = None
    pairs: tuple[Pair, ...] | Items = ()
    pair_truths: tuple[tuple[Thing, ...], ...] = ()
    objects: Objects | None
    routes: tuple[str, ...]
    patches: Sequence[str]
    left_out: tuple[LeftOut, ...] = ()
    lacks: Mapping[str, str]

    def grounded(self) -> tuple[Prompt, ...] | Items:
        """What is asked about pictures whose patches are known; of scenes all or none, because all are alike."""
        if isinstance(self.asked, Items):
            return self.asked.only([number for number, why in enumerate(self.patches) if not why])
        return () if any(self.patches) else self.asked


class Seen(NamedTuple):
    """What a report notes of each prompt: the routes that it has, and why its patches are not known."""

    routes: tuple[str, ...]
    no_patches: str


def seen_of(prompt: Prompt) -> Seen:
    """What a report notes of a prompt."""
    routes = default_routes([prompt], ROUTES)
    if not has_patches(prompt):
        return Seen(routes, NO_PATCHES)
    try:
        patches = len(patch_source(prompt).grid.positions)
    except SpecError as error:
        return Seen(routes, str(error))
    return Seen(routes, f"its picture has {patches} patches, fewer than {TOP}" if patches < TOP else "")


def gather(model: Model, config: ReportConfig, asked: Asked | None = None, *, progress: bool = False) -> Study:
    """A report's pictures and questions for one model: those of a folder or table, or scenes with truths and pairs.

    Args:
        model: an nnsight model.
        config: the checked settings.
        asked: what `asked_of` gave of them, if it was called before.
        progress: show a progress bar.

    Raises:
        SpecError: pictures that the model's processor cannot encode, which were not to be left out.
    """
    asked = asked_of(config) if asked is None else asked
    return _of_scenes(model, config) if asked is None else _of_items(model, config, asked, progress)


def _of_items(model: Model, config: ReportConfig, asked: Asked, progress: bool) -> Study:
    items = asked.described
    looked = look_at_all(
        model,
        items,
        answered=False,
        with_things=items.has_things,
        look=seen_of,
        work=Work(progress=progress, chunk=config.chunk),
        remote=config.remote,
    )
    names = config.objects or asked.names
    rows = asked.answered
    return Study(
        asked=looked.items,
        prompts=looked.prompts,
        ids=looked.items.ids,
        table=asked.called,
        knows_objects=items.has_things,
        answered=None if rows is None else replace(rows, skip=True),
        pairs=replace(rows, skip=True) if rows is not None and rows.has_pairs else (),
        objects=vocabulary(names) if names else None,
        routes=_in_all(looked.seen),
        patches=[seen.no_patches for seen in looked.seen],
        left_out=looked.items.left_out,
        lacks=OF_A_FOLDER if config.items is None else OF_A_TABLE,
    )


def _of_scenes(model: Model, config: ReportConfig) -> Study:
    scenes = [scene(config.first_scene + number) for number in range(config.scenes)]
    prompts = tuple(encode(model, str(config.query), drawn.image) for drawn in scenes)
    seen, asked = [seen_of(prompt) for prompt in prompts], _color_questions(model, config.first_scene, config.scenes)
    return Study(
        asked=prompts,
        prompts=prompts,
        ids=picture_names(config),
        truths=tuple(shape_truth(drawn) for drawn in scenes),
        knows_objects=True,
        pairs=tuple(pair for pair, _ in asked),
        pair_truths=tuple(truth for _, truth in asked),
        objects=vocabulary(config.objects) if config.objects else shape_objects,
        routes=_in_all(seen),
        patches=[each.no_patches for each in seen],
        lacks=OF_SCENES,
    )


def _in_all(seen: Sequence[Seen]) -> tuple[str, ...]:
    return tuple(route for route in ROUTES if all(route in each.routes for each in seen))


def color_pairs(model: Model, first: int, count: int) -> tuple[Pair, ...]:
    """Up to `count` pairs of scenes that differ in the colour of one object, each with the question for this colour.

    Colours that the model's tokenizer spells with several tokens are left out, because answers of one token are scored.

    Args:
        model: encodes the questions.
        first: the seed of the first pair that is tried.
        count: how many pairs are wanted.
    """
    return tuple(pair for pair, _ in _color_questions(model, first, count))


def _color_questions(model: Model, first: int, count: int) -> list[tuple[Pair, tuple[Thing, ...]]]:
    """The same, each with the objects of its first picture."""
    found: list[tuple[Pair, tuple[Thing, ...]]] = []
    for seed in range(first, first + TRIES * count):
        if len(found) == count:
            break
        row = color_pair(seed)
        if row is not None and all(_is_one_token(model, row[name]) for name in ("answer", "other_answer")):
            prompt, other_prompt = (encode(model, row["question"], row[name]) for name in ("image", "other_image"))
            found.append((Pair(prompt, other_prompt, row["answer"], row["other_answer"]), shape_truth(scene(seed))))
    return found


def _is_one_token(model: Model, answer: str) -> bool:
    try:
        answer_token(model, answer)
    except SpecError:
        return False
    return True
