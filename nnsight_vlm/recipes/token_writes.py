"""What an ablation of image tokens writes over them, and what it reads of a run to choose them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch

from ..arguments import as_index, listed, one_of, refuse, whole_number, words_given
from ..errors import SpecError
from ..execution.forward import run
from ..families import Model
from ..gradients.saliency_maps import saliency
from ..grids import Grid
from ..identity import setting_digest
from ..prompts.prompt import Prompt
from ..remote.batching import together
from ..specs.interventions import Intervention
from ..specs.measurements import Residual
from ..specs.states import Ablate, Patch
from ..studies.image_token_sets import CHOSEN, Chosen, ObjectTokens, like_registers, picture_grid, token_sets
from ..studies.journal import measured
from ..studies.labels import NONE
from ..studies.study import Study

How = Literal["mean", "zero", "resample"]
HOWS: tuple[How, ...] = get_args(How)
"""What is written: the mean image token of other pictures, zeros, or the same tokens of another picture."""
Site = Literal["features", "embedding"]
SITES: tuple[Site, ...] = get_args(Site)
"""Where it is written: what leaves the projector, or what enters the decoder's first layer."""
NOTHING = "nothing"
"""In the columns `tokens` and `how`: the run without an ablation."""


class Total(NamedTuple):
    """The sum over pictures of the mean state of their image tokens, `[width]` in float64, and how many they are."""

    states: torch.Tensor
    pictures: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Writing:
    """What is ablated, and with what.

    Attributes:
        tokens, borders, hows, site: of the recipe.
        means: the vector that the user gave for `mean`, `[width]`, or the total of the study's pictures.
        donors: for each prompt the number of the one that it is resampled from; empty where none is.
        steps: of the integral of gradients.
    """

    tokens: tuple[Chosen, ...]
    borders: tuple[int, ...]
    hows: tuple[How, ...]
    site: Site
    means: torch.Tensor | Total | None
    donors: Sequence[int]
    steps: int

    def settings(self) -> dict[str, Any]:
        """What rows depend on, for a journal, beside the study's pictures."""
        return {name: getattr(self, name) for name in ("tokens", "borders", "hows", "site", "means", "steps")}


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


def writing_given(tokens: Any, border: Any, how: Any, site: Any, means: Any, steps: Any, *, answered: bool) -> Writing:
    """What a user wants ablated, looked at before anything is measured.

    Args:
        tokens, border, how, site, means, steps: see `ablation`.
        answered: whether there is an answer of tokens, for `gradient`.

    Raises:
        SpecError: see `ablation`.
    """
    kinds = tuple(kind for kind in CHOSEN if answered or kind != "gradient")
    chosen = kinds if tokens is None else words_given("tokens", _several(tokens), CHOSEN, "choice of tokens")
    if not set(chosen) <= set(kinds):
        raise SpecError('tokens="gradient" are those that an answer of one token needs, and a box is no such answer')
    hows = words_given("how", _several(how), HOWS, "ablation how=")
    return Writing(
        tokens=tuple(dict.fromkeys(chosen)),
        borders=_borders_given(border),
        hows=tuple(dict.fromkeys(hows)),
        site=one_of("site", site, SITES),
        means=None if means is None else _vector_given(means, hows),
        donors=(),
        steps=whole_number("steps", steps, least=1, kind="number of steps"),
    )


def _several(given: Any) -> Any:
    """One word as a list of it."""
    return (given,) if isinstance(given, str) else given


def _borders_given(given: Any) -> tuple[int, ...]:
    """One border or several, each once."""
    borders = (given,) if as_index(given) is not None else listed("border", given, "border=1, or border=[0, 1, 2]")
    if not borders:
        refuse("border", given, "list of one border or more", "border=1, or border=[0, 1, 2]")
    return tuple(dict.fromkeys(whole_number("border", each, least=0, kind="number of patches") for each in borders))


def _vector_given(given: Any, hows: Sequence[How]) -> torch.Tensor:
    """The vector that `mean` writes, `[width]`."""
    write = 'a vector [width], means=nv.mean_state(model, prompts, "image", site="features")'
    if not isinstance(given, torch.Tensor) or not given.numel() or given.shape[-1:].numel() != given.numel():
        refuse("means", given, "vector", write)
    if given.is_complex() or not bool(torch.isfinite(given).all()):
        refuse("means", given, "vector of finite numbers", write)
    if "mean" not in hows:
        raise SpecError('means= is what how="mean" writes, which is not asked for; leave it out')
    return given.detach().reshape(-1)


# over the whole study -----------------------------------------------------------------------------


