"""Published configurations, processors and tokenizers with drawn weights: what holds in each, as a table.

    python tests/real.py FOLDER [FOLDER ...] [--sizes 336x336,1920x1080] [--record tests/tried.json]

Each folder is a checkpoint as `nv.load` opens it. Weights may be random: every check compares two ways to the same
number, or asks whether a number depends on another. Checked at each size of picture:

- `positions`: token ids are the processor's own; image tokens are its placeholders, those in the mask by which the
  model places its features, and those that move when all pixels change (and such as have no box, like line breaks);
- `pixels`: the tower is made local, by leaving out what its attention adds: then pixels inverted in a rectangle move
  every token of which the grid says that it saw some of them, and no other, up to the reach of resampling; the
  number is how far beyond, in tokens, the farthest that moved begins. With the tower as it is, the token that moves
  most is one of them, and they move more than the others;
- `greedy`: `nv.generate` gives the tokens of transformers' own greedy generation;
- `cut`: under the cut of the image from all text, logits do not depend on pixels; that is part of the proof of the cut
  in float32, so `verify` is asked for in bfloat16 and float16 only.

`--record` keeps the results in a file. `python tests/real.py --markdown` prints the table of docs/families.md that is
made of tests/tried.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from zoo import planted

import nnsight_vlm as nv
from nnsight_vlm.families import FAMILIES, Family, view_of
from nnsight_vlm.storage import atomic_write

SIZES = ((336, 336), (1920, 1080), (600, 1200), (30, 20), (3000, 2000))
TEXT = "What is in the picture?"
STEPS = 3
TRIED = Path(__file__).parent / "tried.json"
"""What was recorded of published folders; it holds none of their files."""
CLEARLY = 0.1
"""The share of a token's box that must be inverted for its feature to move for certain: colours are whole numbers."""
REACH = {"florence2": 1.0, "llava_onevision": 1.5}
"""How many tokens beyond its box a token may see, where its patches overlap or its features are interpolated."""
RESAMPLED = 0.4
"""How many tokens beyond, in all others: resampling reaches a few pixels of the picture that it makes."""
LANCZOS = 3
"""How many pixels of a picture that is enlarged resampling reaches."""
POOLED = ("florence2",)
"""Families with a token that is the mean of all others."""


@dataclass(frozen=True)
class Case:
    """A model that is shown a picture."""

    model: Any
    picture: Image.Image

    @cached_property
    def prompt(self) -> nv.Prompt:
        return nv.encode(self.model, TEXT, self.picture)

    @property
    def family(self) -> Family:
        return view_of(self.model).family

    @property
    def stage(self) -> str:
        """The stage whose tokens have boxes."""
        if "grid" in self.family.limitations:
            return next(name for name, stage in self.family.stages.items() if stage.keys)
        return "encoder" if "encoder" in self.family.stages else "decoder"

    @property
    def sequence(self) -> str:
        """The stage whose sequence the processor's token ids are."""
        return "encoder" if self.family.tokens != "input_ids" else "decoder"

    def inverted(self, box: tuple[int, int, int, int]) -> nv.Prompt:
        """The prompt with inverted colours in a rectangle of its picture."""
        where = np.zeros(self.picture.size[::-1], dtype=bool)
        where[box[1] : box[3], box[0] : box[2]] = True
        return nv.encode(self.model, TEXT, planted.inverted(self.picture, where))


def noise(size: tuple[int, int]) -> Image.Image:
    """Smooth noise, so that every patch has a colour of its own."""
    colours = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)


# positions ------------------------------------------------------------------------------------------------


def positions(case: Case) -> str:
    prompt = case.prompt
    image = {place for run in prompt.rows[0].stage(case.sequence).images for place in run}
    own, ids = _encoded_by_processor(case), prompt.inputs["input_ids"]
    if not torch.equal(own["input_ids"], ids):
        return f"{ids.shape[1]} tokens, and the processor has {own['input_ids'].shape[1]}"
    if case.family.image_at == "decoder" and not case.family.image_mask:
        marked = own.get("mm_token_type_ids", own["input_ids"] == view_of(case.model).config.image_token_id) == 1
        if image != set(marked[0].nonzero().flatten().tolist()):
            return f"{len(image)}, and the processor marks {int(marked.sum())}"
    masks = _placeholder_masks(case)
    if any(image != mask for mask in masks):
        return f"{len(image)}, and the model's mask has {', '.join(str(len(mask)) for mask in masks)}"
    if "encoder" not in case.family.stages and case.family.image_at == "decoder":
        moved = planted.changed(prompt, case.inverted((0, 0, *case.picture.size)))
        free = set(np.asarray(prompt["image"])[_without_box(case)].tolist())
        if set(np.flatnonzero(moved).tolist()) | free != image:
            return f"{len(image)}, and {np.count_nonzero(moved)} move"
    return f"ok {len(image)}{'' if masks else ', no mask'}"


