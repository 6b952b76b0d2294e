"""Do generated words attend to the objects they name? Attention of each word to the patches, compared with masks.

Kaduri et al. 2024 (arXiv 2411.17491), section 5: attention over the image tokens by layer, mean over heads; a hit where
the peak lies on the object. Attention is not causation, so the cut of the object's patches stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from ..arguments import flag, whole_number, words_given
from ..errors import SpecError
from ..families import Model
from ..prompts.prompt import Prompt
from ..questions.item_lists import Items
from ..remote.background import can_run_in_background
from ..remote.batching import together
from ..remote.model_call import Remote
from ..statistics import summarise
from ..studies.asked import Columns, Questions, asked_given
from ..studies.controls import rng_of
from ..studies.given import lengths_given, objects_given
from ..studies.image_patches import PatchSource, patch_maps, patch_source
from ..studies.item_prompts import ItemThings
from ..studies.labels import MIDDLE_HALF, READ_AT, SHARES, ReadAt
from ..studies.layer_sets import layers_reading, middle_half
from ..studies.map_scores import map_rows
from ..studies.object_words import ObjectWord, find_object_words
from ..studies.papers import KADURI
from ..studies.registry import recipe
from ..studies.study import open_study
from ..studies.words import Objects, Thing
from ..studies.work import PLAIN, Work, refuse_beside
from ..sweeping.answers import generations
from .word_cuts import hide_patches

BY = ["read_at", "layer", "control"]
MEASURES = ("hit", "iou", "top_mass", "logprob_change")
OF_A_WORD = ["image", "thing", "word", *BY, "top", "top_mass"]
"""The columns that the rows of every word have."""


@can_run_in_background
@recipe(
    papers=(KADURI,),
    asks="Do generated words attend to the patches of the objects that they name?",
    method=(
        "The model generated an answer of up to {max_new_tokens} tokens. The attention of each object word to "
        "the patches was read in every layer, as a mean over heads, and compared with the object's mask. "
        "Controls were random patches and the other objects of the picture. Where masks were given, the "
        "object's patches were also hidden from the answer, and as many random ones."
    ),
    shows="reads",
    measures=("hit",),
)
def patch_grounding(
    model: Model,
    prompts: Sequence[Prompt] | Questions | None = None,
    *,
    items: Questions | None = None,
    columns: Columns | None = None,
    only_correct: bool = False,
    truths: Sequence[Sequence[Thing]] | None = None,
    objects: Objects | None = None,
    read_at: Sequence[ReadAt] = READ_AT,
    top: int = 5,
    cut: bool = True,
    frame: int | None = None,
    max_new_tokens: int = 64,
    rows: int | None = None,
    seed: int = 0,
    cluster: Sequence[Hashable] | None = None,
    per_image: bool = False,
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
    work: Work = PLAIN,
) -> pd.DataFrame:
    """Which patches generated object words attend to, by layer, and what hiding their object's patches does.

    The model generates its own answer. Every object that it names is measured at its first mention, token by token;
    with `truths`, only objects that are really in the picture. Image tokens without a place in the picture (line
    breaks between patches) do not count.

    Where image tokens are latents (BLIP-2, Kosmos-2, Idefics2), a word's map is its attention to the latents times
    their attention to the patches in the Q-Former or resampler, mean over that stage's heads and layers. Such a map
    leaves out what the latents tell each other. There, a cut hides the patches from the latents, so that no token
    after them has seen the patches; in other families it hides them from the answer's tokens alone.

    Args:
        model: an nnsight model from `load`.
        prompts: of one row each; several may be about one picture, see `cluster`. Or a table, as `items`.
        items, columns: a table of questions about pictures in place of prompts, see `knockout_windows`.
        only_correct: measure only the items that the model answers right, see `knockout_windows`.
        truths: the objects of every picture, with masks; without them there are no hits and no cuts.
        objects: see `knockout_windows`; not beside truths, which name the objects.
        read_at: where a word's attention is read: `predicting`, at the position that predicts the word; `word`, at
            the word's own position, which already prepares the next word.
        top: how many of the best patches are listed and make up `top_mass`.
        cut: also hide the object's patches, word by word.
        frame: which frame of each prompt's videos is measured, counted through all of them, in place of its picture;
            truths then have masks of that frame.
        max_new_tokens, rows, seed: see `knockout_windows`.
        cluster: a key for each prompt, equal where prompts are about one image; see `knockout_windows`.
        per_image: return the rows of every word instead of means with intervals. They also have `image, thing, word`
            and `top`, the best patches as `row,column` (`tile:row,column` where there are several tiles).
        remote, blocking, path: see `nv.run`.
        work: journal, progress bar, size of chunks and memory.

    Returns:
        `read_at, layer, control, measure, mean, low, high, images`; the words of an image are averaged first. `layer`
        is the number of a layer that reads the image, `middle half` (mean map of the middle half of these layers), or
        `all`.

        Measures: `hit`, 1 where the peak patch touches the object's mask; `iou` of the object's patches with as many
        best patches; `top_mass`, the top patches' share of the attention to the image; `logprob_change` of the word
        in nats when its object's patches are hidden in all layers.

        Controls: `random patches`, as many patches at random (hit, IoU and mass are exact expectations; for cuts they
        are drawn from outside the object, and again in `random patches, again`); `other object`, the same peak
        compared with the picture's other objects.

    Raises:
        SpecError: truths and objects, lists of different length, an unknown `read_at`, a mask of another size than its
            picture, image tokens whose patches are not known (Aria).
    """
    if truths is not None:
        refuse_beside("truths", objects=objects)
    asked = asked_given(prompts, items, columns)
    if objects is not None and isinstance(asked, Items) and asked.has_things:
        raise SpecError("objects= is not used where items have boxes or masks, which name the objects; leave it out")
    max_new_tokens, rows = lengths_given(max_new_tokens, rows)
    objects, cut = objects_given(model, objects), flag("cut", cut)
    read_at = words_given("read_at", read_at, READ_AT, "read_at")
    top = whole_number("top", top, least=1, kind="number of patches")
    study = open_study(
        "patch_grounding",
        model,
        asked,
        only_correct=only_correct,
        truths=truths,
        cluster=cluster,
        seed=seed,
        per_image=per_image,
        work=work,
        remote=remote,
    )
    prompts, truths, seed, work = study.prompts, study.truths, study.seed, study.work
    _check(prompts, None if isinstance(truths, ItemThings) else truths, top, frame)
    settings = {"objects": objects, "read_at": read_at, "top": top, "cut": cut, "max_new_tokens": max_new_tokens}
    settings |= {} if frame is None else {"frame": frame}

    def measure(chunk: range) -> Iterable[dict[str, Any]]:
        of_chunk = {image: prompts[image] for image in chunk}
        wanted = [(prompt, None) for prompt in of_chunk.values()]
        answers = generations(
            model, wanted, max_new_tokens=max_new_tokens, rows=rows, memory=work.memory, remote=remote
        )
        computations = list[Callable[[], list[dict[str, Any]]]]()
        for image, answer in zip(chunk, answers, strict=True):
            source = patch_source(answer.prompt, frame=frame)
            truth = None if truths is None else truths[image]
            words = find_object_words(answer.prompt, source.grid, answer.text, truth, objects)
            computations.append(partial(_map_rows, model, answer.prompt, source, words, image, read_at, top, remote))
            if cut and truths is not None:
                rng = rng_of(seed, image)
                computations += hide_patches(
                    model, of_chunk[image], answer.tokens, source, words, image, rng, work.memory, remote
                )
        return chain.from_iterable(together(computations, remote))

    return study.frame(settings, measure, summary, columns=OF_A_WORD)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over images with intervals, from the rows of every word."""
    if frame.empty:
        return pd.DataFrame(columns=[*BY, "measure", "mean", "low", "high", "images"])
    tidy = summarise(frame, BY, [name for name in MEASURES if name in frame], shares=SHARES)
    return tidy[tidy["images"] > 0].reset_index(drop=True)


