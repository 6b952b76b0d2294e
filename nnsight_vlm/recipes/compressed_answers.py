"""Compressed context: new questions answered from the text of one pass over a picture, and a few of its image tokens.

Kaduri et al. 2024 (arXiv 2411.17491): the query tokens of a description hold much of the picture, and with a few per
cent of the image tokens they are context enough for other questions. Image tokens are chosen as the paper does, by
FastV (arXiv 2403.06764), and in other ways, each beside as many random ones, because from some layer on no choice is
better than these (arXiv 2512.07580).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from ..arguments import flag, text, whole_number, words_given
from ..errors import SpecError
from ..execution.cut_caches import why_not_cut
from ..families import Model, view_of
from ..prompts.prompt import Prompt
from ..remote.background import can_run_in_background
from ..remote.batching import together
from ..remote.model_call import Remote
from ..statistics import summarise
from ..studies.asked import Columns, Questions
from ..studies.kept_tokens import CHOSEN, KEEP, Chosen, keep_given
from ..studies.labels import SHARES
from ..studies.methods import GIVEN, only
from ..studies.papers import FASTV, KADURI, PAPERS
from ..studies.registry import recipe
from ..studies.study import open_study
from ..studies.work import PLAIN, Work
from .compressed_runs import Compression, CutRuns, Question, asked_of, masked_rows, refuse_uncut

BY = ["tokens", "kept", "control"]
MEASURES = ("accuracy", "logprob", "bytes", "tokens_per_second")
REQUEST = "Describe the image."
"""What the first pass is asked, unless told otherwise."""


@can_run_in_background
@recipe(
    papers=(KADURI, FASTV, PAPERS["2512.07580"], PAPERS["2604.12358"]),
    asks="How many image tokens does a new question need once the picture has been described?",
    method=(
        only(
            'The picture was passed once (request: "{request}"), and the new question ran behind what was kept of it.',
            request=GIVEN,
        ),
        only('The model was taken to have replied "{reply}".', reply=True),
        only(
            "The picture was passed once with the question, whose last token ran behind what was kept of it.",
            request=None,
        ),
        "Of the image tokens {keep} per cent were kept, chosen by {tokens}; the others were out of reach in every "
        "layer that leaves some out, and positions stayed as they were.",
        only("By fastv, layer {fastv_layer} was the first to leave tokens out.", tokens="fastv"),
        only("By again, every token behind the pass chose for itself.", tokens="again"),
        "As many random image tokens were the control.",
    ),
    shows="could",
    measures=("accuracy", "logprob"),
    shows_of={"bytes": "method", "tokens_per_second": "method"},
)
def compressed_context(
    model: Model,
    prompts: Sequence[Prompt] | Questions | None = None,
    *,
    items: Questions | None = None,
    columns: Columns | None = None,
    only_correct: bool = False,
    answers: Sequence[str | int] | None = None,
    request: str | None = REQUEST,
    reply: str = "",
    keep: float | Sequence[float] = KEEP,
    tokens: Chosen | Sequence[Chosen] = CHOSEN,
    fastv_layer: int = 2,
    timed: int = 16,
    cut: bool | None = None,
    seed: int = 0,
    cluster: Sequence[Hashable] | None = None,
    per_image: bool = False,
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
    work: Work = PLAIN,
) -> pd.DataFrame:
    """How well questions are answered when most image tokens are taken out of the context after a first pass.

    The first pass runs the picture and `request`. Then image tokens are left out, layer by layer, and the question runs
    behind what is kept: all text of the pass, and some image tokens. On this machine they are taken out of the cache,
    which is smaller then, and questions about one picture share its pass. On a server, and with `cut=False`, attention
    to them is cut in a run of the whole sequence, which gives the same answers.

    Args:
        model: an nnsight model from `load`.
        prompts: questions about pictures, of one row each; several may be about one picture, see `cluster`. Or a table,
            as `items`.
        items, columns: a table of questions about pictures in place of prompts, see `knockout_windows`.
        only_correct: measure only the items that the model answers right, see `knockout_windows`; it does so with the
            question alone.
        answers: one single-token answer for each prompt, unless items have them.
        request: what the first pass is asked about the picture. None lets the question itself be the pass, up to its
            last token, which then runs behind what is kept.
        reply: what the model is taken to have said to the request, in the chat that the question goes on with.
        keep: how many image tokens are kept, in per cent of all; several for a row each. 0 keeps none, 100 all; any
            other share keeps one at least.
        tokens: how they are chosen.

            - `attention`: in every layer those that the pass's query tokens attend to most, mean over these and heads.
            - `fastv`: those that the pass's last token attends to most in layer `fastv_layer - 1`; the layers before
              `fastv_layer` keep all.
            - `norm`: those that enter the decoder with the largest norm; every layer keeps the same.
            - `contribution`: as `attention`, by the length of what they add to the query tokens, heads together.
            - `again`: every token behind the pass chooses for itself, in every layer those that it attends to most in a
              run that leaves nothing out. The cache stays whole, and nothing is saved.

        fastv_layer: the first layer in which `fastv` leaves tokens out; layers count from 0.
        timed: so many tokens are decoded behind the first question about each picture to time it; 0 leaves
            `tokens_per_second` out.
        cut: False cuts attention in a run of the whole sequence in place of the cache; default the cache on this
            machine.
        seed: of the random tokens.
        cluster: a key for each prompt, equal where prompts are about one image; see `knockout_windows`.
        per_image: return the rows of every question instead of means with intervals.
        remote, blocking, path: see `nv.run`.
        work: journal, progress bar, size of chunks and memory.

    Returns:
        `tokens, kept, control, measure, mean, low, high, images`; `kept` is in per cent of the image tokens.

        Measures: `accuracy`, 1 where the answer is the most probable token; `logprob` of the answer in nats; `bytes` of
        the keys and values that the question begins with, measured where the cache is cut, else computed from the
        model's sizes; `tokens_per_second` of greedy decoding behind the question, only where the cache is cut. Times
        depend on the machine and on what else it does.

        Control: `random image tokens`, as many in the same layers, drawn anew in every layer where the choice is made
        in every layer, and for every token where it is made `again`.

    Raises:
        SpecError: no answers, prompts without a picture or of which it is not known which words are the question, a
            chat template that does not go on behind the request; a model whose cache cannot be cut, with the reason, or
            whose decoder does not hold the image tokens.

    >>> import nnsight_vlm as nv
    >>> model, scene = nv.load("shapes"), nv.shapes.scene(3)
    >>> prompt = nv.encode(model, "what color is the square?", scene.image)
    >>> quiet = nv.recipes.Work(progress=False)
    >>> frame = nv.recipes.compressed_context(
    ...     model, [prompt], answers=["red"], keep=[1, 100], tokens="norm", timed=0, work=quiet
    ... )
    >>> rows = frame[(frame["measure"] == "bytes") & (frame["control"] == "none")]
    >>> [int(size) for size in rows["mean"]]
    [215040, 1228800]
    """
    how = Compression(
        request=None if request is None else text("request", request),
        reply=text("reply", reply),
        keep=keep_given(keep),
        tokens=words_given("tokens", [tokens] if isinstance(tokens, str) else tokens, CHOSEN, "choice of tokens"),
        fastv_layer=whole_number(
            "fastv_layer", fastv_layer, least=1, most=view_of(model).stage().layer_count - 1, kind="number of a layer"
        ),
        timed=whole_number("timed", timed, least=0, kind="number of tokens"),
        cut=_is_cut(model, cut, remote),
    )

    def look(prompt: Prompt) -> None:
        asked_of(model, prompt, how)

    study = open_study(
        "compressed_context",
        model,
        prompts,
        items=items,
        columns=columns,
        only_correct=only_correct,
        answers=answers,
        cluster=cluster,
        seed=seed,
        per_image=per_image,
        work=work,
        remote=remote,
        look=look,
    )
    given = study.answers
    if given is None:
        raise SpecError("a compressed context is judged by answers; write answers=, one for each prompt")

    def measure(chunk: range) -> Iterable[dict[str, Any]]:
        questions = (Question(n, asked_of(model, study.prompts[n], how), given[n], study.seed) for n in chunk)
        memory = study.work.memory
        if how.cut:
            return chain.from_iterable(map(CutRuns(model, how, memory).rows, questions))
        calls = [partial(_listed, model, how, memory, question, remote) for question in questions]
        return chain.from_iterable(together(calls, remote))

    return study.frame({**vars(how)}, measure, summary)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over images with intervals, from the rows of every question."""
    present = [measure for measure in MEASURES if measure in frame.columns]
    tidy = summarise(frame, BY, present, shares=SHARES)
    return tidy[tidy["images"] > 0].reset_index(drop=True)


def _listed(*given: Any) -> list[dict[str, Any]]:
    return list(masked_rows(*given))


def _is_cut(model: Model, given: bool | None, remote: Remote) -> bool:
    """Whether the cache is cut.

    Raises:
        SpecError: it cannot be, or attention cannot be cut in its place.
    """
    asked = None if given is None else flag("cut", given)
    if asked and remote is not False:
        raise SpecError("a cache is cut where it is made, and a server keeps none between calls; leave cut= out")
    refuse_uncut(model)
    if asked is False or remote is not False:
        return False
    if why := why_not_cut(model):
        name = view_of(model).family.name
        raise SpecError(f"no token can be taken out of the cache of this {name!r} model: {why}; write cut=False")
    return True
