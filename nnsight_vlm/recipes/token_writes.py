"""What an ablation of image tokens writes over them, and what it reads of a run to choose them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch

from ..arguments import as_index, listed, one_of, refuse, whole_number, words_given
from ..errors import SpecError
from ..execution.forward import run
from ..families import Model
from ..grids import Grid
from ..identity import setting_digest
from ..lowering.layers import Layers
from ..prompts.prompt import Prompt
from ..remote.batching import together
from ..specs.measurements import Residual
from ..studies.clusters import numbered, picture_keys
from ..studies.image_token_sets import CHOSEN, Chosen, picture_grid
from ..studies.journal import measured
from ..studies.methods import only
from ..studies.study import Study

How = Literal["mean", "zero", "resample"]
HOWS: tuple[How, ...] = get_args(How)
"""What is written: the mean image token of other pictures, zeros, or the same tokens of another picture."""
Site = Literal["features", "embedding", "residual"]
SITES: tuple[Site, ...] = get_args(Site)
"""Where it is written: what leaves the projector, what enters the decoder's first layer, or what leaves a layer."""

OF_WRITES = (
    only("The site is the output of layer {layer}.", site="residual"),
    only("The mean is that of the study's other pictures.", how="mean", means=False),
    only("The mean is a vector that was given.", how="mean", means=True),
    only("Gradients were integrated in {steps} step(s).", tokens="gradient"),
)
"""What was written where, for a methods section."""


class Total(NamedTuple):
    """The sum over pictures of the mean state of their image tokens, `[width]` in float64, and how many they are."""

    states: torch.Tensor
    pictures: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Writing:
    """What is ablated, and with what.

    Attributes:
        tokens, borders, hows, site: of the recipe.
        layer: the layer whose output is written, for `residual`.
        means: the vector that the user gave for `mean`, `[width]`, or the total of the study's pictures.
        donors: for each prompt the number of the one that it is resampled from; empty where none is.
        steps: of the integral of gradients.
    """

    tokens: tuple[Chosen, ...]
    borders: tuple[int, ...]
    hows: tuple[How, ...]
    site: Site
    layer: int | None
    means: torch.Tensor | Total | None
    donors: Sequence[int]
    steps: int

    def settings(self) -> dict[str, Any]:
        """What rows depend on, for a journal, beside the study's pictures."""
        named = {"tokens": self.tokens, "border": self.borders, "how": self.hows, "site": self.site}
        return {**named, "layer": self.layer, "means": self.means, "steps": self.steps}

    @property
    def layers(self) -> Layers:
        """The layers of the site."""
        return "all" if self.layer is None else (self.layer,)


