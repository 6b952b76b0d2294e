"""Every line of the table as a case: our way, the naive way, and the check that both give the same numbers.

The naive way is plain transformers with forward hooks (`peers/hooks.py`), one full forward a condition; where that
takes long it is done for a sample of the conditions and scaled, which the line says. No turn meets a prompt of an
earlier turn, so that nothing kept from it helps; only the second sweeps are handed a prompt that was swept before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from measure import Work
from models import ANSWER, SYSTEM, Shape, build_module, inputs_of, prompt_of, shapes, wrap

import nnsight_vlm as nv

sys.path.insert(0, str(Path(__file__).parent / "peers"))
import hooks

EXACT = 1e-4
"""Numbers agree where they differ by no more than this."""


@dataclass(frozen=True, kw_only=True)
class Sides:
    """The two ways of one piece of work.

    Attributes:
        ours, naive: what is timed.
        ours_says, naive_says: the numbers that both give on the same prompt, and that have to agree.
        clean: the same numbers without any intervention: how far they were moved says whether agreeing is hard.
        note: what the naive way left out.
        others: more works to time.
    """

    ours: Work
    naive: Work
    ours_says: Callable[[], torch.Tensor]
    naive_says: Callable[[], torch.Tensor]
    clean: Callable[[], torch.Tensor] | None = None
    note: str = ""
    others: Mapping[str, Work] | None = None


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the table.

    Attributes:
        work: what is done, in words.
        shape: a name in `models.SHAPES`.
        reach: the figure to reach.
        figure: `forwards`, our time as a ratio to one clean forward (at most); `faster`, the naive time as a ratio to
            ours (at least); `fixed`, ms over an empty nnsight trace (at most).
        sides: makes both ways.
        peers: the case that peers are asked for; none if empty.
    """

    work: str
    shape: str
    reach: float
    figure: str
    sides: Callable[[Bench], Sides]
    peers: str = ""


@dataclass(frozen=True, eq=False)
class Bench:
    """A model, and prompts for it."""

    shape: Shape
    module: Any
    model: Any
    quick: bool

    def prompt(self, turn: int = 0) -> nv.Prompt:
        """A prompt with pictures of its own for every turn."""
        return prompt_of(self.model, self.shape, 1000 + turn)

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        return inputs_of(self.shape, 1000)

    @property
    def layers(self) -> range:
        return range(self.shape.layers)

    def positions(self, group: str) -> Sequence[int]:
        """Positions of a group, known without the package."""
        start, stop = SYSTEM, SYSTEM + self.shape.image_tokens
        end = self.inputs["input_ids"].shape[1]
        groups = {"system": range(start), "image": range(start, stop), "query": range(stop, end)}
        return {**groups, "last": range(end - 1, end), "text": [*range(start), *range(stop, end)]}[group]

    def forward(self) -> Work:
        """One clean forward of the plain model: what everything is a ratio to."""
        inputs = self.inputs
        return Work(do=lambda _: hooks.answer_logit(self.module, inputs, ANSWER))


@cache
def model_of(shape: Shape) -> tuple[Any, Any]:
    module = build_module(shape)
    return module, wrap(module)


def bench(line: Line, quick: bool) -> Bench:
    """What a line runs on; lines that differ in their number of pictures share a model."""
    shape = shapes(quick)[line.shape]
    return Bench(shape, *model_of(replace(shape, pictures=1)), quick)


# knock-outs ---------------------------------------------------------------------------------------------------------

Route = tuple[str, str, range]
"""`(source, target, layers)` of a knockout."""


def intervention(route: Route) -> nv.Intervention:
    return nv.Knockout(route[0], route[1], layers=tuple(route[2]))


def cuts(on: Bench, route: Route) -> dict[int, hooks.Cut]:
    """The same for `hooks.knocked`."""
    source, target, layers = route
    return {layer: (on.positions(source), on.positions(target)) for layer in layers}


def each_layer(on: Bench, source: str = "image", target: str = "text") -> list[Route]:
    return [(source, target, range(layer, layer + 1)) for layer in on.layers]


def windows(on: Bench, source: str, target: str, reach: int) -> list[Route]:
    """A window around every layer."""
    last = on.shape.layers
    return [(source, target, range(max(0, layer - reach), min(last, layer + reach + 1))) for layer in on.layers]


