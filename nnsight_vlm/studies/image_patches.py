"""The patches of a picture or of a frame, and how much attention positions of the prompt pay to each of them.

In most families each image token of the decoder stands for one patch. In some (BLIP-2, Kosmos-2, Idefics2) the image
tokens are *latents*: a Q-Former or a resampler computes them from all patches, so no image token has a place in the
picture. There, patches are found one stage earlier, as the keys that this stage's queries read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from ..arguments import whole_number
from ..errors import SpecError
from ..execution.forward import run
from ..families import Model, view_of
from ..grids import Grid
from ..lowering.layers import Layers
from ..prompts.prompt import Prompt
from ..remote.model_call import Remote
from ..specs.measurements import Attention


class PatchSource(NamedTuple):
    """Where the patches of a picture are.

    Attributes:
        stage: the stage whose attention has them as keys: `"decoder"`, or a Q-Former or resampler.
        grid: their positions there, and the pixels that each covers.
    """

    stage: str
    grid: Grid


def patch_stage(prompt: Prompt) -> str:
    """The stage whose attention has the picture's patches as keys; the decoder unless image tokens are latents."""
    family = view_of(prompt.model).family
    if "grid" not in family.limitations:
        return "decoder"
    return next((name for name, stage in family.stages.items() if stage.keys), "decoder")


def has_patches(prompt: Prompt) -> bool:
    """Whether `patch_source` can tell where the patches are."""
    stage = patch_stage(prompt)
    return stage in dict(prompt.rows[0].stages) or (
        stage == "decoder" and "grid" not in view_of(prompt.model).family.limitations
    )


def patch_source(prompt: Prompt, image: int = 0, frame: int | None = None) -> PatchSource:
    """Where the patches of a picture are; image tokens without a place (line breaks between patches) are left out.

    Args:
        prompt: of one row.
        image: which picture.
        frame: in its place, which frame of the prompt's videos, counted through all of them.

    Raises:
        SpecError: nothing tells which patch a token stands for, says why; or there is no such frame.
    """
    if frame is not None:
        return PatchSource("decoder", _frame_grid(prompt, frame))
    stage = patch_stage(prompt)
    return PatchSource(stage, prompt.grid(image, stage).placed)


def _frame_grid(prompt: Prompt, frame: int) -> Grid:
    """The grid of a frame, counted through all videos."""
    tokens = prompt.rows[0]
    counts = [1 + max(of_tile[-1] for of_tile in cells.frames) for cells in tokens.video_cells]
    frame = whole_number("frame", frame, kind="number of a frame")
    if not 0 <= frame < sum(counts):
        raise SpecError(f"no frame {frame}: the prompt's videos have {sum(counts)} frame(s), counted from 0")
    video = next(number for number in range(len(counts)) if frame < sum(counts[: number + 1]))
    return prompt.grid(video=video).frame(frame - sum(counts[:video]))


def patch_maps(
    model: Model,
    prompt: Prompt,
    positions: Sequence[int],
    source: PatchSource,
    *,
    layers: Layers = "attention",
    remote: Remote = False,
) -> np.ndarray:
    """Attention of decoder positions to the patches, mean over heads: `[layer, position, patch]`.

    Where image tokens are latents, it is the attention to each latent times the latent's own attention to the patches
    (mean over the heads and layers of its stage), summed over the latents.
    """
    reads = map_reads(positions, source, layers=layers)
    return map_of(run(model, prompt, reads=reads, remote=remote).reads)


def map_reads(positions: Sequence[int], source: PatchSource, *, layers: Layers = "attention") -> list[Attention]:
    """What is read for `patch_maps`."""
    if source.stage == "decoder":
        return [Attention(positions, source.grid.positions, layers=layers, reduce="mean")]
    to_latents = Attention(positions, "image", layers=layers, reduce="mean")
    to_patches = Attention("query", source.grid.positions, layers="attention", stage=source.stage, reduce="mean")
    return [to_latents, to_patches]


def map_of(read: Sequence[torch.Tensor]) -> np.ndarray:
    """The map `[layer, position, patch]`, from what `map_reads` gave."""
    if len(read) == 1:
        maps: np.ndarray = read[0].double().numpy()
        return maps
    by_latent, by_patch = read
    product: np.ndarray = (by_latent.double() @ by_patch.double().mean(0)).numpy()
    return product
