"""Measure a checkpoint: ``python -m nnsight_vlm.shapes.evaluate --model shapes --scenes 1000``.

Scenes 0, 1, 2, ... (never trained on: training seeds start at 2**31) are each asked one question of every family,
through the processor and ``model.generate``, greedily, and an answer counts only when it is right to the letter. With
``--cut`` the same answers are written while image information is kept from some tokens in all layers:

- ``generated``: the tokens of the answer do not attend to the image (the first one is predicted by the prompt's last
  token, which still does),
- ``text``: no text token after the image attends to it; this is what the model says blind.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F
from tqdm import tqdm

from .language import DESCRIPTIONS, FAMILIES, Question, questions, score
from .model import CHECKPOINTS, checkpoint
from .world import Scene, scene

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

CUTS = ("none", "generated", "text")
ALL = ("color", "shape", "size", "place")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was measured for one family of questions.

    ``exact`` is the share of answers right to the letter, ``low`` and ``high`` its 95 % Wilson interval. Descriptions
    have object F1 as well: ``f1`` by colour and shape, ``f1_full`` by every attribute that the family mentions.
    """

    family: str
    asked: int
    exact: float
    low: float
    high: float
    f1: float | None = None
    f1_full: float | None = None


def load(name: str) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """A checkpoint of the package, or any folder with one, in float32."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    folder = checkpoint(name) if name in CHECKPOINTS else Path(name)
    model = LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    return model, AutoProcessor.from_pretrained(folder)


def prompt(processor: LlavaProcessor, text: str) -> str:
    """The chat template around one image and one question."""
    content = [{"type": "image"}, {"type": "text", "text": text}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return str(text)


@torch.no_grad()
def answers(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    scenes: Sequence[Scene],
    texts: Sequence[str],
    cut: str = "none",
    limit: int = 48,
) -> list[str]:
    """Greedy answers to one question about each scene, as one batch."""
    prompts = [prompt(processor, text) for text in texts]
    inputs = processor(images=[it.image for it in scenes], text=prompts, padding=True, return_tensors="pt").to(
        model.device
    )
    if cut == "none":
        made = model.generate(**inputs, max_new_tokens=limit, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    else:
        made = _generate_cut(model, inputs, cut, limit)
    return list(processor.batch_decode(made, skip_special_tokens=True))


def _generate_cut(
    model: LlavaForConditionalGeneration, inputs: dict[str, torch.Tensor], cut: str, limit: int
) -> torch.Tensor:
    """Greedy decoding with a cache under a mask of our own; ids [batch, answer], padded with the padding token."""
    ids, real, pixels = inputs["input_ids"], inputs["attention_mask"].bool(), inputs["pixel_values"]
    image, end, pad = ids == model.config.image_token_id, model.config.eos_token_id, model.config.pad_token_id
    after_image = ids.shape[1] - image.flip(1).int().argmax(1, keepdim=True)
    blind_from = {"none": ids.shape[1] + limit, "generated": ids.shape[1], "text": after_image}[cut]
    step, cache, done = ids, None, torch.zeros_like(real[:, 0])
    made: list[torch.Tensor] = []
    while len(made) < limit and not done.all():
        columns = torch.arange(real.shape[1], device=ids.device)
        rows = columns[-step.shape[1] :, None]
        hidden = (rows >= torch.as_tensor(blind_from)[..., None]) & image[:, None, :]
        mask = torch.where((rows >= columns) & real[:, None, :] & ~hidden, 0.0, torch.finfo(torch.float32).min)
        out = model(
            input_ids=step,
            pixel_values=None if made else pixels,
            attention_mask=mask[:, None],
            position_ids=(real.cumsum(1) - 1).clamp(min=0)[:, -step.shape[1] :],
            past_key_values=cache,
            use_cache=True,
        )
        made.append(torch.where(done, pad, out.logits[:, -1].argmax(-1)))
        done, cache, step = done | (made[-1] == end), out.past_key_values, made[-1][:, None]
        real, image = F.pad(real, (0, 1), value=True), F.pad(image, (0, 1), value=False)
    return torch.stack(made, 1)


def wilson(hits: int, asked: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share."""
    share, spread = hits / asked, z * z / asked
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / asked + spread / asked / 4) / (1 + spread)
    return middle - half, middle + half


def evaluate(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    seeds: Sequence[int],
    families: Sequence[str] = FAMILIES,
    cut: str = "none",
    batch: int = 50,
) -> list[Row]:
    """Ask one question of each family about the scene of each seed (where the scene permits one)."""
    scenes = [scene(seed) for seed in seeds]
    asked = {f: [(it, q) for it in scenes for q in questions(it) if q.family == f] for f in families}
    rows = []
    for family, pairs in asked.items():
        chunks = [pairs[start : start + batch] for start in range(0, len(pairs), batch)]
        said = []
        for chunk in tqdm(chunks, desc=family, leave=False):
            limit = 48 if family in DESCRIPTIONS else 4
            said += answers(model, processor, [it for it, _ in chunk], [q.text for _, q in chunk], cut, limit)
        rows.append(_row(family, pairs, said))
    return rows


def _row(family: str, pairs: list[tuple[Scene, Question]], said: list[str]) -> Row:
    hits = sum(text == question.answer for text, (_, question) in zip(said, pairs, strict=True))
    low, high = wilson(hits, len(pairs))
    f1 = f1_full = None
    if family in DESCRIPTIONS:
        f1, f1_full = (
            sum(score(text, it, by).f1 for text, (it, _) in zip(said, pairs, strict=True)) / len(pairs)
            for by in (("color", "shape"), ALL if family == "describe" else ("color", "shape"))
        )
    return Row(family=family, asked=len(pairs), exact=hits / len(pairs), low=low, high=high, f1=f1, f1_full=f1_full)


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    return "\n".join(_lines(rows))


def _lines(rows: Sequence[Row]) -> Iterator[str]:
    yield "| family | asked | exact | 95 % interval | object F1 | F1, all attributes |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        f1 = " | ".join("" if value is None else f"{value:.3f}" for value in (row.f1, row.f1_full))
        yield f"| {row.family} | {row.asked} | {row.exact:.3f} | {row.low:.3f} to {row.high:.3f} | {f1} |"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="shapes", help=f"{' or '.join(CHECKPOINTS)}, or a folder")
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first scene")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--cut", choices=CUTS, default="none")
    parser.add_argument("--json", type=Path, help="write the rows to this file as well")
    given = parser.parse_args()
    model, processor = load(given.model)
    rows = evaluate(model, processor, range(given.first, given.first + given.scenes), given.families, given.cut)
    print(markdown(rows))
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
