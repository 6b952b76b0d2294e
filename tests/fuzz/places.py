"""Which token is what, found in the token ids of one prompt alone.

Groups as docs/groups.md defines them: `system` stands before the first image, `query` behind it, `markup` within
images; without an image all text is `query`; `question` is `query` without the token that predicts the answer and
without special tokens; `text` is all that is no image token. In the fuzz's prompts the word `SEPARATOR` stands between
any two pictures and nowhere else, so that images can be told from each other without knowing how many tokens they have.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .reference import Reference

SEPARATOR = "triangle"


@dataclass(frozen=True, kw_only=True)
class Places:
    """The tokens of one stage.

    Attributes:
        length: of its sequence.
        outside: how many keys lie outside its sequence; their positions are `-outside .. -1`.
        groups: names to positions, empty groups left out.
        readers: how many of the first tokens read what is outside.
    """

    length: int
    outside: int
    groups: Mapping[str, tuple[int, ...]]
    readers: int

    def column(self, position: int) -> int:
        """The index of a position among the keys of its attention."""
        return position + self.outside if position < 0 else position


def groups_of(
    image: list[list[int]], length: int, bos: list[int], around: Collection[int] = ()
) -> dict[str, tuple[int, ...]]:
    """The groups of a sequence with these images; `around` are further tokens that are theirs."""
    tokens = {place for some in image for place in some}
    within = {place for some in image for place in range(some[0], some[-1] + 1)}.union(around)
    text = [place for place in range(length) if place not in tokens]
    groups = {"all": list(range(length)), "text": text, "last": [length - 1], "first": [0], "bos": bos}
    groups |= {"query": text, "question": text[:-1] if text[-1] == length - 1 else text}
    if image:
        query = [place for place in range(image[0][-1] + 1, length) if place not in within]
        groups |= {
            "image": sorted(tokens),
            "markup": sorted(within - tokens),
            "system": list(range(min(within))),
            "query": query,
            "question": [place for place in query if place != length - 1],
            **{f"image.{number}": some for number, some in enumerate(image)},
        }
    return {name: tuple(places) for name, places in groups.items() if places}


def is_image(reference: Reference, inputs: Mapping[str, Any]) -> list[bool]:
    """Which of the input ids are image tokens."""
    if "image_embeds_position_mask" in inputs:
        return torch.as_tensor(inputs["image_embeds_position_mask"])[0].bool().tolist()
    return (inputs["input_ids"][0] == reference.module.config.image_token_id).tolist()


def pictures_in(ids: list[int], image: list[bool], separator: int) -> list[list[int]]:
    """The positions of each picture's tokens."""
    found: list[list[int]] = [[]]
    for place, (token, marked) in enumerate(zip(ids, image, strict=True)):
        if marked:
            found[-1].append(place)
        elif token == separator:
            found.append([])
    return [some for some in found if some]


def places_of(
    reference: Reference, inputs: Mapping[str, Any], separator: int, special: Collection[int], answer: int = 0
) -> dict[str, Places]:
    """The tokens of every stage; the last `answer` tokens of the decoder are `generated`.

    `special` are the ids of special tokens, which are in no `question`.
    """
    ids, config = inputs["input_ids"][0].tolist(), reference.module.config
    text = config.get_text_config()
    image = pictures_in(ids, is_image(reference, inputs), separator)
    bos = [place for place, token in enumerate(ids) if token == text.bos_token_id and place < len(ids) - answer][:1]
    paths = reference.paths
    if paths.encoder is not None:
        groups = groups_of(image, len(ids), bos)
        groups["question"] = groups["query"]  # no token of an encoder predicts the answer
        found = {"encoder": plain(asking(groups, ids, special), len(ids))}
        found["decoder"] = behind_encoder(found["encoder"], inputs["decoder_input_ids"].shape[1], answer)
    elif paths.decoder.cross is not None:
        found = {"decoder": beside_pictures(config, ids, image, bos, inputs, special, answer)}
    else:
        theirs = torch.as_tensor(inputs.get("mm_token_type_ids", torch.zeros(1, 1)))[0] == 1
        around = theirs.nonzero().flatten().tolist() if image else []
        groups = asking(groups_of(image, len(ids) - answer, bos, around), ids, special)
        found = {"decoder": with_answer(groups, len(ids), answer)}
    pixels = inputs.get("pixel_values")
    if paths.qformer is not None and pixels is not None:
        found["qformer"] = queries(reference, inputs, config.num_query_tokens)
    if paths.resampler is not None and pixels is not None and len(image) == 1:
        latents = getattr(config, "latent_query_num", None) or config.perceiver_config.resampler_n_latents
        if pixels.dim() == 4 or pixels.shape[1] == 1:
            found["resampler"] = queries(reference, inputs, latents, own_keys=latents)
    return found


