"""How a picture reaches the answer: read by the last token itself, or through the text before it.

Interchange patching of image rows or of text rows, and the share that is text-mediated, as in "Pathways" (arXiv
2607.03358). The paper was not at hand when this was written: the definitions below are this package's own. They are the
natural direct and indirect effects of mediation analysis (Pearl 2001, arXiv 1301.2300; in language models Vig et al.
2020, arXiv 2004.12265), where the treatment is another picture and the mediator the text rows.

Rows are the hidden states of tokens in all layers. *Image rows* are those of the image, *text rows* those behind the
last image without the last token's, and the answer is read at the *last row*. A cut c divides the layers: below it
everything is as in the prompt's own run, and from layer c on

- `total`: the image rows are the other picture's, and all rows behind them are computed from that;
- `direct`: the image rows are the other picture's, and the text rows are held as they are in the prompt's own run. What
  changes, the last row has read from the image itself;
- `text-mediated`: the image rows are the prompt's own, and the text rows are those of the run `total`. What changes,
  the last row has read from the text.

At cut 0 `total` is the run on the other picture. Beside these stands what had come to other rows below the cut already:
`text rows` and `last row` are those of the run on the other picture as they enter layer c, and everything goes on from
the prompt's own states beside them. (The same patch of the image rows is `total`.) Each of the five is a patch, so it
shows what the model does, and not what it could do.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ..errors import SpecError
from ..execution.checking import check
from ..families import Model, view_of
from ..lowering.layers import Layers, layer_numbers
from ..prompts.prompt import Prompt
from ..prompts.where import as_tuples
from ..remote.background import can_run_in_background
from ..remote.batching import together
from ..remote.model_call import Remote
from ..specs.interventions import Intervention
from ..specs.states import Patch
from ..statistics import image_means, interval, summarise
from ..studies.asked import Columns, Questions
from ..studies.labels import ANOTHER_IMAGE, NONE, SHARES, Control
from ..studies.pair_scores import LOGIT_DIFFS, Condition, pair_rows
from ..studies.pair_sources import third_picture
from ..studies.pair_study import of_others, open_pairs, pairs_asked
from ..studies.pairs import Pair
from ..studies.papers import PATHWAYS, PEARL, VIG
from ..studies.registry import recipe
from ..studies.token_sets import owning_stage
from ..studies.work import PLAIN, Work

TOTAL, DIRECT, MEDIATED = "total", "direct", "text-mediated"
TEXT_ROWS, LAST_ROW = "text rows", "last row"
BY = ["route", "cut", "control"]
MEASURES = ["restoration", *LOGIT_DIFFS]
PERCENTS = {"percent": "restoration", "percent_logit_diff": "logit_diff_restored"}
"""The measures that say how much is text-mediated, by the measure that they are computed from."""


@can_run_in_background
@recipe(
    papers=(PATHWAYS, PEARL, VIG),
    asks="How much of a picture's effect does the last token read from the image, and how much through the text?",
    method=(
        "From each cut on ({cuts}), image rows were taken from a run on another picture, with the text rows free "
        "(total effect) or held as in the prompt's own run (direct effect), or text rows were taken from the run with "
        "those image rows, and the image rows stayed as they were (text-mediated effect). The per cent that is "
        "text-mediated is the ratio of the text-mediated effect to the sum of both, of means over images. The control "
        "took a third picture."
    ),
    shows="does",
    caveat=(
        "The definitions are nnsight_vlm's own, the natural direct and indirect effects of mediation analysis; only "
        "the question is that of Pathways, whose definitions may be others."
    ),
)
def pair_routes(
    model: Model,
    pairs: Sequence[Pair | tuple[Prompt, Prompt, str | int, str | int]] | Questions | None = None,
    *,
    items: Questions | None = None,
    columns: Columns | None = None,
    only_correct: bool = False,
    cuts: Layers | None = None,
    seed: int = 0,
    cluster: Sequence[Hashable] | None = None,
    per_image: bool = False,
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
    work: Work = PLAIN,
) -> pd.DataFrame:
    """How much of a changed picture's effect the last token reads from the image, and how much through the text.

    Args:
        model: an nnsight model from `load`.
        pairs: `(prompt, other prompt, answer, other answer)`; both prompts have the same text, with two tokens or more
            behind the last image. Or a table, as `items`.
        items, columns: a table in place of pairs, with the columns `image, other_image, question, answer,
            other_answer`, see `knockout_windows`.
        only_correct: leave pairs out of which the model does not answer both questions right, in place of NaN; see
            `knockout_windows`.
        cuts: the layers from which on rows are changed; default all. Cut 0 is the whole model.
        seed: of the resamples behind the percentages' intervals.
        cluster: a key for each pair, equal where pairs are about one image, see `knockout_windows`; default, pairs in
            which the same picture is patched, or the same two pictures are patched into each other, are one.
        per_image: return the rows of every pair instead of means with intervals; `image` is the pair's number.
        remote, blocking, path: see `nv.run`.
        work: journal, progress bar, size of chunks and memory.

    Returns:
        `route, cut, control, measure, mean, low, high, images`.

        Routes: `total`, `direct`, `text-mediated`, `text rows` and `last row`, defined where this file begins;
        the last two not at cut 0, where they are equal in both runs. Measures, with y the other picture's answer and x
        the prompt's own: `restoration`, `(P(y|patched) - P(y|prompt)) / (P(y|other) - P(y|prompt))`, 0 for no effect
        and 1 for all of it; `logit_diff`, the logit of y minus that of x; `logit_diff_change`, that minus the prompt's
        own; `logit_diff_restored`, the change as a share of the other run's. Pairs of which the model does not answer
        both questions right are left out (NaN; see `images`).

        The route `text-mediated` has two measures more: `percent`, 100 times the mean restoration of `text-mediated`
        over the sum of those of `direct` and `text-mediated`, and `percent_logit_diff`, the same of
        `logit_diff_restored`. Each is the ratio of means over images; NaN where the sum's interval is not above 0,
        because then there is nothing to share. Routes that are redundant are both close to `total`, and routes that
        need each other both close to 0: read the percentage beside the three of them.

        The control `another image` takes a third picture, whose answers are different, for the other picture.

    Raises:
        SpecError: prompts whose text differs, equal answers, no pairs; an image outside the decoder's sequence, or
            no text rows between image and last token.
    """
    asked, numbers = pairs_asked(model, pairs, items, columns), _cuts_given(model, cuts)
    study, all_pairs = open_pairs(
        "pair_routes",
        model,
        asked,
        only_correct=only_correct,
        cluster=cluster,
        seed=seed,
        per_image=per_image,
        work=work,
        remote=remote,
        look=partial(_check_prompt, model, cuts=numbers),
    )

    def measure(chunk: range) -> Iterable[dict[str, Any]]:
        return chain.from_iterable(together([partial(rows, image) for image in chunk], remote))

    def rows(image: int) -> list[dict[str, Any]]:
        conditions = _conditions(model, all_pairs, image, numbers)
        return pair_rows(model, all_pairs[image], image, conditions, MEASURES, study.work, remote)

    def sum_up(frame: pd.DataFrame) -> pd.DataFrame:
        return summary(frame, study.seed)

    return study.frame({"cuts": numbers}, measure, sum_up, aside=of_others(all_pairs))


def summary(frame: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Means over pairs with intervals and the percentages that are text-mediated, from the rows of every pair."""
    tidy = summarise(frame, BY, MEASURES, shares=SHARES)
    present = tidy[tidy["images"] > 0]
    tidy = present if len(present) else tidy
    return pd.concat([tidy, pd.DataFrame(_percentages(frame, seed))], ignore_index=True)


