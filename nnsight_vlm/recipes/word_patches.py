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

from ..arguments import flag
from ..errors import SpecError
from ..families import Model
from ..prompts.prompt import Prompt
from ..questions.item_lists import Items
from ..remote.background import can_run_in_background
from ..remote.batching import together
from ..remote.model_call import Remote
from ..statistics import summarise
from ..studies.asked import Columns, Questions, asked_given
from ..studies.comparisons import with_comparisons
from ..studies.controls import rng_of
from ..studies.given import lengths_given, objects_given
from ..studies.image_patches import patch_source
from ..studies.item_prompts import ItemThings
from ..studies.labels import RANDOM_PATCHES, READ_AT, SHARES, ReadAt
from ..studies.methods import GIVEN, only
from ..studies.object_words import Answered, Of, find_object_words
from ..studies.papers import EXCITATION, KADURI, SINKS
from ..studies.pointing import Unit, tolerance_given
from ..studies.registry import recipe
from ..studies.sinks import listed_sinks
from ..studies.study import open_study
from ..studies.words import Objects, Thing
from ..studies.work import PLAIN, Work, refuse_beside
from ..sweeping.answers import generations
from .word_ablations import ablate_patches
from .word_choices import PLAIN_OF, PLAIN_QUANTITY, Asked, Heads, Quantity, asked_maps, check_maps, words_asked
from .word_cuts import hide_patches
from .word_maps import AnswerMaps, read_maps, rows_of_word

BY = ["read_at", "layer", "control"]
KINDS = ("of", "quantity", "head", "map")
"""Further columns that tell rows apart, where more than one kind of map was asked for."""
MEASURES = ("hit", "iou", "top_mass", "logprob_change", "ablation_change", "sink_mass")
OF_A_WORD = ["image", "thing", "word", *BY, "top", "top_mass"]
"""The columns that the rows of every word have."""

RowsOf = Callable[[], list[dict[str, Any]]]
"""A computation of some rows."""