def with_other_pictures(study: Study, writing: Writing) -> Writing:
    """With what is taken from the study's other pictures: their mean, which is measured, and which one is resampled.

    Raises:
        SpecError: there is no other picture that fits.
    """
    means = _total_of(study, writing.site) if "mean" in writing.hows and writing.means is None else writing.means
    return replace(writing, means=means, donors=_donors_of(study) if "resample" in writing.hows else ())


def _total_of(study: Study, site: Site) -> Total:
    """The mean states of all pictures of a study, each once, summed; measured chunk by chunk and kept in a journal.

    Raises:
        SpecError: there are fewer than two pictures, so that none has a mean of others.
    """
    firsts = set(study.clusters)
    if len(firsts) < 2:
        raise SpecError(
            'how="mean" writes the mean over the other pictures, and there is one picture; give more, or the vector '
            'means=nv.mean_state(model, prompts, "image", site="features")'
        )

    def measure(chunk: range) -> Iterator[dict[str, Any]]:
        chosen = [image for image in chunk if image in firsts]
        prompts = [study.prompts[image] for image in chosen]
        reads = [
            partial(states_of, study.model, prompt, picture_grid(prompt, f"prompts[{image}]"), site, study.remote)
            for image, prompt in zip(chosen, prompts, strict=True)
        ]
        means = [states.double().mean(0) for states in together(reads, study.remote)]
        if means:
            summed = torch.stack(means).sum(0)
            yield {"image": chunk.start, "pictures": len(means), "states": summed.numpy().tobytes()}

    rows = measured(
        "ablation_means", study.model, study.prompts, {"site": site, "pictures": sorted(firsts)}, measure, study.work,
        study.remote,
    )  # fmt: skip
    sums = [torch.frombuffer(bytearray(each), dtype=torch.float64) for each in rows["states"]]
    return Total(torch.stack(sums).sum(0), int(rows["pictures"].sum()))


def _donors_of(study: Study) -> list[int]:
    """For each prompt, the number of one about another picture, whose tokens lie at the same places.

    It is found by a fixed shift, which depends on the seed.

    Raises:
        SpecError: a picture has no such other.
    """
    alike = dict[str, list[int]]()
    for number, prompt in enumerate(study.prompts):
        alike.setdefault(_layout(picture_grid(prompt, f"prompts[{number}]")), []).append(number)
    donors = [-1] * len(study.prompts)
    for numbers in alike.values():
        count = len(numbers)
        shift = int(np.random.default_rng((study.seed, count)).integers(1, count)) if count > 1 else 0
        for place, number in enumerate(numbers):
            others = (numbers[(place + shift + step) % count] for step in range(count))
            donor = next((other for other in others if study.clusters[other] != study.clusters[number]), None)
            if donor is None:
                raise SpecError(
                    f'how="resample" takes tokens from another picture, and no other one has its tokens where '
                    f"prompts[{number}] has; give pictures of one size, or leave resample out"
                )
            donors[number] = donor
    return donors


def _layout(grid: Grid) -> str:
    """Equal for pictures whose tokens lie at the same places of equal tiles."""
    return setting_digest([grid.tiles, grid.cells, [tuple(shape) for shape in grid.shapes]])


# one object ---------------------------------------------------------------------------------------


def states_of(model: Model, prompt: Prompt, grid: Grid, site: Site, remote: Any) -> torch.Tensor:
    """The states of a picture's tokens, `[token, width]`."""
    states: torch.Tensor = run(model, prompt, reads=[Residual(grid.positions, site=site)], remote=remote).reads[0]
    return states.reshape(len(grid.positions), -1)


def attributions_of(model: Model, target: Target, states: torch.Tensor, writing: Writing, remote: Any) -> np.ndarray:
    """Integrated gradients of the answer's logit from zero to the picture's tokens, summed over width, `[token]`.

    Sundararajan et al. 2017 (arXiv 1703.01365). With one step it is the gradient times the state.
    """
    positions, answer, total = target.found.grid.positions, target.answer, np.zeros(len(states))
    for step in range(1, writing.steps + 1):
        share = step / writing.steps
        scaled = None if share == 1 else Patch(positions, source=share * states, site=writing.site)
        seen = saliency(
            model, target.before, scaled, answer=answer, at=writing.site, how="product", memory=None, remote=remote
        )
        values = dict(zip(seen.positions, seen.values.double().tolist(), strict=True))  # type: ignore[union-attr]
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
    if how == "zero":
        return Ablate(where, how="zero", site=writing.site)
    if how == "resample":
        assert donated is not None
        return Patch(where, source=donated[torch.from_numpy(members)], site=writing.site)
    vector = writing.means
    if isinstance(vector, Total):
        vector = ((vector.states - states.double().mean(0)) / (vector.pictures - 1)).to(
            torch.promote_types(states.dtype, torch.float32)
        )
    assert vector is not None
    return Patch(where, source=vector, site=writing.site)
