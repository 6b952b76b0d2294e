"""What runs a model: one forward, answers, sweeps, proofs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

import nnsight_vlm as nv

from .calls import QUESTION, Entry, interventions, models, prompt_lists, prompts, reads, world
from .values import (
    ANSWERS,
    BYTES,
    COUNTS,
    DATASET,
    FLAGS,
    LAYERS,
    NAN,
    NO_LIST,
    NO_WHOLE,
    PATHS,
    REMOTES,
    THING,
    TOKENS,
    WHERE,
    WORDS,
)  # fmt: skip

PLACED = {"remote": REMOTES, "blocking": FLAGS, "path": [*PATHS, "a folder, where nothing is kept"]}
"""What is refused as the place where a call runs."""
IDS = [1.5, True, "</s>", -1, [1.5], [True], ["</s>"], THING, np.array([0.5]), torch.tensor(1.5), {}, [[1]], NAN]
LISTS = [3, True, "ab", [1.5], ["a"], [True], [-1], [10**6], THING, {"a": 1}, NAN, torch.tensor([0.5])]
FACTORS = [True, "1.1", 0, -1.0, NAN, [1.1], THING, {}]
WHOLE = [True, "2", -1, 1.5, [2], THING, {}, NAN]
SWITCH = ["yes", 1, [True], THING]

OPTIONS: dict[str, list[Any]] = {
    "eos_token_id": IDS,
    "pad_token_id": IDS,
    "bos_token_id": [*IDS, [1, 2]],
    "forced_bos_token_id": [*IDS, [1, 2]],
    "forced_eos_token_id": IDS,
    "suppress_tokens": LISTS,
    "begin_suppress_tokens": LISTS,
    "bad_words_ids": [*LISTS, [1], [[]], [["a"]], [[1.5]], [[-1]]],
    "sequence_bias": [3, True, "ab", [1.5], THING, {"a": 1}, {(1.5,): 2.0}, {(1,): "b"}, [[[1], 2.0, 3]], {(): 1.0}],
    "exponential_decay_length_penalty": [3, True, "ab", [1], [1, 2, 3], ["a", 1.0], [1, "b"], THING, {}],
    "repetition_penalty": FACTORS,
    "encoder_repetition_penalty": FACTORS,
    "no_repeat_ngram_size": WHOLE,
    "encoder_no_repeat_ngram_size": WHOLE,
    "min_new_tokens": WHOLE,
    "min_length": WHOLE,
    "renormalize_logits": SWITCH,
    "remove_invalid_values": SWITCH,
    "watermarking_config": [3, True, "ab", THING],
    "do_sample": SWITCH,
    "use_cache": SWITCH,
    "cache_implementation": ["unknown", 3, True, "paged", THING, ["static"]],
    "temperature": [2.0, -1.0],
    "generation_config": [3, "greedy", {}, {"num_beams": 2}, THING, GenerationConfig(num_beams=2), GenerationConfig],
    "num_beams": [2, "2"],
    "max_tokens": [3],
}
"""Options of generation, and what is refused as their values."""
SAMPLED: dict[str, list[Any]] = {
    "temperature": [0, -1.0, "hot", True, NAN, [1.0], THING],
    "top_k": [-1, 1.5, "3", True, [3], THING],
    "top_p": [-0.1, 1.1, "a", True, [0.5], THING, NAN],
    "min_p": [-0.1, 1.1, "a", True, [0.5], THING],
    "typical_p": [0, 1.1, "a", True, THING],
    "epsilon_cutoff": [-0.1, 1.0, "a", THING],
    "eta_cutoff": [-0.1, 1.0, "a", THING],
    "top_h": [-0.1, 1.1, "a", THING],
}
"""The same of options that matter where tokens are drawn."""


def options() -> list[dict[str, Any]]:
    """Options, one at a time."""
    greedy = [{name: value} for name, values in OPTIONS.items() for value in values]
    return greedy + [{"do_sample": True, name: value} for name, values in SAMPLED.items() for value in values]


def cases() -> list[Any]:
    """What is no list of cases."""
    here = world()
    wrong = [
        (here.prompt,),
        (here.prompt, here.cut, 3),
        (here.cut, here.prompt),
        (here.prompt, "image"),
        "ab",
        None,
        here.prompt,
    ]
    wrong += [(here.batch, None), (QUESTION, None), (here.foreign, None), (None, None), (here.prompt, [here.cut]), {}]
    return [*NO_LIST, (here.prompt, here.cut), here.prompt, [], *([each] for each in wrong), {here.prompt: here.cut}]


def variants() -> list[Any]:
    """What are no variants."""
    here = world()
    wrong = [["image"], [5], [[here.cut]], [nv.Knockout], [here.cut, nv.Attention("last", "image")], {"a": "image"}, {}]
    return [*NO_LIST, here.cut, [], here.prompt, *wrong]


def entries() -> dict[str, Entry]:
    """The table."""
    here = world()
    asked = {"model": models(), "prompt": prompts(), "intervention": interventions(), "empty": WORDS}
    usual = {"model": here.model, "prompt": here.prompt}
    cut = {**usual, "intervention": here.cut}
    short = {**cut, "max_new_tokens": 2}
    one = {**asked, "prompt": [*prompts(), here.batch]}
    means = {
        "model": models(),
        "where": [*WHERE, [], [6, 5]],
        "layers": [*LAYERS, [], [2, 1]],
        "site": [*WORDS, "mask", "logits"],
        "stage": [*WORDS, "encoder"],
        **PLACED,
    }
    lists = [each for each in prompt_lists() if each is not here.prompt.inputs]
    told = [each for each in ANSWERS if not isinstance(each, str) or each != "red square"]
    told = [each for each in told if not (isinstance(each, list) and each == [1])]
    told += [(), (1, 1.5), (1, -1), (1, None), [()], [None], ["zebra"], [[1]], [1, 1.5]]
    read, unnamed = nv.Attention("last", "image"), [each for each in reads() if not isinstance(each, dict)]
    return {
        "mean_state": Entry(
            nv.mean_state,
            nv.mean_state,
            {"model": here.model, "prompts": [here.prompt, here.twin], "where": "last", "layers": 1},
            {**means, "prompts": lists},
        ),
        "direction": Entry(
            nv.direction,
            nv.direction,
            {"model": here.model, "positives": [here.prompt], "negatives": [here.twin], "where": "last", "layers": 1},
            {**means, "positives": lists, "negatives": lists},
        ),
        "describe": Entry(nv.describe, nv.describe, {"model": here.model}, {"model": models()}),
        "run": Entry(
            nv.run,
            nv.run,
            cut,
            {**asked, "reads": reads(), "positions": [*WHERE[1:], [], [6, 5]], "grad": FLAGS, **PLACED},
        ),
        "generate": Entry(
            nv.generate, nv.generate, short, {**asked, "max_new_tokens": COUNTS, "options": options(), **PLACED}
        ),
        "generations": Entry(
            nv.generations,
            nv.generations,
            {"model": here.model, "cases": [(here.prompt, here.cut), (here.twin, None)], "max_new_tokens": 2},
            {
                "model": models(),
                "cases": cases(),
                "max_new_tokens": COUNTS,
                "rows": [each for each in COUNTS if each is not None],
                "memory": BYTES,
                "empty": WORDS,
                "options": options()[:40],
                **PLACED,
            },
            ["prompt"],
        ),
        "sweep": Entry(
            nv.sweep,
            nv.sweep,
            {**usual, "variants": [here.cut], "answer": 20},
            {
                "model": models(),
                "prompt": one["prompt"],
                "variants": variants(),
                "answer": told,
                "against": [20, *(each for each in told if each is not None), [21], ["red"]],
                "metric": [3, "metric", True, THING, [len], int, {}, DATASET],
                "reads": [*unnamed, {"a": 3}, {1: read}, {"a": [read]}, ["a"]],
                "execution": [*WORDS, "row"],
                "memory": BYTES,
                "empty": WORDS,
                **PLACED,
            },
        ),
        "lens": Entry(
            nv.lens,
            nv.lens,
            {**cut, "where": "last", "layers": 1},
            {
                **asked,
                "prompt": one["prompt"],
                "where": [*WHERE, [], [6, 5]],
                "layers": [*LAYERS, [], [2, 1]],
                "top": [*(each for each in COUNTS if each is not None), 10**6],
                "tokens": TOKENS,
                **PLACED,
            },
        ),
        "attribute": Entry(
            nv.attribute,
            nv.attribute,
            {"model": here.model, "clean": here.prompt, "corrupt": here.twin, "answer": 20},
            {
                "model": models(),
                "clean": one["prompt"],
                "corrupt": one["prompt"],
                "answer": [each for each in ANSWERS if each is not None],
                "against": [each for each in ANSWERS if each is not None],
                "metric": [
                    3,
                    True,
                    "logit",
                    THING,
                    {},
                    len,
                    lambda: 1,
                    lambda rows: rows,
                    lambda rows: float(rows[0, 0]),
                ],
                "at": [*WORDS, "mask", "logits", [], ["residual", "sky"], [None], "cross", DATASET],
                "where": ["sky", "", 5, True, 1.5, [5], [None], {}, THING, ["image", "sky"], NAN, "image.7", DATASET],
                "by": WORDS,
                "layers": [*LAYERS, [], [2, 1]],
                "steps": COUNTS,
                "exact": [*NO_WHOLE, -1],
                "positions": ["last", 5, "sky", [6, 5]],
                "memory": BYTES,
                **PLACED,
            },
            ["logits", "answer"],
        ),
        "saliency": Entry(
            nv.saliency,
            nv.saliency,
            {**cut, "answer": 20},
            {
                **asked,
                "prompt": one["prompt"],
                "answer": [each for each in ANSWERS if each is not None],
                "against": [each for each in ANSWERS if each is not None],
                "metric": [3, True, "logit", THING, {}, len, lambda: 1, lambda rows: rows],
                "at": WORDS,
                "how": WORDS,
                "image": [*NO_WHOLE, -1, 7],
                "positions": ["last", 5, "sky", [6, 5]],
                "memory": BYTES,
                **PLACED,
            },
            ["logits", "answer"],
        ),
        "verify": Entry(nv.verify, nv.verify, cut, {**asked, "pixels": FLAGS, **PLACED}),
        "install": Entry(nv.install, nv.install, cut, {**asked, "remote": REMOTES}),
        "reuse": Entry(nv.reuse, lambda model: nv.reuse(model).__enter__(), {"model": here.model}, {"model": models()}),
        "forget": Entry(nv.forget, nv.forget, {}, {}),
        "a batch": Entry(
            nv.run, nv.run, {**usual, "prompt": here.batch}, {"intervention": [[here.cut], [here.cut, "a"]]}
        ),
        "no answer yet": Entry(
            nv.run, nv.run, usual, {"reads": [nv.Attention("generated", "image"), [nv.Residual("generated"), DATASET]]}
        ),
    }
