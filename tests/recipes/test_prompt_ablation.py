"""Prompt ablation: replacing a dropped word by another changes nothing; controls and texts by hand."""

from __future__ import annotations

import pytest
import tiny
import torch

import nnsight_vlm as nv
from nnsight_vlm.recipes import Work, prompt_ablation
from nnsight_vlm.recipes.prompt_parts import cases_of, dropped

QUIET = Work(progress=False)


@pytest.fixture
def prompts(sdpa):
    return [nv.encode(sdpa, "describe the image .", tiny.picture(number)) for number in range(2)]


def test_nothing_depends_on_a_word_that_was_dropped(sdpa, prompts):
    place = prompts[0].find("describe")
    other = nv.encode(sdpa, "see the image .", tiny.picture(0))
    assert place == other.find("see")
    logits = [nv.run(sdpa, prompt, dropped(prompt, place)).logits for prompt in (prompts[0], other)]
    assert torch.equal(*logits)
    assert tiny.gap(*[nv.run(sdpa, prompt).logits for prompt in (prompts[0], other)]) > 0.01


def test_a_dropped_system_text_is_not_seen_by_the_image_either(sdpa, prompts):
    part = prompts[0]["system"][1:]
    read = nv.run(sdpa, prompts[0], dropped(prompts[0], part), reads=[nv.Attention(["image", "query"], part)]).reads[0]
    assert float(read.sum()) == 0


def test_random_parts_are_as_large_and_lie_elsewhere(prompts):
    by_labels = {
        (c.labels["part"], c.labels["access"], c.labels["control"]): c.intervention
        for c in cases_of(prompts[0], None, 0, 1)
    }
    drop, control = (by_labels["question", "direct", control] for control in ("none", "random positions"))
    assert len(drop.source) == len(control.source) == len(prompts[0]["question"]) == 4  # without "assistant :"
    assert not set(drop.source) & set(control.source)


def test_the_frame_is_tidy_and_equals_single_generations(sdpa, prompts):
    parts = {"request": "describe the image", "all words": [*prompts[0]["system"][1:], *prompts[0]["query"][:-1]]}
    rows = prompt_ablation(sdpa, prompts, parts=parts, max_new_tokens=5, per_image=True, work=QUIET)
    for image, prompt in enumerate(prompts):
        cut = dropped(prompt, prompt.find("describe the image")) | nv.Knockout("image", "generated")
        text = nv.generate(sdpa, prompt, cut, max_new_tokens=5).text
        chosen = rows[(rows["image"] == image) & (rows["part"] == "request") & (rows["access"] == "none")]
        assert chosen.loc[chosen["control"] == "none", "text"].item() == text
    tidy = prompt_ablation(sdpa, prompts, parts=parts, max_new_tokens=5, work=QUIET)
    assert list(tidy.columns) == ["part", "access", "control", "measure", "mean", "low", "high", "images"]
    assert {"nothing", "blind", "request", "all words"} == set(tidy["part"])


def test_the_last_token_and_words_that_are_not_there_cannot_be_dropped(sdpa, prompts):
    with pytest.raises(nv.SpecError, match="last token"):
        prompt_ablation(sdpa, prompts, parts={"end": "last"}, work=QUIET)
    with pytest.raises(nv.SpecError, match="is not in the prompt"):
        prompt_ablation(sdpa, prompts, parts={"cat": "cat"}, work=QUIET)
