"""What interventions cost, as ratios to one plain forward of the same model in the same run.

Run: python tests/benchmarks/overhead.py [--threads 2] [--repeats 5]

The model is a LLaVA of 12 layers, 512 wide, with random weights, 576 image and 40 text tokens, float32.
Cases are interleaved; medians and the spread of the ratios (least, greatest) are printed. Every sweep meets a prompt
that was not swept before, but for the one that says so.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

import nnsight_vlm as nv

LAYERS, IMAGE, TEXT, WORDS = 12, 576, 40, 4000


def build():
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=336,
        patch_size=14,
    )
    text = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=8,
    )
    torch.manual_seed(0)
    module = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_id=5, image_seq_length=IMAGE)
    )
    model = nv.load(module.eval().requires_grad_(False))
    words = torch.randint(10, WORDS, (TEXT,))
    ids = torch.cat([words[:4], torch.full((IMAGE,), 5), words[4:]])[None]
    return model, nv.encode(model, inputs={"input_ids": ids, "pixel_values": torch.randn(1, 3, 336, 336)})


def cases(model, prompt):
    windows = [nv.Knockout("image", "text", layers=layer) for layer in range(LAYERS)]

    def plain():
        with torch.no_grad():
            model._module(**prompt.inputs, logits_to_keep=1)

    share = nv.Attention("query", "image", reduce="mass")
    return {
        "plain forward": plain,
        "run, clean": lambda: nv.run(model, prompt),
        "knockout in all layers": lambda: nv.run(model, prompt, nv.Knockout("image", "query")),
        "attention share of all query tokens, all layers": lambda: nv.run(model, prompt, reads=[share]),
        "sweep of 12 knockouts, packed": lambda: nv.sweep(model, prompt, windows, answer=7, execution="packed"),
        "sweep of 12 knockouts, rows": lambda: nv.sweep(model, prompt, windows, answer=7, execution="rows"),
        "sweep of 12 knockouts, one by one": lambda: nv.sweep(model, prompt, windows, answer=7, execution="single"),
    }


def measure(repeats):
    model, prompt = build()
    timed = cases(model, prompt)
    seconds = {name: [] for name in timed}
    for turn in range(repeats + 1):
        for name, case in timed.items():
            start = time.perf_counter()
            case()
            if turn:  # the first turn warms up
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    seconds = measure(options.repeats)
    base = seconds["plain forward"]
    print(
        f"{'case':50} {'median':>7} {'least':>7} {'most':>7}   of one plain forward ({statistics.median(base):.3f} s)"
    )
    for name, found in seconds.items():
        ratios = [taken / one for taken, one in zip(found, base, strict=True)]
        print(f"{name:50} {statistics.median(ratios):7.2f} {min(ratios):7.2f} {max(ratios):7.2f}")


if __name__ == "__main__":
    main()