def _encoded_by_processor(case: Case) -> Any:
    processor = case.model.processor
    if not getattr(processor, "chat_template", None):
        return processor(text=TEXT, images=case.picture, return_tensors="pt")
    content = [{"type": "image", "image": case.picture}, {"type": "text", "text": TEXT}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )


def _placeholder_masks(case: Case) -> list[set[int]]:
    """The positions in each mask by which the model's forward places its image features."""
    found = list[set[int]]()

    def noted(original: Callable[..., Any], *given: Any, **named: Any) -> Any:
        result = original(*given, **named)
        mask = result[0] if isinstance(result, tuple) else result
        found.append(set(mask.flatten(2)[0].any(-1).nonzero().flatten().tolist()))
        return result

    owners = [part for part in view_of(case.model).module.modules() if hasattr(part, "get_placeholder_mask")]
    for owner in owners:
        owner.get_placeholder_mask = partial(noted, owner.get_placeholder_mask)
    try:
        with torch.no_grad():
            view_of(case.model).module(**case.prompt.inputs)
    finally:
        for owner in owners:
            del owner.get_placeholder_mask
    return found


def _without_box(case: Case) -> np.ndarray:
    if "grid" in case.family.limitations:
        return np.zeros(len(case.prompt["image"]), dtype=bool)
    return ~(np.asarray(case.prompt.grid().areas) > 0)


# pixels ---------------------------------------------------------------------------------------------------


