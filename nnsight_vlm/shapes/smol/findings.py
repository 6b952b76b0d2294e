"""What a pretrained decoder makes of image tokens: ``python -m nnsight_vlm.shapes.smol.findings --scenes 100``.

Three things that `shapes` is too small to show are measured on `shapes-smol`, all in plain PyTorch:

- *Sinks*: does a token draw attention that it does not use, with large weights and small values (Xiao et al. 2024)?
- *Lens words*: which word is each image token nearest to, layer by layer, when it is read as an output (the logit lens
  of nostalgebraist 2020; on image tokens, Neo et al. 2025)?
- *Heads*: how much does the model lose without one head, and without many (Michel et al. 2019)?
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from ..embedded import checkpoint
from ..evaluate import prompt_text
from ..language import COLORS, FAMILIES, SHAPES, questions
from ..model import PATCH
from ..world import PIXELS, Scene
from .measure import first_scenes

SIDE = PIXELS // PATCH
COVERED = 0.5
"""The share of a patch that an object has to cover for the patch to count as the object's."""
SHORT = tuple(family for family in FAMILIES if family not in ("describe", "describe-short", "list"))
REMOVED = (0.1, 0.25, 0.5, 0.75)
"""Shares of the heads that are removed together."""
DRAWS = 5
"""How often a share of the heads is drawn at random."""


def object_at(scene: Scene) -> list[int]:
    """For every patch, the number of the object that covers most of it, or -1."""
    covered = np.stack([each.mask.reshape(SIDE, PATCH, SIDE, PATCH).mean((1, 3)).ravel() for each in scene.objects])
    return [int(column.argmax()) if column.max() > COVERED else -1 for column in covered.T]


def inputs_of(
    processor: LlavaProcessor, scenes: Sequence[Scene], asked: Sequence[str], device: torch.device
) -> dict[str, torch.Tensor]:
    """Questions about scenes as one batch, padded on the left."""
    texts = [prompt_text(processor, text) for text in asked]
    images = [each.image for each in scenes]
    return dict(processor(images=images, text=texts, padding=True, return_tensors="pt").to(device))


# --- sinks ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def sinks(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, scenes: Sequence[Scene]
) -> list[dict[str, float]]:
    """By layer, where the words after the image look, and how large the values are that they find there.

    Each line holds, as means over scenes, heads and the words after the image: the attention to the first token, to the
    whole image, and to the image's patches of objects as a share of that (`object_share`; their share of all patches is
    `object_area`). `first_value` is the length of the first token's value vector over the median length of all tokens';
    `first_state` the same of the residual stream, and `largest_state` of the image token with the longest state.

    The model has to compute attention eagerly.
    """
    values: list[torch.Tensor] = []
    hooks = [
        layer.self_attn.v_proj.register_forward_hook(lambda _module, _inputs, output: values.append(output[0].float()))
        for layer in model.model.language_model.layers
    ]
    rows: list[list[dict[str, float]]] = []
    for scene in scenes:
        values.clear()
        inputs = inputs_of(processor, [scene], ["describe the image."], model.device)
        output = model(**inputs, output_attentions=True, output_hidden_states=True)
        is_image = inputs["input_ids"][0] == model.config.image_token_id
        after = int(is_image.nonzero().max()) + 1
        is_object = torch.tensor([each >= 0 for each in object_at(scene)], device=model.device)
        lines = []
        for attention, value, state in zip(output.attentions, values, output.hidden_states, strict=False):
            weights = attention[0, :, after:].float().mean((0, 1))
            lengths, sizes = value.norm(dim=-1), state[0].float().norm(dim=-1)
            image = weights[is_image]
            lines.append(
                {
                    "first": float(weights[0]),
                    "image": float(image.sum()),
                    "largest": float(image.max()),
                    "object_share": float(image[is_object].sum() / image.sum()),
                    "object_area": float(is_object.float().mean()),
                    "first_value": float(lengths[0] / lengths.median()),
                    "first_state": float(sizes[0] / sizes.median()),
                    "largest_state": float(sizes[is_image].max() / sizes.median()),
                }
            )
        rows.append(lines)
    for hook in hooks:
        hook.remove()
    return [
        {"layer": number, **{name: round(float(np.mean([line[name] for line in lines])), 4) for name in lines[0]}}
        for number, lines in enumerate(zip(*rows, strict=True))
    ]


