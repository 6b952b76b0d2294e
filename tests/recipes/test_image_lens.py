"""Words that image tokens stand for: every number by plain hooks, what is known of `shapes`, and a planted word."""

from __future__ import annotations

import json

import interchanged
import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from float64 import LIMIT

import nnsight_vlm as nv
from nnsight_vlm.families import view_of
from nnsight_vlm.recipes import Thing, Work, image_lens, shape_truth
from nnsight_vlm.studies import token_words

QUIET = Work(progress=False)
QUESTION = "what is the red square ?"
ANSWERS = ("red", "dog", "red")
BANK = ["a big red square", "the dog sees the football", "a small star"]
MINE, OTHER = (0, 1, 5, 6), (18, 19, 23, 24)
"""Image tokens of the two objects, of 25."""


def square(x, y, side=8):
    mask = np.zeros((tiny.SIDE, tiny.SIDE), bool)
    mask[y : y + side, x : x + side] = True
    return mask


TRUTH = (Thing(name="red square", mask=square(0, 0)), Thing(name="dog", mask=square(12, 12)), Thing(name="star"))


@pytest.fixture
def prompts(sdpa):
    return [nv.encode(sdpa, QUESTION, tiny.picture(number)) for number in range(3)]


def measured(model, prompts, **options):
    given = {"truths": [TRUTH] * len(prompts), "answers": ANSWERS[: len(prompts)], "per_image": True, "work": QUIET}
    return image_lens(model, prompts, **{**given, **options})


def one(frame, **labels):
    chosen = frame.loc[np.logical_and.reduce([frame[name] == value for name, value in labels.items()])]
    assert len(chosen) == 1, f"{len(chosen)} rows are {labels}"
    return chosen.iloc[0]


def logits_of(model, state):
    """The logits of states as if their layer were the last."""
    module = view_of(model).module
    return module.lm_head(module.model.language_model.norm(state))


# by hand ------------------------------------------------------------------------------------------


@pytest.mark.float64
@torch.no_grad()
def test_every_share_of_the_logit_lens_is_that_of_plain_hooks(sdpa, prompts):
    rows, words = measured(sdpa, prompts, layers=[0, 2], top=12), {n: w for w, n in tiny.vocabulary().items()}
    seen = set()
    for image, prompt in enumerate(prompts):
        states = interchanged.states(sdpa, prompt)
        for layer in (0, 2):
            at_image = logits_of(sdpa, states[layer + 1][list(prompt["image"])])
            best = [[words[int(token)] for token in line] for line in at_image.topk(12).indices]
            here = {"image": image, "layer": layer, "lens": "logit"}
            sure = one(rows, **here, tokens="image")
            assert sure["probability"] == pytest.approx(float(at_image.softmax(-1).amax(-1).mean()), rel=LIMIT)
            assert [entry[:2] for entry in json.loads(sure["words"])] == [
                [position, line[0]] for position, line in zip(prompt["image"], best, strict=True)
            ]
            kinds = {"none": [], "other object's words": []}
            own_words = {MINE: {"red", "square"}, OTHER: {"dog"}}
            for control, of in (
                ("none", {MINE: MINE, OTHER: OTHER}),
                ("other object's words", {MINE: OTHER, OTHER: MINE}),
            ):
                for tokens, whose in of.items():
                    kinds[control].append(np.mean([bool(own_words[whose] & set(best[token])) for token in tokens]))
                found = rows[(rows["image"] == image) & (rows["layer"] == layer) & (rows["control"] == control)]
                assert found.loc[found["tokens"] == "object", "named"].tolist() == pytest.approx(kinds[control])
            seen |= set(kinds["none"])
            rest = [token for token in range(25) if token not in (*MINE, *OTHER)]
            expected = np.mean([bool({"red", "square", "dog"} & set(best[token])) for token in rest])
            assert one(rows, **here, tokens="other image tokens")["named"] == pytest.approx(expected)
    assert len(seen) > 1  # not the same everywhere


@pytest.mark.float64
@torch.no_grad()
def test_ranks_of_answers_are_counted_at_the_last_token(sdpa, prompts):
    rows = measured(sdpa, prompts, layers=[1, 3])
    for image, (prompt, answer) in enumerate(zip(prompts, ANSWERS, strict=True)):
        other = {"red": "dog", "dog": "red"}[answer]
        states = interchanged.states(sdpa, prompt)
        for layer in (1, 3):
            logits = logits_of(sdpa, states[layer + 1][-1])
            for control, word in (("none", answer), ("another answer", other)):
                rank = int((logits > logits[tiny.vocabulary()[word]]).sum())
                found = one(rows, image=image, layer=layer, tokens="last", control=control)
                assert found["rank"] == rank and found["log_rank"] == pytest.approx(np.log(rank + 1))
                assert found["first"] == (rank == 0)


