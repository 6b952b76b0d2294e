"""How information flows to an answer, layer by layer: edges of attention cut in a window around every layer.

Zhang et al. 2024, "Cross-modal Information Flow in Multimodal Large Language Models" (arXiv 2411.18620), sections 4 and
5, after the attention knockout of Geva et al. 2023 (arXiv 2304.14767).

A cut shows what the model cannot do without. An edge whose cut changes nothing may still carry information that the
model also gets another way.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ..arguments import refuse
from ..errors import SpecError
from ..families import Model
from ..prompts.prompt import Prompt
from ..remote.background import can_run_in_background
from ..remote.batching import together
from ..remote.model_call import Remote
from ..specs.knockouts import Knockout
from ..statistics import summarise
from ..studies.asked import NOT_TAKEN, Columns, Questions, asked_given, scores_answers
from ..studies.asked_objects import asked_of, names_given, whose_prompt
from ..studies.labels import NONE, RANDOM_LAYERS, SHARES
from ..studies.layer_sets import spell_layers
from ..studies.papers import GEVA, ZHANG
from ..studies.registry import recipe
from ..studies.study import open_study
from ..studies.windows import Windows, windows_given
from ..studies.words import Thing
from ..studies.work import PLAIN, Work
from ..sweeping.table import sweep
from ..sweeping.wanted import answer_token
from .flow_edges import Edge, begins_at_object, check_edge, edge_errors, edges_given, edges_of, patches_of, with_objects

BY = ["edge", "centre", "layers", "width", "control"]
MEASURES = ("probability_change", "logprob_change", "kept", "overlap")


@can_run_in_background
@recipe(
    papers=(ZHANG, GEVA),
    asks="Along which edges of attention, and in which layers, does an answer get what it needs?",
    method=(
        "Edges of attention ({edges}) were closed in {windows}, and the relative change of the answer's probability "
        "was measured. Controls closed as many random edges, and the edge in as many random layers, "
        "where a window has not all."
    ),
    shows="could",
    shows_of={"overlap": "method"},
)
def information_flow(
    model: Model,
    prompts: Sequence[Prompt] | Questions | None = None,
    *,
    items: Questions | None = None,
    columns: Columns | None = None,
    only_correct: bool = False,
    answers: Sequence[str | int] | None = None,
    truths: Sequence[Sequence[Thing]] | None = None,
    asked: Sequence[str | Sequence[str]] | None = None,
    edges: Sequence[str] | None = None,
    windows: int | None = None,
    width: int | None = None,
    stride: int | None = None,
    seed: int = 0,
    cluster: Sequence[Hashable] | None = None,
    per_image: bool = False,
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
    work: Work = PLAIN,
) -> pd.DataFrame:
    """Cut edges of attention in a window around every layer, and see what becomes of the answer's probability.

    Information flows along an edge from its source to its target, which attends to it. Where in the depth a cut hurts
    tells in which layers the target fetches what the answer needs.

    Args:
        model: an nnsight model from `load`.
        prompts: questions of one row each; several may be about one picture, see `cluster`. A prompt may end in an
            answer that was begun (`Prompt.grown`), whose tokens are `generated`. Or a table, as `items`.
        items, columns: a table of questions about pictures in place of prompts, see `knockout_windows`.
        only_correct: measure only what the model answers right, as the paper does. Of an answer that the model does not
            give, a change in per cent says little, because it has hardly any probability to lose.
        answers: one single-token answer for each prompt; not beside items, which have their own.
        truths: the objects in each picture, with masks, for the edges from `object` and `rest of the image`; those of
            items, where they have any.
        asked: for each prompt the name of the thing that the question is about, or several names. Default, the only
            thing there is, else the things whose name, or last word of it, the question says.
        edges: `"source->target"` in group names, of tokens of the decoder; default those of `flow_edges.EDGES`, with
            truths also those of `OBJECT_EDGES`, as far as the prompts have them. `last->last` closes the edge from the
            last token to itself, which goes on attending to all others. `object` is the image tokens whose patch
            touches the object's mask, and `rest of the image` all other image tokens that show part of the picture.
        width, stride: windows of `width` layers around every `stride`-th layer (default every one) of those that have
            the edge, clipped at both ends. Default the share of the depth that 9 of 32 layers are, at most 9 as in
            the paper: 3 of 8 layers, 7 of 28.
        windows: in their place, so many windows that do not overlap.
        seed: of the random controls.
        cluster: a key for each prompt, equal where prompts are about one image; see `knockout_windows`.
        per_image: return the rows of every image instead of means with intervals.
        remote, blocking, path: see `nv.run`.
        work: journal, progress bar, size of chunks and memory.

    Returns:
        `edge, centre, layers, width, control, measure, mean, low, high, images`. `centre` is the layer in the middle of
        a window, `layers` are those that are cut, `width` is how many. Measures:

        - `probability_change`: of the answer, in per cent of its probability without a cut; -100 leaves nothing of it.
        - `logprob_change`: of the answer, in nats.
        - `kept`: 1 where the answer is still the most probable token.
        - `overlap`: of a random cut, the share that falls into the source itself.

        `control` is `none` for the measurement, or, for each window,

        - `random positions`: every target token loses as many edges, but to positions outside the source; where too few
          lie outside, to any before it. There is no row where no such cut exists.
        - `random patches`, in its place for edges from `object`: as many image tokens outside the object; for
          `rest of the image`, as many image tokens out of all.
        - `random layers`: the edge is cut in as many layers, drawn at random for every image. Windows of one size
          share a draw, and a smaller one is part of a larger one.

        A picture of whose object no patch shows anything, or which it fills, has no rows for the edges that then have
        no source.

    Raises:
        SpecError: an edge that does not exist or along which nothing can flow in a prompt, edges from an object
            without truths, truths that no edge uses, an object that nothing tells, a mask of another size than its
            picture, more windows or wider ones than an edge has layers, lists of different length, no prompts.
    """
    measured, wanted = asked_given(prompts, items, columns), edges_given(edges)
    grouped = windows_given(windows, width, stride, usual=Windows())
    about = names_given(measured, asked)
    if not scores_answers(measured, answers):
        refuse("answers", answers, "list of answers", 'one for each prompt, answers=["red", ...]')
    study = open_study(
        "information_flow",
        model,
        measured,
        only_correct=only_correct,
        answers=answers,
        truths=truths if truths is not None or begins_at_object(wanted) else NOT_TAKEN,
        cluster=cluster,
        seed=seed,
        per_image=per_image,
        work=work,
        remote=remote,
        look=partial(edge_errors, model, edges=wanted, windows=grouped),
    )
    given, things = study.answers or (), study.truths
    names = with_objects(study.seen_in_all(), things is not None, asked_for=wanted is not None)
    if about is not None and things is None:
        raise SpecError("asked= names things of truths=, which are not given; write truths= as well")

    def edges_in(image: int) -> list[Edge]:
        prompt, patches = study.prompts[image], None
        if things is not None:
            patches = patches_of(prompt, things[image], asked_of(study, image, about), whose_prompt(study, image))
        return edges_of(model, prompt, names, patches, grouped, study.seed, image)

    for image in range(len(study.prompts) if things is not None else 0):
        for edge in edges_in(image):
            check_edge(model, study.prompts[image], edge)

    def measure(chunk: range) -> Iterable[dict[str, Any]]:
        computations = [
            partial(_rows, model, study.prompts[image], edges_in(image), given[image], image, study.work, remote)
            for image in chunk
        ]
        return chain.from_iterable(together(computations, remote))

    settings = {"edges": names, "asked": None if about is None else list(about.values()), **grouped.settings}
    return study.frame(settings, measure, summary, columns=["image", *BY, *MEASURES])


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over images with intervals, from the rows of every image."""
    if frame.empty:
        return pd.DataFrame(columns=[*BY, "measure", "mean", "low", "high", "images"])
    tidy = summarise(frame, BY, MEASURES, shares=SHARES)
    return tidy[tidy["images"] > 0].reset_index(drop=True)


