"""What the words of the request are for: drop parts of it, with and without direct sight of the image.

Kaduri et al. 2024 (arXiv 2411.17491): if the query tokens carry the picture, a description written
without direct access to the image needs them; one written with access may not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import SpecError
from ..prompts.prompt import Prompt
from ..prompts.token_map import GROUPS, Where
from ..prompts.token_text import spell
from ..remote.background import can_run_in_background
from ..remote.model_call import Remote
from ..specs.interventions import CLEAN, Intervention
from ..specs.knockouts import Knockout
from ..statistics import summarise
from ..sweeping.answers import generations
from .controls import blinded, rng_of, same_axis_positions, tokens_of
from .journal import measured
from .layer_windows import OWN, TRUE, score_texts
from .words import Objects, Thing, default_objects
from .work import NONE, PLAIN, Case, Work, one_for_each

BY = ["part", "access", "control"]
LONGEST = 12
"""Queries of more tokens than this are not dropped word by word."""


@can_run_in_background
def prompt_ablation(
    model: Any,
    prompts: Sequence[Prompt],
    *,
    parts: Mapping[str, Where] | None = None,
    truths: Sequence[Sequence[Thing]] | None = None,
    objects: Objects | None = None,
    max_new_tokens: int = 64,
    rows: int = 64,
    seed: int = 0,
    per_image: bool = False,
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
    work: Work = PLAIN,
) -> pd.DataFrame:
    """Drop parts of the prompt and score the description against the un-cut one.

    A part is dropped by closing every attention edge from it to any other token, so that all else,
    positions included, stays as it was. A part outside the decoder's sequence is dropped in the encoder, and
    as keys of the decoder's cross-attention. What is no attention remains: layers of a hybrid decoder that
    carry a state through the sequence, and the question that InstructBLIP's Q-Former reads too.

    Args:
        model, remote: see `nv.run`.
        prompts: one prompt an image.
        parts: names and what they stand for: a group, positions, or words that the prompt holds.
            Default: `system` and `query` (the prompt's first and last token are always kept) and
            each token of a short query.
        truths, objects, max_new_tokens, rows, seed: see `knockout_windows`.
        per_image: return the rows of every image instead of means with intervals.
        work: journal, progress bar and size of chunks.

    Returns:
        `part, access, control, measure, mean, low, high, images`. `access` is `direct`, or `none`
        where the generated tokens do not see the image. Parts besides the named ones: `nothing`
        (all words kept) and `blind` (no token but the image's own sees the image). Measures as in `knockout_windows`.
        Control `random positions`: as many tokens outside the part, in the same sequence, are dropped in the same way;
        no rows where too few lie outside it.

    Raises:
        SpecError: a part that is not in the prompt or holds its last token, no prompts, truths that do not match them.
    """
    objects = objects or default_objects(model)
    one_for_each(prompts, truths=truths)
    settings = {"parts": parts, "truths": truths, "objects": objects, "max_new_tokens": max_new_tokens, "seed": seed}
    every = [cases_of(prompt, parts, seed, image) for image, prompt in enumerate(prompts)]

    def measure(chunk: range) -> Iterator[dict[str, Any]]:
        wanted = [(prompts[image], case.intervention) for image in chunk for case in every[image]]
        told = generations(model, wanted, max_new_tokens=max_new_tokens, rows=rows, remote=remote)
        for image in chunk:
            texts = [next(told).text for _ in every[image]]
            yield from score_texts(every[image], texts, None if truths is None else truths[image], objects, image)

    frame = measured("prompt_ablation", model, prompts, settings, measure, work, remote)
    return frame if per_image else summary(frame)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over images with bootstrap intervals, from the rows of every image."""
    tidy = summarise(frame, BY, [name for name in (*OWN, *TRUE, "objects") if name in frame])
    return tidy[tidy["images"] > 0].reset_index(drop=True)


def cases_of(prompt: Prompt, parts: Mapping[str, Where] | None, seed: int, image: int) -> list[Case]:
    """Nothing dropped with direct access (the clean run) comes first."""
    blind, rng = Knockout("image", "generated", layers="attention"), rng_of(seed, image)
    found = [
        Case(labels={"part": "nothing", "access": "direct", "control": NONE}, intervention=CLEAN),
        Case(labels={"part": "nothing", "access": "none", "control": NONE}, intervention=blind),
        Case(labels={"part": "blind", "access": "none", "control": NONE}, intervention=blinded(prompt)),
    ]
    for name, where in _parts(prompt, parts).items():
        kept = {same_axis_positions(prompt, where)[0], *prompt["last"]}
        rest = [place for place in same_axis_positions(prompt, where) if place not in {*where, *kept}]
        chosen = {NONE: where}
        if len(rest) >= len(where):
            chosen["random positions"] = tuple(sorted(map(int, rng.choice(rest, len(where), replace=False))))
        for control, places in chosen.items():
            labels = {"part": name, "control": control}
            drop = dropped(prompt, places)
            found.append(Case(labels={**labels, "access": "direct"}, intervention=drop))
            found.append(Case(labels={**labels, "access": "none"}, intervention=drop | blind))
    return found


def dropped(prompt: Prompt, places: Sequence[int]) -> Intervention:
    """No token reads from `places`, but they from themselves."""
    row, left = prompt.rows[0], set(prompt["all"]).difference(places)
    readers = tuple(place for place in sorted(left) if row.last_seen(place) >= min(places))
    cut = Knockout(tuple(places), (*readers, "generated"), layers="attention")
    inner = tuple(place + row.outside for place in places if place < 0)
    if not inner:
        return cut
    encoder = dict(row.stages)["encoder"]
    others = tuple(set(range(encoder.start, encoder.stop)).difference(inner))
    return cut | Knockout(inner, tuple(sorted(others)), layers="attention", stage="encoder")


def _parts(prompt: Prompt, parts: Mapping[str, Where] | None) -> dict[str, tuple[int, ...]]:
    if parts is None:
        return _default_parts(prompt)
    found = {}
    for name, where in parts.items():
        is_words = isinstance(where, str) and where not in GROUPS and not where.startswith("image.")
        found[name] = prompt.find(str(where)) if is_words else prompt[where]
        if not found[name] or prompt["last"][0] in found[name]:
            raise SpecError(
                f"part {name!r} is empty or holds the prompt's last token, which must predict the answer; "
                "leave that out"
            )
    return found


def _default_parts(prompt: Prompt) -> dict[str, tuple[int, ...]]:
    query = tuple(place for place in prompt["query"] if place not in prompt["last"])
    found = {"system": tokens_of(prompt, "system")[1:], "query": query}
    if len(query) <= LONGEST:
        for place in query:
            found[f"{place - query[0]} {spell(prompt.model, _token(prompt, place)).strip()}"] = (place,)
    return {name: places for name, places in found.items() if places}


def _token(prompt: Prompt, place: int) -> int:
    row = prompt.rows[0]
    return row.tokens[place] if place >= 0 else row.outside_tokens[place]