@can_run_in_background
@recipe(
    papers=(KADURI, SINKS, EXCITATION),
    asks="Do generated words attend to the patches of the objects that they name?",
    method=(
        "The model generated an answer of up to {max_new_tokens} tokens. The attention ({quantity}) to the patches was "
        "read in every layer (heads: {heads}; read at: {read_at}).",
        only("It is that of each {of} of an object's name.", words=False),
        only("It is that of each {of} of the words {words}.", words=True),
        only("They are patches of frame {frame} of the videos, counted from 0.", frame=GIVEN),
        only("Maps were also read without visual attention sinks (threshold {sinks}).", sinks=True),
        only(
            "Maps were compared with the object's mask; a peak within {tolerance} {tolerance_in} of the object was a "
            "hit. Controls were random patches and the other objects of the picture.",
            truths=True,
        ),
        only("The object's patches were also hidden, and as many random ones.", truths=True, cut=True),
        only(
            "The picture's mean feature was also written over the best patches of each map, and over as many random "
            "ones.",
            ablate=True,
        ),
    ),
    shows="reads",
    measures=("hit",),
    shows_of={"logprob_change": "could", "ablation_change": "could"},
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
    words: Sequence[str] | None = None,
    of: Of | Sequence[Of] = PLAIN_OF,
    read_at: Sequence[ReadAt] = READ_AT,
    quantity: Quantity | Sequence[Quantity] = PLAIN_QUANTITY,
    heads: Heads = "mean",
    sinks: bool | float = False,
    tolerance: float = 0,
    tolerance_in: Unit = "pixels",
    top: int = 5,
    cut: bool = True,
    ablate: bool = False,
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

    The model generates its own answer. Every object that it names is measured at its first mention, token by token
    unless `of` says otherwise; with `truths`, only objects that are really in the picture. Image tokens without a place
    in the picture (line breaks between patches) do not count.

    Attention shows where a word looks, and no cause. `cut` and `ablate` show what the model could do without patches.

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
        words: words and phrases that are measured where an answer has them, in place of the names of truths or objects;
            those that a truth names have its mask.
        of: what of a name is measured: each `token`, each `word`, or the whole `phrase`; a list for several. The map of
            a word or a phrase is the mean over its tokens.
        read_at: where a word's attention is read: `predicting`, at the position that predicts the word; `word`, at
            the word's own position, which already prepares the next word.
        quantity: what a map shows: the attention's `weight`, or the `contribution` of each patch, the length of the
            vector that it adds (`nv.Attention(..., reduce="contribution")`); a list for both. Over the mean of heads,
            contributions are those of all heads together.
        heads: `mean`, or `each` for the maps of single heads beside the mean.
        sinks: also give every map without visual attention sinks, image tokens that draw attention whatever the word
            (Kang et al. 2025, arXiv 2503.03321). A token is a sink of a layer if, as it enters the layer, one of the
            dimensions in which the prompt's first token is that large is at least 20 times the root mean square; a
            number in place of True is another threshold. Hidden states of all patches are read for this.
        tolerance: a peak this far from its object is a hit too; the pointing game allows 15 pixels (Zhang et al. 2016,
            arXiv 1608.00507). 0: the peak patch touches the object's mask.
        tolerance_in: `pixels` of the picture, or `patches`.
        top: how many of the best patches are listed and make up `top_mass`.
        cut: also hide the object's patches, word by word.
        ablate: also write the picture's mean image feature over the best patches of each word's map (mean over heads
            and the middle half of the layers), as many as show the object, or `top` where that is not known.
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
        `all`. Before `control` there are also `of`, `quantity`, `head` (`mean` or a number) and `map` (`all patches`,
        `without sinks`), each where its argument is not the default; they are empty in rows of cuts.

        Measures: `hit`, 1 where the peak patch touches the object's mask; `iou` of the object's patches with as many
        best patches; `top_mass`, the top patches' share of the attention to the image; `logprob_change` of the word
        in nats when its object's patches are hidden in all layers; `ablation_change`, the same when image features are
        ablated; `sink_mass`, the share of the attention to the image that lies on sinks.

        With `heads="each"`, `p` and `survives` compare the hits of single heads with random patches, and hold the false
        discovery rate over all of them at 0.05 (`attrs["comparisons"]` is how many). With `sinks`, `attrs["sinks"]`
        lists the sinks of every image and layer.

        Controls: `random patches`, as many patches at random (hit, IoU and mass are exact expectations; for cuts they
        are drawn from outside the object, and again in `random patches, again`); `other object`, the same peak
        compared with the picture's other objects. Of ablations, `none` is the map's best patches, `random patches` as
        many outside them and the object, `object's patches` the object's own. Without sinks, random patches are drawn
        among those that are left.

    Raises:
        SpecError: truths or words and objects, lists of different length, an unknown `read_at`, a mask of another size
            than its picture, image tokens whose patches are not known (Aria), a threshold of sinks that hidden states
            of the model's width cannot reach; sinks, single heads, contributions or ablations where image tokens are
            latents, and ablations where features are added again behind the projector (DeepStack).
    """
    if truths is not None:
        refuse_beside("truths", objects=objects)
    if words is not None:
        refuse_beside("words", objects=objects)
    asked = asked_given(prompts, items, columns)
    if objects is not None and isinstance(asked, Items) and asked.has_things:
        raise SpecError("objects= is not used where items have boxes or masks, which name the objects; leave it out")
    max_new_tokens, rows = lengths_given(max_new_tokens, rows)
    objects, cut, ablate = objects_given(model, objects), flag("cut", cut), flag("ablate", ablate)
    words, near = words_asked(words), tolerance_given(tolerance, tolerance_in)
    maps = asked_maps(model, read_at=read_at, top=top, of=of, quantity=quantity, heads=heads, sinks=sinks)
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
    check_maps(model, prompts, None if isinstance(truths, ItemThings) else truths, maps, ablate=ablate, frame=frame)
    settings = {"objects": objects, "read_at": maps.read_at, "top": maps.top, "cut": cut}
    settings |= {"max_new_tokens": max_new_tokens, **maps.extra}
    further: dict[str, Any] = {"frame": frame, "words": words, "ablate": ablate or None}
    further |= {"tolerance": near.amount, "tolerance_in": near.unit} if near.amount else {}
    settings |= {name: value for name, value in further.items() if value is not None}

    def measure(chunk: range) -> Iterable[dict[str, Any]]:
        of_chunk = {image: prompts[image] for image in chunk}
        wanted = [(prompt, None) for prompt in of_chunk.values()]
        answers = generations(
            model, wanted, max_new_tokens=max_new_tokens, rows=rows, memory=work.memory, remote=remote
        )
        computations, ablations = list[RowsOf](), list[RowsOf]()

        def ablating(answered: Answered, read: AnswerMaps) -> None:
            ablations.extend(ablate_patches(model, answered, read, maps, seed, work.memory, remote))

        for image, answer in zip(chunk, answers, strict=True):
            source = patch_source(answer.prompt, frame=frame)
            truth = None if truths is None else truths[image]
            found = find_object_words(
                answer.prompt, source.grid, answer.text, truth, objects, words=words, of=maps.of, tolerance=near
            )
            one = Answered(image, of_chunk[image], answer.prompt, answer.tokens, source, found)
            computations.append(partial(_map_rows, model, one, maps, remote, ablating if ablate else None))
            if cut and truths is not None:
                rng = rng_of(seed, image)
                computations += hide_patches(model, one, rng, work.memory, remote, lambda word: maps.labels(of=word.of))
        measured = together(computations, remote)  # it fills `ablations`, which need the maps
        measured += together(ablations, remote) if ablations else []
        return sorted(chain.from_iterable(measured), key=lambda row: int(row["image"]))

    return study.frame(settings, measure, summary, columns=OF_A_WORD)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over images with intervals, from the rows of every word; single heads with comparisons."""
    if frame.empty:
        return pd.DataFrame(columns=[*BY, "measure", "mean", "low", "high", "images"])
    by = [*BY[:-1], *(name for name in KINDS if name in frame), BY[-1]]
    tidy = summarise(frame, by, [name for name in MEASURES if name in frame], shares=SHARES)
    tidy = tidy[tidy["images"] > 0].reset_index(drop=True)
    if "head" in frame and "hit" in frame:
        single = frame[frame["head"].str.isdigit()]
        tidy = with_comparisons(tidy, single, by, ["hit"], against=RANDOM_PATCHES)
    if "sinks" in frame:
        tidy.attrs["sinks"] = listed_sinks(frame)
    return tidy


def _map_rows(
    model: Model,
    answered: Answered,
    asked: Asked,
    remote: Remote,
    then: Callable[[Answered, AnswerMaps], None] | None,
) -> list[dict[str, Any]]:
    """Rows of every map of every word; `then` is handed the maps for ablations, where some were asked for."""
    if not answered.words:
        return []
    read = read_maps(model, answered, asked, with_features=then is not None, remote=remote)
    if then is not None:
        then(answered, read)
    return [row for word in answered.words for row in rows_of_word(read, answered, word, asked)]
