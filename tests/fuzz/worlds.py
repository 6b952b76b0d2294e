"""The models that are asked, and the questions: texts with pictures, encoded for the package and for the reference."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
import zoo
from zoo.parts import WORDS, picture

import nnsight_vlm as nv

from .places import SEPARATOR, Places, places_of
from .reference import FEATURES, Cut, Outcome, Reference, Write

SAID = [word for word in WORDS if word != SEPARATOR and not word.startswith("##")]
PLACEHOLDER = re.compile(r"(?:<(?!s>)[^>\s]*>|\[IMG\])+")
FIRST = ("paligemma", "paligemma2")
"""Members whose pictures stand before all text."""
ONE_PICTURE = ("fuyu", "blip-2-opt", "blip-2-t5", "instructblip-llama", "instructblip-t5", "florence2", "kosmos-2")
"""Members whose processor takes one picture a text."""
NEED_PICTURE = (
    "got_ocr2",
    "got_ocr2-tiles",
    "paligemma",
    "paligemma2",
    "blip-2-opt",
    "blip-2-t5",
    "instructblip-llama",
    "instructblip-t5",
    "florence2",
    "kosmos-2",
    "fuyu",
)
"""Members whose processor or forward takes no text without a picture."""


FLAT = ("got_ocr2", "got_ocr2-tiles")
"""Members whose processor takes the pictures of a text as one list; to others a list of pictures is several texts'."""


class Unusable(Exception):
    """What was drawn asks for nothing, or for what cannot be: draw again."""


@dataclass(frozen=True)
class Question:
    """A text and its pictures, each a seed and a size, and an answer's tokens behind it."""

    text: str
    pictures: tuple[tuple[int, tuple[int, int]], ...]
    answer: tuple[int, ...] = ()


@dataclass(kw_only=True, eq=False)
class World:
    """A member of the zoo in float64, for the package under one attention and for the reference."""

    name: str
    model: Any
    reference: Reference
    processor: Any
    separator: int
    special: frozenset[int]
    memory: dict[Any, Any] = field(default_factory=dict)

    @property
    def has_encoder(self) -> bool:
        return self.reference.paths.encoder is not None

    def kept(self, key: Any, make: Any) -> Any:
        """What was computed before, for the last few questions."""
        if key not in self.memory:
            if len(self.memory) > 200:
                self.memory.clear()
            self.memory[key] = make()
        return self.memory[key]

    # encodings ------------------------------------------------------------------------------------------

    def prompt(self, question: Question) -> nv.Prompt:
        """For the package."""
        shown = [picture(seed, size) for seed, size in question.pictures]
        prompt = nv.encode(self.model, question.text, shown or None, chat=False)
        return prompt.grown(question.answer) if question.answer else prompt

    def inputs(self, question: Question) -> Mapping[str, torch.Tensor]:
        """For the reference."""
        return self.kept(("inputs", question), lambda: self._inputs(question))

    def _inputs(self, question: Question) -> Mapping[str, torch.Tensor]:
        shown = [picture(seed, size) for seed, size in question.pictures]
        options: dict[str, Any] = {"add_special_tokens": False} if question.text.startswith("<s>") else {}
        options |= {"images": [shown] if self.name not in FLAT else shown} if shown else {}
        try:
            given = self.processor(text=[question.text], return_tensors="pt", **options)
        except ValueError as error:  # pictures of different numbers of tiles, in some processors
            raise Unusable from error
        found = {name: value for name, value in given.items() if name != "labels"}
        found = {name: value.double() if value.is_floating_point() else value for name, value in found.items()}
        if self.has_encoder:
            start = self.reference.module.config.get_text_config().decoder_start_token_id
            found["decoder_input_ids"] = torch.tensor([[start, *question.answer]])
            return found
        added = len(question.answer)
        if not added:
            return found
        length = found["input_ids"].shape[1]
        found["input_ids"] = torch.cat([found["input_ids"], torch.tensor([question.answer])], dim=1)
        for name, value in found.items():
            if name == "input_ids" or name.startswith("qformer") or value.dim() < 2 or value.shape[1] != length:
                continue
            if name == "attention_mask" or name == "cross_attention_mask":
                end = value[:, -1:].expand(-1, added, *value.shape[2:])
            elif name == "token_type_ids" and self.name in FIRST:
                end = value.new_ones((1, added))
            elif name in ("token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids", "image_embeds_position_mask"):
                end = value.new_zeros((1, added))
            else:
                continue
            found[name] = torch.cat([value, end], dim=1)
        return found

    def places(self, question: Question) -> dict[str, Places]:
        return self.kept(
            ("places", question),
            lambda: places_of(
                self.reference, self.inputs(question), self.separator, self.special, len(question.answer)
            ),
        )

    # the reference --------------------------------------------------------------------------------------

    def outcome(self, question: Question, cuts: Sequence[Cut] = (), writes: Sequence[Write] = ()) -> Outcome:
        if not cuts and not writes:
            return self.kept(("clean", question), lambda: self.reference.forward(self.inputs(question)))
        return self.reference.forward(self.inputs(question), cuts, writes)

    def feature_rows(self, question: Question) -> dict[int, int]:
        """From image tokens of the decoder to rows of the projector's output."""
        return self.kept(("features", question), lambda: self._feature_rows(question))

    def _feature_rows(self, question: Question) -> dict[int, int]:
        places = self.places(question)
        image, outside = places["decoder"].groups.get("image", ()), places["decoder"].outside
        if self.has_encoder:
            found = self.reference.feature_rows(self.inputs(question), "encoder", [place + outside for place in image])
            return {place - outside: row for place, row in found.items()}
        if outside:  # the projector's rows are the keys
            return {place: place + outside for place in image}
        return self.reference.feature_rows(self.inputs(question), "decoder", image)

    def count(self, stage: str) -> int:
        """How many layers a stage has."""
        return len(self.reference.layers(self.reference.paths.stages[stage]))

    def having(self, stage: str, site: str) -> list[int]:
        """The layers of a stage that have a site of states, or an attention."""
        return sorted(spot.layer for spot, _ in self.reference.states() if spot[:2] == (stage, site))

    def hybrid(self, stage: str) -> bool:
        """Whether some layers of a stage carry a state through the sequence in place of attending."""
        paths = self.reference.paths.stages[stage]
        return paths.cross is None and 0 < len(self.having(stage, "attention")) < self.count(stage)

    def sites(self, stage: str, question: Question) -> list[str]:
        """The sites of states that can be written in a stage."""
        there = sorted({spot.site for spot, _ in self.reference.states() if spot.stage == stage})
        if self.reference.paths.stages[stage].embedding:
            there.append("embedding")
        if stage == "decoder" and FEATURES in dict(self.reference.states()) and question.pictures:
            there.append("features")
        return there