def _sweep(on: Bench, routes: Sequence[Route], sample: int = 1, before: Sequence[Route] = ()) -> Sides:
    """Knock-outs on one prompt, which has been swept over other routes `before` the clock starts."""
    taken, inputs = routes[::sample], on.inputs

    def ours(prompt: nv.Prompt, some: Sequence[Route] = routes) -> Any:
        return nv.sweep(on.model, prompt, [intervention(route) for route in some], answer=ANSWER)

    def ready(turn: int) -> nv.Prompt:
        prompt = on.prompt(turn)
        if before:
            ours(prompt, before)
        return prompt

    def naive(_: Any = None) -> torch.Tensor:
        return torch.tensor(hooks.knock_outs(on.module, inputs, ANSWER, [cuts(on, route) for route in taken]))

    times = len(routes) / len(taken)
    return Sides(
        ours=Work(do=ours, ready=ready),
        naive=Work(do=naive, times=times),
        ours_says=lambda: torch.tensor(ours(ready(0))["logit"].to_numpy()[::sample]),
        naive_says=naive,
        clean=lambda: torch.full((len(taken),), hooks.answer_logit(on.module, inputs, ANSWER)),
        note=f"one by one: {len(taken)} of {len(routes)}, scaled" if times > 1 else "",
    )


def twelve(on: Bench) -> Sides:
    return _sweep(on, each_layer(on))


def twelve_sampled(on: Bench) -> Sides:
    return _sweep(on, each_layer(on), sample=4)


def four_routes(on: Bench) -> Sides:
    pairs = [("image", "query"), ("image", "last"), ("query", "last"), ("system", "query")]
    routes = [route for pair in pairs for route in windows(on, *pair, reach=2)]
    return _sweep(on, routes, sample=2 if on.quick else 16)


def second_sweep(on: Bench) -> Sides:
    return _sweep(on, windows(on, "system", "query", reach=1), sample=4, before=each_layer(on))


def all_layers(on: Bench) -> Sides:
    route, inputs = ("image", "query", range(on.shape.layers)), on.inputs
    cut = nv.Knockout("image", "query")

    def naive(_: Any = None) -> torch.Tensor:
        return torch.tensor(hooks.knock_outs(on.module, inputs, ANSWER, [cuts(on, route)]))

    def ours(prompt: nv.Prompt) -> torch.Tensor:
        return nv.run(on.model, prompt, cut).logits[ANSWER][None]

    return Sides(
        ours=Work(do=ours, ready=on.prompt),
        naive=Work(do=naive),
        ours_says=lambda: ours(on.prompt()),
        naive_says=naive,
        clean=lambda: torch.tensor([hooks.answer_logit(on.module, inputs, ANSWER)]),
    )


def fixed_cost(on: Bench) -> Sides:
    """Twenty runs a turn on a model so small that all of the time is fixed cost."""
    sides, prompt, calls = all_layers(on), on.prompt(), range(20)
    cut = nv.Knockout("image", "query")

    def ours(_: Any) -> None:
        for _ in calls:
            nv.run(on.model, prompt, cut)

    def empty(_: Any) -> None:
        for _ in calls:
            with torch.no_grad(), on.model.trace(**prompt.inputs, logits_to_keep=1):
                on.model.output.logits.save()

    def naive(_: Any) -> None:
        for _ in calls:
            sides.naive.do(None)

    share = 1 / len(calls)
    others = {"empty trace": Work(do=empty, times=share)}
    return replace(sides, ours=Work(do=ours, times=share), naive=Work(do=naive, times=share), others=others)


# patching between a pair of images ----------------------------------------------------------------------------------


def patching(on: Bench) -> Sides:
    groups = ("image", "query", "last", "system")
    places = [(group, layer) for group in groups for layer in on.layers]
    taken, sample = places[::4], len(places) / len(places[::4])
    inputs, other = on.inputs, inputs_of(on.shape, 999)

    def ready(turn: int) -> tuple[nv.Prompt, list[nv.Intervention]]:
        source = prompt_of(on.model, on.shape, 999 - turn)
        return on.prompt(turn), [nv.Patch(group, source=source, layers=layer) for group, layer in places]

    def ours(given: tuple[nv.Prompt, list[nv.Intervention]]) -> Any:
        return nv.sweep(on.model, *given, answer=ANSWER)

    def naive(states: list[torch.Tensor]) -> torch.Tensor:
        found = []
        for group, layer in taken:
            at = on.positions(group)
            with hooks.patched(on.module, layer, at, states[layer][list(at)]):
                found.append(hooks.answer_logit(on.module, inputs, ANSWER))
        return torch.tensor(found)

    def states(_: int = 0) -> list[torch.Tensor]:
        return hooks.layer_outputs(on.module, other)

    return Sides(
        ours=Work(do=ours, ready=ready),
        naive=Work(do=naive, ready=states, times=sample),
        ours_says=lambda: torch.tensor(ours(ready(0))["logit"].to_numpy()[::4]),
        naive_says=lambda: naive(states()),
        clean=lambda: torch.full((len(taken),), hooks.answer_logit(on.module, inputs, ANSWER)),
        note=f"one by one: {len(taken)} of {len(places)}, scaled, without the source's run",
    )


# attention ----------------------------------------------------------------------------------------------------------


