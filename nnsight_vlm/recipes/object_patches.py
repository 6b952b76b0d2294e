"""Which patches an answer needs: hide them neighbourhood by neighbourhood, or those of the object all at once.

The attention knockout of Geva et al. 2023 (arXiv 2304.14767), patch by patch. Like every knockout it shows where the
model cannot do without a patch, not where it looks.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from ..arguments import refuse, whole_number
from ..errors import SpecError
from ..execution.checking import check
from ..execution.memory import check_memory
from ..families import Model
from ..lowering.layers import Layers
from ..prompts.given import single_prompt
from ..prompts.prompt import Prompt
from ..prompts.where import Where, as_tuples
from ..remote.background import can_run_in_background
from ..remote.batching import together
from ..remote.model_call import Remote
from ..studies.asked import Columns, Questions, asked_given, scores_answers
from ..studies.asked_objects import AskedPatches, asked_of, asked_patches, names_given, whose_prompt
from ..studies.image_patches import patch_source
from ..studies.methods import GIVEN, only
from ..studies.papers import GEVA
from ..studies.registry import recipe
from ..studies.study import open_study
from ..studies.words import Thing
from ..studies.work import PLAIN, Work
from ..sweeping.wanted import answer_token
from .patch_cuts import PatchCuts, summary, whole_cut


@can_run_in_background
@recipe(
    papers=(GEVA,),
    asks="Which patches does an answer need, and are they the object's?",
    method=(
        "Patches were hidden in squares of {size} x {size} around each patch (layers: {layers}), and the change of the "
        "answer's log-probability was measured.",
        only(
            "They were hidden from the prompt's last token or, where image tokens are latents, from the queries of the "
            "Q-Former or resampler.",
            target=None,
        ),
        only("They were hidden from the tokens {target}.", target=GIVEN),
        only("They are patches of picture {image}, counted from 0.", image=True),
        only("They are patches of frame {frame} of the videos, counted from 0.", frame=GIVEN),
        only("The object's patches, and all others, were also hidden at once.", truths=True),
        "Controls hid as many patches drawn at random.",
    ),
    shows="could",
)
def patch_knockout(
    model: Model,
    prompts: Prompt | Sequence[Prompt] | Questions | None = None,
    *,
    items: Questions | None = None,
    columns: Columns | None = None,
    only_correct: bool = False,
    answer: str | int | None = None,
    answers: Sequence[str | int] | None = None,
    truths: Sequence[Sequence[Thing]] | None = None,
    asked: Sequence[str | Sequence[str]] | None = None,
    target: Where | None = None,
    layers: Layers = "attention",
    size: int = 3,
    image: int = 0,
    frame: int | None = None,
    seed: int = 0,
    cluster: Sequence[Hashable] | None = None,
    per_image: bool = False,
    memory: int | None = None,
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
    work: Work = PLAIN,
) -> pd.DataFrame:
    """Change of the answer's log-probability when `target` cannot attend to a patch and its neighbours.

    With one prompt it gives the map of its patches. With a list of prompts it gives what such maps have in common,
    although each picture has its own grid: how much the worst neighbourhood costs, whether few patches carry the
    answer, and with `truths` whether they are those of the object that the question is about.

    Where image tokens are latents without a place in the picture (BLIP-2), the patches are hidden from the queries of
    the Q-Former or resampler that reads them, and so from every token after it.

    Args:
        model: an nnsight model from `load`.
        prompts: one prompt of one row, or a list of them; several may be about one picture, see `cluster`. Or a table,
            as `items`.
        items, columns: a table of questions about pictures in place of a list, see `knockout_windows`.
        only_correct: with a list or items, measure only what the model answers right, see `knockout_windows`.
        answer: of one prompt, one token, as text or id.
        answers: of a list of prompts, one such answer for each; not beside items, which have their own.
        truths: with a list, the objects in each picture, with masks; those of items, where they have any.
        asked: for each prompt, the name of the thing that the question is about; see `information_flow`.
        target, layers: see `nv.Knockout`; tokens and layers of the stage that reads the patches. Default the prompt's
            `last` token, or all queries of a Q-Former, in all layers that read patches.
        size: side of the square of patches that is hidden around each patch, odd.
        image: which picture of the prompt.
        frame: in its place, which frame of the prompt's videos, counted through all of them. A family whose tokens show
            several neighbouring frames hides all of these. Truths then have masks of that frame.
        seed: of the random controls.
        cluster: with a list, a key for each prompt, equal where prompts are about one image; see `knockout_windows`.
        per_image: with a list, return the rows of every patch and region instead of means with intervals.
        memory: see `nv.sweep`; default that of `work`.
        remote, blocking, path: see `nv.run`.
        work: journal, progress bar, size of chunks and memory.

    Returns:
        For one prompt, one row for each patch: `token` (its position), `tile, row, column` (its place in the grid),
        `x0, y0, x1, y1` (its pixels), `hidden` (how many patches were hidden, all of its tile), `logprob_change` in
        nats, and `random_patches`, the control: the same change when as many patches, drawn at random outside the
        neighbourhood, are hidden. They tell how large a change means nothing; NaN where too few lie outside. Image
        tokens without a place (line breaks between patches) have no row.

        For a list, `region, control, measure, mean, low, high, images`, the `control` being `none` or `random patches`.
        Regions:

        - `patch`: all neighbourhoods, one after the other. Measures: `logprob_change`, their mean; `largest_drop`,
          the nats that the worst one costs; `top_tenth`, the share of all drops that the tenth of the patches with
          the largest drops has: 0.1 where all count alike, 1 where few carry the answer. With truths also `hit`, 1
          where the patch with the largest drop touches the object, and `iou` of the object's patches with as many of
          those with the largest drops. Control: the same of sets of as many patches drawn at random, one for each
          neighbourhood; of `hit` and `iou` what a random order of the patches gives, exactly.
        - `image`: all patches are hidden at once. No control is as large.
        - `object` and `rest of the image`, with truths: the object's patches are hidden at once, or all others.
          Control: as many patches drawn outside the object; for the rest, out of all.

        With `per_image=True`, one row for each patch and region and its control, with the columns of the map.
        `object` tells whether a patch touches the object.

    Raises:
        SpecError: an even or negative size, a target that sees no patch at all (single patches may be out of its reach,
            with a change of 0), image tokens whose patches are not known, an object that nothing tells, `answer` with
            a list or what goes with a list beside one prompt, and whatever `nv.sweep` raises.
    """
    single = isinstance(prompts, Prompt)
    measured: Any
    if single:
        _refuse_beside_one(items=items, columns=columns, answers=answers, truths=truths, asked=asked, cluster=cluster)
        _refuse_beside_one(only_correct=only_correct or None, per_image=per_image or None)
        measured, answers = (single_prompt(prompts, "prompts"),), [_answer_of(model, answer)]
    else:
        measured = asked_given(prompts, items, columns)
        if answer is not None:
            raise SpecError("answer= is of one prompt, and prompts= is a list; write answers=, one for each prompt")
        if not scores_answers(measured, answers):
            refuse("answers", answers, "list of answers", 'one for each prompt, answers=["red", ...]')
    size = whole_number("size", size, least=1, kind="number of patches")
    if size % 2 == 0:
        raise SpecError(f"size={size} is no odd number of patches; write size=1 or size=3")
    image, about = whole_number("image", image, kind="number of a picture"), names_given(measured, asked)
    target, layers = as_tuples(target), as_tuples(layers)

    def look(prompt: Prompt) -> None:
        check(model, prompt, whole_cut(patch_source(prompt, image, frame), target, layers))

    study = open_study(
        "patch_knockout",
        model,
        measured,
        only_correct=only_correct,
        answers=answers,
        truths=truths,
        cluster=cluster,
        seed=seed,
        per_image=single or per_image,
        work=replace(work, progress=False) if single and isinstance(work, Work) else work,
        remote=remote,
        look=look,
    )
    given, things = study.answers or (), study.truths
    memory = study.work.memory if memory is None else check_memory(memory)
    if things is not None and truths is None and (image or frame is not None):
        raise SpecError(
            "the objects of items are those of their first picture, and image= or frame= names another; leave it out, "
            "or take the objects out of the table"
        )
    if about is not None and things is None:
        raise SpecError("asked= names things of truths=, which are not given; write truths= as well")

    def patches_in(number: int) -> AskedPatches | None:
        if things is None:
            return None
        prompt, names = study.prompts[number], asked_of(study, number, about)
        grid = patch_source(prompt, image, frame).grid
        return asked_patches(prompt, grid, things[number], names, whose_prompt(study, number))

    def cuts_of(number: int) -> PatchCuts:
        source, patches = patch_source(study.prompts[number], image, frame), patches_in(number)
        return PatchCuts.of(source, patches, target=target, layers=layers, size=size, seed=study.seed, number=number)

    for number in range(len(study.prompts)):
        patches_in(number)

    def measure(chunk: range) -> Iterable[dict[str, Any]]:
        computations = [
            partial(cuts_of(number).rows, model, study.prompts[number], given[number], memory, remote)
            for number in chunk
        ]
        return chain.from_iterable(together(computations, remote))

    settings = {"target": target, "layers": layers, "size": size, "picture": image, "frame": frame}
    settings |= {"asked": None if about is None else list(about.values())}
    rows = study.frame(settings, measure, summary)
    if single:
        attrs, rows = rows.attrs, cuts_of(0).map_of(rows)
        rows.attrs = attrs
    return rows


def _answer_of(model: Model, answer: str | int | None) -> str | int:
    """The answer to the only prompt."""
    if answer is None:
        refuse("answer", answer, "answer of one token", 'answer="red"')
    answer_token(model, answer)
    return answer


def _refuse_beside_one(**others: Any) -> None:
    """Refuse what goes with a list of prompts only.

    Raises:
        SpecError: naming it.
    """
    for name, given in others.items():
        if given is not None:
            raise SpecError(f"{name}= goes with a list of prompts, and one prompt was given; write prompts=[prompt]")
