"""Do generated words look at their objects? Attention of each word to the patches, held against masks.

Kaduri et al. 2024 (arXiv 2411.17491), section 5: head means over image tokens per layer, a hit when the
peak lies on the object. Attention is not causation, so the cut of the object's patches stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import SpecError
from ..execution.forward import run
from ..grids import Grid
from ..lowering.layers import Layers
from ..prompts.prompt import Prompt
from ..prompts.token_text import spell
from ..remote.background import can_run_in_background
from ..remote.batching import together
from ..remote.model_call import Remote
from ..specs.knockouts import Knockout
from ..specs.measurements import Attention
from ..statistics import summarise
from ..sweeping.answers import generations
from ..sweeping.table import sweep
from .controls import layers_of, middle_half, patch_source, rng_of
from .journal import measured
from .words import Objects, Thing, default_objects
from .work import NONE, PLAIN, Work, one_for_each

READ_AT = ("predicting", "word")
BY = ["read_at", "layer", "control"]
MEASURES = ("hit", "iou", "top_mass", "logprob_change")
MIDDLE = "middle half"


@can_run_in_background
def patch_grounding(
    model: Any,
    prompts: Sequence[Prompt],
    *,
    truths: Sequence[Sequence[Thing]] | None = None,
    objects: Objects | None = None,
    read_at: Sequence[str] = READ_AT,
    top: int = 5,
    cut: bool = True,
    max_new_tokens: int = 64,
    rows: int = 32,
    seed: int = 0,
    per_image: bool = False,
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
    work: Work = PLAIN,
) -> pd.DataFrame:
    """Where generated object words look, per layer, and what hiding their object's patches does.

    The model writes its own answer. Every object that it names is taken at its first mention, token
    by token; with `truths`, only objects that are truly there.

    Image tokens that saw no one place (line breaks between rows of patches) do not count. Where image
    tokens are latents (BLIP-2, Kosmos-2, Idefics2), the patches are those that a Q-Former or resampler
    reads: a word's map is its attention to the latents, times what each of these reads of the patches
    (the mean over heads and layers of that stage's cross-attention). Such a map says where the latents
    look that the word looks at, and leaves out what they tell each other. Patches are then hidden from
    the latents, so that nothing behind them has seen them, not from the answer alone.

    Args:
        model, remote: see `nv.run`.
        prompts: one prompt an image.
        truths: the objects of every picture, with masks; without them there are no hits and no cuts.
        objects: see `knockout_windows`; used where there are no truths.
        read_at: `predicting`, the position that predicts the word, and `word`, the word's own
            position, whose attention already prepares the next word.
        top: how many patches `top_mass` and the column `top` speak of.
        cut: also hide the object's patches from the answer's tokens, word by word.
        max_new_tokens, rows, seed: see `knockout_windows`.
        per_image: return the rows of every word instead of means with intervals; they have
            `image, thing, word, top` (the best patches as `row,column`, of several tiles as
            `tile:row,column`) besides.
        work: journal, progress bar and size of chunks.

    Returns:
        `read_at, layer, control, measure, mean, low, high, images`; means are over the words of an
        image first. `layer` is the number of a layer that reads the image, or `middle half` (of these
        layers, the mean of their maps), or `all`.
        Measures: `hit`, 1 where the peak patch touches the object's mask; `iou` of the object's
        patches with as many best patches; `top_mass`, share of the attention to the image that the
        top patches get; `logprob_change` (nats; `read_at` is `predicting`) of the word when its
        object's patches are hidden from `last` and all generated tokens in all layers.
        Controls: `random patches`, as many at random (exact expectation of hit, IoU and, for equal
        attention, mass; drawn for cuts, and drawn `again`); `other object`, the same peak held against
        the picture's other objects.

    Raises:
        SpecError: lists of different length, an unknown `read_at`, a mask of another size than its picture,
            image tokens whose patches cannot be known (Aria).
    """
    _check(prompts, truths, read_at)
    objects = objects or default_objects(model)
    settings = {"truths": [[(t.name, t.mask) for t in truth] for truth in truths or ()], "objects": objects}
    settings |= {"read_at": read_at, "top": top, "cut": cut, "max_new_tokens": max_new_tokens, "seed": seed}

    def measure(chunk: range) -> Iterable[dict[str, Any]]:
        wanted = [(prompts[image], None) for image in chunk]
        told = generations(model, wanted, max_new_tokens=max_new_tokens, rows=rows, remote=remote)
        asked = list[Callable[[], list[dict[str, Any]]]]()
        for image, answer in zip(chunk, told, strict=True):
            stage, grid = patch_source(answer.prompt)
            words = _words(answer.prompt, grid, answer.text, None if truths is None else truths[image], objects)
            asked.append(partial(_looks, model, answer.prompt, stage, grid, words, image, read_at, top, remote))
            if cut and truths is not None:
                rng = rng_of(seed, image)
                cuts = _cuts(model, prompts[image], answer.tokens, stage, grid, words, image, rng, remote)
                asked += cuts
        return chain.from_iterable(together(asked, remote))

    frame = measured("patch_grounding", model, prompts, settings, measure, work, remote)
    return frame if per_image else summary(frame)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over images with bootstrap intervals, from the rows of every word."""
    if frame.empty:
        return pd.DataFrame(columns=[*BY, "measure", "mean", "low", "high", "images"])
    tidy = summarise(frame, BY, [name for name in MEASURES if name in frame])
    return tidy[tidy["images"] > 0].reset_index(drop=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Word:
    """One token of an object's name: where it stands, and which patches are its object's."""

    thing: str
    text: str
    position: int
    mine: np.ndarray | None
    others: tuple[np.ndarray, ...]


def _check(prompts: Sequence[Prompt], truths: Sequence[Sequence[Thing]] | None, read_at: Sequence[str]) -> None:
    one_for_each(prompts, truths=truths)
    for name in read_at:
        if name not in READ_AT:
            raise SpecError(f"no read_at {name!r}; there are {', '.join(READ_AT)}")
    for prompt in prompts[:1] if truths is None else ():
        patch_source(prompt)
    for prompt, truth in zip(prompts, truths or (), strict=False):
        _, grid = patch_source(prompt)
        for thing in truth:
            if thing.mask is not None:
                grid.coverage(thing.mask)


def _words(prompt: Prompt, grid: Grid, text: str, truth: Sequence[Thing] | None, objects: Objects) -> list[_Word]:
    """The tokens of every named object's first mention; objects of one name share their patches."""
    patches: dict[str, np.ndarray | None] = dict.fromkeys(objects(text)) if truth is None else {}
    for thing in truth or ():
        if thing.mask is not None:
            here, before = grid.coverage(thing.mask) > 0, patches.get(thing.name)
            patches[thing.name] = here if before is None else here | before
    found = []
    for name, mine in patches.items():
        try:
            positions = prompt.find(name, within="generated", occurrence=0)
        except SpecError:
            continue  # the model did not say so
        others = tuple(mask for other, mask in patches.items() if other != name and mask is not None)
        found += [_Word(thing=name, text=_spelled(prompt, p), position=p, mine=mine, others=others) for p in positions]
    return found


def _spelled(prompt: Prompt, position: int) -> str:
    return spell(prompt.model, prompt.rows[0].tokens[position]).strip()


def patch_maps(
    model: Any,
    prompt: Prompt,
    places: Sequence[int],
    stage: str,
    grid: Grid,
    *,
    layers: Layers = "attention",
    remote: Remote = False,
) -> np.ndarray:
    """What positions see of the patches of `patch_source`, means over heads: `[layer, position, patch]`."""
    if stage == "decoder":
        reads = [Attention(places, grid.positions, layers=layers, reduce="mean")]
        maps: np.ndarray = run(model, prompt, reads=reads, remote=remote).reads[0].double().numpy()
        return maps
    looks = Attention(places, "image", layers=layers, reduce="mean")
    latents = Attention("query", grid.positions, layers="attention", stage=stage, reduce="mean")
    seen, made = run(model, prompt, reads=[looks, latents], remote=remote).reads
    product: np.ndarray = (seen.double() @ made.double().mean(0)).numpy()
    return product


def _looks(
    model: Any,
    prompt: Prompt,
    stage: str,
    grid: Grid,
    words: Sequence[_Word],
    image: int,
    read_at: Sequence[str],
    top: int,
    remote: Remote,
) -> list[dict[str, Any]]:
    """Rows of every word, reading position and layer, from one forward."""
    rows = list[dict[str, Any]]()
    places = sorted({word.position - step for word in words for step in (0, 1)})
    if not places:
        return rows
    maps = patch_maps(model, prompt, places, stage, grid, remote=remote)
    numbers = layers_of(model, prompt, "image")
    layers = {str(layer): one for layer, one in zip(numbers, maps, strict=True)}
    layers[MIDDLE] = maps[list(middle_half(len(maps)))].mean(0)
    for word in words:
        for where in read_at:
            place = places.index(word.position - (where == "predicting"))
            labels = {"image": image, "thing": word.thing, "word": word.text, "read_at": where}
            for name, queries in layers.items():
                rows += _held(queries[place], word, grid, top, {**labels, "layer": name})
    return rows


def _held(weights: np.ndarray, word: _Word, grid: Grid, top: int, labels: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One map `[patch]` against the object, random patches and the other objects."""
    order = np.argsort(-weights, kind="stable")
    best = " ".join(_spelled_patch(grid, int(place)) for place in order[:top])
    share = float(weights[order[:top]].sum() / weights.sum()) if weights.sum() > 0 else math.nan
    row: dict[str, Any] = {**labels, "control": NONE, "top": best, "top_mass": share}
    chance: dict[str, Any] = {**labels, "control": "random patches", "top": "", "top_mass": top / len(weights)}
    if word.mine is not None:
        row |= {"hit": float(word.mine[order[0]]), "iou": overlap(order, word.mine)}
        chance |= {"hit": float(word.mine.mean()), "iou": expected_overlap(int(word.mine.sum()), len(weights))}
    yield row
    yield chance
    if word.mine is not None and word.others:
        hits = [float(mask[order[0]]) for mask in word.others]
        yield {**labels, "control": "other object", "top": "", "hit": float(np.mean(hits))}


def _spelled_patch(grid: Grid, place: int) -> str:
    row, column = grid.cells[place]
    return f"{row},{column}" if len(grid.shapes) == 1 else f"{grid.tiles[place]}:{row},{column}"


def overlap(order: np.ndarray, mask: np.ndarray) -> float:
    """IoU of a mask's patches with as many of the best patches, given best first."""
    size = int(mask.sum())
    shared = int(mask[order[:size]].sum())
    return shared / (2 * size - shared) if size else math.nan


def expected_overlap(size: int, patches: int) -> float:
    """The IoU's expectation for `size` random patches and a mask of `size`, of `patches` in all.

    >>> expected_overlap(2, 2)
    1.0
    """
    if size == 0:
        return math.nan
    ways = math.comb(patches, size)
    shared = range(max(0, 2 * size - patches), size + 1)
    return sum(math.comb(size, n) * math.comb(patches - size, size - n) / ways * n / (2 * size - n) for n in shared)


def _cuts(
    model: Any,
    prompt: Prompt,
    tokens: Sequence[int],
    stage: str,
    grid: Grid,
    words: Sequence[_Word],
    image: int,
    rng: Any,
    remote: Remote,
) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What hiding the object's patches, and as many others, does to each word's log-probability: a question a word."""
    positions = np.asarray(grid.positions)
    readers = ("last", "generated") if stage == "decoder" else "query"
    for word in words:
        if word.mine is None or not 0 < word.mine.sum() <= len(positions) / 2:
            continue
        said = word.position - prompt.rows[0].answer
        mine = tuple(positions[word.mine].tolist())
        drawn = tuple(sorted(rng.choice(positions[~word.mine], len(mine), replace=False).tolist()))
        again = tuple(sorted(rng.choice(positions[~word.mine], len(mine), replace=False).tolist()))
        hidden = {NONE: mine, "random patches": drawn, "random patches, again": again}
        variants = {name: Knockout(places, readers, layers="attention", stage=stage) for name, places in hidden.items()}
        labels = {"image": image, "thing": word.thing, "word": word.text, "read_at": "predicting", "layer": "all"}
        asked = model, prompt.grown(tokens[:said]), variants, int(tokens[said])
        yield partial(_change, *asked, {**labels, "top": ""}, remote)


def _change(
    model: Any,
    prompt: Prompt,
    variants: dict[str, Knockout],
    answer: int,
    labels: dict[str, Any],
    remote: Remote,
) -> list[dict[str, Any]]:
    """Rows of one word, one a cut."""
    found = sweep(model, prompt, variants, answer=answer, remote=remote)
    return [
        {**labels, "control": row.variant, "logprob_change": float(row.logprob - row.clean_logprob)}
        for row in found.itertuples()
    ]
