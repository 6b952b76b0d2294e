"""Answers that hold tokens which stand for pixels: in cached generation words, and never taken for an image later."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo

import nnsight_vlm as nv
from nnsight_vlm.families import view_of

STEPS = 4


def load(name: str) -> Any:
    return zoo.load(name, zoo.ZOO[name].implementations[0])


def prompt_of(name: str) -> nv.Prompt:
    return zoo.prompt(name, zoo.ZOO[name].implementations[0])


def image_token(model: Any) -> int:
    """The id of the family's image token; of Kosmos-2, which has none, any word's."""
    return int(getattr(view_of(model).config, "image_token_id", None) or 5)


def saying(prompt: nv.Prompt, token: int) -> dict[str, Any]:
    """Options with which the model says a token first; what it says then depends on how it reads that one."""
    logits = nv.run(prompt.model, prompt).logits
    lead = float(logits.max() - logits[token]) + 0.01
    return {"sequence_bias": [[[token], lead]], "suppress_tokens": [view_of(prompt.model).vocab_size - 1]}


def greedy(prompt: nv.Prompt, options: dict[str, Any]) -> tuple[list[int], torch.Tensor]:
    """Transformers' own greedy answer and its logits, `[step, word]`."""
    view = view_of(prompt.model)
    plain = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False}
    asked = {"output_logits": True, "return_dict_in_generate": True}
    given = {**prompt.inputs, **view.family.generate_with, **plain, **asked, **options}
    with torch.no_grad():
        answer = view.module.generate(**given)
    return answer.sequences[0, -STEPS:].tolist(), torch.stack(answer.logits, dim=1)[0]


