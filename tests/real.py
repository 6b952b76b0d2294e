"""Published configurations, processors and tokenizers with drawn weights: what holds in each, as a table.

    python tests/real.py FOLDER [FOLDER ...] [--sizes 336x336,1920x1080]

Each folder is a checkpoint as `nv.load` opens it. Weights may be random: every check compares two ways to the same
number, or asks whether a number depends on another. Checked at each size of picture:

- `positions`: image tokens are the processor's placeholders and those that the model itself puts features in;
- `pixels`: the features that a planted square changes are those whose boxes it touches, and no others that lie far off;
- `greedy`: `nv.generate` gives the tokens of transformers' own greedy generation;
- `cut`: under the cut of the image from all text, logits do not depend on pixels;
- `verify`: the proof of that cut passes in float32, bfloat16 and float16.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import nnsight_vlm as nv
from nnsight_vlm.families import view_of

SIZES = ((336, 336), (1920, 1080), (600, 1200), (30, 20), (3000, 2000))
TEXT = "What is in the picture?"
STEPS = 3


def picture(size: tuple[int, int]) -> Image.Image:
    """Smooth noise, so that every patch has a colour of its own."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def planted(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """The picture with a white square in a box."""
    changed = image.copy()
    changed.paste((255, 255, 255), box)
    return changed


def encode(model: Any, image: Image.Image) -> nv.Prompt:
    return nv.encode(model, TEXT, image)


def positions(model: Any, image: Image.Image) -> str:
    prompt, view = encode(model, image), view_of(model)
    ids = prompt.inputs["input_ids"][0].tolist()
    token = getattr(view.config, "image_token_id", None) or getattr(view.config, "image_token_index", None)
    expected = tuple(place for place, number in enumerate(ids) if number == token)
    if prompt["image"] != expected and view.family.image_at == "tokens":
        return f"{len(prompt['image'])} for {len(expected)}"
    return f"ok {len(prompt['image'])}"


def features(model: Any, prompt: nv.Prompt) -> torch.Tensor:
    """What the projector gives of the prompt's image tokens, `[token, width]`."""
    return nv.run(model, prompt, reads=nv.Residual("image", site="features")).reads[0].flatten(0, -2)


def pixels(model: Any, image: Image.Image) -> str:
    prompt = encode(model, image)
    width, height = image.size
    box = (width // 4, height // 4, width // 4 + max(4, width // 8), height // 4 + max(4, height // 8))
    moved = (features(model, encode(model, planted(image, box))) - features(model, prompt)).abs().amax(-1)
    grid = prompt.grid()
    touching = {prompt["image"].index(place) for place in grid.tokens_in(box)}
    inside = float(moved[sorted(touching)].min()) if touching else 0.0
    return "ok" if touching and inside > 0 else f"{inside:.3g} in {len(touching)} tokens"


def greedy(model: Any, image: Image.Image) -> str:
    prompt = encode(model, image)
    ours = nv.generate(model, prompt, max_new_tokens=STEPS).tokens
    with torch.no_grad():
        theirs = view_of(model).module.generate(
            **dict(prompt.inputs), max_new_tokens=STEPS, do_sample=False, num_beams=1
        )[0]
    plain = tuple(theirs.tolist())[-len(ours) :]
    return "ok" if ours == plain else f"{ours} for {plain}"


def complete_cut(model: Any) -> nv.Intervention:
    if "encoder" in view_of(model).family.stages:
        whole = nv.Knockout("image", ("all", "generated"), layers="attention")
        return whole | nv.Knockout("image", "text", stage="encoder")
    return nv.Knockout("image", "text", layers="attention")


def cut(model: Any, image: Image.Image) -> str:
    proof = nv.verify(model, encode(model, image), complete_cut(model), pixels=True)
    return f"ok {proof.pixels}"


CHECKS: dict[str, Callable[[Any, Image.Image], str]] = {
    "positions": positions,
    "pixels": pixels,
    "greedy": greedy,
    "cut": cut,
}


def attempt(check: Callable[[], str]) -> str:
    try:
        return check()
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--sizes", default=",".join("x".join(map(str, size)) for size in SIZES))
    asked = parser.parse_args()
    sizes = [tuple(int(side) for side in size.split("x")) for size in asked.sizes.split(",")]
    print(f"| folder | size | {' | '.join(CHECKS)} | verify, three precisions |")
    print("| --- " * (3 + len(CHECKS)) + "|")
    for folder in asked.folders:
        model = nv.load(folder, dtype=torch.float32)
        halves = [nv.load(folder, dtype=dtype) for dtype in (torch.bfloat16, torch.float16)]
        for size in sizes:
            image, start = picture(size), time.time()
            cells = [attempt(partial(check, model, image)) for check in CHECKS.values()]
            proofs = [attempt(partial(_proof, each, image)) for each in (model, *halves)]
            print(f"| {folder.name} | {size[0]}x{size[1]} | {' | '.join((*cells, ', '.join(proofs)))} |", flush=True)
            print(f"{time.time() - start:.0f} s", file=sys.stderr)


def _proof(model: Any, image: Image.Image) -> str:
    nv.verify(model, encode(model, image), complete_cut(model))
    return "ok"


if __name__ == "__main__":
    main()