class _LabelledCut(NamedTuple):
    """A cut, and what the table says of it."""

    labels: dict[str, Any]
    cut: Knockout
    overlap: float = math.nan


def _cuts(edge: Edge) -> Iterator[_LabelledCut]:
    """The edge cut in every window, each followed by its controls."""
    for window in edge.windows:
        shown, size = spell_layers(window.layers), len(window.layers)
        labels = {"edge": edge.name, "centre": window.centre, "layers": shown, "width": size}
        yield _LabelledCut({**labels, "control": NONE}, edge.cut(window.layers))
        if edge.random is not None:
            control, chosen = edge.random
            overlap = len(set(chosen) & set(edge.source)) / len(chosen)
            yield _LabelledCut({**labels, "control": control}, edge.cut(window.layers, chosen), overlap)
        if size in edge.draws:
            yield _LabelledCut({**labels, "layers": "", "control": RANDOM_LAYERS}, edge.cut(edge.draws[size]))


def _rows(
    model: Model, prompt: Prompt, edges: Sequence[Edge], answer: str | int, image: int, work: Work, remote: Remote
) -> list[dict[str, Any]]:
    """Rows of one prompt, from one sweep; a cut that several rows share is made once."""
    cuts = [cut for edge in edges for cut in _cuts(edge)]
    if not cuts:
        return []
    places = {cut: place for place, cut in enumerate(dict.fromkeys(labelled.cut for labelled in cuts))}
    token = answer_token(model, answer)
    frame = sweep(model, prompt, list(places), answer=token, memory=work.memory, empty="ignore", remote=remote)
    scores = list(frame.itertuples())
    rows = []
    for labels, cut, overlap in cuts:
        score: Any = scores[places[cut]]
        change = float(score.logprob - score.clean_logprob)
        measures = {"probability_change": 100 * math.expm1(min(change, 700.0)), "logprob_change": change}
        kept = math.nan if math.isnan(score.rank) else float(score.rank == 0)
        rows.append({"image": image, **labels, **measures, "kept": kept, "overlap": overlap})
    return rows
