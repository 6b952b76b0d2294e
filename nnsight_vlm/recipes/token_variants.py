"""All ablations of one object of a picture, and the reading of a run by which their tokens are chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from ..families import Model
from ..gradients.saliency_maps import saliency
from ..prompts.prompt import Prompt
from ..specs.interventions import Intervention
from ..specs.states import Ablate, Patch
from ..studies.image_token_sets import ObjectTokens, like_registers, token_sets
from ..studies.labels import NONE
from .token_writes import How, Total, Writing

NOTHING = "nothing"
"""In the columns `tokens` and `how`: the run without an ablation."""


class Target(NamedTuple):
    """One object of one picture, and the answer that its tokens may matter to.

    Attributes:
        image: number of the prompt.
        found: the object's tokens.
        before: the prompt up to the answer, which its last token predicts.
        answer: the answer's first token; None where the answer is no token.
    """

    image: int
    found: ObjectTokens
    before: Prompt
    answer: int | None


class Variant(NamedTuple):
    """One ablation.

    Attributes:
        labels: what the frame says of it, and the numbers that do not depend on the answer.
        intervention: None for the run without one.
    """

    labels: Mapping[str, Any]
    intervention: Intervention | None


def attributions_of(model: Model, target: Target, states: torch.Tensor, writing: Writing, remote: Any) -> np.ndarray:
    """Integrated gradients of the answer's logit from zero to the picture's tokens, summed over width, `[token]`.

    Sundararajan et al. 2017 (arXiv 1703.01365). With one step it is the gradient times the state.
    """
    positions, total = target.found.grid.positions, np.zeros(len(states))
    site: Literal["features", "embedding"] = "embedding" if writing.site == "embedding" else "features"
    for step in range(1, writing.steps + 1):
        share = step / writing.steps
        scaled = None if share == 1 else Patch(positions, source=share * states, site=site)
        seen = saliency(model, target.before, scaled, answer=target.answer, at=site, how="product", remote=remote)
        if seen.values is not None:
            values = dict(zip(seen.positions, seen.values.double().tolist(), strict=True))
            total += np.array([values[position] for position in positions]) / share
    return np.asarray(total / writing.steps)


def variants_of(
    target: Target,
    states: torch.Tensor,
    donated: torch.Tensor | None,
    attributions: np.ndarray | None,
    writing: Writing,
    rng: np.random.Generator,
) -> list[Variant]:
    """All ablations of one object: first none, then each set of tokens with all that is written over it."""
    positions, norms = np.asarray(target.found.grid.positions), states.double().norm(dim=-1).numpy()
    registers = like_registers(norms)
    clean = {"tokens": NOTHING, "border": 0, "how": NOTHING, "control": NONE, "count": 0.0}
    variants = [Variant(clean, None)]
    for border in writing.borders:
        for chosen in token_sets(target.found, border, writing.tokens, rng, norms, attributions):
            members = chosen.members
            about = {
                "count": float(members.sum()),
                "overlap": float(target.found.own[members].mean()),
                "registers": float(registers[members].mean()),
            }
            where = tuple(positions[members].tolist())
            for how in writing.hows:
                labels = {"tokens": chosen.tokens, "border": border, "how": how, "control": chosen.control}
                variants.append(Variant(labels | about, _write(how, where, members, states, donated, writing)))
    return variants


def _write(
    how: How,
    where: tuple[int, ...],
    members: np.ndarray,
    states: torch.Tensor,
    donated: torch.Tensor | None,
    writing: Writing,
) -> Intervention:
    """One ablation: what is written over the tokens `where`, which are these members of the picture's."""
    if how == "zero":
        return Ablate(where, how="zero", site=writing.site, layers=writing.layers)
    source = writing.means
    if how == "resample" and donated is not None:
        source = donated[torch.from_numpy(members)]
    elif isinstance(source, Total):
        of_others = (source.states - states.double().mean(0)) / (source.pictures - 1)
        source = of_others.to(torch.promote_types(states.dtype, torch.float32))
    assert isinstance(source, torch.Tensor)
    return Patch(where, source=source, site=writing.site, layers=writing.layers)