def writing_given(
    tokens: Any, border: Any, how: Any, site: Any, layer: Any, means: Any, steps: Any, *, answered: bool
) -> Writing:
    """What a user wants ablated, looked at before anything is measured.

    Args:
        tokens, border, how, site, layer, means, steps: see `ablation`.
        answered: whether there is an answer of tokens, for `gradient`.

    Raises:
        SpecError: see `ablation`.
    """
    site, hows = one_of("site", site, SITES), words_given("how", _several(how), HOWS, "ablation how=")
    if (site == "residual") != (layer is not None):
        raise SpecError(
            f'site={site!r} {"needs" if layer is None else "has no"} layer=; write site="residual", layer=3'
        )
    no_gradient = "a box" if not answered else 'site="residual"' if site == "residual" else ""
    kinds = tuple(kind for kind in CHOSEN if not no_gradient or kind != "gradient")
    chosen = kinds if tokens is None else words_given("tokens", _several(tokens), CHOSEN, "choice of tokens")
    if not set(chosen) <= set(kinds):
        raise SpecError(
            f"gradient tokens are those that an answer of one token needs at the image features or at the embeddings, "
            f"so there are none for {no_gradient}; leave them out of tokens="
        )
    steps = whole_number("steps", steps, least=1, kind="number of steps")
    if steps > 1 and "gradient" not in chosen:
        raise SpecError(f"steps={steps} are of the gradient tokens, which are not among tokens=; leave it out")
    return Writing(
        tokens=tuple(dict.fromkeys(chosen)),
        borders=_borders_given(border),
        hows=tuple(dict.fromkeys(hows)),
        site=site,
        layer=None if layer is None else whole_number("layer", layer, least=0, kind="number of a layer"),
        means=None if means is None else _vector_given(means, hows),
        donors=(),
        steps=steps,
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


def with_other_pictures(study: Study, writing: Writing, layouts: Sequence[str]) -> Writing:
    """With what is taken from the study's other pictures: their mean, which is measured, and which one is resampled.

    Args:
        study: the study.
        writing: what the user wants.
        layouts: for each prompt how its image tokens lie.

    Raises:
        SpecError: there is no other picture that fits.
    """
    means = _total_of(study, writing) if "mean" in writing.hows and writing.means is None else writing.means
    return replace(writing, means=means, donors=_donors_of(study, layouts) if "resample" in writing.hows else ())


def states_of(model: Model, prompt: Prompt, grid: Grid, writing: Writing, remote: Any) -> torch.Tensor:
    """The states of a picture's tokens, `[token, width]`."""
    read = Residual(grid.positions, layers=writing.layers, site=writing.site)
    states: torch.Tensor = run(model, prompt, reads=[read], remote=remote).reads[0]
    return states.reshape(len(grid.positions), -1)


def _total_of(study: Study, writing: Writing) -> Total:
    """The mean states of all pictures of a study, each once, summed; measured chunk by chunk and kept in a journal.

    Raises:
        SpecError: there are fewer than two pictures, so that none has a mean of others.
    """
    firsts = set(_pictures(study))
    if len(firsts) < 2:
        raise SpecError(
            'how="mean" writes the mean over the other pictures, and there is one picture; give more, or the vector '
            'means=nv.mean_state(model, prompts, "image", site="features")'
        )

    def measure(chunk: range) -> Iterator[dict[str, Any]]:
        chosen = [image for image in chunk if image in firsts]
        prompts = [study.prompts[image] for image in chosen]
        reads = [
            partial(states_of, study.model, prompt, picture_grid(prompt, "a prompt"), writing, study.remote)
            for image, prompt in zip(chosen, prompts, strict=True)
        ]
        means = [states.double().mean(0) for states in together(reads, study.remote)]
        if means:
            summed = torch.stack(means).sum(0)
            yield {"image": chunk.start, "pictures": len(means), "states": summed.numpy().tobytes()}

    settings = {"site": writing.site, "layer": writing.layer, "pictures": sorted(firsts)}
    rows = measured("ablation_means", study.model, study.prompts, settings, measure, study.work, study.remote)
    sums = [torch.frombuffer(bytearray(each), dtype=torch.float64) for each in rows["states"]]
    return Total(torch.stack(sums).sum(0), int(rows["pictures"].sum()))


def _pictures(study: Study) -> list[int]:
    """For each prompt, the number of the first with the same pixels; a user's clusters may join several pictures."""
    return numbered(picture_keys(study.prompts))


def _donors_of(study: Study, layouts: Sequence[str]) -> list[int]:
    """For each prompt, the number of one about another picture, whose tokens lie at the same places.

    It is found by a fixed shift, which depends on the seed. A picture of the same cluster is no other one.

    Raises:
        SpecError: a picture has no such other.
    """
    alike, pictures, clusters = dict[str, list[int]](), _pictures(study), study.clusters
    for number, layout in enumerate(layouts):
        alike.setdefault(layout, []).append(number)
    donors = [-1] * len(layouts)
    for numbers in alike.values():
        count = len(numbers)
        shift = int(np.random.default_rng((study.seed, count)).integers(1, count)) if count > 1 else 0
        for place, number in enumerate(numbers):
            others = (numbers[(place + shift + step) % count] for step in range(count))
            apart = (other for other in others if clusters[other] != clusters[number])
            donor = next((other for other in apart if pictures[other] != pictures[number]), None)
            if donor is None:
                raise SpecError(
                    f'how="resample" takes tokens from another picture, and no other one has its tokens where '
                    f"prompts[{number}] has; give pictures of one size, or leave resample out"
                )
            donors[number] = donor
    return donors


def layout_of(grid: Grid) -> str:
    """Equal for pictures whose tokens lie at the same places of equal tiles."""
    return setting_digest([grid.tiles, grid.cells, [tuple(shape) for shape in grid.shapes]])
