"""What image tokens and the last token stand for, layer by layer, when their states are read as words.

Neo et al. 2024 (arXiv 2410.07149), section 4: the logit lens on image tokens. A second lens asks whether more words are
there than it finds (arXiv 2602.00462): the nearest words among the states of texts that the user gives.

A lens reads states and changes nothing. A word that it finds is there for this lens, not for the model; a word that it
does not find may be there in a form that it cannot read.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from ..arguments import whole_number
from ..errors import SpecError
from ..families import Model, view_of
from ..grids import Grid
from ..lowering.layers import Layers, layer_numbers
from ..lowering.layouts import one_case_per_row
from ..lowering.resolve import resolver
from ..prompts.prompt import Prompt
from ..prompts.where import as_tuples
from ..remote.background import can_run_in_background
from ..remote.batching import together
from ..remote.model_call import Remote
from ..specs.lenses import TOP, Lens
from ..specs.measurements import Residual
from ..statistics import summarise
from ..studies.asked import Columns, Questions
from ..studies.asked_objects import whose_prompt
from ..studies.image_token_sets import picture_grid
from ..studies.labels import SHARES
from ..studies.methods import only
from ..studies.papers import NEO, PAPERS
from ..studies.registry import recipe
from ..studies.study import Study, open_study
from ..studies.token_words import (
    Bank,
    bank_given,
    bank_of,
    lens_words,
    read_of,
    words_given,
)
from ..studies.words import Thing
from ..studies.work import PLAIN, Work
from ..sweeping.wanted import answer_token
from .named_tokens import CONTEXTUAL, LOGIT, answer_rows, named_tokens, word_rows

BY = ["layer", "lens", "tokens", "control"]
OF_WORDS = ("named", "named_first")
MEASURES = (*OF_WORDS, "probability", "similarity", "rank", "log_rank", "first")


@can_run_in_background
@recipe(
    papers=(NEO, PAPERS["2602.00462"]),
    asks="Which words do image tokens stand for, layer by layer, and when does the answer appear at the last token?",
    method=(
        "The states of image tokens were read through the model's final norm and head (logit lens; layers: {layers}).",
        only(
            "They were also compared with the states of the same layers in {bank} texts (contextual lens).", bank=True
        ),
        only(
            "The share of an object's tokens with one of its words among the first {top} was counted. Controls looked "
            "for the words of another object on the same tokens, and for the object's words on as many random tokens "
            "outside it.",
            truths=True,
        ),
        only("At the last token the rank of the answer was read, beside the answer of another prompt.", answers=True),
    ),
    shows="reads",
    measures=OF_WORDS,
)
def image_lens(
    model: Model,
    prompts: Sequence[Prompt] | Questions | None = None,
    *,
    items: Questions | None = None,
    columns: Columns | None = None,
    only_correct: bool = False,
    truths: Sequence[Sequence[Thing]] | None = None,
    words: Mapping[str, Sequence[str]] | None = None,
    answers: Sequence[str | int] | bool | None = None,
    layers: Layers = "all",
    top: int = TOP,
    bank: Sequence[str] | None = None,
    seed: int = 0,
    cluster: Sequence[Hashable] | None = None,
    per_image: bool = False,
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
    work: Work = PLAIN,
) -> pd.DataFrame:
    """How many of an object's image tokens read as its name in each layer, and how far the answer is at the last token.

    Args:
        model: an nnsight model from `load`.
        prompts: of one row and one picture each; several may be about one picture, see `cluster`. Or a table, as
            `items`.
        items, columns: a table of questions about pictures in place of prompts, see `knockout_windows`.
        only_correct: measure only the items that the model answers right, see `knockout_windows`.
        truths: the objects of every picture, with masks; those of items, where they have any. Without them no object
            is counted.
        words: the words that count as an object, by its name, synonyms for example; default the words of the name,
            `red` and `circle` for `red circle`, each of which counts.
        answers: one single-token answer for each prompt, whose rank is read at the last token; those of items, unless
            it is False.
        layers: the layers after which states are read; at the last one the logit lens gives the model's own words.
        top: among how many words an object's is looked for.
        bank: texts for the contextual lens, which finds the `top` words whose states in these texts are nearest by
            cosine to the image token's state after the same layer. They run once, without a picture; no texts come with
            this package. States of image tokens then come to this machine.
        seed: of the random control.
        cluster: a key for each prompt, equal where prompts are about one image; see `knockout_windows`.
        per_image: return the rows of every image instead of means with intervals. Rows of `image` then have `words`,
            the first word of each image token: a JSON list of `[position, word, log-probability or similarity]`, which
            `nv.plots.image_lens` paints over the picture.
        remote, blocking, path: see `nv.run`.
        work: journal, progress bar, size of chunks and memory.

    Returns:
        `layer, lens, tokens, control, measure, mean, low, high, images`; `lens` is `logit` or `contextual`. A token's
        text counts as a word in any case and with a plural's ending; where the tokenizer has no token for the whole
        word, its first piece counts if it has three letters or more.

        - `tokens` `object`: those whose patch touches an object. `named` is the share of them with a word of the object
          among the `top`, `named_first` with one as the first word; means over the picture's objects. Controls: `other
          object's words`, the words of each of the picture's other objects that shares none with it, on the same
          tokens; `random patches`, the object's own words on as many tokens outside it.
        - `other image tokens`: those that touch no object, and the words of any object of the picture.
        - `image`: all image tokens with a place. `probability` of the first word (logit lens), or `similarity` to the
          nearest state (contextual lens), means over tokens.
        - `last`: the prompt's last token. `rank` of the answer (0 is the first), `log_rank`, the logarithm of one more
          than that, and `first`, whether it is the first word. Control: `another answer`, that of the next prompt that
          has a different one.

        States of which a logit is infinite or not a number have no words, and so name nothing.

    Raises:
        SpecError: a picture whose tokens have no place or no states in the decoder, several pictures, a mask of another
            size, truths without a mask, `words` of a name that no truth has, or bad texts in `bank`.

    >>> import nnsight_vlm as nv
    >>> model, scene = nv.load("shapes"), nv.shapes.scene(3)
    >>> prompt = nv.encode(model, "what color is the square?", scene.image)
    >>> quiet = nv.recipes.Work(progress=False)
    >>> frame = nv.recipes.image_lens(model, [prompt], answers=["red"], layers=[0, 9], work=quiet)
    >>> frame.loc[(frame["measure"] == "first") & (frame["control"] == "none"), "mean"].tolist()
    [0.0, 1.0]
    """
    top = whole_number("top", top, least=1, kind="number of words")
    layers, given = as_tuples(layers), words_given(words)
    numbers = layer_numbers(layers, view_of(model).stage().layer_count)
    texts = bank_given(model, bank, layers, len(numbers))

    def look(prompt: Prompt) -> None:
        grid = picture_grid(prompt, "a prompt")
        here = resolver(model, one_case_per_row(prompt).placements[0])
        for read in _reads(grid, layers, top, (), with_states=texts is not None):
            list(read.lower(here))

    study = open_study(
        "image_lens",
        model,
        prompts,
        items=items,
        columns=columns,
        only_correct=only_correct,
        answers=answers,
        truths=truths,
        cluster=cluster,
        seed=seed,
        per_image=per_image,
        work=work,
        remote=remote,
        look=look,
    )
    _check_truths(study, given)
    tokens = None if study.answers is None else [answer_token(model, answer) for answer in study.answers]
    banks = list[Bank]()

    def measure(chunk: range) -> Iterable[dict[str, Any]]:
        if texts is not None and not banks:
            banks.append(bank_of(model, texts, layers, remote))
        grids = [picture_grid(study.prompts[image], whose_prompt(study, image)) for image in chunk]
        wanted = [
            _reads(grid, layers, top, _asked(tokens, image), with_states=bool(banks))
            for image, grid in zip(chunk, grids, strict=True)
        ]
        calls = [
            partial(read_of, model, study.prompts[image], reads, remote)
            for image, reads in zip(chunk, wanted, strict=True)
        ]
        for image, grid, reads in zip(chunk, grids, together(calls, remote), strict=True):
            found = {LOGIT: lens_words(model, reads[0])}
            if banks:
                found[CONTEXTUAL] = banks[0].nearest(reads[-1], top)
            named = list(named_tokens(study, image, grid, given))
            yield from chain(
                word_rows(image, numbers, grid, named, found),
                () if tokens is None else answer_rows(image, numbers, reads[1]),
            )

    settings = {"layers": layers, "top": top, "words": given, "bank": None if texts is None else len(texts)}
    return study.frame(settings, measure, summary, aside={"texts": None if bank is None else list(bank)})


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over images with intervals, from the rows of every image."""
    present = [measure for measure in MEASURES if measure in frame.columns]
    tidy = summarise(frame, BY, present, shares=SHARES)
    return tidy[tidy["images"] > 0].reset_index(drop=True)


