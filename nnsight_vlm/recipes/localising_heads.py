"""Which attention heads look at the object that is asked about, chosen on some pictures and scored on others.

Kang et al. 2025 (arXiv 2503.06287) call a few of them localisation heads. Heads that were chosen because they fit some
pictures fit these pictures better than others, so none is scored where it was chosen. Where a head looks is no cause:
cuts and steering stand beside the scores, and the same in random heads.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from ..families import Model
from ..lowering.layers import Layers
from ..prompts.prompt import Prompt
from ..prompts.where import Where
from ..remote.background import can_run_in_background
from ..remote.batching import together
from ..remote.model_call import Remote
from ..statistics import summarise
from ..studies.asked import Columns, Questions, asked_given
from ..studies.asked_objects import names_given
from ..studies.comparisons import with_comparisons
from ..studies.head_maps import FITS
from ..studies.labels import RANDOM_PATCHES, SHARES
from ..studies.methods import only
from ..studies.papers import LOCALISATION_HEADS
from ..studies.registry import recipe
from ..studies.study import open_study
from ..studies.words import Thing
from ..studies.work import PLAIN, Work
from .head_plans import Subjects, aims_given, layers_seen, plan_given
from .head_scores import (
    BY_FIT,
    CALIBRATION,
    EACH,
    HELD_OUT,
    NO_HEAD,
    Choose,
    Head,
    calibrating,
    chosen_heads,
    maps_of,
    score_rows,
)
from .head_sets import Sets, set_rows

BY = ["what", "heads", "layer", "head", "split", "control"]
OF_CUTS = ("logprob_change", "kept", "other_change", "flipped")
MEASURES = (*FITS, "attention", "entropy", "selected", *OF_CUTS)


@can_run_in_background
@recipe(
    papers=(LOCALISATION_HEADS,),
    asks="Which heads look at the object that is asked about, and does the answer need them?",
    method=(
        "The attention of tokens ({target}) to the patches was read in every head (layers: {layers}). On a share "
        "{calibration} of the pictures the best heads were chosen ({top} in number), and scored on the others, beside "
        "as many random heads, drawn {draws} times for every picture.",
        only("The best heads are those whose peak lies on the object most often.", choose="peak"),
        only("The best heads are those of whose attention to the image the object has most.", choose="mass"),
        only(
            "The best heads are those whose most attended patches overlap most with the object's (intersection over "
            "union).",
            choose="iou",
        ),
        only(
            "The best heads are those that are most often, of the heads that attend to the image, among the {lowest} "
            "whose maps have least spatial entropy; no mask was used to choose them.",
            choose="paper",
        ),
        only("Maps of several heads were also smoothed (standard deviation {smooth} patches).", smooth=True),
        only(
            "On the other pictures the heads, and the random ones, were also kept from the image.",
            answers=True,
        ),
        only(
            "There they were also kept from all of the image but another object, and from all but that object.",
            answers=True,
            towards=True,
        ),
    ),
    shows="reads",
    measures=("hit", "mass", "logprob_change"),
    shows_of=dict.fromkeys(OF_CUTS, "could"),
)
def heads(
    model: Model,
    prompts: Sequence[Prompt] | Questions | None = None,
    *,
    items: Questions | None = None,
    columns: Columns | None = None,
    only_correct: bool = False,
    answers: Sequence[str | int] | bool | None = None,
    truths: Sequence[Sequence[Thing]] | None = None,
    asked: Sequence[str | Sequence[str]] | None = None,
    towards: Sequence[str | Sequence[str]] | None = None,
    other_answers: Sequence[str | int] | None = None,
    choose: Choose = "peak",
    top: int = 5,
    lowest: int | None = None,
    calibration: float = 0.5,
    target: Where = "last",
    layers: Layers = "all",
    smooth: float = 1.0,
    draws: int = 5,
    seed: int = 0,
    cluster: Sequence[Hashable] | None = None,
    per_image: bool = False,
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
    work: Work = PLAIN,
) -> pd.DataFrame:
    """Score every head by where it looks, choose some on a part of the pictures, and test these on the others.

    The attention of a prompt's last token to the patches is compared with the mask of the object that is asked about. A
    prompt may end in an answer that was begun (`Prompt.grown`): its last token is then the one that writes the next
    word of the answer, and `asked` the object that this word names.

    Every prompt costs a forward, and one that is held out another and a sweep of `2 + 2 * draws` cuts, with `towards`
    of three times as many.

    Args:
        model: an nnsight model from `load`.
        prompts: questions of one row and one picture each; several may be about one picture, see `cluster`. Or a table,
            as `items`.
        items, columns: a table of questions about pictures in place of prompts, see `knockout_windows`.
        only_correct: measure only the items that the model answers right, see `knockout_windows`.
        answers: one single-token answer for each prompt, whose probability is measured under cuts; those of items,
            unless it is False. Without them heads are scored only.
        truths: the objects of every picture, with masks; those of items, where they have any. They are needed.
        asked: for each prompt the name of the object that it is about, one of its truths; see `information_flow`.
        towards: for each prompt the name of another object, towards which heads are steered.
        other_answers: for each prompt the answer that would be right of the object in `towards`, of one token.
        choose: what the heads are chosen by.

            - `peak`: the share of pictures in which the patch with the most attention lies on the object.
            - `mass`: the object's share of the attention to the image.
            - `iou`: of the object's patches with as many of those with the most attention.
            - `paper`: no mask is used. Of the heads whose mean attention to the image reaches the point where the
              sorted values bend most, each picture selects the `lowest` whose maps have least spatial entropy, and
              the heads that are selected most often are chosen; of equal ones, those of less entropy.

        top: how many heads are chosen.
        lowest: of `choose="paper"`, how many heads each picture selects; default 10.
        calibration: the share of the pictures on which heads are chosen, drawn at random. All prompts about one
            picture, or of one cluster, are on the same side.
        target: the positions whose attention is read and cut; of several, the mean.
        layers: whose heads are measured; default all layers that attend to the picture.
        smooth: the standard deviation, in patches, of the Gaussian that smooths the map of several heads; 0 for none.
        draws: how many sets of random heads of each kind are drawn for each picture.
        seed: of the split and of the random heads.
        cluster: a key for each prompt, equal where prompts are about one image; see `knockout_windows`.
        per_image: return the rows of every image instead of means with intervals.
        remote, blocking, path: see `nv.run`.
        work: journal, progress bar, size of chunks and memory.

    Returns:
        `what, heads, layer, head, split, control, measure, mean, low, high, images, rank, p, survives`. `rank` numbers
        the chosen heads from 1, best first.

        Rows of single heads (`heads` is `each`, `what` is `map`) are there on both sides of the `split`, `calibration`
        and `held out`; all others are of pictures that are held out. `p` and `survives` compare each head's `hit`
        (`mass` or `iou`, where heads are chosen by it) on held-out pictures with random patches, and hold the false
        discovery rate over all heads at 0.05; with n images no p-value lies below `2 ** (1 - n)`.

        - `map`: `hit`, 1 where the patch with the most attention touches the object; `mass`, the object's share of the
          attention to the image; `iou` of the object's patches with as many of those with the most attention;
          `mask_iou`, with those above the map's mean. Of single heads also `attention`, how much of its attention the
          head pays to the image, `entropy`, the spatial entropy of the patches above the mean (nats), and with
          `choose="paper"` the share of pictures in which it was `selected`. `chosen` heads have one map, the mean of
          theirs, and so have `all` heads. Controls: `random heads`, as many others; `random heads, same layers`, as
          many others of each layer, where a layer has enough; `other object`, the same map compared with the picture's
          other objects; `random patches`, the exact expectation for patches in random order.
        - `smoothed map`: the same of the smoothed map.
        - `cut`: the target attends to no image token, in the `chosen` heads or in `all`; `logprob_change` of the
          answer in nats, and `kept`, 1 where it is the most probable token. Controls: random heads, as above.
        - `steered`: of the image, the target sees only the object in `towards`, in these heads; `forced`: these heads
          see nothing else at all, text neither. Also `other_change`, the change of the other answer's
          log-probability, and `flipped`, 1 where the other answer is the most probable token.
        - `nothing`: `kept`, and `flipped`, of the run without an intervention.

        A picture of whose object no patch shows anything has no rows.

    Raises:
        SpecError: no truths, an object that nothing tells or that has no mask, fewer than two pictures, more heads
            than there are, pictures whose image tokens have no place (BLIP-2), `towards` without `other_answers` or
            `answers`, an other answer that is the answer itself.

    >>> import nnsight_vlm as nv
    >>> model, scenes = nv.load("shapes"), [nv.shapes.scene(number) for number in (3, 8)]
    >>> questions = ["what color is the square?", "what color is the ring?"]
    >>> prompts = [nv.encode(model, text, scene.image) for text, scene in zip(questions, scenes, strict=True)]
    >>> frame = nv.recipes.heads(
    ...     model,
    ...     prompts,
    ...     truths=[nv.recipes.shape_truth(scene) for scene in scenes],
    ...     asked=["red square", "purple ring"],
    ...     top=2,
    ...     work=nv.recipes.Work(progress=False),
    ... )
    >>> frame.loc[(frame["heads"] == "chosen") & (frame["measure"] == "hit"), "what"].unique().tolist()
    ['map', 'smoothed map']
    """
    plan = plan_given(choose, top, lowest, calibration, target, layers, smooth, draws)
    measured = asked_given(prompts, items, columns)
    about, aims = names_given(measured, asked), aims_given(model, measured, towards, other_answers)
    study = open_study(
        "heads",
        model,
        measured,
        only_correct=only_correct,
        answers=answers,
        truths=truths,
        cluster=cluster,
        seed=seed,
        per_image=per_image,
        work=work,
        remote=remote,
        look=partial(layers_seen, model, plan),
    )
    subjects = Subjects(study=study, plan=plan, layers=study.seen[0], about=about, aims=aims)
    usable = subjects.usable()
    chosen_on = calibrating(study.clusters, usable, plan.calibration, study.seed)
    held_out = frozenset(usable) - frozenset(chosen_on)

    def scores(chunk: range) -> Iterable[dict[str, Any]]:
        calls = [partial(_scores, subjects, image) for image in chunk if image in usable]
        return chain.from_iterable(together(calls, remote))

    apart = replace(study, per_image=True)
    single = apart.frame(subjects.settings(), scores, summary)
    single = single.assign(split=[HELD_OUT if image in held_out else CALIBRATION for image in single["image"]])
    single, best = chosen_heads(single, plan.choose, plan.top, plan.lowest)
    sets = Sets(plan.target, subjects.layers, best, plan.draws, plan.smooth)

    def tests(chunk: range) -> Iterable[dict[str, Any]]:
        calls = [partial(_tests, subjects, sets, image) for image in chunk if image in held_out]
        return chain.from_iterable(together(calls, remote))

    settings = {**subjects.settings(), **plan._asdict(), "layers": subjects.layers, "chosen": best}
    tested = apart.frame(settings, tests, summary, aside={"calibrating": [*chosen_on], "aims": subjects.aimed()})
    frame = pd.concat([single, tested.assign(split=HELD_OUT)], ignore_index=True)
    given = frame if study.per_image else summary(frame, BY_FIT[plan.choose], study.seed)
    return study.finished(_shown(given, best), settings)


def summary(frame: pd.DataFrame, measure: str = "hit", seed: int = 0) -> pd.DataFrame:
    """Means over images with intervals, from the rows of every image; single heads compared with chance."""
    tidy = summarise(frame, BY, [name for name in MEASURES if name in frame], shares=SHARES)
    tidy = tidy[tidy["images"] > 0].reset_index(drop=True)
    single = frame[(frame["heads"] == EACH) & (frame["split"] == HELD_OUT)]
    return with_comparisons(tidy, single, BY, [measure], against=RANDOM_PATCHES, paired=False, seed=seed)


def _scores(subjects: Subjects, image: int) -> list[dict[str, Any]]:
    """The scores of every head on one picture."""
    study, plan, pictured = subjects.study, subjects.plan, subjects.pictured(image)
    maps = maps_of(study.model, pictured.prompt, pictured.grid, plan.target, subjects.layers, study.remote)
    return list(score_rows(pictured, maps, subjects.layers))


def _tests(subjects: Subjects, sets: Sets, image: int) -> list[dict[str, Any]]:
    """What the chosen heads, and random ones, do on one picture."""
    study, pictured, answers = subjects.study, subjects.pictured(image), subjects.answers(image)
    return set_rows(study.model, pictured, sets, answers, study.seed, study.work.memory, study.remote)


def _shown(frame: pd.DataFrame, best: Sequence[Head]) -> pd.DataFrame:
    """The frame with the ranks of chosen heads, and without a layer and a head where there is none."""
    ranks = {head: number + 1 for number, head in enumerate(best)}
    keys = zip(frame["layer"].astype(int), frame["head"].astype(int), strict=True)
    rank = pd.array([ranks.get(key) for key in keys], dtype="Int64")
    numbers = {name: frame[name].astype("Int64").mask(frame[name] == NO_HEAD) for name in ("layer", "head")}
    return frame.assign(**numbers, rank=rank)