def asking(groups: Mapping[str, Sequence[int]], ids: list[int], special: Collection[int]) -> dict[str, Any]:
    """Groups whose question has no special tokens, empty groups left out."""
    question = tuple(place for place in groups.get("question", ()) if ids[place] not in special)
    return {name: places for name, places in {**groups, "question": question}.items() if places}


def plain(groups: dict[str, tuple[int, ...]], length: int) -> Places:
    return Places(length=length, outside=0, groups=groups, readers=length)


def with_answer(groups: dict[str, tuple[int, ...]], length: int, answer: int) -> Places:
    """Groups of a prompt of `length - answer` tokens, with an answer behind it."""
    generated = tuple(range(length - answer, length))
    grown = {name: groups[name] + generated for name in ("all", "text") if name in groups}
    return plain({**groups, **grown, **({"generated": generated} if generated else {})}, length)


def behind_encoder(encoder: Places, length: int, answer: int) -> Places:
    """The decoder of an encoder: it starts with tokens of its own, which are `markup`, and reads the encoder's under
    negative positions.
    """
    outside, prompt, groups = encoder.length, length - answer, dict[str, tuple[int, ...]]()
    for name, places in encoder.groups.items():
        if name in ("system", "markup", "query", "question", "text", "bos") or name.startswith("image"):
            groups[name] = tuple(place - outside for place in places)
    generated = tuple(range(prompt, length))
    groups["markup"] = groups.get("markup", ()) + tuple(range(prompt))
    groups["text"] = groups.get("text", ()) + tuple(range(length))
    groups |= {"all": tuple(range(length)), "last": (prompt - 1,), "first": (0,), "generated": generated}
    return Places(length=length, outside=outside, groups={n: p for n, p in groups.items() if p}, readers=length)


def beside_pictures(
    config: Any,
    ids: list[int],
    image: list[list[int]],
    bos: list[int],
    inputs: Mapping[str, Any],
    special: Collection[int],
    answer: int,
) -> Places:
    """A text whose pictures are keys of cross-attention only, every one with room for all its tiles (Mllama)."""
    marks = [place for some in image for place in some]
    vision, length = config.vision_config, len(ids)
    each = vision.max_num_tiles * ((vision.image_size // vision.patch_size) ** 2 + 1)
    outside = each * inputs["aspect_ratio_ids"].shape[1] if "aspect_ratio_ids" in inputs else 0
    groups = groups_of([], length - answer, bos)
    if marks:  # each stands in the text for a picture, and is text
        query = [place for place in range(marks[0], length - answer) if place not in marks]
        groups |= {
            "markup": tuple(marks),
            "system": tuple(range(marks[0])),
            "query": tuple(query),
            "question": tuple(place for place in query if place != length - answer - 1),
            "image": tuple(range(-outside, each * len(marks) - outside)),
        }
        for number in range(len(marks)):
            groups[f"image.{number}"] = tuple(range(each * number - outside, each * (number + 1) - outside))
    found = with_answer(asking(groups, ids, special), length, answer)
    return Places(length=length, outside=outside, groups=found.groups, readers=length)


def queries(reference: Reference, inputs: Mapping[str, Any], count: int, own_keys: int = 0) -> Places:
    """A stage whose sequence is learned queries (and a question), which read the patches of one picture."""
    question = int(inputs["qformer_attention_mask"].sum()) if "qformer_attention_mask" in inputs else 0
    pixels, patch = inputs["pixel_values"], reference.module.config.vision_config.patch_size
    squares = (pixels.shape[-2] // patch) * (pixels.shape[-1] // patch)
    outside = squares + own_keys + (0 if pixels.dim() == 5 else 1)  # CLS, except in Idefics2
    text, patches = tuple(range(count, count + question)), tuple(range(-outside, -own_keys))
    groups = {
        "query": tuple(range(count)),
        "all": tuple(range(count + question)),
        "first": (0,),
        "last": (count + question - 1,),
        "text": text,
        "question": text,
        "image": patches,
        "image.0": patches,
        "latents": tuple(range(-own_keys, 0)),  # the queries' own keys, if any, are the last
    }
    there = {name: places for name, places in groups.items() if places}
    return Places(length=count + question, outside=outside, groups=there, readers=count)
