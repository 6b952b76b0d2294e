"""A context without most of its image tokens: by plain hooks, on `shapes`, and with a planted token."""

from __future__ import annotations

import pandas as pd
import pytest
import tiny
import torch
import zoo
from float64 import LIMIT
from test_cut_caches import by_hooks

import nnsight_vlm as nv
from nnsight_vlm.families import view_of
from nnsight_vlm.prompts.next_turns import next_turn, question_of
from nnsight_vlm.recipes import Work, compressed_context
from nnsight_vlm.studies.controls import rng_of
from nnsight_vlm.studies.kept_tokens import best_of, count_of

QUIET = Work(progress=False)
QUESTION = "what is the red square ?"
KEEP = (0, 8, 100)
COUNTS = {0: 0, 8: 2, 100: 25}
LAYERS = range(tiny.LAYERS)
ALL = tuple(range(tiny.IMAGE_TOKENS))


@pytest.fixture
def prompts(sdpa):
    return [nv.encode(sdpa, QUESTION, tiny.picture(number)) for number in range(2)]


def measured(model, prompts, **options):
    usual = {"answers": ["red", "dog"][: len(prompts)], "request": None, "keep": KEEP, "timed": 0, "per_image": True}
    return compressed_context(model, prompts, **{**usual, "work": QUIET, **options})


def one(frame, **labels):
    chosen = frame[(frame[list(labels)] == pd.Series(labels)).all(axis=1)]
    assert len(chosen) == 1, f"{len(chosen)} rows are {labels}"
    return chosen.iloc[0]


# by hand ------------------------------------------------------------------------------------------


@torch.no_grad()
def attention_of(prompt, queries):
    """The mean over heads of what each query attends to, `[layer, query, image token]`, as eager attention says."""
    eager = view_of(tiny.load("eager", dtype=torch.float64)).module
    layers = eager(**prompt.inputs, output_attentions=True, use_cache=False).attentions
    return torch.stack([layer[0].mean(0)[list(queries)][:, list(prompt["image"])] for layer in layers])