@pytest.mark.float64
@torch.no_grad()
@pytest.mark.parametrize("at_once", [1, 2**23])
def test_the_contextual_lens_finds_the_nearest_states_of_the_texts(sdpa, prompts, at_once, monkeypatch):
    monkeypatch.setattr(token_words, "AT_ONCE", at_once)
    monkeypatch.setattr(token_words, "TEXTS", 2)
    rows = measured(sdpa, prompts[:2], layers=[1], top=2, bank=BANK)
    places = {0: ["a", "big", "red", "square"], 1: ["the", "dog", "sees", "the", "football"], 2: ["a", "small", "star"]}
    last = {1: [0, 1, 3, 4, 6]}  # sees and football are two tokens each
    words, states = [], []
    for number, text in enumerate(BANK):
        prompt = nv.encode(sdpa, text, chat=False)
        start = len(prompt["all"]) - (1 + last.get(number, range(len(places[number])))[-1])
        state = interchanged.states(sdpa, prompt)[2]
        words += places[number]
        states += [state[start + place] for place in last.get(number, range(len(places[number])))]
    bank = torch.stack(states)
    for image, prompt in enumerate(prompts[:2]):
        at_image = interchanged.states(sdpa, prompt)[2][list(prompt["image"])]
        alike = torch.cosine_similarity(at_image[:, None], bank[None], dim=-1)
        near = [list(dict.fromkeys(words[n] for n in line.argsort(descending=True)))[:2] for line in alike]
        found = one(rows, image=image, lens="contextual", tokens="image")
        assert found["similarity"] == pytest.approx(float(alike.amax(-1).mean()), rel=LIMIT)
        assert [entry[1] for entry in json.loads(found["words"])] == [line[0] for line in near]
        shares = [
            np.mean([bool(w & set(near[t])) for t in ts]) for ts, w in ((MINE, {"red", "square"}), (OTHER, {"dog"}))
        ]
        objects = rows[(rows["image"] == image) & (rows["lens"] == "contextual") & (rows["tokens"] == "object")]
        assert objects.loc[objects["control"] == "none", "named"].tolist() == pytest.approx(shares)


def test_a_word_in_pieces_counts_by_a_first_piece_of_three_letters(sdpa):
    texts = token_words.token_texts(sdpa, ["football", "red"])
    assert {"foot", "football", "red", "reds"} <= texts and "##ball" not in texts
    assert token_words.words_of("a Red circle", {}) == ("red", "circle")
    assert token_words.words_of("disc", {"disc": ("circle",)}) == ("circle",)


# a planted word, and controls that fail -----------------------------------------------------------


@pytest.fixture
def planted(sdpa, prompts):
    """The second layer writes the word `dog` onto the tokens of the dog."""
    module = view_of(sdpa).module
    decoder, row = module.model.language_model, tiny.vocabulary()["dog"]
    vector = 1000 * module.lm_head.weight[row].detach() / decoder.norm.weight.detach()

    def write(_, __, output):
        state = output.clone()
        if state.shape[1] > 25:  # not the texts of a bank
            state[:, [prompts[0]["image"][token] for token in OTHER]] = vector
        return state

    assert int(logits_of(sdpa, vector.detach()).argmax()) == row
    hook = decoder.layers[1].mlp.register_forward_hook(write)
    yield {"synonyms": {"dog": ["dog"], "red square": ["star"]}}
    hook.remove()


def test_a_planted_word_is_found_where_it_is_and_its_controls_fail(sdpa, prompts, planted):
    truths = [(Thing(name="dog", mask=square(12, 12)),)] * 3
    frame = measured(sdpa, prompts, truths=truths, layers=[0, 1], top=1, per_image=False)
    here = {"layer": 1, "lens": "logit", "measure": "named_first"}
    assert one(frame, **here, tokens="object", control="none")["mean"] == 1
    assert one(frame, **here, tokens="object", control="random patches")["mean"] < 0.2
    assert one(frame, **here, tokens="other image tokens", control="none")["mean"] < 0.2
    assert one(frame, **{**here, "layer": 0}, tokens="object", control="none")["mean"] < 0.5
    both = measured(sdpa, prompts, words=planted["synonyms"], layers=[1], top=1)
    others = both[(both["tokens"] == "object") & (both["control"] == "other object's words")]
    assert others["named"].tolist()[1::2] == [0, 0, 0]  # `star` on the dog's tokens


def test_synonyms_count_in_place_of_the_name(sdpa, prompts, planted):
    wrong = measured(sdpa, prompts[:1], words={"dog": ["bike"]}, layers=[1], top=1)
    assert wrong.loc[(wrong["tokens"] == "object") & (wrong["control"] == "none"), "named"].tolist()[1] == 0
    right = measured(sdpa, prompts[:1], words={"dog": ["bike", "dog"]}, layers=[1], top=1)
    assert right.loc[(right["tokens"] == "object") & (right["control"] == "none"), "named"].tolist()[1] == 1


