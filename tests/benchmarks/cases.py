"""The lines of the benchmark table: each compares this package with the naive way, and checks that numbers agree.

The naive way is plain transformers with forward hooks (`peers/hooks.py`) and one full forward per condition. Where that
takes long, a sample of the conditions is run and the time scaled; the line says so. Every turn has a new prompt, so
nothing kept from an earlier turn helps; only the lines about a second sweep get a prompt that was swept before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, NamedTuple

import torch
from measure import Task
from models import ANSWER, SYSTEM, ModelSize, build_module, inputs_of, model_sizes, prompt_of, wrap

import nnsight_vlm as nv

sys.path.insert(0, str(Path(__file__).parent / "peers"))
import hooks

TOLERANCE = 1e-4
"""Numbers agree if they differ by no more than this."""
Figure = Literal["forwards", "faster", "fixed", "overhead"]
Group = Literal["system", "image", "query", "last", "text"]
PeerCase = Literal["sweep", "share", "all layers"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The two ways of doing the same work.

    Attributes:
        ours, naive: what is timed.
        our_numbers, naive_numbers: the results of both ways on the same prompt, which have to agree.
        clean_numbers: the same results without any intervention; if the interventions hardly move them, agreement
            shows little.
        note: what the naive way leaves out.
        others: further tasks to time, by name.
    """

    ours: Task
    naive: Task
    our_numbers: Callable[[], torch.Tensor]
    naive_numbers: Callable[[], torch.Tensor]
    clean_numbers: Callable[[], torch.Tensor] | None = None
    note: str = ""
    others: Mapping[str, Task] | None = None


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the table.

    Attributes:
        work: what is done, in words.
        size: a key of `models.SIZES`.
        target: the figure to reach.
        figure: `forwards`, our time as a ratio to one clean forward (at most); `faster`, the naive time as a ratio to
            ours (at least); `fixed`, ms over an empty nnsight trace; `overhead`, our time as a ratio to `without`: the
            same call without an intervention, or what the work may take (both at most).
        comparison: makes both ways.
        peer_case: the case that peers run for this line, if any.
    """

    work: str
    size: str
    target: float
    figure: Figure
    comparison: Callable[[Bench], Comparison]
    peer_case: PeerCase | None = None


@dataclass(frozen=True, eq=False)
class Bench:
    """What a line runs on: a model, and prompts for it."""

    size: ModelSize
    module: Any
    model: Any
    quick: bool

    def prompt(self, turn: int = 0) -> nv.Prompt:
        """A prompt whose pictures no other turn has."""
        return prompt_of(self.model, self.size, 1000 + turn)

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        return inputs_of(self.size, 1000)

    @property
    def layers(self) -> range:
        return range(self.size.layers)

    def positions(self, group: Group) -> Sequence[int]:
        """Positions of a token group, computed without the package."""
        start, stop = SYSTEM, SYSTEM + self.size.image_tokens
        end = self.inputs["input_ids"].shape[1]
        groups = {"system": range(start), "image": range(start, stop), "query": range(stop, end)}
        return {**groups, "last": range(end - 1, end), "text": [*range(start), *range(stop, end)]}[group]

    def forward(self) -> Task:
        """One clean forward of the plain model, the unit of all ratios."""
        inputs = self.inputs
        return Task(run=lambda _: hooks.answer_logit(self.module, inputs, ANSWER))


class LoadedModel(NamedTuple):
    """A transformers model, and the same model as `nv.load` gives it."""

    module: Any
    model: Any


@cache
def model_of(size: ModelSize) -> LoadedModel:
    module = build_module(size)
    return LoadedModel(module, wrap(module))


def bench(line: Line, quick: bool) -> Bench:
    """What a line runs on; lines that only differ in their number of pictures share a model."""
    size = model_sizes(quick)[line.size]
    return Bench(size, *model_of(replace(size, pictures=1)), quick)


# knockouts ----------------------------------------------------------------------------------------------------------


class Route(NamedTuple):
    """A knockout: no attention from `target` to `source` in these layers."""

    source: Group
    target: Group
    layers: range

    def knockout(self) -> nv.Intervention:
        """As this package takes it."""
        return nv.Knockout(self.source, self.target, layers=tuple(self.layers))

    def cuts(self, on: Bench) -> dict[int, hooks.Cut]:
        """As `hooks.knocked_out` takes it, by layer."""
        return dict.fromkeys(self.layers, hooks.Cut(on.positions(self.source), on.positions(self.target)))


def each_layer(on: Bench, source: Group = "image", target: Group = "text") -> list[Route]:
    return [Route(source, target, range(layer, layer + 1)) for layer in on.layers]


def windows(on: Bench, source: Group, target: Group, radius: int) -> list[Route]:
    """A window around every layer."""
    stop = on.size.layers
    return [Route(source, target, range(max(0, layer - radius), min(stop, layer + radius + 1))) for layer in on.layers]


def _sweep(on: Bench, routes: Sequence[Route], step: int = 1, earlier: Sequence[Route] = ()) -> Comparison:
    """A sweep of knockouts over one prompt.

    Args:
        on: what it runs on.
        routes: the knockouts.
        step: the naive way runs one in so many of them.
        earlier: other knockouts that the same prompt is swept over before the clock starts, in one block of `nv.reuse`.
    """
    sample, inputs, block = routes[::step], on.inputs, ExitStack()

    def swept(prompt: nv.Prompt, some: Sequence[Route]) -> Any:
        return nv.sweep(on.model, prompt, [route.knockout() for route in some], answer=ANSWER)

    def prepare(turn: int) -> nv.Prompt:
        prompt = on.prompt(turn)
        if earlier:
            block.enter_context(nv.reuse(on.model))
            swept(prompt, earlier)
        return prompt

    def ours(prompt: nv.Prompt) -> Any:
        with block:
            return swept(prompt, routes)

    def naive(_: Any = None) -> torch.Tensor:
        return torch.tensor(hooks.knockout_logits(on.module, inputs, ANSWER, [route.cuts(on) for route in sample]))

    scale = len(routes) / len(sample)
    return Comparison(
        ours=Task(run=ours, prepare=prepare),
        naive=Task(run=naive, scale=scale),
        our_numbers=lambda: torch.tensor(ours(prepare(0))["logit"].to_numpy()[::step]),
        naive_numbers=naive,
        clean_numbers=lambda: torch.full((len(sample),), hooks.answer_logit(on.module, inputs, ANSWER)),
        note=f"one by one: {len(sample)} of {len(routes)}, scaled" if scale > 1 else "",
    )


def twelve(on: Bench) -> Comparison:
    return _sweep(on, each_layer(on))


def twelve_sampled(on: Bench) -> Comparison:
    return _sweep(on, each_layer(on), step=4)


def four_routes(on: Bench) -> Comparison:
    pairs: list[tuple[Group, Group]] = [("image", "query"), ("image", "last"), ("query", "last"), ("system", "query")]
    routes = [route for source, target in pairs for route in windows(on, source, target, radius=2)]
    return _sweep(on, routes, step=2 if on.quick else 16)


def second_answer(on: Bench) -> Comparison:
    """A sweep that scores two answers of three tokens, beside the same sweep with the first of them."""
    answers = ((ANSWER, ANSWER + 1, ANSWER + 2), (ANSWER + 3, ANSWER + 4, ANSWER + 5))
    routes, inputs, step = each_layer(on), on.inputs, 4

    def swept(prompt: nv.Prompt, some: Sequence[tuple[int, ...]]) -> torch.Tensor:
        frame = nv.sweep(on.model, prompt, [route.knockout() for route in routes], answer=list(some))
        return torch.tensor(frame["logprob"].to_numpy()).reshape(len(routes), len(some))

    def one_by_one(cut: bool) -> torch.Tensor:
        return torch.tensor(
            [
                [hooks.answer_logprob(on.module, inputs, answer, route.cuts(on) if cut else {}) for answer in answers]
                for route in routes[::step]
            ]
        )

    return Comparison(
        ours=Task(run=lambda prompt: swept(prompt, answers), prepare=on.prompt),
        naive=Task(run=lambda _=None: one_by_one(cut=True), scale=step),
        our_numbers=lambda: swept(on.prompt(), answers)[::step],
        naive_numbers=lambda: one_by_one(cut=True),
        clean_numbers=lambda: one_by_one(cut=False),
        note=f"one by one: {len(routes[::step])} of {len(routes)}, scaled",
        others={"without": Task(run=lambda prompt: swept(prompt, answers[:1]), prepare=on.prompt)},
    )


def second_sweep(on: Bench) -> Comparison:
    return _sweep(on, windows(on, "system", "query", radius=1), step=4, earlier=each_layer(on))


def all_layers(on: Bench) -> Comparison:
    route, inputs = Route("image", "query", range(on.size.layers)), on.inputs
    cut = nv.Knockout("image", "query")

    def naive(_: Any = None) -> torch.Tensor:
        return torch.tensor(hooks.knockout_logits(on.module, inputs, ANSWER, [route.cuts(on)]))

    def ours(prompt: nv.Prompt) -> torch.Tensor:
        return nv.run(on.model, prompt, cut).logits[ANSWER][None]

    return Comparison(
        ours=Task(run=ours, prepare=on.prompt),
        naive=Task(run=naive),
        our_numbers=lambda: ours(on.prompt()),
        naive_numbers=naive,
        clean_numbers=lambda: torch.tensor([hooks.answer_logit(on.module, inputs, ANSWER)]),
    )


def fixed_cost(on: Bench) -> Comparison:
    """Twenty runs a turn, on a model so small that nearly all of the time is fixed cost."""
    once, prompt, calls = all_layers(on), on.prompt(), range(20)
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
            once.naive.run(None)

    share = 1 / len(calls)
    others = {"empty trace": Task(run=empty, scale=share)}
    return replace(once, ours=Task(run=ours, scale=share), naive=Task(run=naive, scale=share), others=others)


# patching between a pair of images ----------------------------------------------------------------------------------


class Patches(NamedTuple):
    """A prompt, and patches into its run."""

    prompt: nv.Prompt
    variants: list[nv.Intervention]


def interchange(
    on: Bench,
    sites: Sequence[tuple[Any, int]],
    every: int,
    variant: Callable[[nv.Prompt, Any, int], nv.Intervention],
    by_hooks: Callable[[list[torch.Tensor], Any, int], AbstractContextManager[Any]],
    states_of: Callable[[Any, Mapping[str, Any]], list[torch.Tensor]],
) -> Comparison:
    """Patches from another prompt's run in one sweep, against hooks one by one.

    Args:
        on: the model.
        sites: what is patched, each a place and a layer.
        every: one of so many sites is patched by hooks, and stands for all.
        variant: the patch of a site from a prompt.
        by_hooks: the same, of states that `states_of` gave.
        states_of: the states of a run, by layer.
    """
    sample, inputs, source_inputs = sites[::every], on.inputs, inputs_of(on.size, 999)

    def prepare(turn: int) -> Patches:
        source = prompt_of(on.model, on.size, 999 - turn)
        return Patches(on.prompt(turn), [variant(source, *site) for site in sites])

    def ours(patches: Patches) -> Any:
        return nv.sweep(on.model, patches.prompt, patches.variants, answer=ANSWER)

    def naive(states: list[torch.Tensor]) -> torch.Tensor:
        logits = []
        for site in sample:
            with by_hooks(states, *site):
                logits.append(hooks.answer_logit(on.module, inputs, ANSWER))
        return torch.tensor(logits)

    def source_states(_: int = 0) -> list[torch.Tensor]:
        return states_of(on.module, source_inputs)

    return Comparison(
        ours=Task(run=ours, prepare=prepare),
        naive=Task(run=naive, prepare=source_states, scale=len(sites) / len(sample)),
        our_numbers=lambda: torch.tensor(ours(prepare(0))["logit"].to_numpy()[::every]),
        naive_numbers=lambda: naive(source_states()),
        clean_numbers=lambda: torch.full((len(sample),), hooks.answer_logit(on.module, inputs, ANSWER)),
        note=f"one by one: {len(sample)} of {len(sites)}, scaled, without the source's run",
    )


def patching(on: Bench) -> Comparison:
    groups: tuple[Group, ...] = ("image", "query", "last", "system")

    def variant(source: nv.Prompt, group: Group, layer: int) -> nv.Intervention:
        return nv.Patch(group, source=source, layers=layer)

    def by_hooks(states: list[torch.Tensor], group: Group, layer: int) -> AbstractContextManager[Any]:
        positions = on.positions(group)
        return hooks.patched(on.module, layer, positions, states[layer][list(positions)])

    sites = [(group, layer) for group in groups for layer in on.layers]
    return interchange(on, sites, 4, variant, by_hooks, hooks.layer_outputs)


def patched_heads(on: Bench) -> Comparison:
    """Each head of each layer, patched at the question by what it gives of another prompt."""
    positions, width = on.positions("query"), on.size.width // on.size.heads

    def variant(source: nv.Prompt, head: int, layer: int) -> nv.Intervention:
        return nv.Patch("query", source=source, site="head", layers=layer, heads=[head])

    def by_hooks(states: list[torch.Tensor], head: int, layer: int) -> AbstractContextManager[Any]:
        columns = slice(head * width, (head + 1) * width)
        return hooks.head_patched(on.module, layer, positions, columns, states[layer][list(positions), columns])

    sites = [(head, layer) for layer in on.layers for head in range(on.size.heads)]
    return interchange(on, sites, 8, variant, by_hooks, hooks.head_outputs)


def attribution(on: Bench) -> Comparison:
    """Every head and every layer's output at each group, estimated from two forwards and a backward."""
    inputs, source_inputs, groups = on.inputs, inputs_of(on.size, 999), ("system", "image", "query", "last")

    def prepare(turn: int) -> tuple[nv.Prompt, nv.Prompt]:
        return prompt_of(on.model, on.size, 999 - turn), on.prompt(turn)

    def ours(prompts: tuple[nv.Prompt, nv.Prompt]) -> torch.Tensor:
        frame = nv.attribute(on.model, *prompts, answer=ANSWER, where=groups)
        return torch.tensor(frame["estimate"].to_numpy())

    def naive(_: Any = None) -> torch.Tensor:
        found = hooks.attribution(on.module, inputs, source_inputs, ANSWER, on.size.heads)
        residual, heads = found[: on.size.layers], found[on.size.layers :]
        places = [list(on.positions(group)) for group in groups]
        rows = [states[at].sum()[None] for at in places for states in residual]
        return torch.cat([*rows, *(states[at].sum(0) for at in places for states in heads)]).double()

    return Comparison(
        ours=Task(run=ours, prepare=prepare),
        naive=Task(run=naive),
        our_numbers=lambda: ours(prepare(0)),
        naive_numbers=naive,
        note="plain hooks: two forwards and a backward",
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


def attention_share(on: Bench) -> Comparison:
    inputs, read = on.inputs, nv.Attention("query", "image", reduce="mass")

    def ours(prompt: nv.Prompt) -> torch.Tensor:
        return nv.run(on.model, prompt, reads=[read]).reads[0]

    def naive(_: Any = None) -> torch.Tensor:
        with eager(on.module):
            return hooks.attention_shares(on.module, inputs, on.positions("query"), on.positions("image"))

    return Comparison(
        ours=Task(run=ours, prepare=on.prompt),
        naive=Task(run=naive),
        our_numbers=lambda: ours(on.prompt()),
        naive_numbers=naive,
    )


def contribution(on: Bench) -> Comparison:
    """How long the vectors are that each image token adds to the last row, in every head of every layer."""
    inputs, read = on.inputs, nv.Attention("last", "image", reduce="contribution")

    def ours(prompt: nv.Prompt) -> torch.Tensor:
        return nv.run(on.model, prompt, reads=[read]).reads[0][:, :, 0]

    def naive(_: Any = None) -> torch.Tensor:
        with eager(on.module):
            return hooks.contributions(on.module, inputs, on.positions("last")[0], on.positions("image"))

    return Comparison(
        ours=Task(run=ours, prepare=on.prompt),
        naive=Task(run=naive),
        our_numbers=lambda: ours(on.prompt()),
        naive_numbers=naive,
    )


# lenses -------------------------------------------------------------------------------------------------------------


def image_lens(on: Bench) -> Comparison:
    """The five words of every image token in every layer; the naive way keeps all logits.

    `without` is what the lens may take: 1.2 forwards, and the head's own arithmetic on these states.
    """
    inputs, positions, read = on.inputs, list(on.positions("image")), nv.Lens("image", top=5)
    norm, head = on.module.model.language_model.norm, on.module.lm_head
    with torch.no_grad():
        states = [norm(layer[positions]) for layer in hooks.layer_outputs(on.module, inputs)]

    def ours(prompt: nv.Prompt) -> torch.Tensor:
        return nv.run(on.model, prompt, reads=read).reads[0][..., 2]

    def naive(_: Any = None) -> torch.Tensor:
        outputs = hooks.layer_outputs(on.module, inputs)
        logits = [head(norm(layer[positions])) for layer in outputs]
        return torch.stack([kept.log_softmax(-1).topk(5).values for kept in logits])

    def allowed(_: Any) -> float:
        begun = perf_counter()
        hooks.answer_logit(on.module, inputs, ANSWER)
        run = perf_counter()
        for some in states:
            head(some)
        return 1.2 * (run - begun) + perf_counter() - run

    return Comparison(
        ours=Task(run=ours, prepare=on.prompt),
        naive=Task(run=naive),
        our_numbers=lambda: ours(on.prompt()),
        naive_numbers=naive,
        others={"without": Task(run=allowed, reports_seconds=True)},
    )


# generation ---------------------------------------------------------------------------------------------------------


def generation(on: Bench) -> Comparison:
    """Answers under knockouts in eight windows of three layers; neither question nor answer sees the image there."""
    count, length = (2, 8) if on.quick else (8, 64)
    starts = [round(case * (on.size.layers - 1) / count) for case in range(count)]
    spans = [range(start, min(start + 3, on.size.layers)) for start in starts]
    sample, inputs = spans[:: count // 2], on.inputs
    queries = range(on.positions("query")[0], on.positions("last")[0] + 1 + length)
    cut = hooks.Cut(keys=on.positions("image"), queries=queries)

    def ours(prompt: nv.Prompt) -> list[nv.Generation]:
        cases = [nv.Knockout("image", ("query", "generated"), layers=tuple(span)) for span in spans]
        return list(nv.generations(on.model, [(prompt, case) for case in cases], max_new_tokens=length))

    def naive(_: Any = None) -> torch.Tensor:
        return torch.stack([plain(dict.fromkeys(span, cut)) for span in sample])

    def plain(cuts: Mapping[int, hooks.Cut]) -> torch.Tensor:
        with hooks.knocked_out(on.module, cuts):
            return on.module.generate(**inputs, max_new_tokens=length, do_sample=False)[0, -length:]

    return Comparison(
        ours=Task(run=ours, prepare=on.prompt),
        naive=Task(run=naive, scale=len(spans) / len(sample)),
        our_numbers=lambda: torch.tensor([answer.tokens for answer in ours(on.prompt())[:: count // 2]]),
        naive_numbers=naive,
        clean_numbers=lambda: plain({}).expand(2, -1),
        note=f"one by one: {len(sample)} of {len(spans)}, scaled",
    )


def steering(on: Bench) -> Comparison:
    """A vector that is added to every decoded token in the middle layer, beside the same generation without it."""
    length, layer = 8 if on.quick else 64, on.size.layers // 2
    width = on.module.config.get_text_config().hidden_size
    vector, inputs = torch.randn(width, generator=torch.Generator().manual_seed(3)), on.inputs
    start = inputs["input_ids"].shape[1] - 1
    steered = nv.Add(("last", "generated"), vector, layers=layer, scale=3.0)

    def ours(prompt: nv.Prompt) -> tuple[int, ...]:
        return nv.generate(on.model, prompt, steered, max_new_tokens=length).tokens

    def without(prompt: nv.Prompt) -> tuple[int, ...]:
        return nv.generate(on.model, prompt, max_new_tokens=length).tokens

    def naive(_: Any = None) -> torch.Tensor:
        with hooks.steered(on.module, layer, start, 3.0 * vector):
            return on.module.generate(**inputs, max_new_tokens=length, do_sample=False)[0, -length:]

    return Comparison(
        ours=Task(run=ours, prepare=on.prompt),
        naive=Task(run=naive),
        our_numbers=lambda: torch.tensor(ours(on.prompt())),
        naive_numbers=naive,
        clean_numbers=lambda: torch.tensor(without(on.prompt())),
        others={"without": Task(run=without, prepare=on.prompt)},
    )


LINES = {
    "windows-576": Line(
        work="12 knockout windows, answer logit",
        size="576",
        target=1.9,
        figure="forwards",
        comparison=twelve,
        peer_case="sweep",
    ),
    "windows-2880": Line(
        work="12 knockout windows, 2,880 image tokens",
        size="2880",
        target=1.2,
        figure="forwards",
        comparison=twelve_sampled,
    ),
    "answers-576": Line(
        work="a second answer, 12 knockout windows, 3 tokens each",
        size="576",
        target=1.03,
        figure="overhead",
        comparison=second_answer,
    ),
    "second-576": Line(
        work="a second sweep on the same prompt", size="576", target=0.9, figure="forwards", comparison=second_sweep
    ),
    "second-2880": Line(
        work="a second sweep, 2,880 image tokens", size="2880", target=0.3, figure="forwards", comparison=second_sweep
    ),
    "routes": Line(
        work="32 windows x 4 routes, 32 thin layers", size="thin", target=10, figure="faster", comparison=four_routes
    ),
    "patching": Line(
        work="layer x group patching, an image pair, 12 x 4", size="576", target=6, figure="faster", comparison=patching
    ),
    "heads-576": Line(
        work="every head of 12 layers patched", size="576", target=6, figure="faster", comparison=patched_heads
    ),
    "attribution-576": Line(
        work="attribution of all heads and layers at 4 groups",
        size="576",
        target=3.4,
        figure="forwards",
        comparison=attribution,
    ),
    "share-576": Line(
        work="attention share of all query tokens, all layers",
        size="576",
        target=1.15,
        figure="forwards",
        comparison=attention_share,
        peer_case="share",
    ),
    "share-2880": Line(
        work="attention share, 2,880 image tokens",
        size="2880",
        target=1.1,
        figure="forwards",
        comparison=attention_share,
    ),
    "contribution-576": Line(
        work="what every image token adds to the last row, all heads and layers",
        size="576",
        target=1.3,
        figure="forwards",
        comparison=contribution,
    ),
    "lens-576": Line(
        work="5 words of all image tokens, all layers, beside 1.2 forwards and the head",
        size="576",
        target=1.0,
        figure="overhead",
        comparison=image_lens,
    ),
    "lens-2880": Line(
        work="5 words of 2,880 image tokens, all layers, beside 1.2 forwards and the head",
        size="2880",
        target=1.0,
        figure="overhead",
        comparison=image_lens,
    ),
    "generation": Line(
        work="8 knockouts under generation of 64 tokens", size="576", target=3, figure="faster", comparison=generation
    ),
    "steering": Line(
        work="a vector added to each of 64 decoded tokens",
        size="576",
        target=1.1,
        figure="overhead",
        comparison=steering,
    ),
    "all-layers": Line(
        work="a knockout in all layers",
        size="576",
        target=1.07,
        figure="forwards",
        comparison=all_layers,
        peer_case="all layers",
    ),
    "fixed": Line(
        work="fixed cost of a 12-layer cut, tiny model", size="tiny", target=3, figure="fixed", comparison=fixed_cost
    ),
    "windows-qwen2_5_vl": Line(
        work="12 knockout windows, Qwen2.5-VL",
        size="qwen2_5_vl",
        target=1.9,
        figure="forwards",
        comparison=twelve,
        peer_case="sweep",
    ),
    "windows-qwen3_vl": Line(
        work="12 knockout windows, Qwen3-VL",
        size="qwen3_vl",
        target=1.9,
        figure="forwards",
        comparison=twelve,
        peer_case="sweep",
    ),
}