@functools.cache
def world(name: str, attention: str) -> World:
    """A member, loaded once."""
    member, processor = zoo.ZOO[name], zoo.ZOO[name].processor()
    for_reference = member.module(member.implementations[-1]).double()
    return World(
        name=name,
        model=zoo.load(name, attention, torch.float64),
        reference=Reference(name, for_reference),
        processor=processor,
        separator=processor.tokenizer.convert_tokens_to_ids(SEPARATOR),
        special=frozenset(processor.tokenizer.all_special_ids),
    )


# drawing questions --------------------------------------------------------------------------------------


def words(random: Random, least: int, most: int) -> str:
    return " ".join(random.choice(SAID) for _ in range(random.randint(least, most)))


def size(random: Random, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """A size of the member's, or one between."""
    one, two = random.choice(sizes), random.choice(sizes)
    return (
        one
        if random.random() < 0.5
        else (random.randint(*sorted((one[0], two[0]))), random.randint(*sorted((one[1], two[1]))))
    )


def question(random: Random, name: str, pictures: int | None = None) -> Question:
    """A random question about one picture, sometimes about several or none."""
    member = zoo.ZOO[name]
    holder = PLACEHOLDER.search(member.text)
    count = pictures if pictures is not None else random.choice([1, 1, 1, 1, 2, 2, 0])
    count = min(count, 1) if name in ONE_PICTURE else count
    count = max(count, 1) if name in NEED_PICTURE else count
    opening = "<s>" if member.text.startswith("<s>") else ""
    before = "" if name in FIRST else words(random, 0, 3)
    shown = f" {SEPARATOR} ".join([holder.group()] * count) if holder else ""
    text = " ".join(part for part in (before, shown, words(random, 2, 7)) if part)
    chosen = tuple((random.randrange(1000), size(random, member.sizes)) for _ in range(count))
    return Question(opening + text, chosen)


def like(random: Random, other: Question, name: str) -> Question:
    """A question of the same shape: other words of the same number, other pictures of the same sizes."""
    special = {SEPARATOR, *PLACEHOLDER.findall(other.text)}
    opening = "<s>" if other.text.startswith("<s>") else ""
    parts = other.text.removeprefix("<s>").split()
    changed = [part if part in special or PLACEHOLDER.search(part) else random.choice(SAID) for part in parts]
    chosen = tuple((random.randrange(1000), size) for _, size in other.pictures)
    return Question(opening + " ".join(changed), chosen, other.answer)
