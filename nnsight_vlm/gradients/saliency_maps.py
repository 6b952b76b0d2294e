"""Saliency: how a metric's gradient lies on an image, under an intervention, as one value for each image token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np
import torch

from ..arguments import one_of, whole_number
from ..device import gradients
from ..errors import SpecError
from ..execution.capturing import checked_cases
from ..execution.determinism import refuse_chance
from ..execution.emptiness import Call, Empty, check_empty
from ..execution.memory import check_memory, refuse_what_cannot_fit
from ..execution.preparing import prepare
from ..families import Model, view_of
from ..grids import Grid
from ..lowering.layouts import one_case_per_row
from ..prompts.given import single_prompt
from ..prompts.prompt import Prompt
from ..prompts.where import Where
from ..remote.background import Job, can_run_in_background
from ..remote.batching import ask
from ..remote.model_call import ModelCall, Remote, check_remote
from ..specs.interventions import Intervention
from ..specs.measurements import Residual
from .calls import graph_bytes, inputs_of, numbers_of, reads_of
from .metrics import Metric, metric_given, require_finite

Seen = Literal["features", "embedding", "pixels", "gradcam"]
SEEN: tuple[Seen, ...] = get_args(Seen)
How = Literal["norm", "product"]
HOWS: tuple[How, ...] = get_args(How)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Saliency:
    """How a metric's gradient lies on one image.

    Attributes:
        values: one for each token of the image, `[token]`; None for pixels that do not lie as pictures do.
        gradient: the gradient itself: `[token, width]`, or in the shape of the model's pixels, those of all images.
        metric: the metric's value.
        positions: of the tokens in the prompt.
    """

    values: torch.Tensor | None
    gradient: torch.Tensor
    metric: float
    positions: tuple[int, ...]
    _grid: Callable[[], Grid] = field(kw_only=True)

    def __repr__(self) -> str:
        return f"Saliency({len(self.positions)} image tokens, gradient {list(self.gradient.shape)})"

    @property
    def heatmap(self) -> np.ndarray:
        """The values drawn at the size of the image, `[height, width]`, see `Grid.heatmap`.

        Raises:
            SpecError: there are none, or it is not known which token saw what.
        """
        if self.values is None:
            raise SpecError(
                "the pixels of this model do not lie as pictures do, so their gradient has no place on the image; read "
                '.gradient, or write at="features"'
            )
        return self._grid().heatmap(self.values)


@overload
def saliency(
    model: Model,
    prompt: Prompt,
    intervention: Intervention | None = None,
    *,
    answer: str | int | None = None,
    against: str | int | None = None,
    metric: Callable[[torch.Tensor], torch.Tensor] | None = None,
    at: Seen = "features",
    how: How = "norm",
    image: int = 0,
    positions: Where | None = None,
    memory: int | None = None,
    empty: Empty = "error",
    remote: Remote = False,
    blocking: Literal[True] = True,
    path: None = None,
) -> Saliency: ...
@overload
def saliency(
    model: Model,
    prompt: Prompt,
    intervention: Intervention | None = None,
    *,
    answer: str | int | None = None,
    against: str | int | None = None,
    metric: Callable[[torch.Tensor], torch.Tensor] | None = None,
    at: Seen = "features",
    how: How = "norm",
    image: int = 0,
    positions: Where | None = None,
    memory: int | None = None,
    empty: Empty = "error",
    remote: Remote,
    blocking: Literal[False],
    path: str | Path | None = None,
) -> Job[Saliency]: ...
@can_run_in_background
def saliency(
    model: Model,
    prompt: Prompt,
    intervention: Intervention | None = None,
    *,
    answer: str | int | None = None,
    against: str | int | None = None,
    metric: Callable[[torch.Tensor], torch.Tensor] | None = None,
    at: Seen = "features",
    how: How = "norm",
    image: int = 0,
    positions: Where | None = None,
    memory: int | None = None,
    empty: Empty = "error",
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
) -> Saliency | Job[Saliency]:
    """The gradient of a metric with respect to an image, under an intervention.

    Args:
        model: an nnsight model from `load`.
        prompt: of one row, with an image.
        intervention: what to change; the gradient is that of the changed run, and of what a write at the same place
            left there.
        answer, against, metric, positions: see `attribute`.
        at: `features`, the image features that leave the projector; `embedding`, the image's states as they enter the
            decoder; `pixels`, the model's pixels, with the vision tower in the graph; `gradcam`, Grad-CAM (Selvaraju et
            al., arXiv 1610.02391) on the features: their sum, each channel weighed by its mean gradient over the image,
            where that is positive.
        how: `norm`, the gradient's length; `product`, gradient times state, summed: what setting the token to 0 would
            take from the metric, to first order. Of pixels the mean over the token's cell. Grad-CAM has no choice.
        image: which image of the prompt.
        memory: see `attribute`; with the pixels the vision tower's states are kept too.
        empty, remote, blocking, path: see `run`; of servers see `attribute`.

    Returns:
        A `Saliency`: `.values` `[token]`, `.heatmap` `[height, width]` on the image, `.gradient`, `.metric`.

    Raises:
        SpecError: no such image; a family without the site; see `attribute`.
        InterventionError: the metric is infinite or not a number.

    >>> import nnsight_vlm as nv
    >>> model, scene = nv.load("shapes"), nv.shapes.scene(3)
    >>> prompt = nv.encode(model, "what is at center ?", scene.image)
    >>> seen = nv.saliency(model, prompt, nv.Knockout("image", "last", layers=[2]), answer=20, at="gradcam")
    >>> seen.values.shape, seen.heatmap.shape
    (torch.Size([100]), (80, 80))
    """
    prompt = single_prompt(prompt)
    check_remote(remote)
    check_empty(empty)
    at, how, memory = one_of("at", at, SEEN), one_of("how", how, HOWS), check_memory(memory)
    if at == "gradcam" and how != "norm":
        raise SpecError(f'how={how!r} is for gradients, and Grad-CAM weighs by them already; write at="features"')
    number = whole_number("image", image, least=0, kind="number of an image")
    where = f"image.{number}"
    token_positions = prompt.rows[0].required(where).positions(prompt.rows[0].stop)
    measured = metric_given(model, answer, against, metric, positions, remote)
    refuse_chance(model, remote)
    call = _prepared(model, prompt, intervention, measured, at, where, memory, Call(empty=empty), remote)
    value, *found = ask(model, call, remote)
    require_finite([value], ["run"])
    if at == "pixels":
        [gradient] = found
        values = _of_pixels(prompt, number, gradient, how)
    else:
        [[[state]], [[gradient]]] = found
        values = _on_tokens(prompt, number, _of_states(state, gradient, at, how), at)
    return Saliency(
        values=values,
        gradient=gradient,
        metric=float(value),
        positions=token_positions,
        _grid=lambda: prompt.grid(number),
    )


def _prepared(
    model: Model,
    prompt: Prompt,
    intervention: Any,
    metric: Metric,
    at: Seen,
    where: str,
    memory: int | None,
    call: Call,
    remote: Remote,
) -> ModelCall:
    """The call that gives the gradient.

    Raises:
        SpecError: see `saliency`.
    """
    layout, pixels = one_case_per_row(prompt), at == "pixels"
    readouts = [] if pixels else [Residual(where, site="embedding" if at == "embedding" else "features")]
    reads, name = reads_of(model, layout, readouts), _pixels(model, prompt)
    places = metric.places(layout)
    numbers = prompt.inputs[name].numel() if pixels else numbers_of(model, prompt, readouts)
    needed = graph_bytes(model, prompt, numbers, whole=pixels, logits=len(places))
    refuse_what_cannot_fit(model, needed, remote, memory, "this saliency", plain=memory is None)
    cases, values = checked_cases(model, prompt, intervention, remote, call)
    plan, inputs = prepare(model, layout, cases, values), inputs_of(layout, sorted(places))
    measured = metric.plain(layout)
    task: Callable[..., Any] = gradients.input_slopes if pixels else gradients.slopes
    rest: tuple[Any, ...] = (plan.edits, measured, name)
    if not pixels:
        rest = plan.edits, reads.extents(model, layout), reads.plain(model), measured
    return ModelCall(task=task, inputs=inputs, rest=rest, needs=plan.needs, numbers=2 * numbers)


def _pixels(model: Model, prompt: Prompt) -> str:
    """The name of the input that holds the pixels.

    Raises:
        SpecError: the prompt has none.
    """
    name = view_of(model).family.pixels
    if name not in prompt.inputs:
        raise SpecError(f"the prompt has no input {name!r}, so there are no pixels whose gradient could be taken")
    return name


def _of_states(state: torch.Tensor, gradient: torch.Tensor, at: Seen, how: How) -> torch.Tensor:
    """One value for each row `[row, width]` of states and their gradient."""
    state, gradient = (each.to(torch.promote_types(each.dtype, torch.float32)) for each in (state, gradient))
    if at == "gradcam":
        return (state * gradient.mean(0)).sum(-1).clamp(min=0)
    return gradient.norm(dim=-1) if how == "norm" else (gradient * state).sum(-1)


def _on_tokens(prompt: Prompt, number: int, values: torch.Tensor, at: Seen) -> torch.Tensor:
    """Values of features as values of the image's tokens: 0 for a token that comes from no feature."""
    tokens = prompt.rows[0]
    sources = tokens.features[number] if tokens.features and at != "embedding" else ()
    if not sources or tokens.visuals[number].positions != tokens.images[number]:
        return values
    placed = torch.zeros(len(sources), dtype=values.dtype)
    placed[[place for place, source in enumerate(sources) if source >= 0]] = values
    return placed


def _of_pixels(prompt: Prompt, number: int, gradient: torch.Tensor, how: How) -> torch.Tensor | None:
    """The mean over each token's cell; None for pixels that are not pictures `[tile, 3, height, width]`, all used."""
    cells = prompt.rows[0].cells
    if gradient.dim() < 4 or gradient.shape[-3] != 3 or any(each.patches for each in cells):
        return None
    pixels = prompt.inputs[_pixels(prompt.model, prompt)].to(gradient)
    each = gradient.norm(dim=-3) if how == "norm" else (gradient * pixels).sum(-3)
    tiles = each.flatten(0, -3)
    first = sum(some.pieces for some in cells[:number])
    if len(tiles) != sum(some.pieces for some in cells):
        return None
    drawn = [
        torch.nn.functional.adaptive_avg_pool2d(tiles[first + at][None], (shape.rows, shape.columns))[0]
        for at, shape in enumerate(cells[number].shapes)
    ]
    placed = [
        drawn[tile][row, column] if tile >= 0 else tiles.new_zeros(()) for tile, row, column in cells[number].places
    ]
    return torch.stack(placed)
