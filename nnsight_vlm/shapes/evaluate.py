"""Measure a checkpoint: ``python -m nnsight_vlm.shapes.evaluate --model shapes --scenes 1000``.

One question of every family is asked about each of the scenes 0, 1, 2, ... (never trained on: training seeds start at
2**31), through the processor and ``model.generate`` with greedy decoding. An answer counts only if it is exactly right.
``--cut`` gives the answers while some tokens cannot attend to the image, in all layers:

- ``generated``: the tokens of the answer (its first token is predicted by the prompt's last one, which still sees the
  image),
- ``text``: every text token after the image. This is what the model says blind.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
from torch.nn import functional as F
from tqdm import tqdm

from ..versions import cache_name
from .embedded import EMBEDDED, checkpoint
from .language import ATTRIBUTES, DESCRIPTIONS, FAMILIES, Attribute, Question, QuestionFamily, questions
from .scoring import score
from .world import Scene, scene

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

Cut = Literal["none", "generated", "text"]
CUTS: tuple[Cut, ...] = get_args(Cut)
LONGEST_DESCRIPTION, LONGEST_SHORT_ANSWER = 48, 4
"""Most tokens of an answer."""
NAMES: tuple[Attribute, ...] = ("color", "shape")
"""The attributes that every description mentions."""


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


class Loaded(NamedTuple):
    """A model and its processor."""

    model: LlavaForConditionalGeneration
    processor: LlavaProcessor


class Asked(NamedTuple):
    """A question and the scene that it is about."""

    scene: Scene
    question: Question


@dataclass(frozen=True, kw_only=True)
class FamilyResult:
    """What was measured for one family of questions.

    Attributes:
        family: the family.
        asked: how many questions were asked.
        exact: the share of answers that are exactly right.
        low, high: the 95 % Wilson interval of that share.
        f1: of descriptions, the mean object F1 by colour and shape; else None.
        f1_full: the same by every attribute that the family mentions.
    """

    family: QuestionFamily
    asked: int
    exact: float
    low: float
    high: float
    f1: float | None = None
    f1_full: float | None = None


def load(name: str) -> Loaded:
    """A checkpoint of the package, or of any other folder, in float32."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    folder = checkpoint(name) if name in EMBEDDED else Path(name)
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    return Loaded(model.eval(), AutoProcessor.from_pretrained(folder))


