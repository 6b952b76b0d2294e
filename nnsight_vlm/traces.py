"""What is asked of a model: a plan and reads become a request, which `runner` carries out here or on a server.

A plan is installed as nnsight edits: one worker for what the model passes once a prompt, one for
what it passes once a token. Reads are the body of the trace, so they see what every edit left. Clean runs that
only ever happen here (`prefill`, `embed`) are traced here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from nnsight import save
from nnsight.intervention.interleaver import OutOfOrderError

from . import readouts, runner
from .caches import ROOM, growing_cache
from .errors import SpecError
from .families import family, shape
from .kernels import sequence
from .layouts import Layout
from .plan import Plan, for_decoding, layer_paths, stage_of
from .positions import padded_positions
from .prompts import Prompt, counts_tokens
from .runner import installed
from .sites import OUTSIDE, located, order_of
from .wire import Remote, Request, ask

UNREACHED = (AttributeError, OutOfOrderError)
"""What nnsight raises where a path names nothing, or modules are passed in another order."""
ReadStep = tuple[Any, ...]
"""`(stage, layer, rank, path, place, readout, requests of all seats, keys outside the sequence)`."""


def install_plan(model: Any, plan: Plan) -> Any:
    """A copy of the model with one edit for each clock that the plan has steps for."""
    return installed(model, plan.edits)


def forward(
    model: Any,
    layout: Layout,
    plan: Plan,
    asked: Sequence[Sequence[ReadStep]],
    scored: tuple[Any, tuple[Any, ...]],
    kept: Sequence[int],
    remote: Remote,
    *,
    numbers: int = 0,
) -> list[Any]:
    """One traced forward: `[what `scored` gave, what each read gave per layer, ...]`.

    `scored` is a readout of the logits and its requests; logits exist at places `kept` only. `numbers` is how
    many numbers come back at most.
    """
    request, order = _forward(model, layout, plan, asked, scored, kept, numbers=numbers)
    found = ask(model, request, remote)
    results: list[list[Any]] = [[None] * len(steps) for steps in asked]
    for (*_, read, at), value in zip(order, found, strict=False):
        results[read][at] = value
    return [found[-1], *results]


def lend(
    model: Any,
    layout: Layout,
    plan: Plan,
    asked: Sequence[Sequence[ReadStep]],
    scored: tuple[Any, tuple[Any, ...]],
    kept: Sequence[int],
) -> tuple[Request, list[list[list[Any]]]]:
    """A forward that does not come home: its request, and a box for each read and layer that it fills where it runs."""
    boxes: list[list[list[Any]]] = [[[] for _ in steps] for steps in asked]
    request, _ = _forward(model, layout, plan, asked, scored, kept, boxes=boxes)
    return request, boxes


def _forward(
    model: Any,
    layout: Layout,
    plan: Plan,
    asked: Sequence[Sequence[ReadStep]],
    scored: tuple[Any, tuple[Any, ...]],
    kept: Sequence[int],
    *,
    boxes: Sequence[Sequence[list[Any]]] = (),
    numbers: int = 0,
) -> tuple[Request, list[tuple[Any, ...]]]:
    """The request of a forward, and in which order its reads are answered: `(..., number of the read, of its step)`."""
    stages = order_of(family(model))
    order = sorted(
        (stages.index(step[0]), step[1], step[2], read, at)
        for read, steps in enumerate(asked)
        for at, step in enumerate(steps)
    )
    reads = [(number, layer, *asked[read][at][3:]) for number, layer, _, read, at in order]
    body = (*reads, (len(stages), 0, "", "logits", *scored, None))
    wanted = [{read[1] for read in reads if read[0] == number} for number in range(len(stages))]
    known = [
        stage_of(model, layout, name, layers) if layers else None for name, layers in zip(stages, wanted, strict=True)
    ]
    filled = tuple((place, boxes[read][at]) for place, (*_, read, at) in enumerate(order)) if boxes else ()
    rest = (plan.edits, known, body, filled)
    inputs = forward_inputs(layout, kept)
    return Request(task=runner.forward, inputs=inputs, rest=rest, needs=plan.needs, numbers=numbers), order


def prefill(
    model: Any, prompt: Prompt, length: int, first: int, cache: Any = None
) -> tuple[Any, torch.Tensor, list[torch.Tensor] | None]:
    """What a clean run of a prompt's first tokens leaves: its cache, the logits of the last token, and states.

    An empty `cache` is filled; without one, transformers makes it. States are what every layer gives from position
    `first` on, `[position, width]` each; None where layers give more than one stream of them.
    """
    inputs = {
        name: value[:, :length] if counts_tokens(prompt, name) else value for name, value in prompt.inputs.items()
    }
    if "position_ids" in inputs:
        inputs["position_ids"] = prompt.inputs["position_ids"][..., :length]
    last = {"logits_to_keep": torch.tensor([length - 1])} if family(model).logits_to_keep else {}
    empty = {} if cache is None else {"past_key_values": cache}
    paths = layer_paths(model, shape(model).layer_count)
    with torch.no_grad(), model.trace(**inputs, **last, **empty, use_cache=True):
        found = save(_left(model, paths, first))
    cache, logits, states = found
    return cache, logits, states


def _left(model: Any, paths: Sequence[str], first: int) -> tuple[Any, torch.Tensor, list[torch.Tensor] | None]:
    states = [_behind(model.get(path).output, first) for path in paths]
    told = None if any(each is None for each in states) else states
    return model.output.past_key_values, model.output.logits[0, -1], told


def _behind(given: Any, first: int) -> Any:
    """A layer's states from a position on, without the others, which need not be held any longer."""
    plain = isinstance(given, torch.Tensor) and given.dim() == 3
    return given[0, first:].clone() if plain else None


