"""The places of a causal trace: what is asked, which states are restored where, and the controls of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from ..arguments import listed, one_of, whole_number
from ..errors import SpecError
from ..execution.checking import check
from ..families import Model
from ..lowering.sites import StateSite
from ..prompts.prompt import Prompt
from ..prompts.where import as_tuples
from ..specs.states import Patch
from ..studies.controls import rng_of
from ..studies.corruptions import Corruption, Kind, changed_words, refuse_kind
from ..studies.labels import ANOTHER_IMAGE, NONE, RANDOM_POSITIONS, Control
from ..studies.pair_scores import LOGIT_DIFFS, Base, Condition
from ..studies.pair_sources import groups_with_states, patched_layers, positions_outside
from ..studies.positions import named_positions
from ..studies.token_sets import owning_stage
from ..sweeping.wanted import answer_token

Over = Literal["group", "position"]
OVERS: tuple[Over, ...] = get_args(Over)
OF_PICTURES = ("image", "question", "last", "all")
WORDS, AFTER_WORDS = "words", "after words"
WORD_GROUPS = (WORDS, AFTER_WORDS)
OF_WORDS = (WORDS, AFTER_WORDS, "last", "all")
"""The groups that are restored by default where the picture is corrupted, and where words are."""
EFFECTS = ("restoration", "indirect_effect")
SITES: tuple[StateSite, ...] = ("residual", "attention", "mlp")


class Trace(NamedTuple):
    """What is restored, and how it is scored."""

    over: Over
    names: tuple[str, ...]
    layers: Any
    window: int
    site: StateSite
    against: tuple[str | int, ...] | None

    @property
    def by(self) -> list[str]:
        return ["layer", self.over, "control"]

    @property
    def measures(self) -> list[str]:
        return [*EFFECTS, *(() if self.against is None else LOGIT_DIFFS)]


# what is restored -----------------------------------------------------------------------------------


def trace_given(over: Any, groups: Any, layers: Any, window: Any, site: Any) -> Trace:
    """What a user asks to restore; without names where these follow from what is corrupted.

    Raises:
        SpecError: words that are none of those known, a window of no layers.
    """
    over, site = one_of("over", over, OVERS), one_of("site", site, SITES)
    window = whole_number("window", window, least=1, kind="number of layers")
    write = 'groups=["image", "last"]'
    names = () if groups is None else listed("groups", groups, write, kind=str)
    if groups is not None and not names:
        raise SpecError(f"groups=() names no group to restore; write {write}, or leave it out")
    if over == "position":
        names = names or ("query",)
    return Trace(over, tuple(dict.fromkeys(names)), as_tuples(layers), window, site, None)


def check_against(model: Model, answers: Sequence[str | int], others: Sequence[str | int]) -> None:
    """Refuse an answer that is compared with itself.

    Raises:
        SpecError: it is.
    """
    for number, (own, other) in enumerate(zip(answers, others, strict=True)):
        if answer_token(model, own) == answer_token(model, other):
            raise SpecError(f"prompt {number}: against= has its answer {own!r}; give the answer of the corrupted run")


def trace_errors(model: Model, prompt: Prompt, *, asked: Trace, kind: Kind | None) -> dict[str, str]:
    """For each group that a prompt has why it cannot be restored; empty where it can.

    Raises:
        SpecError: a group that was asked for has no tokens or hidden states, a layer has not got the site, or the image
            cannot be corrupted so.
    """
    refuse_kind(prompt, kind)
    found, named = dict[str, str](), [name for name in asked.names if name not in (WORDS, AFTER_WORDS)]
    for group in named or groups_with_states([prompt], OF_PICTURES):
        try:
            positions = _positions(prompt, None, group)
            numbers = patched_layers(model, prompt, positions, asked.layers, asked.site)
            check(model, prompt, _restored(prompt, prompt, positions, numbers, asked.site))
            found[group] = ""
        except SpecError as error:
            if named:
                raise
            found[group] = str(error)
    return found


def _positions(prompt: Prompt, other: Prompt | None, group: str) -> tuple[int, ...]:
    """The positions of a group; of corrupted words, or of what follows them, too.

    Raises:
        SpecError: there are none, or no word is corrupted.
    """
    if group not in (WORDS, AFTER_WORDS):
        prompt.rows[0].required(group)
        return prompt[group]
    words = () if other is None else changed_words(prompt, other)
    if not words:
        raise SpecError(f"{group!r} are those of corrupted words, and no words were corrupted; leave it out")
    last = prompt.rows[0].stop - 1
    return words if group == WORDS else tuple(place for place in prompt["all"] if max(words) < place < last)


def check_words(prompts: Sequence[Prompt], corruption: Corruption, asked: Trace) -> None:
    """Refuse groups of corrupted words that a prompt has not got, before anything runs."""
    for number, prompt in enumerate(prompts):
        other = corruption.prompts[number] if corruption.words else None
        for group in asked.names:
            try:
                _positions(prompt, other, group)
            except SpecError as error:
                raise SpecError(f"prompt {number}: {error}") from None


def _restored(
    prompt: Prompt, source: Prompt, positions: Sequence[int], layers: Sequence[int], site: StateSite
) -> Patch:
    stage, places = owning_stage(prompt, tuple(positions))
    return Patch(places, source=source, layers=tuple(layers), site=site, stage=stage)


def restorations(
    model: Model,
    prompt: Prompt,
    base: Base,
    third: Prompt | None,
    corruption: Corruption,
    asked: Trace,
    seed: int,
    image: int,
) -> Iterator[Condition]:
    """The restorations of one prompt: each place from the clean run, then those of its controls."""
    for labels, positions, control, source in _places(prompt, base, third, corruption, asked, rng_of(seed, image)):
        every = patched_layers(model, prompt, positions, None, asked.site)
        for layer in patched_layers(model, prompt, positions, asked.layers, asked.site):
            around = layer - (asked.window - 1) // 2
            restored = [number for number in every if around <= number < around + asked.window]
            named = {"layer": layer, **labels, "control": control}
            yield Condition(named, min(positions), _restored(base.prompt, source, positions, restored, asked.site))


def _places(
    prompt: Prompt, base: Base, third: Prompt | None, corruption: Corruption, asked: Trace, rng: Any
) -> Iterator[tuple[Mapping[str, str], tuple[int, ...], Control, Prompt]]:
    """Labels and positions of what is restored, its control, and the prompt whose run gives the states."""
    named: list[tuple[dict[str, str], tuple[int, ...]]]
    if asked.over == "position":
        named = [({"position": label}, (position,)) for label, position in named_positions(prompt, asked.names)]
    else:
        other = base.prompt if corruption.words else None
        named = [({"group": group}, _positions(prompt, other, group)) for group in asked.names]
    for labels, positions in named:
        if not positions:
            continue
        yield labels, positions, NONE, prompt
        if third is not None:
            yield labels, positions, ANOTHER_IMAGE, third
        if asked.over == "group" or corruption.words:
            drawn = positions_outside(prompt, positions, rng)
            if drawn:
                yield labels, drawn, RANDOM_POSITIONS, prompt