def prompt_text(processor: LlavaProcessor, question: str) -> str:
    """A question about one image in the chat template."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return str(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))


@torch.no_grad()
def answers(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    scenes: Sequence[Scene],
    texts: Sequence[str],
    cut: Cut = "none",
    limit: int = LONGEST_DESCRIPTION,
) -> list[str]:
    """Greedy answers to one question about each scene, computed as one batch.

    Args:
        model, processor: from `load`.
        scenes: what is asked about.
        texts: the question about each scene.
        cut: which tokens cannot attend to the image.
        limit: most tokens of an answer.
    """
    prompts = [prompt_text(processor, text) for text in texts]
    images = [each.image for each in scenes]
    inputs = processor(images=images, text=prompts, padding=True, return_tensors="pt").to(model.device)
    if cut == "none":
        sequences = model.generate(**inputs, max_new_tokens=limit, do_sample=False)
        generated = sequences[:, inputs["input_ids"].shape[1] :]
    else:
        generated = _generate_with_cut(model, inputs, cut, limit)
    return list(processor.batch_decode(generated, skip_special_tokens=True))


def _generate_with_cut(
    model: LlavaForConditionalGeneration, inputs: dict[str, torch.Tensor], cut: Cut, limit: int
) -> torch.Tensor:
    """Greedy decoding with a cache, under a mask that hides the image; ids `[batch, answer]`, padded at the end."""
    ids, is_token, pixels = inputs["input_ids"], inputs["attention_mask"].bool(), inputs["pixel_values"]
    is_image = ids == model.config.image_token_id
    end, pad = model.config.eos_token_id, model.config.pad_token_id
    after_image = ids.shape[1] - is_image.flip(1).int().argmax(1, keepdim=True)
    hidden_from = {"none": ids.shape[1] + limit, "generated": ids.shape[1], "text": after_image}[cut]
    first_blind = torch.as_tensor(hidden_from)[..., None]
    step, cache, finished = ids, None, torch.zeros_like(is_token[:, 0])
    generated: list[torch.Tensor] = []
    while len(generated) < limit and not finished.all():
        keys = torch.arange(is_token.shape[1], device=ids.device)
        queries = keys[-step.shape[1] :, None]
        hidden = (queries >= first_blind) & is_image[:, None, :]
        visible = (queries >= keys) & is_token[:, None, :] & ~hidden
        output = model(
            input_ids=step,
            pixel_values=None if generated else pixels,
            attention_mask=torch.where(visible, 0.0, torch.finfo(torch.float32).min)[:, None],
            position_ids=(is_token.cumsum(1) - 1).clamp(min=0)[:, -step.shape[1] :],
            use_cache=True,
            **{cache_name(): cache},
        )
        token = torch.where(finished, pad, output.logits[:, -1].argmax(-1))
        generated.append(token)
        finished, cache, step = finished | (token == end), output[cache_name()], token[:, None]
        is_token, is_image = F.pad(is_token, (0, 1), value=True), F.pad(is_image, (0, 1), value=False)
    return torch.stack(generated, 1)


def wilson(hits: int, asked: int, z: float = 1.96) -> Interval:
    """The Wilson score interval of a share; `z` = 1.96 is 95 % confidence."""
    share, spread = hits / asked, z * z / asked
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / asked + spread / asked / 4) / (1 + spread)
    return Interval(middle - half, middle + half)


def evaluate(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    seeds: Sequence[int],
    families: Sequence[QuestionFamily] = FAMILIES,
    cut: Cut = "none",
    batch: int = 50,
) -> list[FamilyResult]:
    """Ask one question of each family about the scene of each seed, where the scene permits one.

    Args:
        model, processor: from `load`.
        seeds: of the scenes.
        families: what is asked for.
        cut: which tokens cannot attend to the image.
        batch: how many questions are answered at once.
    """
    scenes = [scene(seed) for seed in seeds]
    results = []
    for family in families:
        asked = [Asked(each, question) for each in scenes for question in questions(each) if question.family == family]
        limit = LONGEST_DESCRIPTION if family in DESCRIPTIONS else LONGEST_SHORT_ANSWER
        texts: list[str] = []
        for start in tqdm(range(0, len(asked), batch), desc=family, leave=False):
            chunk = asked[start : start + batch]
            about, wordings = [each.scene for each in chunk], [each.question.text for each in chunk]
            texts += answers(model, processor, about, wordings, cut, limit)
        results.append(_result(family, asked, texts))
    return results


def _result(family: QuestionFamily, asked: Sequence[Asked], texts: Sequence[str]) -> FamilyResult:
    hits = sum(text == each.question.answer for text, each in zip(texts, asked, strict=True))
    low, high = wilson(hits, len(asked))
    f1 = f1_full = None
    if family in DESCRIPTIONS:
        f1 = _mean_f1(asked, texts, NAMES)
        f1_full = _mean_f1(asked, texts, ATTRIBUTES if family == "describe" else NAMES)
    return FamilyResult(
        family=family, asked=len(asked), exact=hits / len(asked), low=low, high=high, f1=f1, f1_full=f1_full
    )


def _mean_f1(asked: Sequence[Asked], texts: Sequence[str], by: Sequence[Attribute]) -> float:
    return sum(score(text, each.scene, by).f1 for text, each in zip(texts, asked, strict=True)) / len(asked)


def markdown(results: Sequence[FamilyResult]) -> str:
    """The results as a Markdown table."""
    return "\n".join(_table_lines(results))


def _table_lines(results: Sequence[FamilyResult]) -> Iterator[str]:
    yield "| family | asked | exact | 95 % interval | object F1 | F1, all attributes |"
    yield "|---|---|---|---|---|---|"
    for each in results:
        f1 = " | ".join("" if value is None else f"{value:.3f}" for value in (each.f1, each.f1_full))
        yield f"| {each.family} | {each.asked} | {each.exact:.3f} | {each.low:.3f} to {each.high:.3f} | {f1} |"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="shapes", help=f"{' or '.join(EMBEDDED)}, or a folder")
    parser.add_argument("--scenes", type=int, default=1000, help="how many scenes")
    parser.add_argument("--first", type=int, default=0, help="seed of the first scene")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES, help="which questions are asked")
    parser.add_argument("--cut", choices=CUTS, default="none", help="which tokens cannot attend to the image")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.scenes)
    results = evaluate(*load(options.model), seeds, options.families, options.cut)
    print(markdown(results))
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in results], indent=1) + "\n")


if __name__ == "__main__":
    main()
