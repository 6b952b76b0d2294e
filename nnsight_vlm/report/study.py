"""What a report measures: the pictures and questions, and the recipes that run on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image, UnidentifiedImageError

from ..errors import SpecError
from ..loading import load as load_model
from ..prompts.encoding import encode
from ..prompts.prompt import Prompt
from ..recipes import Pair, attention_share, knockout_windows, patch_grounding, prompt_ablation, query_patching
from ..recipes.controls import has_sight
from ..recipes.layer_windows import summary as knockout_summary
from ..recipes.prompt_parts import summary as ablation_summary
from ..recipes.query_states import summary as patching_summary
from ..recipes.routes import default_routes
from ..recipes.token_groups import summary as share_summary
from ..recipes.word_patches import summary as grounding_summary
from ..recipes.words import Objects, Thing, shape_objects, shape_truth, vocabulary
from ..recipes.work import Work
from ..remote.model_call import Remote
from ..shapes import pair, scene
from ..shapes.model import CHECKPOINTS, checkpoint
from .claims import FEWEST

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
QUERY = "describe the image."
ROUTES = ("image->generated", "image->query", "query->generated", "image->text")
"""Of descriptions, where the model has them; `image->last` is a matter of the first token: of short answers."""

TRIES = 20
"""Pairs that are drawn for one whose question has a single right answer."""


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What the user asked for; see `report.write_report`."""

    model: str = "shapes"
    images: str | None = None
    query: str = QUERY
    scenes: int = 24
    seed: int = 0
    objects: tuple[str, ...] = ()
    max_new_tokens: int = 32
    rows: int = 64
    chunk: int = 4
    remote: Remote = False

    def checked(self) -> ReportConfig:
        """The request, its pictures found and seen to be pictures.

        Raises:
            SpecError: a number out of range, an empty query, no folder, no pictures in it, a file that is none.
        """
        if min(self.scenes, self.max_new_tokens, self.rows, self.chunk) < 1 or self.seed < 0:
            raise SpecError("--scenes, --max-new-tokens, --rows and --chunk must be 1 or more, and --seed 0 or more")
        if not self.query.strip():
            raise SpecError('the query is empty; write for example --query "describe the image."')
        if self.images is None:
            return self
        for path in find_pictures(Path(self.images)):
            open_picture(path)
        return replace(self, images=str(Path(self.images).resolve()))


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """Pictures, questions and truths, encoded for one model.

    Attributes:
        prompts: the query about every picture.
        truths: what is in them, where that is known.
        pairs: one question about two pictures, where such pairs are known.
        objects: what counts as an object in a description; None for the recipes' default.
    """

    prompts: tuple[Prompt, ...]
    truths: tuple[tuple[Thing, ...], ...] | None
    pairs: tuple[Pair, ...]
    objects: Objects | None