# what is known of shapes --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def colors():
    model, prompts, answers, truths = nv.load("shapes"), [], [], []
    for scene in map(nv.shapes.scene, range(8)):
        for question in [each for each in nv.shapes.questions(scene) if each.family == "color"][:1]:
            prompts.append(nv.encode(model, question.text, scene.image))
            answers.append(question.answer)
            truths.append(shape_truth(scene))
    return image_lens(model, prompts, truths=truths, answers=answers, layers=[0, 9], work=QUIET)


def test_on_shapes_the_answer_is_first_in_the_end_and_another_never(colors):
    of_last = colors[(colors["tokens"] == "last") & (colors["measure"] == "first")].set_index(["layer", "control"])
    assert of_last.loc[(9, "none"), "mean"] == 1 and of_last.loc[(9, "none"), "low"] > 0.5
    assert of_last.loc[(0, "none"), "mean"] == 0 and of_last.loc[(9, "another answer"), "high"] < 0.5


def test_on_shapes_image_tokens_do_not_read_as_their_object(colors):
    rows = colors[(colors["tokens"] == "object") & (colors["measure"] == "named_first")].set_index(["layer", "control"])
    assert (rows["mean"] < 0.3).all()
    assert rows.loc[(9, "none"), "low"] <= rows.loc[(9, "random patches"), "mean"]


# the same elsewhere, and again --------------------------------------------------------------------


def test_a_simulated_server_gives_the_same(sdpa, prompts):
    here, there = (measured(sdpa, prompts[:2], layers=[1], bank=BANK[:2], remote=remote) for remote in (False, "local"))
    numbers = [name for name in here.columns if name != "words"]
    pd.testing.assert_frame_equal(here[numbers], there[numbers], rtol=1e-4, atol=1e-5)


def test_an_interrupted_study_goes_on_where_it_stopped(sdpa, prompts, tmp_path, monkeypatch):
    from nnsight_vlm.recipes import lens_words as module

    whole, calls, rows = measured(sdpa, prompts, layers=[1], bank=BANK), [], module.word_rows

    def counted(image, *arguments):
        calls.append(image)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return rows(image, *arguments)

    monkeypatch.setattr(module, "word_rows", counted)
    work = Work(journal=tmp_path, progress=False, chunk=1)
    with pytest.raises(KeyboardInterrupt):
        measured(sdpa, prompts, layers=[1], bank=BANK, work=work)
    resumed = measured(sdpa, prompts, layers=[1], bank=BANK, work=work)
    assert calls == [0, 1, 2, 2]
    pd.testing.assert_frame_equal(resumed, whole, check_dtype=False, rtol=1e-5, atol=1e-6)
    for options in ({"bank": BANK[:2]}, {"top": 4}, {"words": {"dog": ["bike"]}}):
        measured(sdpa, prompts[:1], layers=[1], **{"bank": BANK, **options}, work=work)
    assert len(calls) == 7  # other settings are other rows


def test_what_cannot_be_read_is_refused_before_anything_runs(sdpa, prompts, monkeypatch):
    ran = []
    hook = view_of(sdpa).module.register_forward_pre_hook(lambda *_: ran.append(1))
    bare = [(Thing(name="dog"),)] * 3
    wrong = [
        ({"words": {"cat": ["cat"]}}, "'cat'"),
        ({"words": {"dog": ["two words"]}}, "single words"),
        ({"words": {"dog": ["dog"]}, "truths": None}, "write truths="),
        ({"truths": bare}, "mask"),
        ({"truths": [(Thing(name="dog", mask=np.ones((3, 3), bool)),)] * 3}, "3"),
        ({"top": 10**6}, "words were asked for"),
        ({"layers": [40]}, "out of range"),
        ({"bank": []}, "bank"),
        ({"bank": ["?"]}, "no word"),
        ({"bank": "a red square"}, "bank"),
    ]
    try:
        for options, message in wrong:
            with pytest.raises(nv.SpecError, match=message):
                measured(sdpa, prompts, **options)
        monkeypatch.setattr(token_words, "MOST_BYTES", 1)
        with pytest.raises(nv.SpecError, match="give fewer texts"):
            measured(sdpa, prompts, bank=BANK)
    finally:
        hook.remove()
    assert not ran


def test_the_figure_paints_the_words_of_one_image(sdpa, prompts):
    rows = measured(sdpa, prompts, layers=[0, 2], bank=BANK)
    for lens in ("logit", "contextual"):
        axes = nv.plots.image_lens(rows, grid=prompts[1].grid(0), image=1, layer=2, lens=lens)
        found = json.loads(one(rows, image=1, layer=2, lens=lens, tokens="image")["words"])
        assert sorted(text.get_text() for text in axes.texts) == sorted(entry[1] for entry in found)
    with pytest.raises(nv.SpecError, match="no words of image=7"):
        nv.plots.image_lens(rows, grid=prompts[1].grid(0), image=7)