@pytest.mark.parametrize("name", zoo.ZOO)
def test_an_answer_that_holds_the_image_token_is_what_transformers_says_and_runs_as_it_was_said_or_not_at_all(name):
    model, prompt = load(name), prompt_of(name)
    token = image_token(model)
    if token >= view_of(model).vocab_size:
        pytest.skip("the image token has no logit, so no answer holds it")
    options = saying(prompt, token)
    tokens, logits = greedy(prompt, options)
    answer = nv.generate(model, prompt, max_new_tokens=STEPS, min_new_tokens=STEPS, **options)
    assert list(answer.tokens) == tokens and tokens[0] == token
    assert answer.prompt["image"] == prompt["image"] and len(answer.prompt["generated"]) == STEPS
    places = range(answer.prompt.rows[0].answer - 1, answer.prompt.width - 1)
    if view_of(model).pixel_tokens:
        with pytest.raises(nv.SpecError, match=rf"stands for pixels.*suppress_tokens=\[.*{token}"):
            nv.run(model, answer.prompt, positions=places)
    else:
        run = nv.run(model, answer.prompt, positions=places).logits
        torch.testing.assert_close(run, logits.float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("place", range(5))
def test_ovis2_computes_its_indicators_with_the_tower_where_there_are_pixels(place):
    model, prompt = load("ovis2"), prompt_of("ovis2")
    token = view_of(model).config.visual_indicator_token_ids[place]
    options = saying(prompt, token)
    answer = nv.generate(model, prompt, max_new_tokens=STEPS, min_new_tokens=STEPS, **options)
    assert list(answer.tokens) == greedy(prompt, options)[0] and answer.tokens[0] == token
    with pytest.raises(nv.SpecError, match=rf"\({token}\), which stands for pixels"):
        nv.run(model, answer.prompt)


CUT = nv.Knockout("image", "last", layers=1)
USES = {
    "run": lambda model, grown, _: nv.run(model, grown),
    "generate": lambda model, grown, _: nv.generate(model, grown, max_new_tokens=2),
    "generations": lambda model, grown, plain: nv.generations(model, [(plain, None), (grown, CUT)], max_new_tokens=2),
    "sweep": lambda model, grown, _: nv.sweep(model, grown, [CUT], answer=7),
    "verify": lambda model, grown, _: nv.verify(model, grown, CUT),
    "install": lambda model, grown, _: nv.install(model, grown, CUT),
    "stack": lambda _, grown, plain: nv.stack([plain, grown]),
    "patch": lambda model, grown, plain: nv.run(model, plain, nv.Patch("last", source=grown)),
    "ablation": lambda model, grown, plain: nv.run(model, plain, nv.Ablate("last", how="resample", source=grown)),
}


@pytest.mark.parametrize("use", USES)
def test_no_function_runs_a_forward_that_would_take_an_answer_for_an_image(use):
    model, prompt = load("llava"), prompt_of("llava")
    token = image_token(model)
    place = prompt.width + 1
    with pytest.raises(nv.SpecError, match=rf"\({token}\), which stands for pixels, at position {place}.*answer\[:1\]"):
        USES[use](model, prompt.grown([9, token, 8]), prompt)
    cut = prompt.grown([9, token, 8][:1])
    assert USES[use](model, cut, prompt) is not None  # what the message says to write


def words_of(name: str) -> nv.Prompt:
    """The end of the member's question, without a picture."""
    prompt = prompt_of(name)
    return nv.encode(prompt.model, inputs={"input_ids": prompt.inputs["input_ids"][:, -5:]})


@pytest.mark.parametrize("name", ["llava", "ovis2", "qwen2_vl", "gemma3n", "mllama", "chameleon", "idefics2"])
def test_without_pixels_such_a_token_is_a_word_and_stays_one_beside_pictures_of_others(name):
    prompt = words_of(name)
    model, token = prompt.model, image_token(prompt.model)
    options = saying(prompt, token)
    tokens, logits = greedy(prompt, options)
    grown = nv.generate(model, prompt, max_new_tokens=STEPS, min_new_tokens=STEPS, **options).prompt
    assert list(grown.rows[0].tokens[-STEPS:]) == tokens
    run = nv.run(model, grown, positions=range(grown.width - STEPS - 1, grown.width - 1)).logits
    torch.testing.assert_close(run, logits.float(), atol=1e-4, rtol=1e-4)
    beside = list(nv.generations(model, [(grown, None), (prompt_of(name), None)], max_new_tokens=2))
    assert beside[0].tokens == nv.generate(model, grown, max_new_tokens=2).tokens


def test_mllama_does_not_count_its_answers_as_images():
    model, prompt = load("mllama"), prompt_of("mllama")
    token = image_token(model)
    one, two = prompt.grown([token, 9, token]), prompt.grown([9])
    batch = nv.stack([one, two])
    alone = torch.stack([nv.run(model, each).logits for each in (one, two)])
    torch.testing.assert_close(nv.run(model, batch).logits, alone, atol=1e-4, rtol=1e-4)
    assert [len(row.images) for row in batch.rows] == [1, 1]
    assert torch.equal(nv.run(model, batch.row(0)).logits, nv.run(model, one).logits)


@pytest.mark.parametrize("name", ["llava", "ovis2", "chameleon", "mllama"])
def test_a_sweep_scores_the_tokens_that_no_forward_may_be_given_as_words(name):
    model, prompt = load(name), prompt_of(name)
    view = view_of(model)
    drawn = getattr(view.module.model, "vocabulary_mapping", None)
    with torch.no_grad():
        logits = view.module(**prompt.inputs).logits[0, -1].float()
    for token in {image_token(model), *view.pixel_tokens, *([] if drawn is None else drawn.image_tokens[:1])}:
        frame = nv.sweep(model, prompt, {"cut": nv.Knockout("image", "last", layers="all")}, answer=token)
        assert frame["clean_logit"][0] == pytest.approx(float(logits[token]), abs=1e-4)
        assert frame["clean_logprob"][0] == pytest.approx(float(logits.log_softmax(-1)[token]), abs=1e-4)


@pytest.mark.parametrize("name", ["llava", "janus", "ovis2", "mllama"])
def test_without_a_cache_such_a_token_ends_the_answer_in_words(name):
    model, prompt = load(name), prompt_of(name)
    options = saying(prompt, image_token(model)) | {"use_cache": False}
    whole = {"max_new_tokens": STEPS, "min_new_tokens": STEPS}
    if view_of(model).pixel_tokens:
        with pytest.raises(nv.SpecError, match="without a cache every token runs the whole sequence"):
            nv.generate(model, prompt, **whole, **options)
        last = nv.generate(model, prompt, max_new_tokens=1, min_new_tokens=1, **options)  # no forward reads it
        assert last.tokens == (image_token(model),)
        options["suppress_tokens"] = list(view_of(model).pixel_tokens)  # what the message says to write
    assert list(nv.generate(model, prompt, **whole, **options).tokens) == greedy(prompt, options)[0]


@pytest.mark.parametrize("mode", ["image", "text"])
def test_janus_is_not_asked_for_pictures(mode):
    with pytest.raises(nv.SpecError, match=r"drawing a picture.*leave it out"):
        nv.generate(load("janus"), prompt_of("janus"), generation_mode=mode)
