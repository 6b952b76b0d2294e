"""The first pictures of a report with the model's description, each as a page of `nv.view`."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from markupsafe import Markup, escape

from ..errors import InterventionError, SpecError
from ..families import Model
from ..notebook import picture_uri
from ..prompts.prompt import Prompt
from ..questions.item_lists import Items
from ..remote.batching import together
from ..studies.words import Thing
from ..viewing.making import view
from ..viewing.pages import page_of
from ..viewing.values import View
from .figures import EXAMPLES
from .results import Results

THUMBNAIL = 96
"""The longer side of a small picture, in pixels."""
LIMIT = 400_000
"""Most bytes of one picture's page."""


class ShownPicture(NamedTuple):
    """A picture that can be opened in the page.

    Attributes:
        name: what it is called.
        answer: what the model answered.
        thumbnail: the picture, small; empty where its file cannot be read any more.
        page: the HTML of its page, as the text of an attribute.
        why: why there is no page; empty where there is one.
    """

    name: str
    answer: str = ""
    thumbnail: str = ""
    page: Markup = Markup("")
    why: str = ""


def shown_pictures(model: Model, results: Results) -> list[ShownPicture]:
    """The first pictures, whatever was measured on them."""
    count = range(min(EXAMPLES, len(results.study.ids)))
    return together([partial(_shown, model, results, number) for number in count], results.config.remote)


def _shown(model: Model, results: Results, number: int) -> ShownPicture:
    name = str(results.study.ids[number])
    try:
        made = _viewed(model, results, number)
    except (SpecError, InterventionError) as error:
        return ShownPicture(name, why=str(error))
    answer = str(made.payload["columns"][0]["answer"])
    page = Markup(escape(page_of(made.payload)))
    return ShownPicture(name, answer, _thumbnail(results.study.prompts[number]), page)


def _viewed(model: Model, results: Results, number: int) -> View:
    """The page of one picture: the description that was measured, and outlines where objects are known.

    Raises:
        SpecError: image tokens of which it is not known what they show; a model that cannot be asked this.
        InterventionError: a forward that failed.
    """
    config, prompt = results.config, results.study.prompts[number]
    made: View = view(
        model,
        prompt,
        objects=_things(results, number) or None,
        max_new_tokens=config.max_new_tokens,
        limit=LIMIT,
        remote=config.remote,
    )
    return made


def _things(results: Results, number: int) -> list[Thing]:
    """The objects of a picture that have a place in it."""
    study = results.study
    if study.truths is not None:
        things = study.truths[number]
    else:
        items = study.asked
        things = (items[number].things if isinstance(items, Items) and items.has_things else None) or ()
    return [thing for thing in things if thing.mask is not None and thing.mask.any()]


def _thumbnail(prompt: Prompt) -> str:
    try:
        return picture_uri(prompt.image(), THUMBNAIL)
    except (OSError, ValueError):  # a file that was moved or closed
        return ""
