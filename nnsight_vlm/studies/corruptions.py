"""Corrupted runs of a prompt: another picture, noise or a mean in place of its image, or other words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch

from ..arguments import listed, number, one_of
from ..errors import SpecError
from ..execution.checking import require_model
from ..execution.forward import run
from ..families import Model
from ..prompts.given import single_prompt
from ..prompts.prompt import Prompt
from ..remote.model_call import Remote
from ..specs.measurements import Residual
from ..specs.states import Ablate
from ..specs.vectors import Add
from .controls import other_image, rng_of, same_pictures, with_picture_of
from .item_prompts import ItemPrompts
from .pair_scores import Base
from .token_sets import lies_outside

Kind = Literal["another image", "noise", "mean"]
KINDS: tuple[Kind, ...] = get_args(Kind)
OTHER_WORDS, GIVEN_PICTURE = "other words", "another picture, given"
OF_PICTURES = (*KINDS, GIVEN_PICTURE)
"""What is called a corruption of the picture."""
NOISE = 3.0
"""Standard deviations of the image's embeddings, as in Meng et al. 2022 (arXiv 2202.05262)."""
WRITE = (
    f"one of {', '.join(map(repr, KINDS))}, or a list of corrupted prompts, one for each: the same words about another "
    "picture, or as many tokens of other words about the same picture"
)
LOOKED_AT = 64
"""How many other prompts are looked at for a picture that fits."""


class Corruption(NamedTuple):
    """How every prompt is corrupted.

    Attributes:
        kind: of the built-in ones; None where the corrupted prompts were given.
        noise: of the kind `noise`, in standard deviations of the image's embeddings.
        prompts: the corrupted prompts that were given; empty for a kind.
        words: whether they differ in their words.
    """

    kind: Kind | None
    noise: float
    prompts: tuple[Prompt, ...]
    words: bool

    @property
    def called(self) -> str:
        """What a text calls it."""
        return self.kind or (OTHER_WORDS if self.words else GIVEN_PICTURE)


def kind_given(given: Any, noise: Any) -> tuple[Kind | None, float]:
    """The kind of corruption that is asked for, None for prompts of the user's own, and the strength of noise.

    Raises:
        SpecError: no such kind, or a strength of something else than noise.
    """
    if noise is not None and not (isinstance(given, str) and given == "noise"):
        raise SpecError('noise= says how strong corrupt="noise" is; leave it out, or write corrupt="noise"')
    strength = NOISE if noise is None else number("noise", noise, above=0, kind="strength", write="noise=3.0")
    return (one_of("corrupt", given, KINDS) if isinstance(given, str) else None), strength


def refuse_kind(prompt: Prompt, kind: Kind | None) -> None:
    """Refuse a prompt whose image cannot be corrupted so.

    Raises:
        SpecError: it has no image, or one outside the decoder's sequence, where no embeddings enter.
    """
    if kind is not None:
        prompt.rows[0].required("image")
    if kind in ("noise", "mean") and lies_outside(prompt, "image"):
        raise SpecError(
            f"corrupt={kind!r} changes the embeddings of image tokens, and this image lies outside the decoder's "
            'sequence; write corrupt="another image"'
        )


def corrupted_given(measured: Sequence[Any], given: Any) -> tuple[Prompt, ...]:
    """The corrupted prompts that a user gives, one for each prompt or item.

    Raises:
        SpecError: no such list.
    """
    others = tuple(single_prompt(each, "corrupt") for each in listed("corrupt", given, WRITE, kind=Prompt))
    if len(others) != len(measured):
        raise SpecError(f"corrupt= has {len(others)} prompts for {len(measured)} prompts; give one for each")
    return others


def corrupted_prompts(model: Model, prompts: Sequence[Prompt], others: tuple[Prompt, ...]) -> Corruption:
    """The corruption by prompts of the user's own.

    Raises:
        SpecError: prompts of another length or layout, that are equal to the clean ones, or that differ in both picture
            and words.
    """
    kinds = {_differs_in(model, index, *both) for index, both in enumerate(zip(prompts, others, strict=True))}
    if len(kinds) > 1:
        raise SpecError("corrupt= has prompts of other pictures and prompts of other words; trace them apart")
    return Corruption(None, NOISE, others, words=kinds == {"words"})


def _differs_in(model: Model, index: int, prompt: Prompt, other: Prompt) -> str:
    """Whether a corrupted prompt differs in its `words` or in its `picture`.

    Raises:
        SpecError: in both, in neither, or in where its tokens lie.
    """
    require_model(model, other)
    own, theirs = prompt.rows[0], other.rows[0]
    if (len(own.tokens), own.images, own.videos, own.outside) != (
        *(len(theirs.tokens), theirs.images, theirs.videos, theirs.outside),
    ):
        raise SpecError(
            f"prompt {index}: the corrupted one has {len(theirs.tokens)} tokens and the clean one {len(own.tokens)}, "
            "or its image lies elsewhere; replace words by as many tokens, and pictures by pictures of the same size"
        )
    words = (own.tokens, own.outside_tokens) != (theirs.tokens, theirs.outside_tokens)
    picture = not same_pictures(prompt, other)
    if words == picture:
        both = "in both picture and words" if words else "in nothing"
        raise SpecError(f"prompt {index}: the corrupted one differs {both}; change one of the two")
    return "words" if words else "picture"


def changed_words(prompt: Prompt, other: Prompt) -> tuple[int, ...]:
    """The positions at which two prompts of equal length have different tokens."""
    own, theirs = prompt.rows[0].tokens, other.rows[0].tokens
    return tuple(position for position in prompt["all"] if own[position] != theirs[position])


def pictures_of_others(
    prompts: Sequence[Prompt], answers: Sequence[str | int], image: int, seed: int
) -> Iterator[Prompt]:
    """A prompt's words about the pictures of other prompts with other answers, laid out equally; each picture once."""
    first, count, used = other_image(prompts, image, seed), len(prompts), [image]
    for step in range(min(count, LOOKED_AT) if first is not None else 0):
        other = ((first or 0) + step) % count
        if answers[other] == answers[image] or any(_one_picture(prompts, other, each) for each in used):
            continue
        moved = with_picture_of(prompts[image], prompts[other])
        if moved is not None:
            used.append(other)
            yield moved


def _one_picture(prompts: Sequence[Prompt], one: int, other: int) -> bool:
    """Whether two prompts are about one picture; items are told apart without opening them again."""
    if isinstance(prompts, ItemPrompts):
        return prompts.picture_keys[one] == prompts.picture_keys[other]
    return same_pictures(prompts[one], prompts[other])


def corrupted(model: Model, prompt: Prompt, corruption: Corruption, image: int, seed: int, remote: Remote) -> Base:
    """The corrupted run of a prompt whose embeddings of the image are changed."""
    if corruption.kind == "mean":
        return Base(prompt, Ablate("image", how="mean", site="embedding"))
    read = run(model, prompt, reads=Residual("image", site="embedding"), remote=remote).reads[0]
    drawn = rng_of(seed, image).standard_normal(tuple(read.shape)) * corruption.noise * float(read.double().std())
    dtype = torch.float64 if read.dtype == torch.float64 else torch.float32
    return Base(prompt, Add("image", torch.from_numpy(drawn).to(dtype), site="embedding"))
