"""Which later places carry what an earlier one writes: path patching from a sender through each of many receivers.

Wang et al. 2022 (arXiv 2211.00593) and Goldowsky-Dill et al. 2023 (arXiv 2304.05969). In one run the sender's states
are those of another picture, and what lies between it and the receiver is held as it is without that. The receiver's
states of this run are then written into the prompt's own run, where all else is as it was.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from ..arguments import one_of
from ..errors import SpecError
from ..execution.checking import check
from ..families import Model, view_of
from ..prompts.prompt import Prompt
from ..remote.background import can_run_in_background
from ..remote.batching import together
from ..remote.model_call import Remote
from ..specs.interventions import CLEAN
from ..statistics import summarise
from ..studies.asked import Columns, Questions
from ..studies.comparisons import with_comparisons
from ..studies.labels import ANOTHER_IMAGE, SHARES
from ..studies.methods import COMPARED, only
from ..studies.pair_study import of_others, open_pairs, pairs_asked
from ..studies.pairs import Pair
from ..studies.papers import GOLDOWSKY_DILL, WANG
from ..studies.places import Place, PlaceInModel, place_given, place_in, places_given, require_place
from ..studies.registry import recipe
from ..studies.work import PLAIN, Work
from .path_patches import BETWEEN, MEASURES, Between, Paths, path_rows

BY = ["sender", "receiver", "site", "layer", "head", "control"]
RECEIVERS = (Place("question"), Place("last"), Place("last", site="head"))
"""The receivers unless others are asked for: the residual stream of the question and of the prompt's last token, and
each attention head there."""


@can_run_in_background
@recipe(
    papers=(GOLDOWSKY_DILL, WANG),
    asks="Which later places carry what an earlier place writes?",
    method=(
        "The states of {sender} were taken from a run on another picture with the same question, and what each of "
        "{receivers} made of them was written into the run on the first picture.",
        only("Attention and feed-forward parts of the layers between were held as in that run.", between="frozen"),
        only(
            "Attention of the layers between was held as in that run, and feed-forward parts were computed anew.",
            between="mlp",
        ),
        only("Nothing between them was held.", between="free"),
        "Controls took a third picture's states, and let as many other heads or tokens send.",
        COMPARED,
    ),
    shows="does",
)
def path_patching(
    model: Model,
    pairs: Sequence[Pair | tuple[Prompt, Prompt, str | int, str | int]] | Questions | None = None,
    *,
    sender: Place | str,
    items: Questions | None = None,
    columns: Columns | None = None,
    only_correct: bool = False,
    receivers: Place | str | Sequence[Place | str] | None = None,
    between: Between = "frozen",
    seed: int = 0,
    cluster: Sequence[Hashable] | None = None,
    per_image: bool = False,
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
    work: Work = PLAIN,
) -> pd.DataFrame:
    """How much of another picture's answer a sender's states bring about through each receiver alone.

    It is `nv.Patch(receiver, source=prompt, under=nv.Patch(sender, source=other) | ...)`: the receiver's states come
    from the prompt's own run in which the sender's states are those of the other picture. No route is cut, so this
    shows what the model does.

    Args:
        model: an nnsight model from `load`.
        pairs: `(prompt, other prompt, answer, other answer)`; both prompts have the same text. Or a table, as `items`.
        items, columns, only_correct: see `query_patching`.
        sender: the earlier place, `nv.recipes.Place("image", layers=3)`; a name is the residual stream of this group
            in the layers before the last.
        receivers: the later places. Each is measured in each of its layers alone, and at sites of heads each head
            alone. Default `question`, `last` and the heads at `last`, in the layers behind the sender's first.
        between: what lies between sender and receiver. `frozen`: the outputs of all attentions and feed-forward parts
            of the layers between are those of the prompt's own run, so that only what the sender adds to the
            residual stream reaches the receiver (the direct path). `mlp`: attentions are frozen, and feed-forward
            parts are computed anew (Wang et al.). `free`: all is computed anew, so that a receiver is handed the
            sender's whole effect on it.
        seed: of the random control, and of the test's random signs.
        cluster: a key for each pair, see `query_patching`.
        per_image: return the rows of every pair instead of means with intervals; `image` is the pair's number.
        remote, blocking, path: see `nv.run`.
        work: journal, progress bar, size of chunks and memory.

    Returns:
        `sender, receiver, site, layer, head, control, measure, mean, low, high, images, p, survives`. `layer` is
        missing at site `output`, `head` at sites without heads.

        Measures: `restoration`, see `query_patching`; `logit_diff_change`, by how much the other picture's answer
        gains on this one's, in logits. Pairs of which the model does not answer both questions right are left out.

        A table makes many comparisons: `p` is that of each measure against the control `another image`, by flipping
        signs over images, and `survives` says whether it holds among all of them (false discovery rate 0.05, Benjamini
        and Hochberg 1995). `attrs["comparisons"]` is how many were made, and `attrs["against"]` the control; None where
        no pair has a third picture, and then `p` compares with 0. With n images no p-value lies below `2 ** (1 - n)`:
        give 10 pairs or more. Receivers that the sender cannot reach are not run and have 0.

        Controls: `another image`, the sender's states come from a third picture, whose answers are different; `random
        sender`, as many other heads of the sender's layers send; where none are named, as many other tokens
        from the first image token on.
        There is no such row where too few are left.

    Raises:
        SpecError: prompts whose text differs, equal answers, a place that is not there; frozen paths in a model with
            layers that carry a state through the sequence, from heads of several layers, or, `frozen` alone, where
            layers have inputs of their own (Gemma 3n, small Gemma 4).
    """
    asked = pairs_asked(model, pairs, items, columns)
    paths = _paths(model, sender, receivers, between)
    study, all_pairs = open_pairs(
        "path_patching",
        model,
        asked,
        only_correct=only_correct,
        cluster=cluster,
        seed=seed,
        per_image=per_image,
        work=work,
        remote=remote,
        look=partial(_check, model, paths),
    )

    def measure(chunk: range) -> Iterable[dict[str, Any]]:
        computations = [
            partial(path_rows, model, all_pairs, image, paths, study.seed, study.work, remote) for image in chunk
        ]
        return chain.from_iterable(together(computations, remote))

    settings = {"sender": str(paths.sender), "receivers": [str(each) for each in paths.receivers]}
    exact = {"places": [tuple(each) for each in (paths.sender, *paths.receivers)]}
    found = study.frame(
        {**settings, "between": paths.between},
        measure,
        partial(summary, seed=study.seed),
        aside={**of_others(all_pairs), **exact},
    )
    return with_gaps(found)


def _check(model: Model, paths: Paths, prompt: Prompt) -> None:
    """Refuse places that a prompt has not got, or at which nothing can be patched.

    Raises:
        SpecError: naming the argument.
    """
    require_place(prompt, "sender", paths.sender.group)
    for number, receiver in enumerate(paths.receivers):
        require_place(prompt, f"receivers[{number}]", receiver.group)
        first = paths.patches(prompt, prompt, receiver)[0]
        check(model, prompt, CLEAN if first.patch is None else first.patch)


def summary(frame: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Means over pairs with intervals, and which of them survive the number of comparisons."""
    tidy = summarise(frame, BY, MEASURES, shares=SHARES)
    present = tidy[tidy["images"] > 0]
    tidy = (present if len(present) else tidy).reset_index(drop=True)
    against = ANOTHER_IMAGE if ANOTHER_IMAGE in set(frame["control"]) else None
    return with_comparisons(tidy, frame, BY, MEASURES, against=against, seed=seed)


def with_gaps(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame in which layers and heads that are not there are missing, in place of -1."""
    numbers = {name: frame[name].astype("Int64").mask(frame[name] < 0) for name in ("layer", "head")}
    return frame.assign(**numbers)


def _paths(model: Model, sender: Any, receivers: Any, between: Any) -> Paths:
    """What is measured in every pair.

    Raises:
        SpecError: see `path_patching`.
    """
    spec = view_of(model).stage()
    one_of("between", between, BETWEEN)
    place = place_given("sender", sender)
    if place.site == "output":
        raise SpecError('sender= is the output behind all layers, which nothing follows; write site="residual"')
    sending = place_in(model, "sender", place, range(spec.layer_count - 1))
    default = range(sending.layers[0] + 1, spec.layer_count)
    asked = RECEIVERS if receivers is None else places_given("receivers", receivers)
    found = [place_in(model, f"receivers[{number}]", each, default) for number, each in enumerate(asked)]
    _refuse_unfrozen(model, sending, between)
    return Paths(model=model, sender=sending, receivers=tuple(dict.fromkeys(found)), between=between)


def _refuse_unfrozen(model: Model, sender: PlaceInModel, between: Between) -> None:
    """Refuse to freeze what cannot be frozen.

    Raises:
        SpecError: saying what is in the way.
    """
    if between == "free":
        return
    spec = view_of(model).stage()
    if spec.recurrent:
        raise SpecError(
            f"between={between!r} holds attention as it was, and some layers of this model carry a state through the "
            'sequence in its place; write between="free"'
        )
    if between == "frozen" and (spec.has_layer_inputs or spec.streams > 1):
        raise SpecError(
            'between="frozen" holds attention and the feed-forward part as they were, and layers of this model have '
            "other parts that read the residual stream and add to it (inputs of each layer, several streams); write "
            'between="mlp" or "free"'
        )
    if sender.site in ("head", "query", "key", "value") and len(sender.layers) > 1:
        raise SpecError(
            f"between={between!r} holds the attention of layers {list(sender.layers[1:])} as it was, in which the "
            'sender has heads; name one layer, sender=nv.recipes.Place("last", layers=5, site="head"), or write '
            'between="free"'
        )