def find_pictures(folder: Path) -> tuple[Path, ...]:
    """The pictures of a folder, by name.

    Raises:
        SpecError: no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise SpecError(f"no folder {str(folder)!r}; --images takes a folder of pictures")
    found = tuple(sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS))
    if not found:
        raise SpecError(f"the folder {str(folder)!r} holds no pictures ({', '.join(ENDINGS)})")
    return found


def open_picture(path: Path) -> Image.Image:
    """A picture in RGB.

    Raises:
        SpecError: no such file, or no picture.
    """
    if not path.is_file():
        raise SpecError(f"no file {str(path)!r}")
    try:
        return Image.open(path).convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise SpecError(f"{str(path)!r} is not a picture that can be opened") from error


def known_model(name: str) -> None:
    """Refuse a model that cannot be found without asking the network.

    Raises:
        SpecError: an embedded model that is not there, or a path without a model.
    """
    if name in CHECKPOINTS:
        if not (checkpoint(name) / "config.json").is_file():
            raise SpecError(f"this installation has no model {name!r}")
    elif (name.startswith((".", "/", "~")) or Path(name).exists()) and not (
        Path(name).expanduser() / "config.json"
    ).is_file():
        raise SpecError(f"{name!r} is no folder with a model (it has no config.json)")


def load(name: str, remote: Remote = False) -> Any:
    """A model by name; without its weights where it runs on a server.

    Raises:
        SpecError: it cannot be found, here or on the hub.
    """
    try:
        return load_model(name, dispatch=remote is False)
    except OSError as error:
        raise SpecError(f"cannot load the model {name!r}: {str(error).strip().splitlines()[0]}") from error


def gather(model: Any, request: ReportConfig) -> Study:
    """Encode a request's pictures: a folder's, or synthetic scenes with their truths and pairs."""
    names = vocabulary(request.objects) if request.objects else None
    if request.images is not None:
        pictures = [open_picture(path) for path in find_pictures(Path(request.images))]
        prompts = tuple(encode(model, request.query, picture) for picture in pictures)
        return Study(prompts=prompts, truths=None, pairs=(), objects=names)
    first = request.seed * 100_000
    scenes = [scene(first + number) for number in range(request.scenes)]
    return Study(
        prompts=tuple(encode(model, request.query, one.image) for one in scenes),
        truths=tuple(shape_truth(one) for one in scenes),
        pairs=color_pairs(model, first, request.scenes),
        objects=names or shape_objects,
    )


def color_pairs(model: Any, first: int, count: int) -> tuple[Pair, ...]:
    """Pairs of scenes that differ in one colour, each with the question for it."""
    found: list[Pair] = []
    for seed in range(first, first + TRIES * count):
        one, other = pair(seed, "color")
        a, b = next((a, b) for a, b in zip(one.objects, other.objects, strict=True) if a.color != b.color)
        if len(found) < count and sum(it.shape == a.shape for it in one.objects) == 1:
            question = f"what color is the {a.shape}?"
            here, there = (encode(model, question, picture) for picture in (one.image, other.image))
            found.append(Pair(here, there, a.color, b.color))
    return tuple(found)


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One recipe of a report: its name, how it runs on every image, and how that is summed up."""

    name: str
    run: Callable[[Work], pd.DataFrame]
    sum_up: Callable[[pd.DataFrame], pd.DataFrame]


def steps(model: Any, study: Study, request: ReportConfig) -> list[Step]:
    """The recipes that a study permits, in the order in which they run."""
    common: dict[str, Any] = {"seed": request.seed, "per_image": True, "remote": request.remote}
    words: dict[str, Any] = {**common, "max_new_tokens": request.max_new_tokens, "rows": request.rows}
    scored: dict[str, Any] = {**words, "truths": study.truths, "objects": study.objects}
    prompts, routes = study.prompts, default_routes(study.prompts, ROUTES)

    def answered(work: Work) -> pd.DataFrame:
        asked, answers = [p.prompt for p in study.pairs], [p.answer for p in study.pairs]
        return knockout_windows(model, asked, answers=answers, work=work, **common)

    found = [
        Step(
            name="knockout_windows",
            run=lambda work: knockout_windows(model, prompts, routes=routes, work=work, **scored),
            sum_up=knockout_summary,
        ),
        Step(
            name="patch_grounding",
            run=lambda work: patch_grounding(model, prompts, work=work, **scored),
            sum_up=grounding_summary,
        ),
        Step(
            name="attention_share",
            run=lambda work: attention_share(model, prompts, work=work, **words),
            sum_up=share_summary,
        ),
        Step(
            name="prompt_ablation",
            run=lambda work: prompt_ablation(model, prompts, work=work, **scored),
            sum_up=ablation_summary,
        ),
    ]
    if not all(has_sight(prompt) for prompt in prompts):
        found = [step for step in found if step.name != "patch_grounding"]
    if study.pairs:
        found.append(Step(name="knockout_answers", run=answered, sum_up=knockout_summary))
        some = study.pairs[: max(FEWEST, len(study.pairs) // 2)]  # patched image tokens cost a whole forward each
        patch = Step(
            name="query_patching",
            run=lambda work: query_patching(model, some, work=work, **common),
            sum_up=patching_summary,
        )
        found.append(patch)
    return found


def picture_names(request: ReportConfig) -> Sequence[str]:
    """What each image number of the frames is: a file name, or a scene's seed."""
    if request.images is not None:
        return [path.name for path in find_pictures(Path(request.images))]
    return [f"scene {request.seed * 100_000 + number}" for number in range(request.scenes)]