def _percentages(frame: pd.DataFrame, seed: int) -> Iterator[dict[str, Any]]:
    """How much is text-mediated at each cut, with an interval over images."""
    for (cut, control), rows in frame.groupby(["cut", "control"], sort=False):
        for measure, of in PERCENTS.items():
            means = image_means(rows, [of], ["route"])[of].unstack("route")[[DIRECT, MEDIATED]].dropna()
            both = interval(means, lambda each: each[DIRECT] + each[MEDIATED], seed)
            found = interval(means, lambda each: 100 * each[MEDIATED] / (each[DIRECT] + each[MEDIATED]), seed)
            mean, low, high = found if both.low > 0 else (float("nan"),) * 3
            labels = {"route": MEDIATED, "cut": cut, "control": control, "measure": measure}
            yield {**labels, "mean": mean, "low": low, "high": high, "images": len(means)}


# what is patched ------------------------------------------------------------------------------------


class _Rows(NamedTuple):
    """The positions of a prompt's image rows, text rows and last row; whether image rows see the text behind them."""

    image: tuple[int, ...]
    text: tuple[int, ...]
    last: tuple[int, ...]
    image_sees_text: bool


def _rows_of(prompt: Prompt) -> _Rows:
    """The rows of a prompt.

    Raises:
        SpecError: its image is not in the decoder's sequence, or nothing stands between it and the last token.
    """
    tokens, image = prompt.rows[0], prompt["image"]
    last = tokens.stop - 1  # which predicts the answer, of a prompt that a generation has grown too
    if owning_stage(prompt, "image").stage != "decoder":
        raise SpecError(
            "the image lies outside the decoder's sequence, so there are no image rows beside the text rows to patch; "
            "nv.recipes.query_patching patches such an image in its encoder"
        )
    text = tuple(position for position in prompt["all"] if max(tokens.visual_tokens) < position < last)
    if not text:
        raise SpecError(
            "there is no text row between the image and the last token that could mediate; ask a question behind the "
            "image"
        )
    return _Rows(image, text, (last,), any(tokens.last_seen(position) >= text[0] for position in image))


