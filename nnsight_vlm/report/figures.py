"""Which figures a report draws, from which frames."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd

from .. import plots
from ..errors import SpecError
from ..plots import Overlay, draw_overlays
from ..recipes.controls import has_sight, layers_of, middle_half, patch_source
from ..recipes.word_patches import patch_maps
from ..recipes.words import default_objects
from ..remote.batching import together
from ..remote.model_call import Remote
from ..sweeping.answers import generations
from .study import Study

EXAMPLES = 3
WORDS = 4


def draw(
    model: Any, study: Study, frames: Mapping[str, pd.DataFrame], claims: pd.DataFrame, remote: Remote = False
) -> dict[str, Any]:
    """Every figure for which there are measurements, by name."""
    makers = {
        "routes": (plots.knockout_routes, "knockout_windows"),
        "windows": (plots.knockout_windows, "knockout_windows"),
        "answers": (plots.answer_windows, "knockout_answers"),
        "attention": (plots.attention_share, "attention_share"),
        "patching": (plots.query_patching, "query_patching"),
        "grounding": (plots.patch_grounding, "patch_grounding"),
        "ablation": (plots.prompt_ablation, "prompt_ablation"),
    }
    found = {"claims": plots.claims(claims)}
    found |= {name: maker(frames[frame]) for name, (maker, frame) in makers.items() if len(frames.get(frame, ()))}
    examples = overlays(model, study, remote)
    return found | ({"overlays": draw_overlays(examples)} if examples else {})


def overlays(model: Any, study: Study, remote: Remote = False) -> list[list[Overlay]]:
    """A few pictures, each with the maps of a few object words of its description."""
    prompts = [prompt for prompt in study.prompts[:EXAMPLES] if has_sight(prompt)]
    told = generations(model, [(prompt, None) for prompt in prompts], max_new_tokens=64, remote=remote)
    objects = study.objects or default_objects(model)
    maps = [
        partial(word_maps, model, prompt, answer, objects, remote=remote)
        for prompt, answer in zip(prompts, told, strict=True)
    ]
    return [row for row in together(maps, remote) if row]


def word_maps(
    model: Any,
    prompt: Any,
    answer: Any,
    objects: Any,
    *,
    layers: Any = None,
    limit: int = WORDS,
    remote: Remote = False,
) -> list[Overlay]:
    """Attention maps of the first object words of an answer, at the position that predicts each.

    `layers` default to the middle half of those that read the image; a map is the mean over them and over all
    heads, see `patch_grounding`.
    """
    names = list(dict.fromkeys(objects(answer.text)))[:limit]
    places = [place for place in (_last_token(answer.prompt, name) for name in names) if place is not None]
    if not places:
        return []
    wanted = middle_half(layers_of(model, prompt, "image")) if layers is None else layers
    stage, grid = patch_source(prompt)
    queries = sorted({place - 1 for place in places})
    maps = patch_maps(model, answer.prompt, queries, stage, grid, layers=wanted, remote=remote).mean(0)
    named = zip([name for name in names if _last_token(answer.prompt, name) is not None], places, strict=True)
    return [Overlay.of(prompt.image(), grid, maps[queries.index(place - 1)], title=name) for name, place in named]


def _last_token(prompt: Any, name: str) -> int | None:
    """The position of a name's last token in the answer, the noun in English; None where it is not spelled so."""
    try:
        return int(prompt.find(name, within="generated", occurrence=0)[-1])
    except SpecError:
        return None