@contextmanager
def eager(module: Any) -> Iterator[None]:
    """The same model with eager attention."""
    module.set_attn_implementation("eager")
    try:
        yield
    finally:
        module.set_attn_implementation("sdpa")


def attention_share(on: Bench) -> Sides:
    inputs, read = on.inputs, nv.Attention("query", "image", reduce="mass")

    def ours(prompt: nv.Prompt) -> torch.Tensor:
        return nv.run(on.model, prompt, reads=[read]).reads[0]

    def naive(_: Any = None) -> torch.Tensor:
        with eager(on.module):
            return hooks.shares(on.module, inputs, on.positions("query"), on.positions("image"))

    return Sides(
        ours=Work(do=ours, ready=on.prompt),
        naive=Work(do=naive),
        ours_says=lambda: ours(on.prompt()),
        naive_says=naive,
    )


# generation ---------------------------------------------------------------------------------------------------------


def generation(on: Bench) -> Sides:
    """Eight windows of three layers, cut for the question and the answer."""
    count, length = (2, 8) if on.quick else (8, 64)
    starts = [round(case * (on.shape.layers - 1) / count) for case in range(count)]
    spans = [range(start, min(start + 3, on.shape.layers)) for start in starts]
    taken, inputs = spans[:: count // 2], on.inputs
    first, end = on.positions("query")[0], on.positions("last")[0] + 1 + length

    def ours(prompt: nv.Prompt) -> list[nv.Generation]:
        cases = [nv.Knockout("image", ("query", "generated"), layers=tuple(span)) for span in spans]
        return list(nv.generations(on.model, [(prompt, case) for case in cases], max_new_tokens=length))

    def naive(_: Any = None) -> torch.Tensor:
        found = []
        for span in taken:
            with hooks.knocked(on.module, {layer: (on.positions("image"), range(first, end)) for layer in span}):
                sequence = on.module.generate(**inputs, max_new_tokens=length, do_sample=False)
            found.append(sequence[0, -length:])
        return torch.stack(found)

    return Sides(
        ours=Work(do=ours, ready=on.prompt),
        naive=Work(do=naive, times=len(spans) / len(taken)),
        ours_says=lambda: torch.tensor([told.tokens for told in ours(on.prompt())[:: count // 2]]),
        naive_says=naive,
        clean=lambda: on.module.generate(**inputs, max_new_tokens=length, do_sample=False)[0, -length:].expand(2, -1),
        note=f"one by one: {len(taken)} of {len(spans)}, scaled",
    )


LINES = {
    "windows-576": Line(
        work="12 knock-out windows, answer logit",
        shape="576",
        reach=1.9,
        figure="forwards",
        sides=twelve,
        peers="sweep",
    ),
    "windows-2880": Line(
        work="12 knock-out windows, 2,880 image tokens",
        shape="2880",
        reach=1.2,
        figure="forwards",
        sides=twelve_sampled,
    ),
    "second-576": Line(
        work="a second sweep on the same prompt", shape="576", reach=0.9, figure="forwards", sides=second_sweep
    ),
    "second-2880": Line(
        work="a second sweep, 2,880 image tokens", shape="2880", reach=0.3, figure="forwards", sides=second_sweep
    ),
    "routes": Line(
        work="32 windows x 4 routes, 32 thin layers", shape="thin", reach=10, figure="faster", sides=four_routes
    ),
    "patching": Line(
        work="layer x group patching, an image pair, 12 x 4", shape="576", reach=6, figure="faster", sides=patching
    ),
    "share-576": Line(
        work="attention share of all query tokens, all layers",
        shape="576",
        reach=1.15,
        figure="forwards",
        sides=attention_share,
        peers="share",
    ),
    "share-2880": Line(
        work="attention share, 2,880 image tokens",
        shape="2880",
        reach=1.1,
        figure="forwards",
        sides=attention_share,
    ),
    "generation": Line(
        work="8 knock-outs under generation of 64 tokens", shape="576", reach=3, figure="faster", sides=generation
    ),
    "all-layers": Line(
        work="a knockout in all layers",
        shape="576",
        reach=1.07,
        figure="forwards",
        sides=all_layers,
        peers="all layers",
    ),
    "fixed": Line(
        work="fixed cost of a 12-layer cut, tiny model", shape="tiny", reach=3, figure="fixed", sides=fixed_cost
    ),
    "windows-qwen2_5_vl": Line(
        work="12 knock-out windows, Qwen2.5-VL",
        shape="qwen2_5_vl",
        reach=1.9,
        figure="forwards",
        sides=twelve,
        peers="sweep",
    ),
    "windows-qwen3_vl": Line(
        work="12 knock-out windows, Qwen3-VL",
        shape="qwen3_vl",
        reach=1.9,
        figure="forwards",
        sides=twelve,
        peers="sweep",
    ),
}