def _check(prompts: Sequence[Prompt], truths: Sequence[Sequence[Thing]] | None, top: int, frame: int | None) -> None:
    """Refuse more patches than there are, and masks of another size than their picture."""
    patches = len(patch_source(prompts[0], frame=frame).grid.positions)
    if top > patches:
        raise SpecError(f"top={top} of {patches} patches; write a number from 1 to {patches}")
    if truths is None:
        return
    for prompt, truth in zip(prompts, truths, strict=True):
        grid = patch_source(prompt, frame=frame).grid
        for thing in truth:
            if thing.mask is not None:
                grid.coverage(thing.mask)


def _map_rows(
    model: Model,
    prompt: Prompt,
    source: PatchSource,
    words: Sequence[ObjectWord],
    image: int,
    read_at: Sequence[ReadAt],
    top: int,
    remote: Remote,
) -> list[dict[str, Any]]:
    """Rows of every word, reading position and layer, from one forward over the prompt and its answer."""
    positions = sorted({word.position - step for word in words for step in (0, 1)})
    if not positions:
        return []
    maps = patch_maps(model, prompt, positions, source, remote=remote)
    shown = source.grid.positions if source.stage == "decoder" else "image"
    by_layer = dict(zip(map(str, layers_reading(model, prompt, shown)), maps, strict=True))
    by_layer[MIDDLE_HALF] = maps[list(middle_half(len(maps)))].mean(0)
    rows = list[dict[str, Any]]()
    for word in words:
        for where in read_at:
            index = positions.index(word.position - (where == "predicting"))
            labels = {"image": image, "thing": word.thing, "word": word.text, "read_at": where}
            for layer, layer_map in by_layer.items():
                rows += map_rows(layer_map[index], word, source.grid, top, {**labels, "layer": layer})
    return rows
