"""The beginning of a recipe that compares two pictures: a `Study` of the prompts that are patched, and their pairs."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from ..arguments import flag
from ..errors import SpecError
from ..families import Model, view_of
from ..identity import prompt_digest
from ..prompts.prompt import Prompt
from ..questions.item_lists import Items, LeftOut
from ..remote.model_call import Remote
from .asked import is_table, own_or_given, table_given
from .clusters import checked_keys, clusters_of_pairs
from .given import usual_given
from .item_checks import Look, look_at_pairs
from .item_prompts import chosen
from .pairs import PAIRS, ItemPairs, Pair, answers_of, pairs_given
from .right_answers import nothing_right, right_answers
from .study import Study


def pairs_asked(model: Model, pairs: Any, items: Any, columns: Any) -> list[Pair] | Items:
    """Pairs as they are, or items of a table with a second picture and its answer.

    Raises:
        SpecError: both or none were given; columns of something that is no table; items without a second picture; see
            `pairs_given` and `nv.items`.
    """
    if items is not None and pairs is not None:
        raise SpecError("pairs= and items= were both given; leave one of them out")
    if items is None and not is_table(pairs):
        if columns is not None:
            raise SpecError(
                f"columns= names the columns of a table, and pairs= are none; leave it out, or write {PAIRS}"
            )
        return pairs_given(model, pairs)
    asked = table_given(pairs if items is None else items, columns, "pairs" if items is None else "items")
    if not asked.has_pairs:
        raise SpecError(
            "items= have no second picture, and a pair is one question about two; give their table the columns "
            'other_image and other_answer, or say which they are, columns={"other_image": "..."}'
        )
    view_of(model)
    return asked


def open_pairs(
    recipe: str,
    model: Model,
    asked: list[Pair] | Items,
    *,
    only_correct: Any,
    cluster: Sequence[Hashable] | None,
    seed: Any,
    per_image: Any,
    work: Any,
    remote: Remote,
    look: Look,
) -> tuple[Study, Sequence[Pair]]:
    """What `open_study` does for prompts: a study of the prompts that are patched, and the pairs.

    Raises:
        SpecError: naming the argument that is something else.
    """
    seed, per_image, work = usual_given(seed, per_image, work)
    only_correct = flag("only_correct", only_correct)
    common: dict[str, Any] = {"recipe": recipe, "model": model, "answers": None, "truths": None}
    common |= {"seed": seed, "per_image": per_image, "work": work, "remote": remote}
    pairs: Sequence[Pair]
    if isinstance(asked, Items):
        own = own_or_given("cluster", cluster, has_own=asked.has_clusters)
        keys = None if cluster is None else checked_keys(asked, cluster)
        looked, pairs = look_at_pairs(model, asked, look=look, work=work, remote=remote)
        keys = [line.cluster for line in looked.items.lines] if own else chosen(keys, looked.numbers)
        found: dict[str, Any] = {"ids": looked.items.ids, "left_out": looked.items.left_out, "seen": looked.seen}
        clusters = clusters_of_pairs(pairs.prompts, pairs.others, keys)
        study = Study(**common, prompts=pairs.prompts, clusters=clusters, **found)
    else:
        pairs, prompts = asked, tuple(pair.prompt for pair in asked)
        clusters = clusters_of_pairs(prompts, [pair.other for pair in asked], cluster)
        seen = tuple(_looked(look, number, prompt) for number, prompt in enumerate(prompts))
        study = Study(**common, prompts=prompts, clusters=clusters, seen=seen)
    return _answered_right(study, pairs) if only_correct else (study, pairs)


def _looked(look: Look, number: int, prompt: Prompt) -> Any:
    """What the recipe wants to know of a pair's prompt; errors name the pair."""
    try:
        return look(prompt)
    except SpecError as error:
        raise SpecError(f"pair {number}: {error}") from error


def of_others(pairs: Sequence[Pair]) -> dict[str, Any]:
    """What a journal of pairs must know beside the prompts that are patched: the answers, and the other prompts."""
    others = pairs.others.digests if isinstance(pairs, ItemPairs) else [prompt_digest(pair.other) for pair in pairs]
    return {"pair answers": [answers_of(pairs, number) for number in range(len(pairs))], "others": others}


def _answered_right(study: Study, pairs: Sequence[Pair]) -> tuple[Study, Sequence[Pair]]:
    """The study of those pairs of which the model answers both questions right.

    Raises:
        SpecError: there are none.
    """
    others = pairs.others if isinstance(pairs, ItemPairs) else [pair.other for pair in pairs]
    own_answers, answers_of_others = zip(*[answers_of(pairs, number) for number in range(len(pairs))], strict=True)
    how: dict[str, Any] = {"scored": True, "work": study.work, "remote": study.remote}
    wrong = right_answers(study.model, study.prompts, own_answers, **how)
    wrong_of_others = right_answers(study.model, others, answers_of_others, **how)
    whys = [
        why or (other and f"about the other picture, {other}")
        for why, other in zip(wrong, wrong_of_others, strict=True)
    ]
    kept = [number for number, why in enumerate(whys) if not why]
    ids = range(len(whys)) if study.ids is None else study.ids
    left_out = [LeftOut(ids[number], why) for number, why in enumerate(whys) if why]
    if not kept:
        raise SpecError(nothing_right(left_out))
    rest = pairs.only(kept) if isinstance(pairs, ItemPairs) else [pairs[number] for number in kept]
    return study.only(kept, left_out), rest