def _reads(grid: Grid, layers: Layers, top: int, asked: tuple[int, ...], *, with_states: bool) -> list[Any]:
    """What is read of a prompt: words at the image, the ranks of answers, and states for a bank."""
    reads: list[Any] = [Lens(grid.positions, layers=layers, top=top)]
    if asked:
        reads.append(Lens("last", layers=layers, tokens=asked))
    if with_states:
        reads.append(Residual(grid.positions, layers=layers))
    return reads


def _asked(tokens: Sequence[int] | None, image: int) -> tuple[int, ...]:
    """The token of a prompt's answer, and the next prompt's that is another, if there is one."""
    if tokens is None:
        return ()
    others = (token for token in (*tokens[image:], *tokens[:image]) if token != tokens[image])
    return tokens[image], *([other] if (other := next(others, None)) is not None else ())


def _check_truths(study: Study, given: Mapping[str, Any]) -> None:
    """Refuse truths of which nothing can be counted, before the model runs.

    Raises:
        SpecError: no mask at all, a mask of another size, or words of a name that no picture has.
    """
    if study.truths is None:
        if given:
            raise SpecError("words= are of the objects of truths=, which are not given; write truths= as well")
        return
    names, masked = set[str](), False
    for image in range(len(study.prompts)):
        grid, truth = picture_grid(study.prompts[image], whose_prompt(study, image)), study.truths[image]
        names |= {thing.name for thing in truth}
        for thing in truth:
            if thing.mask is not None:
                grid.coverage(thing.mask)
                masked = True
    if not masked:
        raise SpecError(
            "no thing in truths= has a mask, so that no image token is known to show it; write Thing(mask=)"
        )
    for name in given:
        if name not in names:
            raise SpecError(
                f"words= has words for {name!r}, and truths= name {', '.join(map(repr, sorted(names)))}; write one of "
                "these"
            )