# --- lens words -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def lens_words(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, scenes: Sequence[Scene]
) -> list[dict[str, Any]]:
    """By layer, what the patches of objects read as: the likeliest words, and how often those of the object.

    `color` and `shape` are the shares of patches whose likeliest word is the object's colour or shape, of all words;
    `color of 6` and `shape of 5` those where it is the likeliest of the world's colours, or of its shapes.
    """
    words = [
        word.strip().lower()
        for word in processor.tokenizer.batch_decode([[n] for n in range(len(processor.tokenizer))])
    ]
    colors, shapes = ([processor.tokenizer(f" {word}")["input_ids"][0] for word in names] for names in (COLORS, SHAPES))
    decoder = model.model.language_model
    counts = [Counter[str]() for _ in range(len(decoder.layers) + 1)]
    on_objects, on_ground = ([Counter[str]() for _ in counts] for _ in range(2))
    for scene in scenes:
        inputs = inputs_of(processor, [scene], ["describe the image."], model.device)
        is_image = inputs["input_ids"][0] == model.config.image_token_id
        states = model(**inputs, output_hidden_states=True).hidden_states
        patches = object_at(scene)
        for number, state in enumerate(states):
            at_image = state[0, is_image]
            normed = at_image if number == len(states) - 1 else decoder.norm(at_image)  # the last one is normed already
            logits = model.lm_head(normed)
            likeliest, *among = (each.argmax(-1).tolist() for each in (logits, logits[:, colors], logits[:, shapes]))
            for token, patch, color, shape in zip(likeliest, patches, *among, strict=True):
                word = words[token]
                (on_ground if patch < 0 else on_objects)[number][word] += 1
                if patch >= 0:
                    found = scene.objects[patch]
                    counts[number]["patches"] += 1
                    counts[number]["color"] += word == found.color
                    counts[number]["shape"] += word == found.shape
                    counts[number]["color of 6"] += COLORS[color] == found.color
                    counts[number]["shape of 5"] += SHAPES[shape] == found.shape
    return [
        {
            "layer": number,
            **{
                name: round(count[name] / count["patches"], 4)
                for name in ("color", "shape", "color of 6", "shape of 5")
            },
            "on objects": [word for word, _ in on_objects[number].most_common(6)],
            "on the ground": [word for word, _ in on_ground[number].most_common(6)],
        }
        for number, count in enumerate(counts)
    ]


# --- heads ------------------------------------------------------------------------------------------------------------


@contextmanager
def without(model: LlavaForConditionalGeneration, heads: Sequence[tuple[int, int]]) -> Iterator[None]:
    """Inside the block these heads `(layer, head)` give zeros."""
    layers = model.model.language_model.layers
    width = layers[0].self_attn.head_dim
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)

    def cut(gone: list[int]) -> Any:
        def hook(_module: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            given = inputs[0].clone()
            for head in gone:
                given[..., head * width : (head + 1) * width] = 0
            return (given,)

        return hook

    hooks = [layers[layer].self_attn.o_proj.register_forward_pre_hook(cut(gone)) for layer, gone in by_layer.items()]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


@torch.no_grad()
def heads(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, scenes: Sequence[Scene], batch: int = 128
) -> dict[str, Any]:
    """What the model loses without one head, and without many: the log-probability and rank of answers' first tokens.

    One short question of every family is asked about every scene. Heads are then removed together: the least needed
    first (by what was lost without each alone), and as many at random.
    """
    encode = processor.tokenizer.backend_tokenizer.encode
    asked = [(each, question) for each in scenes for question in questions(each) if question.family in SHORT]
    firsts = torch.tensor([encode(question.answer).ids[0] for _, question in asked], device=model.device)
    batches = [
        inputs_of(processor, [each for each, _ in chunk], [question.text for _, question in chunk], model.device)
        for chunk in (asked[start : start + batch] for start in range(0, len(asked), batch))
    ]

    def measured(gone: Sequence[tuple[int, int]]) -> tuple[float, float]:
        with without(model, gone):
            logits = torch.cat([model(**inputs, logits_to_keep=1).logits[:, -1].float() for inputs in batches])
        said = logits.log_softmax(-1).gather(1, firsts[:, None]).mean()
        return float(said), float((logits.argmax(-1) == firsts).float().mean())

    config = model.config.text_config
    every = [(layer, head) for layer in range(config.num_hidden_layers) for head in range(config.num_attention_heads)]
    whole = measured([])
    alone = {each: measured([each]) for each in every}
    needed = sorted(every, key=lambda each: -alone[each][0])  # the least needed first
    rng = random.Random(0)
    together = []
    for share in REMOVED:
        count = round(share * len(every))
        drawn = [measured(rng.sample(every, count))[1] for _ in range(DRAWS)]
        together.append({"share": share, "least needed": measured(needed[:count])[1], "random": drawn})
    losses = [whole[0] - said for said, _ in alone.values()]
    return {
        "questions": len(asked),
        "heads": len(every),
        "log-probability": whole[0],
        "right": whole[1],
        "loss without one": {f"{layer}.{head}": round(whole[0] - alone[layer, head][0], 4) for layer, head in every},
        "heads that cost more than 0.1 nats alone": sum(loss > 0.1 for loss in losses),
        "heads that cost more than 0.01 nats alone": sum(loss > 0.01 for loss in losses),
        "together": together,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="shapes-smol", help="an embedded model")
    parser.add_argument("--scenes", type=int, default=100, help="how many scenes; heads are measured on a quarter")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args()
    folder = checkpoint(options.model)
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    model = model.eval().to(options.device)
    processor, scenes = AutoProcessor.from_pretrained(folder), first_scenes(options.scenes)
    found: dict[str, Any] = {"sinks": sinks(model, processor, scenes)}
    print(*found["sinks"], sep="\n", flush=True)
    found["lens words"] = lens_words(model, processor, scenes)
    print(*found["lens words"], sep="\n", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    found["heads"] = heads(model, processor, scenes[: max(1, len(scenes) // 4)])
    print({name: value for name, value in found["heads"].items() if name != "loss without one"}, flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
