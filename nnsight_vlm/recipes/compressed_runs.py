"""One picture's pass and the questions behind it, with a context that is cut: in the cache, or by masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import Cache

from ..errors import SpecError
from ..execution.checking import require_model
from ..execution.cut_caches import (
    bytes_held,
    bytes_of,
    cut_cache,
    filled_cache,
    logits_behind,
    not_in_decoder,
    tokens_per_second,
    why_not_cut,
)
from ..execution.forward import run
from ..families import Model, unsupported, view_of
from ..identity import setting_digest
from ..prompts.encoding import encode
from ..prompts.next_turns import next_turn, question_of
from ..prompts.prompt import Prompt
from ..remote.batching import together
from ..remote.model_call import Remote
from ..specs.measurements import Attention, Readout, Residual
from ..studies.controls import picture_key, rng_of
from ..studies.kept_tokens import Chosen, Kept, Ranking, Variant, as_masks, variants_again, variants_of
from ..studies.labels import NONE
from ..sweeping.table import sweep
from ..sweeping.wanted import answer_token

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Compression:
    """What a study compares.

    Attributes:
        request: what the first pass is asked; None where it is the question itself, without its last token.
        reply: what the model is taken to have said to that.
        keep: shares of the image tokens, in per cent.
        tokens: how they are chosen.
        fastv_layer: the layer from which on `fastv` leaves tokens out.
        timed: how many tokens are decoded to time it; 0 for none.
        cut: whether the cache is cut; else attention is, in a run of the whole sequence.
    """

    request: str | None
    reply: str
    keep: tuple[float, ...]
    tokens: tuple[Chosen, ...]
    fastv_layer: int
    timed: int
    cut: bool


class Asked(NamedTuple):
    """A question behind a first pass.

    Attributes:
        first: what the first pass runs, as a whole.
        whole: the first pass, then the question.
        start: where the tokens begin that run behind the pass.
    """

    first: Prompt
    whole: Prompt
    start: int

    @property
    def image(self) -> tuple[int, ...]:
        """Positions of the image tokens."""
        return self.first["image"]

    @property
    def later(self) -> tuple[int, ...]:
        """Positions behind the pass."""
        return tuple(range(self.start, self.whole.rows[0].stop))


class Question(NamedTuple):
    """A question of a study: its number, what runs, its answer, and the seed of its random tokens."""

    number: int
    asked: Asked
    answer: str | int
    seed: int


def asked_of(model: Model, prompt: Prompt, how: Compression) -> Asked:
    """A question about a picture behind a first pass over it.

    Raises:
        SpecError: no picture; it is not known which words are the question.
    """
    require_model(model, prompt)
    prompt = prompt.row(0)
    tokens = prompt.rows[0]
    if not tokens.images or tokens.videos:
        raise SpecError("a context is compressed of pictures; write nv.encode(model, question, picture)")
    if how.request is None:
        return Asked(prompt, prompt, tokens.stop - 1)
    pictures = [prompt.image(number) for number in range(len(tokens.images))]
    first = encode(model, how.request, pictures)
    return Asked(first, first.grown(next_turn(model, question_of(prompt), how.reply)), first.rows[0].stop)


def refuse_uncut(model: Model) -> None:
    """Refuse a model in which no cut of attention takes image tokens from a later question.

    Raises:
        SpecError: saying why.
    """
    family = view_of(model).family
    why = not_in_decoder(family) or unsupported(family).get("complete cut", "")
    if why:
        raise SpecError(f"image tokens cannot be taken from the context of {family.name!r} models: {why}")


# what the first pass says ---------------------------------------------------------------------------


def reads_of(asked: Asked, how: Compression) -> dict[Chosen, Readout]:
    """What is read in the first pass to choose image tokens."""
    queries = tuple(position for position in asked.first["query"] if position < asked.start)
    reads: dict[Chosen, Readout] = {
        "attention": Attention(queries, "image", reduce="mean"),
        "fastv": Attention((asked.start - 1,), "image", layers=how.fastv_layer - 1, reduce="mean"),
        "norm": Residual("image", site="embedding"),
        "contribution": Attention(queries, "image", reduce="contribution", over="heads"),
    }
    return {name: read for name, read in reads.items() if name in how.tokens}


def rankings_of(names: Sequence[Chosen], states: Sequence[torch.Tensor], how: Compression) -> Mapping[Chosen, Ranking]:
    """Scores of image tokens from what was read: attention and contributions are means over the query tokens."""
    found = dict[Chosen, Ranking]()
    for name, state in zip(names, states, strict=True):
        scores = state.double().norm(dim=-1)[None] if name == "norm" else state.double().mean(-2)
        found[name] = Ranking(scores, how.fastv_layer if name == "fastv" else 0)
    return found


# rows -----------------------------------------------------------------------------------------------


class CutRuns:
    """Runs behind caches that are cut. The pass over a picture is kept until another picture comes."""

    def __init__(self, model: Model, how: Compression, memory: int | None) -> None:
        self._model, self._how, self._memory = model, how, memory
        self._again = replace(how, tokens=tuple(name for name in how.tokens if name == "again"))
        self._key, self._cache = "", Cache(layers=[])
        self._rankings: Mapping[Chosen, Ranking] = {}
        self._speeds: dict[tuple[int, ...], float] = {}

    def rows(self, question: Question) -> Iterator[Row]:
        """The rows of one question."""
        asked, found = question.asked, dict[Kept, Row]()
        self._pass_over(asked)
        rng, layers = rng_of(question.seed, question.number), view_of(self._model).stage().layer_count
        for variant in variants_of(self._rankings, self._how.keep, layers, rng):
            [kept] = variant.kept
            if kept not in found:
                found[kept] = self._scores(question, kept)
            timed = self._how.timed and variant.control == NONE
            yield {**_labels(question, variant), **found[kept], **(self._speed(asked, kept) if timed else {})}
        yield from masked_rows(self._model, self._again, self._memory, question, False)

    def _pass_over(self, asked: Asked) -> None:
        """Run the first pass, unless it is that of the question before."""
        key = setting_digest((picture_key(asked.first), asked.first.rows[0].tokens))
        if key != self._key:
            reads = reads_of(asked, self._how)
            self._key, self._cache, self._speeds = key, Cache(layers=[]), {}  # before another takes memory
            self._cache, states = filled_cache(self._model, asked.first, list(reads.values()))
            self._rankings = rankings_of(list(reads), states, self._how)

    def _cut(self, asked: Asked, kept: Kept) -> Cache:
        image = asked.image
        text = set(range(asked.start)).difference(image)
        return cut_cache(self._cache, [sorted(text.union(image[token] for token in tokens)) for tokens in kept])

    def _scores(self, question: Question, kept: Kept) -> Row:
        asked, cache = question.asked, self._cut(question.asked, kept)
        held, token = bytes_held(cache), answer_token(self._model, question.answer)
        logits = logits_behind(self._model, asked.whole, asked.start, cache)[-1]
        wide = logits if logits.dtype == torch.float64 else logits.float()
        logprob = float(wide.log_softmax(-1)[token])
        return {"accuracy": float(int(wide.argmax()) == token), "logprob": logprob, "bytes": float(held)}

    def _speed(self, asked: Asked, kept: Kept) -> Row:
        """How fast it decodes, which depends on how much is kept and not on what."""
        lengths = tuple(map(len, kept))
        if lengths not in self._speeds:
            cache = self._cut(asked, kept)
            speed = tokens_per_second(self._model, asked.whole, asked.start, cache, self._how.timed)
            self._speeds[lengths] = speed
        return {"tokens_per_second": self._speeds[lengths]}


def masked_rows(
    model: Model, how: Compression, memory: int | None, question: Question, remote: Remote
) -> Iterator[Row]:
    """The rows of one question by masks, in runs of the whole sequence: here, or on a server."""
    asked, seed, number = question.asked, question.seed, question.number
    reads, again = reads_of(asked, how), "again" in how.tokens
    wanted = [(asked.first, list(reads.values()))] if reads else []
    wanted += [(asked.whole, [Attention(asked.later, "image", reduce="mean")])] if again else []
    asks = [partial(run, model, prompt, reads=some, remote=remote) for prompt, some in wanted]
    runs: list[Any] = together(asks, remote)
    variants, layers = list[Variant](), view_of(model).stage().layer_count
    if reads:
        rankings = rankings_of(list(reads), runs[0].reads, how)
        variants += variants_of(rankings, how.keep, layers, rng_of(seed, number))
    if again:  # with random tokens of their own, as none are drawn before them where the cache is cut
        variants += variants_again(runs[-1].reads[0].double(), how.keep, rng_of(seed + 1, number))
    masks = [as_masks(variant, asked.image, asked.later) for variant in variants]
    different = list(dict.fromkeys(masks))
    if different:
        table = sweep(
            model, asked.whole, different, answer=question.answer, memory=memory, empty="ignore", remote=remote
        )
        scores = dict(zip(different, zip(table["rank"], table["logprob"], strict=True), strict=True))
        for variant, mask in zip(variants, masks, strict=True):
            rank, logprob = scores[mask]
            found = {"accuracy": float(rank == 0), "logprob": float(logprob), **_computed_bytes(model, asked, variant)}
            yield {**_labels(question, variant), **found}


def _computed_bytes(model: Model, asked: Asked, variant: Variant) -> Row:
    """What the cache would take; nothing where none could be cut. With a new choice for every token it stays whole."""
    there = len(asked.image)
    counts = [there if variant.tokens == "again" else len(tokens) for tokens in variant.kept[0]]
    size = None if why_not_cut(model) else bytes_of(model, [asked.start - there + count for count in counts])
    return {} if size is None else {"bytes": float(size)}


def _labels(question: Question, variant: Variant) -> Row:
    return {"image": question.number, "tokens": variant.tokens, "kept": variant.percent, "control": variant.control}
