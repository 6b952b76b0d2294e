"""Measure `shapes-smol`: ``python -m nnsight_vlm.shapes.smol.measure --scenes 500``.

Its answers about unseen scenes, in the words of the other embedded models and in those of `wordings.py`, and how well
it still predicts ordinary text. An answer counts only if it is exactly right.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from ..evaluate import Interval, answers, wilson
from ..language import ATTRIBUTES, FAMILIES, questions
from ..scoring import score
from ..world import Scene, scene
from . import assembly, cache, language_model
from .gguf import GGUF, read
from .updates import cast
from .wordings import ALL_FAMILIES, DESCRIBING, Family, Turn, worded

LONGEST_DESCRIPTION, LONGEST_ANSWER = 64, 16
"""Most tokens of an answer."""
PASSAGE = Path(__file__).with_name("passage.txt")
"""Prose that was written for this file and that no model was trained on."""
LONGEST_TEXT = 2048
"""Most tokens of a text that are read."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured for one family of questions.

    Attributes:
        family: the family.
        wording: "plain" in the words of `language.py`, "other" in those of `wordings.py`.
        asked: how many questions were asked.
        exact: the share of answers that are exactly right, and its 95 % Wilson interval.
        f1: of descriptions, the mean object F1 by colour and shape.
        f1_full: of `describe` in plain words, the same by all attributes.
    """

    family: Family
    wording: str
    asked: int
    exact: float
    low: float
    high: float
    f1: float | None = None
    f1_full: float | None = None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question about a scene."""

    scene: Scene
    turn: Turn


def asked_plainly(scenes: Sequence[Scene], family: Family) -> list[Asked]:
    """The questions that the other embedded models are asked about these scenes."""
    return [
        Asked(scene=each, turn=Turn(family, question.text, question.answer))
        for each in scenes
        for question in questions(each)
        if question.family == family
    ]


def asked_otherwise(scenes: Sequence[Scene], family: Family) -> list[Asked]:
    """One question of this family in other words about each scene that permits one."""
    turns = [(each, worded(each, family, random.Random(f"{each.seed}/{family}"))) for each in scenes]
    return [Asked(scene=each, turn=turn) for each, turn in turns if turn is not None]


def accuracy(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    scenes: Sequence[Scene],
    wording: str = "plain",
    batch: int = 50,
) -> Iterator[Result]:
    """Ask one question of each family about each scene, with greedy decoding; one result after another."""
    for family in FAMILIES if wording == "plain" else ALL_FAMILIES:
        asked = (asked_plainly if wording == "plain" else asked_otherwise)(scenes, family)
        limit = LONGEST_DESCRIPTION if family in DESCRIBING else LONGEST_ANSWER
        said: list[str] = []
        for start in range(0, len(asked), batch):
            chunk = asked[start : start + batch]
            texts = answers(
                model,
                processor,
                [each.scene for each in chunk],
                [each.turn.request for each in chunk],
                limit=limit,
            )
            said += [text.strip() for text in texts]
        yield _result(family, wording, asked, said)


def _result(family: Family, wording: str, asked: Sequence[Asked], said: Sequence[str]) -> Result:
    hits = sum(text == each.turn.answer for text, each in zip(said, asked, strict=True))
    interval: Interval = wilson(hits, len(asked))
    f1 = f1_full = None
    if family in DESCRIBING:
        f1 = sum(score(text, each.scene).f1 for text, each in zip(said, asked, strict=True)) / len(asked)
    if family == "describe" and wording == "plain":
        f1_full = sum(score(text, each.scene, ATTRIBUTES).f1 for text, each in zip(said, asked, strict=True))
        f1_full /= len(asked)
    return Result(
        family=family,
        wording=wording,
        asked=len(asked),
        exact=hits / len(asked),
        low=interval.low,
        high=interval.high,
        f1=f1,
        f1_full=f1_full,
    )


def first_scenes(count: int) -> list[Scene]:
    """The scenes 0, 1, 2, ..., which were not trained on."""
    return [scene(seed) for seed in range(count)]


def table(results: Sequence[Result]) -> str:
    """Results as a Markdown table."""
    lines = [
        "| family | words | asked | exact | 95 % interval | object F1 | all attributes |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in results:
        f1 = " | ".join("" if value is None else f"{value:.3f}" for value in (each.f1, each.f1_full))
        share = f"{each.exact:.3f} | {each.low:.3f} to {each.high:.3f}"
        lines.append(f"| {each.family} | {each.wording} | {each.asked} | {share} | {f1} |")
    return "\n".join(lines)


@torch.no_grad()
def perplexity(model: LlavaForConditionalGeneration, ids: Sequence[int]) -> float:
    """How many tokens the model hesitates between, on average, while it reads a text: e to its mean loss."""
    given = torch.tensor([list(ids)], device=model.device)
    logits = model(input_ids=given).logits[0, :-1].float()
    return math.exp(F.cross_entropy(logits, given[0, 1:]).item())


def untouched(file: GGUF) -> LlavaForConditionalGeneration:
    """The same model with the language model as it was, float32."""
    parts = assembly.load_parts(cache.PARTS)
    for name, tensor in parts.items():
        if name.startswith(f"{assembly.UPDATES}b."):
            tensor.zero_()
    return assembly.assemble(file, parts)


def perplexities(
    model: LlavaForConditionalGeneration, file: GGUF, encode: Callable[[str], list[int]]
) -> dict[str, float]:
    """The perplexity of every text that the package ships, of the untouched language model and of this one."""
    original = untouched(file).to(model.device)
    cast(original, original.model.language_model, model.dtype)
    found = {}
    for text in (PASSAGE, PASSAGE.parents[1] / "README.md"):
        ids = encode(text.read_text())[:LONGEST_TEXT]
        found[f"{text.name}, untouched"] = perplexity(original, ids)
        found[text.name] = perplexity(model, ids)
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=500, help="how many scenes; 0 for the perplexity alone")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="what is computed in")
    parser.add_argument("--wordings", nargs="+", default=["plain", "other"], choices=["plain", "other"])
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    folder = cache.folder()
    dtype = getattr(torch, options.dtype)
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval().to(options.device)
    processor = AutoProcessor.from_pretrained(folder)
    results: dict[str, Any] = {"families": []}
    file = language_model.find()
    if file is None:
        print(f"the perplexity of the untouched model needs its file; {language_model.INSTALL}")
    else:
        results |= perplexities(model, read(file), lambda text: processor.tokenizer(text)["input_ids"])
        print({name: round(value, 2) for name, value in results.items() if name != "families"}, flush=True)
    measured = []
    for wording in options.wordings if options.scenes else ():
        for result in accuracy(model, processor, first_scenes(options.scenes), wording):
            measured.append(result)
            print(table(measured).splitlines()[-1], flush=True)
    results["families"] = [asdict(each) for each in measured]
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
