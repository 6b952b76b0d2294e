"""Causal tracing: a run is corrupted, and clean states are put back at one place after the other.

Meng et al. 2022 (arXiv 2202.05262); in vision-language models Basu et al. 2024 (arXiv 2406.04236), who corrupt the
question's constraint words, and NOTICE (Golovanevsky et al. 2024, arXiv 2406.16320), who replace the picture by another
instead of adding noise. States that bring the answer back hold what the corruption had taken away: this shows what the
model does with them, not whether it could do without.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import SpecError
from ..families import Model
from ..identity import prompt_digest
from ..lowering.layers import Layers
from ..lowering.sites import StateSite
from ..prompts.prompt import Prompt
from ..questions.item_lists import Items
from ..remote.background import can_run_in_background
from ..remote.batching import together
from ..remote.model_call import Remote
from ..statistics import summarise
from ..studies.asked import Columns, Questions, asked_given
from ..studies.comparisons import with_comparisons
from ..studies.corruptions import (
    OF_PICTURES,
    OTHER_WORDS,
    Corruption,
    corrupted,
    corrupted_given,
    corrupted_prompts,
    kind_given,
    pictures_of_others,
)
from ..studies.given import answers_given
from ..studies.labels import ANOTHER_IMAGE, RANDOM_POSITIONS, SHARES
from ..studies.methods import COMPARED, OTHER_LAYERS, only
from ..studies.pair_scores import LOGIT_DIFFS, Base, measures_of, scored
from ..studies.papers import BASU, NOTICE
from ..studies.registry import recipe
from ..studies.study import open_study
from ..studies.work import PLAIN, Work
from ..sweeping.wanted import answer_token
from .restored_places import (
    EFFECTS,
    OF_WORDS,
    WORD_GROUPS,
    Over,
    Trace,
    check_against,
    check_words,
    restorations,
    trace_errors,
    trace_given,
)


@can_run_in_background
@recipe(
    papers=(BASU, NOTICE),
    asks="Which states bring the answer back when the picture, or words of the question, were corrupted?",
    method=(
        "The run was corrupted ({corrupt}), and the clean run's states (site {site}) were restored one {over} and "
        "window of {window} layer(s) at a time; what came back of the answer's probability was measured.",
        only(
            "The noise has a standard deviation of {noise} times that of the image's embeddings.",
            corrupt="noise",
        ),
        only("The logit of the answer was also compared with that of another answer.", against=True),
        OTHER_LAYERS,
        only("Controls restored as many tokens at random positions.", over="group"),
        only("Controls restored as many tokens at random positions.", over="position", corrupt=OTHER_WORDS),
        only("Controls restored the states of a third picture's run.", corrupt=OF_PICTURES),
        COMPARED,
    ),
    shows="does",
)
def causal_trace(
    model: Model,
    prompts: Sequence[Prompt] | Questions | None = None,
    *,
    items: Questions | None = None,
    columns: Columns | None = None,
    only_correct: bool = False,
    answers: Sequence[str | int] | None = None,
    against: Sequence[str | int] | None = None,
    corrupt: str | Sequence[Prompt] = "another image",
    noise: float | None = None,
    over: Over = "group",
    groups: Sequence[str] | None = None,
    layers: Layers | None = None,
    window: int = 1,
    site: StateSite = "residual",
    seed: int = 0,
    cluster: Sequence[Hashable] | None = None,
    per_image: bool = False,
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
    work: Work = PLAIN,
) -> pd.DataFrame:
    """Corrupt the picture or words of the question, restore clean states, and see where the answer comes back.

    Args:
        model: an nnsight model from `load`.
        prompts: the clean prompts, of one row each; several may be about one picture, see `cluster`. Or a table, as
            `items`.
        items, columns: a table of questions about pictures in place of prompts, see `knockout_windows`.
        only_correct: measure only what the model answers right, see `knockout_windows`.
        answers: the right answer to each, one token; left out for items, which have their own.
        against: for each prompt or item the answer that the corrupted run should give, one token; adds logit
            differences.
        corrupt: what is corrupted. `"another image"`: the picture is that of another prompt with another answer, laid
            out equally. `"noise"`: Gaussian noise is added to the embeddings of the image tokens. `"mean"`: each of
            them is their mean. Or the corrupted prompts themselves, one for each prompt or item: the same words about
            another picture; or other words about the same picture, as many tokens of them, such as
            `nv.encode(model, "what color is the circle?", image)` beside `"what color is the square?"`.
        noise: of `corrupt="noise"`, its standard deviation in those of the image's embeddings; default 3.
        over: what is restored at a time: all tokens of a `group`, or the token at one `position`.
        groups: the groups, or those whose tokens are restored one by one. Default `image`, `question`, `last` and
            `all`, without those that have no hidden states; where words are corrupted `words` (the tokens that
            differ), `after words` (what follows the last of them, without the last token), `last` and `all`; of
            positions `query`.
        layers: the layers around which states are restored; default all that have the site.
        window: how many neighbouring layers are restored together, fewer at the ends. Of the sites `attention` and
            `mlp` one layer alone often shows nothing.
        site: what is restored: `residual`, or what the `attention` or the `mlp` of a layer adds to it.
        seed: of the noise, of the random positions and of which picture replaces another.
        cluster, per_image: see `knockout_windows`.
        remote, blocking, path: see `nv.run`.
        work: journal, progress bar, size of chunks and memory.

    Returns:
        `layer` (the middle of the window), `group` or `position`, `control, measure, mean, low, high, images, p,
        survives`. A position is called by its place from the prompt's end and its text, `"-2 cross"`.

        Measures, with y the answer: `restoration`,
        `(P(y|restored) - P(y|corrupted)) / (P(y|clean) - P(y|corrupted))`; `indirect_effect`, the numerator alone; with
        `against=` also `logit_diff`, the logit of y minus that of the other answer, `logit_diff_change`, that minus
        the corrupted run's, and `logit_diff_restored`, the change as a share of the clean run's. Prompts whose clean
        run does not say the answer, or whose corrupted run still does, are left out (NaN; see `images`).

        Controls: `random positions`, as many tokens outside the group (not of single positions where the picture is
        corrupted); where the picture is corrupted `another image`, the same tokens from the run on a third picture with
        another answer. `p` and `survives` are as in `patching_map`: `restoration` is compared with `another image`, and
        where words are corrupted with `random positions`; with 0 where there is no such row at all, see
        `attrs["against"]`.

    Raises:
        SpecError: answers that are not one token each; corrupted prompts of another length, that are equal to the
            clean ones, or that differ in both picture and words; no other picture to corrupt with.
    """
    asked = trace_given(over, groups, layers, window, site)
    kind, strength = kind_given(corrupt, noise)
    measured = asked_given(prompts, items, columns)
    others = corrupted_given(measured, corrupt) if kind is None else ()
    compared = None if against is None else answers_given(model, measured, against)
    if answers is None and not isinstance(measured, Items):
        raise SpecError('causal_trace scores an answer; give one for each prompt, answers=["red", ...]')
    study = open_study(
        "causal_trace",
        model,
        measured,
        only_correct=only_correct,
        answers=True if answers is None else answers,
        cluster=cluster,
        seed=seed,
        per_image=per_image,
        work=work,
        remote=remote,
        look=partial(trace_errors, model, asked=asked, kind=kind),
    )
    right = study.answers or ()
    corruption = Corruption(kind, strength, (), words=False)
    if kind is None:
        corruption = corrupted_prompts(model, study.prompts, study.kept_of(measured, others))
    names = asked.names or (OF_WORDS if corruption.words else study.seen_in_all())
    asked = asked._replace(names=names)
    if compared is not None:
        asked = asked._replace(against=study.kept_of(measured, compared))
        check_against(model, right, asked.against or ())
    if kind is None:
        check_words(study.prompts, corruption, asked)
    elif set(names) & set(WORD_GROUPS):
        raise SpecError(f"{names!r}: no words are corrupted by corrupt={kind!r}; leave 'words' and 'after words' out")
    if kind == "another image" and not any(
        next(pictures_of_others(study.prompts, right, number, study.seed), None) for number in range(len(right))
    ):
        raise SpecError(
            'corrupt="another image" needs prompts about two pictures or more, of one size, with different answers, '
            "and for no prompt there is such another one; give more of them"
        )

    def measure(chunk: range) -> Iterable[dict[str, Any]]:
        return chain.from_iterable(together([partial(rows, image) for image in chunk], remote))

    def rows(image: int) -> list[dict[str, Any]]:
        return _rows(model, study.prompts, right, image, corruption, asked, study.seed, study.work, remote)

    def sum_up(frame: pd.DataFrame) -> pd.DataFrame:
        return summary(frame, asked.over, corruption.words, study.seed)

    digests = [prompt_digest(prompt) for prompt in corruption.prompts]
    settings = {**asked._asdict(), "corrupt": corruption.called, "noise": corruption.noise}
    named = ["image", *asked.by, *asked.measures]
    return study.frame(settings, measure, sum_up, columns=named, aside={"corrupted": digests})


def summary(frame: pd.DataFrame, over: Over, words: bool, seed: int = 0) -> pd.DataFrame:
    """Means over images with intervals and comparisons, from the rows of every image; where none counts, of none."""
    by, measures = ["layer", over, "control"], [name for name in (*EFFECTS, *LOGIT_DIFFS) if name in frame]
    tidy = summarise(frame, by, measures, shares=SHARES)
    present = tidy[tidy["images"] > 0]
    tidy = (present if len(present) else tidy).reset_index(drop=True)
    control = RANDOM_POSITIONS if words else ANOTHER_IMAGE
    against = control if control in set(frame["control"]) else None
    return with_comparisons(tidy, frame, by, ["restoration"], against=against, seed=seed)


def _rows(
    model: Model,
    prompts: Sequence[Prompt],
    answers: Sequence[str | int],
    image: int,
    corruption: Corruption,
    asked: Trace,
    seed: int,
    work: Work,
    remote: Remote,
) -> list[dict[str, Any]]:
    """Rows of one prompt, from its clean run, its corrupted run, and one sweep for each batch of restorations."""
    prompt, pictures = prompts[image], pictures_of_others(prompts, answers, image, seed)
    if corruption.prompts:
        base = Base(corruption.prompts[image])
    elif corruption.kind == "another image":
        other = next(pictures, None)
        if other is None:
            return []
        base = Base(other)
    else:
        base = corrupted(model, prompt, corruption, image, seed, remote)
    third = None if corruption.words else next(pictures, None)
    answer = answer_token(model, answers[image])
    against = None if asked.against is None else answer_token(model, asked.against[image])
    conditions = restorations(model, prompt, base, third, corruption, asked, seed, image)
    before, after, scores = scored(model, base, Base(prompt), conditions, answer, against, work, remote)
    known = after.top == answer != before.top
    rows = list[dict[str, Any]]()
    for score in scores:
        found = measures_of(score, before, after, known=known)
        rows.append({"image": image, **score.labels, **{name: found[name] for name in asked.measures}})
    return rows