def embed(model: Any, prompt: Prompt) -> torch.Tensor:
    """What enters the decoder, `[row, position, width]`; the model is stopped there."""
    path, _ = located(family(model), "decoder", "embedding", OUTSIDE)
    with torch.no_grad(), model.trace(**prompt.inputs) as tracer:
        found = save(sequence(model.get(path).inputs))
        tracer.stop()
    return torch.as_tensor(found)


def no_logits(layout: Layout) -> tuple[Any, list[int]]:
    """The smallest piece of logits that a forward can be asked for, as `forward` takes it: `scored` and `kept`."""
    return (readouts.logit_rows, ((0, (0,)),)), [layout.prompt.width - 1]


def forward_inputs(layout: Layout, kept: Sequence[int]) -> dict[str, Any]:
    """What a plain forward is given: the encoding, positions where there is padding, and the logits wanted."""
    prompt, wanted = layout.prompt, torch.tensor([place - layout.start for place in kept])
    few = {"logits_to_keep": wanted} if family(prompt.model).logits_to_keep else {}
    return {**prompt.inputs, **padded_positions(prompt), **few}


def logit_columns(layout: Layout, kept: Sequence[int]) -> dict[int, int]:
    """For each place `kept` of the sequence, its row in the logits that a forward gives."""
    few = family(layout.prompt.model).logits_to_keep
    return {place: at if few else place - layout.start for at, place in enumerate(kept)}


def decode(
    model: Any, prompt: Prompt, plan: Plan, options: dict[str, Any], remote: Remote, cache: Any = None
) -> torch.Tensor:
    """The token ids that one cached generation adds, `[row, token]`; greedy unless `options` say otherwise.

    With a `cache` the first tokens of all rows have been run.

    Raises:
        SpecError: rows padded on the right, or at all where the model cannot do that; options that make
            several rows of one.
    """
    check_decoding(prompt, options)
    options = {"do_sample": False, **family(model).generate_with, **options}
    if cache is None and remote is False and _cache_is_ours(model, options):
        cache = growing_cache(model._module.config.get_text_config(decoder=True), min(ROOM, options["max_new_tokens"]))
    inputs = {**prompt.inputs, **({} if cache is None else {"past_key_values": cache})}
    tokens: torch.Tensor = _decoded(model, runner.decode, prompt, inputs, plan, options, remote)
    return tokens


def _decoded(
    model: Any,
    task: Callable[..., Any],
    prompt: Prompt,
    inputs: dict[str, Any],
    plan: Plan,
    options: dict[str, Any],
    remote: Remote,
) -> Any:
    rest = (for_decoding(model, plan).edits, options, prompt.width)
    return ask(model, Request(task=task, inputs=inputs, rest=rest, needs=plan.needs), remote)


def _cache_is_ours(model: Any, options: dict[str, Any]) -> bool:
    """Whether `generate` would make a plain cache that grows, for which ours can stand."""
    module = model._module
    asked = {"past_key_values", "cache_implementation", "cache_config", "use_cache"} & set(options)
    settled = module.generation_config.cache_implementation or not module.generation_config.use_cache
    return not asked and not settled and "encoder" not in family(model).stages and "max_new_tokens" in options


def decode_logits(
    model: Any, prompt: Prompt, plan: Plan, steps: int, remote: Remote
) -> tuple[torch.Tensor, torch.Tensor]:
    """What cached greedy decoding chooses, `[row, step]`, and its logits, float32 `[row, step, vocab]`."""
    length = {"max_new_tokens": steps, "min_new_tokens": steps}
    told = {"output_logits": True, "return_dict_in_generate": True}
    options = {"do_sample": False, **length, **family(model).generate_with, **told}
    tokens, logits = _decoded(model, runner.decode_logits, prompt, dict(prompt.inputs), plan, options, remote)
    return tokens, logits


def check_decoding(prompt: Prompt, options: dict[str, Any]) -> None:
    """Refuse generation that an intervention could not follow; see `decode`."""
    if any(row.stop != prompt.width for row in prompt.rows):
        raise SpecError("generation needs padding on the left; this encoding is padded on the right")
    lacks = family(prompt.model).lacks.get("padded generation")
    if lacks and any(row.start > 0 for row in prompt.rows):
        raise SpecError(
            f"{family(prompt.model).name!r} models cannot generate from padded rows: {lacks}; give one at a time"
        )
    for name in ("num_beams", "num_return_sequences"):
        if options.get(name, 1) != 1:
            raise SpecError(
                f"{name}={options[name]} makes several rows of one, and an intervention names rows; leave it out"
            )
    if options.get("return_dict_in_generate"):
        raise SpecError("nv.generate returns text, tokens and a grown prompt; leave return_dict_in_generate out")