def _cuts_given(model: Model, cuts: Any) -> tuple[int, ...]:
    numbers = layer_numbers("all" if cuts is None else as_tuples(cuts), view_of(model).stage().layer_count)
    if not numbers:
        raise SpecError("cuts=() names no layer to cut at; write a number or a list of numbers, or leave cuts out")
    return numbers


def _check_prompt(model: Model, prompt: Prompt, *, cuts: Sequence[int]) -> None:
    """Refuse, before anything runs, what a patch of the recipe would be refused for."""
    rows = _rows_of(prompt)
    for _, case in _routes(model, prompt, prompt, rows, cuts[0]):
        check(model, prompt, case)


def _conditions(model: Model, pairs: Sequence[Pair], image: int, cuts: Sequence[int]) -> Iterator[Condition]:
    """The patched runs of one pair."""
    pair = pairs[image]
    rows = _rows_of(pair.prompt)
    donors: dict[Control, Prompt | None] = {NONE: pair.other, ANOTHER_IMAGE: third_picture(pairs, image)}
    for control, donor in donors.items():
        for cut in cuts if donor is not None else ():
            for route, case in _routes(model, pair.prompt, donor, rows, cut):
                early = route in (TOTAL, DIRECT) or (route == MEDIATED and rows.image_sees_text)
                first = rows.image[0] if early else rows.text[0]
                yield Condition({"route": route, "cut": cut, "control": control}, first, case)


def _routes(model: Model, prompt: Prompt, donor: Prompt | None, rows: _Rows, cut: int) -> Iterator[tuple[str, Any]]:
    """The routes at one cut, each as the intervention that opens it alone."""
    if donor is None:
        return
    layers = tuple(range(cut, view_of(model).stage().layer_count))
    image = _from_cut(rows.image, donor, cut, layers)
    treated = Patch(rows.text, source=prompt, under=image, layers=layers)
    yield TOTAL, image
    yield DIRECT, image | Patch(rows.text, source=prompt, layers=layers)
    yield MEDIATED, treated | _from_cut(rows.image, prompt, cut, layers) if rows.image_sees_text else treated
    for name, positions in ((TEXT_ROWS, rows.text), (LAST_ROW, rows.last)):
        if cut:
            yield name, Patch(positions, source=donor, layers=cut - 1)


def _from_cut(positions: tuple[int, ...], source: Prompt, cut: int, layers: tuple[int, ...]) -> Intervention:
    """Rows of another run from a cut on: what enters its first layer, and what every layer from there on gives."""
    if cut:
        return Patch(positions, source=source, layers=(cut - 1, *layers))
    return Patch(positions, source=source, site="embedding") | Patch(positions, source=source, layers=layers)
