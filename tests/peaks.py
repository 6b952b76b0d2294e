"""What work really takes: each case runs in a fresh process, which prints its peak and what was expected of it.

The models are tiny and their prompts long, so that what is measured are the prompt's tokens and not the libraries.
`tests/test_peaks.py` runs some of the cases, `tests/benchmarks/budgets.py` all of them.

python tests/peaks.py CASE[=BYTES] ...
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

import torch
from measure import in_child, peak_extra
from models import SYSTEM, ModelSize, build_module, inputs_of

import nnsight_vlm as nv

LLAVA = ModelSize(layers=4, width=256, heads=8, side=32)
"""1,064 tokens: 32 x 32 of a picture, and 40 of text."""
PHOTO = ModelSize(kind="qwen2_5_vl", layers=2, width=64, heads=2, side=32)
"""A picture of 64 x 64 patches, whose tower is wider than the decoder."""
LONG = ModelSize(layers=4, width=256, heads=8, side=66)
"""4,396 tokens, as a few tiled pictures make them."""
PER_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids")
CUTS = [nv.Knockout("image", "query", layers=layer) for layer in range(LLAVA.layers)]
IMAGES = [nv.Ablate("image", layers=layer) for layer in range(LLAVA.layers)]
HEADS = [nv.Knockout("image", "query", layers=layer, heads=[0]) for layer in range(LLAVA.layers)]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Some work.

    Attributes:
        words: what is done.
        work: does it, given the model, its prompts and a budget.
        size: of the model and its prompts.
        attention: how it attends.
        prompts: how many; they differ in their pictures.
        budget: in MiB; 0 for work without one.
    """

    words: str
    work: Callable[[Any, list[nv.Prompt], int | None], Any]
    size: ModelSize = LLAVA
    attention: str = "sdpa"
    prompts: int = 1
    budget: int = 0


def _sweep(variants: list[nv.Intervention], execution: str = "auto") -> Callable[..., Any]:
    return lambda model, prompts, memory: nv.sweep(
        model, prompts[0], variants, answer=77, execution=execution, memory=memory
    )


def _answers(conditions: list[nv.Intervention | None]) -> Callable[..., Any]:
    def work(model: Any, prompts: list[nv.Prompt], memory: int | None) -> Any:
        cases = [(prompt, condition) for prompt in prompts for condition in conditions]
        return list(nv.generations(model, cases, max_new_tokens=4, memory=memory))

    return work


def _windows(model: Any, prompts: list[nv.Prompt], memory: int | None) -> Any:
    work = nv.recipes.Work(progress=False, memory=memory)
    return nv.recipes.knockout_windows(
        model, prompts, routes=["image->query"], max_new_tokens=4, objects=nv.recipes.content_words, work=work
    )


def _run(intervention: nv.Intervention | None = None, **how: Any) -> Callable[..., Any]:
    return lambda model, prompts, _: nv.run(model, prompts[0], intervention, **how)


CASES: Mapping[str, Case] = {
    "run": Case(words="a clean run", work=_run()),
    "run-eager": Case(words="a clean run", work=_run(), attention="eager"),
    "run-logits": Case(words="a clean run, logits of all places", work=_run(positions="all")),
    "photo": Case(words="a clean run of a large picture", work=_run(), size=PHOTO),
    "photo-eager": Case(words="a clean run of a large picture", work=_run(), size=PHOTO, attention="eager"),
    "packed": Case(words="64 variants, packed", work=_sweep(CUTS * 16), budget=40),
    "packed-eager": Case(words="64 variants, packed", work=_sweep(CUTS * 16), attention="eager", budget=120),
    "packed-heads": Case(words="64 variants of some heads, packed", work=_sweep(HEADS * 16), budget=40),
    "rows": Case(words="16 variants, as rows", work=_sweep(CUTS * 4, "rows"), budget=40),
    "images": Case(words="16 variants that change the image", work=_sweep(IMAGES * 4), budget=70),
    "answers": Case(words="answers to a prompt under 32 conditions", work=_answers(CUTS * 8), budget=50),
    "answers-eager": Case(
        words="answers to a prompt under 32 conditions", work=_answers(CUTS * 8), attention="eager", budget=150
    ),
    "pictures": Case(words="answers to 8 pictures", work=_answers([None]), prompts=8, budget=70),
    "pictures-eager": Case(
        words="answers to 8 pictures", work=_answers([None]), prompts=8, attention="eager", budget=210
    ),
    "photos": Case(words="answers to 4 large pictures", work=_answers([None]), prompts=4, size=PHOTO, budget=80),
    "windows": Case(words="`knockout_windows` of 2 pictures", work=_windows, prompts=2, budget=60),
    "windows-long": Case(words="`knockout_windows` of 1 long prompt", work=_windows, size=LONG, budget=260),
    "windows-eager": Case(
        words="`knockout_windows` of 2 pictures", work=_windows, prompts=2, attention="eager", budget=300
    ),
}


def loaded(case: Case) -> tuple[Any, list[nv.Prompt]]:
    """The model and its prompts."""
    module = build_module(case.size)
    module.set_attn_implementation(case.attention)
    model = nv.load(module)
    return model, [nv.encode(model, inputs=inputs_of(case.size, seed)) for seed in range(case.prompts)]


def measured(name: str, memory: int | None) -> dict[str, Any]:
    """The peak of a case beyond what was there before, and what one run of its prompt is expected to take."""
    from nnsight_vlm.execution.footprint import footprint_of

    torch.set_num_threads(1)
    case = CASES[name]
    model, prompts = loaded(case)
    text = {name: value[:, :SYSTEM] for name, value in inputs_of(case.size).items() if name in PER_TOKEN}
    short = nv.encode(model, inputs=text)
    nv.sweep(model, short, [nv.Knockout([1], "last", layers=0)], answer=77)  # what a process allocates only once
    nv.generate(model, short, max_new_tokens=2)
    expected = footprint_of(model, prompts[0])
    answer: dict[str, Any] = {"run": expected.total, "parts": expected._asdict(), "tokens": prompts[0].width}
    refused = []

    def work() -> None:
        try:
            case.work(model, prompts, memory)
        except nv.SpecError as error:
            refused.append(str(error))

    start = time.process_time()
    peak = peak_extra(work)
    return {**answer, "peak": peak, "seconds": time.process_time() - start, "refused": refused[0] if refused else ""}


def in_process(*asked: tuple[str, int | None]) -> list[dict[str, Any]]:
    """The same for several cases, each with its budget, one after the other in a fresh process."""
    return list(in_child(Path(__file__), [f"{name}={memory or ''}" for name, memory in asked]))


def _asked(argument: str) -> dict[str, Any]:
    name, _, memory = argument.partition("=")
    return measured(name, int(memory) if memory else None)


if __name__ == "__main__":
    print(json.dumps([_asked(argument) for argument in sys.argv[1:]]))