@torch.no_grad()
def contributions_of(model, prompt, queries):
    """How long the vectors are that each image token adds to a query, all heads together."""
    module, found = view_of(model).module, []
    eager = view_of(tiny.load("eager", dtype=torch.float64)).module
    weights = eager(**prompt.inputs, output_attentions=True, use_cache=False).attentions
    layers = module.model.language_model.layers
    values = []
    hooks = [layer.self_attn.v_proj.register_forward_hook(lambda _, __, out: values.append(out[0])) for layer in layers]
    module(**prompt.inputs, use_cache=False)
    for hook in hooks:
        hook.remove()
    for layer, weight, value in zip(layers, weights, values, strict=True):
        heads = value.unflatten(-1, (tiny.KEY_VALUE_HEADS, -1)).repeat_interleave(tiny.HEADS // tiny.KEY_VALUE_HEADS, 1)
        mixed = weight[0][:, list(queries)].permute(1, 2, 0)[..., None] * heads  # [query, key, head, width]
        found.append(layer.self_attn.o_proj(mixed.flatten(-2)).norm(dim=-1)[:, list(prompt["image"])])
    return torch.stack(found)


@torch.no_grad()
def norms_of(model, prompt):
    """The norms of the image tokens as they enter the decoder."""
    module, kept = view_of(model).module, []
    hook = module.model.language_model.layers[0].register_forward_pre_hook(lambda _, given: kept.append(given[0][0]))
    module(**prompt.inputs, use_cache=False)
    hook.remove()
    return kept[0][list(prompt["image"])].norm(dim=-1)


def expect(row, logits, answer):
    logprobs = logits[-1].log_softmax(-1)
    assert row["logprob"] == pytest.approx(float(logprobs[tiny.vocabulary()[answer]]), rel=LIMIT, abs=LIMIT)
    assert row["accuracy"] == float(int(logprobs.argmax()) == tiny.vocabulary()[answer])


@pytest.mark.float64
def test_every_choice_is_that_of_plain_attention_and_its_answer_that_of_plain_hooks(sdpa, prompts):
    rows = measured(sdpa, prompts[:1])
    prompt = prompts[0]
    last = prompt.rows[0].stop - 1
    queries = [position for position in prompt["query"] if position < last]
    pass_ = nv.encode(sdpa, inputs={name: value[:, :last] if name != "pixel_values" else value
                                    for name, value in prompt.inputs.items()})  # fmt: skip
    attention = attention_of(prompt, queries).mean(1)
    scores = {
        "attention": list(attention),
        "fastv": [attention_of(prompt, [last - 1])[1, 0]] * tiny.LAYERS,
        "norm": [norms_of(sdpa, prompt)] * tiny.LAYERS,
        "contribution": list(contributions_of(sdpa, prompt, queries).mean(1)),
    }
    assert len({best_of(each, 2) for each in attention}) > 1  # layers keep different tokens
    for tokens, by_layer in scores.items():
        for percent, count in COUNTS.items():
            kept = [best_of(each, count) for each in by_layer]
            kept[: 2 if tokens == "fastv" else 0] = [ALL] * (2 if tokens == "fastv" else 0)
            row = one(rows, tokens=tokens, kept=percent, control="none")
            expect(row, by_hooks(sdpa, pass_, prompt, kept), "red")
            held = sum(last - tiny.IMAGE_TOKENS + len(each) for each in kept)
            assert row["bytes"] == held * 2 * tiny.KEY_VALUE_HEADS * (tiny.WIDTH // tiny.HEADS) * 8
    again = attention_of(prompt, [last])[:, 0]
    expect(
        one(rows, tokens="again", kept=8, control="none"),
        by_hooks(sdpa, pass_, prompt, [best_of(each, 2) for each in again]),
        "red",
    )


@pytest.mark.float64
def test_random_tokens_are_as_many_in_the_same_layers(sdpa, prompts):
    rows = measured(sdpa, prompts[:1], keep=[8, 40], seed=3)
    prompt, rng, last = prompts[0], rng_of(3, 0), prompts[0].rows[0].stop - 1
    pass_ = nv.encode(sdpa, inputs={name: value[:, :last] if name != "pixel_values" else value
                                    for name, value in prompt.inputs.items()})  # fmt: skip
    for percent in (8, 40):
        count = count_of(percent, tiny.IMAGE_TOKENS)
        draws = [tuple(sorted(rng.choice(ALL, count, replace=False).tolist())) for _ in range(1 + tiny.LAYERS)]
        drawn = {
            "attention": draws[1:],
            "contribution": draws[1:],
            "norm": draws[:1] * tiny.LAYERS,
            "fastv": [ALL, ALL, *draws[:1] * 2],
        }
        for tokens, kept in drawn.items():
            row = one(rows, tokens=tokens, kept=percent, control="random image tokens")
            expect(row, by_hooks(sdpa, pass_, prompt, kept), "red")
            assert row["bytes"] == one(rows, tokens=tokens, kept=percent, control="none")["bytes"]


@pytest.mark.float64
def test_without_a_cut_it_is_the_answer_of_the_whole_prompt(sdpa, prompts):
    rows = measured(sdpa, prompts)
    for image, answer in enumerate(["red", "dog"]):
        whole = nv.run(sdpa, prompts[image]).logits
        for tokens in ("attention", "fastv", "norm", "contribution", "again"):
            for control in ("none", "random image tokens"):
                expect(one(rows, image=image, tokens=tokens, kept=100, control=control), whole[None], answer)


# the conversation ---------------------------------------------------------------------------------


def test_the_question_follows_the_first_pass_as_the_chat_template_writes_it():
    model, scene = nv.load("shapes"), nv.shapes.scene(3)
    question, request = "what color is the square?", "describe the image."
    chat = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": request}]},
        {"role": "assistant", "content": "a picture."},
        {"role": "user", "content": question},
    ]
    asked = nv.encode(model, question, scene.image)
    first = nv.encode(model, request, scene.image)
    whole = first.grown(next_turn(model, question_of(asked), "a picture."))
    assert whole.rows[0].tokens == nv.encode(model, chat, scene.image).rows[0].tokens


def test_a_prompt_of_more_than_a_question_behind_its_picture_is_refused():
    model, scene = nv.load("shapes"), nv.shapes.scene(3)
    asked = [{"type": "image"}, {"type": "text", "text": "what color is the ring?"}]
    chat = [{"role": "system", "content": "you are careful."}, {"role": "user", "content": asked}]
    with pytest.raises(nv.SpecError, match="more than a picture and the question"):
        question_of(nv.encode(model, chat, scene.image))
    assert question_of(nv.encode(model, chat[1:], scene.image)) == "what color is the ring?"
    complete = "<image> user: what color is the ring? assistant:"
    with pytest.raises(nv.SpecError, match="it is not known which words"):
        question_of(nv.encode(model, complete, scene.image, chat=False))


@pytest.fixture(scope="module")
def colors():
    """The first colour question about each of some scenes."""
    model, prompts, answers = nv.load("shapes"), [], []
    for scene in map(nv.shapes.scene, range(12)):
        for question in [each for each in nv.shapes.questions(scene) if each.family == "color"][:1]:
            prompts.append(nv.encode(model, question.text, scene.image))
            answers.append(question.answer)
    return model, prompts, answers


def test_on_shapes_a_question_needs_image_tokens_and_random_ones_are_no_better(colors):
    model, prompts, answers = colors
    asked = {"tokens": ["contribution", "again"], "keep": [0, 2, 100], "timed": 0, "request": None, "work": QUIET}
    frame = compressed_context(model, prompts, answers=answers, **asked)
    right = frame[frame["measure"] == "accuracy"].set_index(["tokens", "control", "kept"])
    for tokens in ("contribution", "again"):
        assert right.loc[(tokens, "none", 0), "high"] < 0.7 and right.loc[(tokens, "none", 100), "mean"] == 1
        assert right.loc[(tokens, "none", 2), "low"] > right.loc[(tokens, "random image tokens", 2), "mean"]


def test_questions_about_one_picture_share_its_pass_and_others_do_not(colors):
    model, passes = colors[0], []
    texts = ["what color is the square?", "how many objects are there?"]
    prompts = [nv.encode(model, text, nv.shapes.scene(seed).image) for seed in (3, 4) for text in texts]
    tower = view_of(model).module.model.vision_tower
    hook = tower.register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        options = {"tokens": ["attention", "norm"], "keep": [0, 2, 100], "timed": 2, "work": QUIET}
        frame = compressed_context(model, prompts, answers=["red", "four", "red", "four"], **options)
    finally:
        hook.remove()
    assert len(passes) == 2
    speeds = frame[frame["measure"] == "tokens_per_second"]
    assert (speeds["mean"] > 0).all() and set(speeds["control"]) == {"none"} and len(speeds) == 6


# a planted token ----------------------------------------------------------------------------------


@pytest.fixture
def planted(sdpa, prompts):
    """The last layer attends to all tokens alike, and gets one word from one image token, nothing from any other."""
    module, at = view_of(sdpa).module, prompts[0]["image"][7]
    attention = module.model.language_model.layers[-1].self_attn
    wanted = 1e6 * module.lm_head.weight[tiny.vocabulary()["dog"]] / module.model.language_model.norm.weight
    heads = attention.o_proj.weight.unflatten(1, (tiny.KEY_VALUE_HEADS, tiny.HEADS // tiny.KEY_VALUE_HEADS, -1))
    value = torch.linalg.lstsq(heads.sum(2).flatten(1), wanted[:, None]).solution[:, 0]

    def write(_, __, output):
        changed = torch.zeros_like(output)
        if output.shape[1] > at:
            changed[:, at] = value
        return changed

    hooks = [attention.v_proj.register_forward_hook(write)]
    hooks.append(attention.q_proj.register_forward_hook(lambda _, __, output: torch.zeros_like(output)))
    yield
    for hook in hooks:
        hook.remove()


@pytest.mark.usefixtures("planted")
def test_the_token_that_holds_the_answer_is_kept_by_what_it_contributes_and_lost_by_chance(sdpa, prompts):
    said = [int(nv.run(sdpa, prompt).logits.argmax()) for prompt in prompts]
    frame = measured(sdpa, prompts, answers=said, keep=[0, 4, 100], tokens=["contribution"], seed=1, per_image=False)
    right = frame[frame["measure"] == "accuracy"].set_index(["control", "kept"])["mean"]
    whole = frame[frame["measure"] == "logprob"].set_index(["control", "kept"])["mean"]
    assert right[("none", 100)] == right[("none", 4)] == 1 and right[("none", 0)] == 0
    assert right[("random image tokens", 4)] == 0 and whole[("random image tokens", 4)] < whole[("none", 4)] - 1


# the same elsewhere, and again --------------------------------------------------------------------


def test_masks_and_a_simulated_server_give_what_the_cut_cache_gives(sdpa, prompts):
    here = measured(sdpa, prompts)
    for options in ({"cut": False}, {"remote": "local"}):
        there = measured(sdpa, prompts, **options)
        pd.testing.assert_frame_equal(here, there, rtol=1e-5, atol=1e-5, check_like=True)


def test_an_interrupted_study_goes_on_where_it_stopped(sdpa, prompts, tmp_path, monkeypatch):
    from nnsight_vlm.recipes import compressed_runs as module

    options = {"tokens": ["norm", "again"], "keep": [4, 100]}
    whole, calls, labels = measured(sdpa, prompts, **options), [], module.CutRuns.rows

    def counted(runs, question):
        calls.append(question.number)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return labels(runs, question)

    monkeypatch.setattr(module.CutRuns, "rows", counted)
    work = Work(journal=tmp_path, progress=False, chunk=1)
    with pytest.raises(KeyboardInterrupt):
        measured(sdpa, prompts, work=work, **options)
    resumed = measured(sdpa, prompts, work=work, **options)
    assert calls == [0, 1, 1]
    pd.testing.assert_frame_equal(resumed, whole, check_dtype=False, rtol=1e-6, atol=1e-6)
    for more in ({"keep": [8]}, {"tokens": ["norm"]}, {"fastv_layer": 1}, {"seed": 1}):
        measured(sdpa, prompts[:1], work=work, **{**options, **more})
    assert len(calls) == 7  # other settings are other rows


def test_what_cannot_be_compressed_is_refused_before_anything_runs(sdpa, prompts, forwards):
    text = nv.encode(sdpa, "see the dog")
    windows, mistral = tiny.load("sdpa", "mistral"), "cut=False"
    wrong = [
        (sdpa, prompts[:1], {"answers": None}, "answers="),
        (sdpa, [text], {}, "picture"),
        (sdpa, prompts, {"request": "describe the image"}, "chat template"),  # it has no turns of an assistant
        (sdpa, prompts, {"cut": True, "remote": "local"}, "server"),
        (sdpa, prompts, {"keep": [101]}, "keep"),
        (sdpa, prompts, {"fastv_layer": 4}, "fastv_layer"),
        (windows, [nv.encode(windows, QUESTION, tiny.picture(0))], {}, mistral),
    ]
    for model, some, options, message in wrong:
        with pytest.raises(nv.SpecError, match=message):
            measured(model, some, **options)
    assert not forwards
    masked = measured(windows, wrong[-1][1], cut=False, keep=[4, 100], tokens="norm")
    assert "bytes" not in masked and len(masked) == 4


@pytest.mark.parametrize("name", ["mllama", "florence2", "qwen3_5", "blip-2-t5"])
def test_families_from_whose_context_no_cut_takes_image_tokens_say_why(name):
    with pytest.raises(nv.SpecError, match="cannot be taken from the context"):
        compressed_context(zoo.load(name), [zoo.prompt(name)], answers=[5], request=None, cut=False, work=QUIET)