def pixels(case: Case) -> str:
    (width, height), grid = case.picture.size, case.prompt.grid(stage=case.stage)
    box = (width // 4, height // 4, width // 4 + max(4, width // 8), height // 4 + max(4, height // 8))
    touched, other = grid.coverage(box) > 0, case.inverted(box)
    places = np.asarray(grid.positions)
    with local(case.model):
        moved = planted.changed(case.prompt, other, case.stage)[places]
    still = (grid.coverage(box) > CLEARLY) & (moved == 0)
    if still.any() or not touched.any():
        return f"{int(still.sum())} of {int(touched.sum())} tokens that saw it do not move"
    placed = np.isfinite(grid.boxes).all(-1)
    if case.family.name not in POOLED and moved[~placed].any():
        return "a token without a box moves"
    strays = np.flatnonzero((moved > 0) & ~touched & placed)
    beyond = max((_tokens_between(grid.boxes[at], box) for at in strays), default=0.0)
    if not beyond <= REACH.get(case.family.name, RESAMPLED):
        return f"a token moves that is {beyond:.1f} tokens away"
    moved = planted.changed(case.prompt, other, case.stage)[places]
    if not touched[moved.argmax()] or moved[touched].mean() < 2 * moved[~touched & (grid.areas > 0)].mean():
        return f"moved most: {grid.boxes[moved.argmax()].round().tolist()}"
    return f"ok {int(touched.sum())} ({beyond:.2f})"


def _tokens_between(box: np.ndarray, other: tuple[int, int, int, int]) -> float:
    """How far a token's box is from the reach of resampling around another, in lengths of its own side."""
    start, stop, side = box[:2], box[2:], box[2:] - box[:2]
    gap = np.maximum(np.asarray(other[:2]) - stop, start - np.asarray(other[2:])) - LANCZOS
    return float((gap.clip(0) / side).max())


@contextmanager
def local(model: Any) -> Iterator[None]:
    """Leave out what attention and depthwise convolutions add in the vision tower: patches see their own pixels."""
    view = view_of(model)
    others = tuple(stage.layers for stage in view.family.stages.values())

    def silent(_: torch.nn.Module, __: Any, output: Any) -> Any:
        return (torch.zeros_like(output[0]), *output[1:]) if isinstance(output, tuple) else torch.zeros_like(output)

    hooks = [
        part.register_forward_hook(silent)
        for name, part in view.module.named_modules()
        if (type(part).__name__.endswith("Attention") or getattr(part, "groups", 1) > 1) and not name.startswith(others)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


# what is generated, and what is cut ----------------------------------------------------------------------


def greedy(case: Case) -> str:
    ours = nv.generate(case.model, case.prompt, max_new_tokens=STEPS).tokens
    with torch.no_grad():
        whole = view_of(case.model).module.generate(
            **case.prompt.inputs, max_new_tokens=STEPS, do_sample=False, num_beams=1
        )[0]
    prompted = len(case.prompt.inputs["input_ids"][0]) if case.family.tokens == "input_ids" else 1
    theirs = tuple(whole[prompted:].tolist())
    return f"ok {len(ours)}" if ours == theirs else f"{ours} for {theirs}"


def complete_cut(model: Any) -> nv.Intervention:
    if "encoder" in view_of(model).family.stages:
        whole = nv.Knockout("image", ("all", "generated"), layers="attention")
        return whole | nv.Knockout("image", "text", stage="encoder")
    return nv.Knockout("image", "text", layers="attention")


def cut(case: Case) -> str:
    return f"ok {nv.verify(case.model, case.prompt, complete_cut(case.model), pixels=True).pixels}"


def verify(case: Case) -> str:
    return f"ok {nv.verify(case.model, case.prompt, complete_cut(case.model)).edges}"


CHECKS: dict[str, Callable[[Case], str]] = {"positions": positions, "pixels": pixels, "greedy": greedy, "cut": cut}
HALVES = {"verify bfloat16": torch.bfloat16, "verify float16": torch.float16}


# the table ------------------------------------------------------------------------------------------------


def attempt(check: Callable[[Case], str], case: Case) -> str:
    try:
        return check(case)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def results(folder: Path, sizes: list[tuple[int, int]], wanted: set[str]) -> Iterator[tuple[str, str, dict[str, str]]]:
    """For each size the family, the size and what each check says."""
    model = nv.load(folder, dtype=torch.float32)
    halves = {name: nv.load(folder, dtype=dtype) for name, dtype in HALVES.items() if name in wanted}
    for size in sizes:
        picture = noise(size)
        case = Case(model, picture)
        cells = {name: attempt(check, case) for name, check in CHECKS.items() if name in wanted}
        cells |= {name: attempt(verify, Case(half, picture)) for name, half in halves.items()}
        yield case.family.name, f"{size[0]}x{size[1]}", cells


def record(path: Path, folder: str, family: str, size: str, cells: dict[str, str]) -> None:
    """Add results to a file: for each folder its family, the versions, and for each size what each check says."""
    kept = json.loads(path.read_text()) if path.is_file() else {}
    entry = kept.setdefault(folder, {"sizes": {}})
    entry |= {"family": family, "transformers": transformers.__version__}
    entry["sizes"].setdefault(size, {}).update(cells)
    with atomic_write(path) as file:
        file.write_text(json.dumps(kept, indent=1) + "\n")


def markdown(kept: Mapping[str, Any]) -> str:
    """The table of what was recorded: for each folder at how many of its sizes each check passed."""
    checks = (*CHECKS, *HALVES)
    lines = [f"| row | published configuration | sizes | {' | '.join(checks)} |", "| --- " * (3 + len(checks)) + "|"]
    for name, tried in sorted(kept.items(), key=lambda item: list(FAMILIES).index(item[1]["family"])):
        sizes = tried["sizes"].values()
        cells = []
        for check in checks:
            asked = [cells[check] for cells in sizes if check in cells]
            cells.append(f"{sum(said.startswith('ok') for said in asked)} of {len(asked)}")
        lines.append(f"| {tried['family']} | {name} | {', '.join(tried['sizes'])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--sizes", default=",".join("x".join(map(str, size)) for size in SIZES))
    parser.add_argument("--checks", default=",".join((*CHECKS, *HALVES)))
    parser.add_argument("--record", type=Path)
    asked = parser.parse_args()
    if asked.markdown:
        print(markdown(json.loads(TRIED.read_text())))
        return
    sizes = [(int(width), int(height)) for width, height in (size.split("x") for size in asked.sizes.split(","))]
    wanted = asked.checks.split(",")
    print(f"| folder | size | {' | '.join(wanted)} |\n{'| --- ' * (2 + len(wanted))}|", flush=True)
    for folder in asked.folders:
        start = time.time()
        for family, size, cells in results(folder, sizes, set(wanted)):
            print(f"| {folder.name} | {size} | {' | '.join(cells[name] for name in wanted)} |", flush=True)
            print(f"{time.time() - start:.0f} s", file=sys.stderr, flush=True)
            if asked.record:
                record(asked.record, folder.name, family, size, cells)


if __name__ == "__main__":
    main()
