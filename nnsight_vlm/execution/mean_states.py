"""Vectors from data: the mean hidden state of prompts, and the direction from one set of prompts to another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

import torch

from ..errors import SpecError
from ..families import Model
from ..lowering.layers import Layers
from ..lowering.layouts import one_case_per_row
from ..lowering.resolve import resolver
from ..lowering.sites import StateSite
from ..prompts.given import prompts_given
from ..prompts.prompt import Prompt
from ..prompts.where import Where
from ..remote.background import Job, can_run_in_background
from ..remote.batching import together
from ..remote.model_call import Remote, check_remote
from ..specs.interventions import CLEAN
from ..specs.measurements import Residual
from .checking import check
from .emptiness import refuse_empty_read
from .forward import run
from .requests import read_steps


@overload
def mean_state(
    model: Model,
    prompts: Sequence[Prompt],
    where: Where,
    layers: Layers = "all",
    *,
    site: StateSite = "residual",
    stage: str = "decoder",
    remote: Remote = False,
    blocking: Literal[True] = True,
    path: None = None,
) -> torch.Tensor: ...
@overload
def mean_state(
    model: Model,
    prompts: Sequence[Prompt],
    where: Where,
    layers: Layers = "all",
    *,
    site: StateSite = "residual",
    stage: str = "decoder",
    remote: Remote,
    blocking: Literal[False],
    path: str | Path | None = None,
) -> Job[torch.Tensor]: ...
@can_run_in_background
def mean_state(
    model: Model,
    prompts: Sequence[Prompt],
    where: Where,
    layers: Layers = "all",
    *,
    site: StateSite = "residual",
    stage: str = "decoder",
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
) -> torch.Tensor | Job[Any]:
    """The mean hidden state of prompts: `[layer, 1, width]`, as `nv.Add` and `nv.Patch` take it for every position.

    First the mean over the positions of each prompt, then over the prompts: each counts once, however many positions
    it has. It is summed in float64, and given in float32, or float64 for a model in float64.

    Args:
        model: an nnsight model from `load`.
        prompts: prompts of one row, each run once.
        where: positions in each prompt, a group's name mostly.
        layers, site, stage: see `Residual`; a site without layers gives `[1, 1, width]`, one of heads
            `[layer, head, 1, head_dim]`.
        remote, blocking, path: see `nv.run`.

    Raises:
        SpecError: see `nv.run`; no prompts, or one that has no such position.

    >>> import nnsight_vlm as nv
    >>> model = nv.load("shapes")
    >>> prompts = [nv.encode(model, "describe the image .", nv.shapes.scene(seed).image) for seed in (1, 2)]
    >>> nv.mean_state(model, prompts, "image", layers=[2, 5]).shape
    torch.Size([2, 1, 128])
    """
    check_remote(remote)
    read = Residual(where, layers=layers, site=site, stage=stage)
    [mean] = _means(model, [_checked(model, prompts, "prompts", read)], read, remote)
    return mean


@overload
def direction(
    model: Model,
    positives: Sequence[Prompt],
    negatives: Sequence[Prompt],
    where: Where,
    layers: Layers = "all",
    *,
    site: StateSite = "residual",
    stage: str = "decoder",
    remote: Remote = False,
    blocking: Literal[True] = True,
    path: None = None,
) -> torch.Tensor: ...
@overload
def direction(
    model: Model,
    positives: Sequence[Prompt],
    negatives: Sequence[Prompt],
    where: Where,
    layers: Layers = "all",
    *,
    site: StateSite = "residual",
    stage: str = "decoder",
    remote: Remote,
    blocking: Literal[False],
    path: str | Path | None = None,
) -> Job[torch.Tensor]: ...
@can_run_in_background
def direction(
    model: Model,
    positives: Sequence[Prompt],
    negatives: Sequence[Prompt],
    where: Where,
    layers: Layers = "all",
    *,
    site: StateSite = "residual",
    stage: str = "decoder",
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
) -> torch.Tensor | Job[Any]:
    """The direction from one set of prompts to another: `mean_state(positives) - mean_state(negatives)`.

    Not normalised: with `nv.Add(where, vector, layers=..., scale=1.0)` states are moved by the whole difference.

    Args:
        model: an nnsight model from `load`.
        positives, negatives: prompts of one row; not necessarily as many of the one as of the other.
        where, layers, site, stage, remote, blocking, path: see `mean_state`.

    Returns:
        `[layer, 1, width]`.

    Raises:
        SpecError: see `mean_state`.
    """
    check_remote(remote)
    read = Residual(where, layers=layers, site=site, stage=stage)
    groups = [_checked(model, positives, "positives", read), _checked(model, negatives, "negatives", read)]
    positive, negative = _means(model, groups, read, remote)
    return positive - negative


def _checked(model: Model, prompts: Any, name: str, read: Residual) -> tuple[Prompt, ...]:
    """Prompts that have all been looked at before the first of them is run."""
    given = prompts_given(prompts, name, to="take a mean over")
    for number, prompt in enumerate(given):
        try:
            check(model, prompt, CLEAN)
            layout = one_case_per_row(prompt)
            list(read_steps(model, layout, read))
            refuse_empty_read(resolver(model, layout.placements[0]), read)
        except SpecError as error:
            raise SpecError(f"{name}[{number}]: {error}") from None
    return given


def _means(model: Model, groups: Sequence[Sequence[Prompt]], read: Residual, remote: Remote) -> list[torch.Tensor]:
    """The mean state of each group of prompts, all of which are asked at a time."""
    prompts = [prompt for group in groups for prompt in group]
    states = iter(together([partial(_mean_of_one, model, prompt, read, remote) for prompt in prompts], remote))
    means = [torch.stack([next(states) for _ in group]) for group in groups]
    precise = torch.promote_types(means[0].dtype, torch.float32)
    return [mean.double().mean(0).to(precise) for mean in means]


def _mean_of_one(model: Model, prompt: Prompt, read: Residual, remote: Remote) -> torch.Tensor:
    """`[layer, 1, width]`, or `[layer, head, 1, head_dim]`, of one prompt."""
    states = run(model, prompt, reads=read, remote=remote).reads[0]
    each = states if states.dim() > 2 else states[None]
    precise = torch.promote_types(each.dtype, torch.float32)
    return each.double().mean(-2, keepdim=True).to(precise)
