"""Causal tracing: every number by hand, each way to corrupt a run, and what is known of `shapes`."""

from __future__ import annotations

import interchanged
import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from float64 import LIMIT

import nnsight_vlm as nv
from nnsight_vlm.recipes import Work, causal_trace, restored_states
from nnsight_vlm.report.study import color_pairs
from nnsight_vlm.studies.controls import rng_of

QUIET = Work(progress=False)
WORDS, OTHER_WORDS = "what is the red square ?", "what is the small dog ?"


@pytest.fixture
def pairs(sdpa):
    return interchanged.known_pairs(sdpa)


def one(frame, **labels):
    """The row with these labels."""
    chosen = frame.loc[np.logical_and.reduce([frame[name] == value for name, value in labels.items()])]
    assert len(chosen) == 1, f"{len(chosen)} rows are {labels}"
    return chosen.iloc[0]


def restored_by_hand(model, clean, corrupted, corruption, layers, positions, answer, against):
    """The measures of clean states in a corrupted run, by plain hooks."""
    given = interchanged.states(model, clean)
    values = {layer: {place: given[layer + 1][place] for place in positions} for layer in layers} | corruption
    runs = (
        interchanged.logits(model, corrupted, corruption),
        interchanged.logits(model, corrupted, values),
        interchanged.logits(model, clean),
    )
    found = interchanged.measures(*runs, against, answer)
    effect = float(runs[1].softmax(-1)[answer] - runs[0].softmax(-1)[answer])
    return {**found, "indirect_effect": effect}


@pytest.mark.float64
def test_another_picture_of_the_users_own_and_a_window_of_layers(sdpa, pairs):
    pair = pairs[0]
    options = {"answers": [pair.answer], "against": [pair.other_answer], "corrupt": [pair.other], "layers": [1]}
    rows = causal_trace(sdpa, [pair.prompt], window=2, groups=["image", "last"], per_image=True, work=QUIET, **options)
    for group in ("image", "last"):
        expected = restored_by_hand(
            sdpa, pair.prompt, pair.other, {}, [1, 2], pair.prompt[group], pair.answer, pair.other_answer
        )
        found = one(rows, group=group, control="none", layer=1)[list(expected)].astype(float).to_dict()
        assert found == pytest.approx(expected, rel=LIMIT, abs=LIMIT)


def noise(model, prompt, seed):
    """What enters the first layer at the image, with noise of three standard deviations, as the definition says."""
    image = list(prompt["image"])
    entering = interchanged.states(model, prompt)[0][image]
    drawn = rng_of(seed, 0).standard_normal(tuple(entering.shape)) * 3.0 * float(entering.std())
    return dict(zip(image, entering + torch.from_numpy(drawn), strict=True))


def mean(model, prompt, _):
    image = list(prompt["image"])
    return dict.fromkeys(image, interchanged.states(model, prompt)[0][image].mean(0))


@pytest.mark.float64
@pytest.mark.parametrize(("kind", "entering"), [("noise", noise), ("mean", mean)])
def test_corrupted_embeddings_of_the_image(sdpa, pairs, kind, entering):
    for pair in pairs:  # the first that counts: its answer is lost
        corruption = {-1: entering(sdpa, pair.prompt, 7)}
        other = int(interchanged.logits(sdpa, pair.prompt, corruption).argmax())
        if other != pair.answer:
            break
    options = {"answers": [pair.answer], "against": [other], "corrupt": kind, "seed": 7, "layers": [1]}
    rows = causal_trace(sdpa, [pair.prompt], groups=["image", "question"], per_image=True, work=QUIET, **options)
    for group in ("image", "question"):
        expected = restored_by_hand(
            sdpa, pair.prompt, pair.prompt, corruption, [1], pair.prompt[group], pair.answer, other
        )
        found = one(rows, group=group, control="none")[list(expected)].astype(float).to_dict()
        assert found == pytest.approx(expected, rel=LIMIT, abs=LIMIT)


@pytest.fixture
def worded(sdpa):
    """A question and the same with other words, which the model answers differently, about several pictures."""
    found = []
    for number in range(30):
        clean, other = (nv.encode(sdpa, text, tiny.picture(number)) for text in (WORDS, OTHER_WORDS))
        answers = [int(nv.run(sdpa, prompt).logits.argmax()) for prompt in (clean, other)]
        if answers[0] != answers[1]:
            found.append((clean, other, *answers))
        if len(found) == 3:
            break
    assert len(found) >= 2
    return found


@pytest.mark.float64
def test_other_words(sdpa, worded):
    clean, other, answer, against = worded[0]
    options = {"answers": [answer], "against": [against], "corrupt": [other], "layers": [0]}
    rows = causal_trace(sdpa, [clean], per_image=True, work=QUIET, **options)
    words = [*clean.find("red"), *clean.find("square")]
    places = {"words": words, "after words": range(words[-1] + 1, clean["last"][0]), "last": clean["last"]}
    assert set(rows["group"]) == {*places, "all"}
    for group, positions in places.items():
        expected = restored_by_hand(sdpa, clean, other, {}, [0], positions, answer, against)
        found = one(rows, group=group, control="none")[list(expected)].astype(float).to_dict()
        assert found == pytest.approx(expected, rel=LIMIT, abs=LIMIT)
    assert one(rows, group="all", control="none")["restoration"] == pytest.approx(1, rel=LIMIT)
    singly = causal_trace(sdpa, [clean], over="position", per_image=True, work=QUIET, **options)
    expected = restored_by_hand(sdpa, clean, other, {}, [0], clean.find("square"), answer, against)
    assert one(singly, position="-4 square", control="none")["restoration"] == pytest.approx(
        expected["restoration"], rel=LIMIT, abs=LIMIT
    )


def test_prompts_whose_answer_was_not_lost_do_not_count(sdpa, pairs):
    prompts, answers = [pair.prompt for pair in pairs[:2]], [pair.answer for pair in pairs[:2]]
    frame = causal_trace(sdpa, prompts, answers=answers, corrupt="noise", noise=1e-6, layers=[0], work=QUIET)
    assert (frame["images"] == 0).all() and frame["p"].isna().all()


# what is known of shapes ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shapes():
    return nv.load("shapes")


def mean_of(frame, group, layer, control="none"):
    return one(frame, group=group, layer=layer, control=control, measure="restoration")


def test_on_shapes_a_color_that_another_picture_took_comes_back_from_image_rows_and_later_from_the_last(shapes):
    pairs = color_pairs(shapes, first=0, count=8)
    options = {"answers": [pair.answer for pair in pairs], "corrupt": [pair.other for pair in pairs], "layers": [0, 9]}
    frame = causal_trace(shapes, [pair.prompt for pair in pairs], groups=["image", "last"], work=QUIET, **options)
    assert mean_of(frame, "image", 0)["low"] > 0.95 and mean_of(frame, "last", 9)["low"] > 0.95
    assert mean_of(frame, "image", 9)["high"] < 0.05 and mean_of(frame, "last", 0)["high"] < 0.05
    assert mean_of(frame, "image", 0)["survives"] and not mean_of(frame, "last", 0)["survives"]
    assert frame.attrs["against"] == "another image"
    for group, layer in (("image", 0), ("last", 9)):  # a third picture's states bring another color
        assert mean_of(frame, group, layer, "another image")["mean"] < 0.5


def test_on_shapes_the_last_token_has_read_the_constraint_word_after_three_layers(shapes):
    cases = []
    for seed in range(60):
        scene = nv.shapes.scene(seed)
        alone = [o for o in scene.objects if sum(other.shape == o.shape for other in scene.objects) == 1]
        if len(alone) >= 2 and alone[0].color != alone[1].color:
            asked = [nv.encode(shapes, f"what color is the {o.shape}?", scene.image) for o in alone[:2]]
            cases.append((*asked, alone[0].color))
    clean, other, answers = zip(*cases[:8], strict=True)
    frame = causal_trace(shapes, clean, answers=answers, corrupt=other, layers=[0, 3], work=QUIET)
    assert mean_of(frame, "last", 3)["low"] > 0.95 and mean_of(frame, "words", 3)["high"] < 0.05
    assert mean_of(frame, "words", 0)["mean"] > 0.3 > 0.05 > abs(mean_of(frame, "words", 0, "random positions")["mean"])
    assert frame.attrs["against"] == "random positions"


# the same elsewhere, and again ----------------------------------------------------------------------


@pytest.mark.parametrize("corrupt", ["another image", "noise"])
def test_a_simulated_server_gives_the_same(sdpa, pairs, corrupt):
    prompts, answers = [pair.prompt for pair in pairs[:3]], [pair.answer for pair in pairs[:3]]
    here, there = (
        causal_trace(
            sdpa, prompts, answers=answers, corrupt=corrupt, layers=[1], per_image=True, remote=remote, work=QUIET
        )
        for remote in (False, "local")
    )
    pd.testing.assert_frame_equal(here, there, rtol=1e-4, atol=1e-5)


def test_an_interrupted_trace_goes_on_where_it_stopped(sdpa, pairs, tmp_path, monkeypatch):
    prompts, options = (
        [pair.prompt for pair in pairs[:3]],
        {"answers": [pair.answer for pair in pairs[:3]], "layers": [1]},
    )
    whole = causal_trace(sdpa, prompts, work=QUIET, **options)
    work, calls, one_prompt = Work(journal=tmp_path, progress=False, chunk=1), [], restored_states._rows

    def rows(*arguments):
        calls.append(arguments[3])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return one_prompt(*arguments)

    monkeypatch.setattr(restored_states, "_rows", rows)
    with pytest.raises(KeyboardInterrupt):
        causal_trace(sdpa, prompts, work=work, **options)
    resumed = causal_trace(sdpa, prompts, work=work, **options)
    assert calls == [0, 1, 1, 2]
    pd.testing.assert_frame_equal(resumed, whole, rtol=1e-5, atol=1e-6)
    causal_trace(sdpa, prompts, work=work, seed=5, **options)
    assert len(calls) == 7


def test_a_table_of_questions_gives_what_its_prompts_give(sdpa, pairs):
    pictures = [pair.prompt.image(0) for pair in pairs[:3]]
    answers = [sdpa.tokenizer.decode([pair.answer]) for pair in pairs[:3]]
    table = pd.DataFrame({"image": pictures, "question": interchanged.QUESTION, "answer": answers})
    of_table = causal_trace(sdpa, items=table, layers=[1], work=QUIET)
    of_prompts = causal_trace(sdpa, [pair.prompt for pair in pairs[:3]], answers=answers, layers=[1], work=QUIET)
    pd.testing.assert_frame_equal(of_table, of_prompts, rtol=1e-5, atol=1e-6)


def test_lists_beside_a_table_follow_the_items_that_stay(sdpa, worded):
    """The second item has an answer of two tokens, so it is left out, and its entries with it."""
    (clean, other, answer, against), (last, last_other, last_answer, last_against) = worded[:2]
    say = sdpa.tokenizer.decode
    table = pd.DataFrame(
        {
            "image": [clean.image(0), tiny.picture(0), last.image(0)],
            "question": WORDS,
            "answer": [say([answer]), "red square", say([last_answer])],
        }
    )
    lists = {"corrupt": [other, clean, last_other], "against": [against, against, last_against], "layers": [0]}
    of_table = causal_trace(sdpa, items=nv.items(table, unusable="leave out"), work=QUIET, **lists)
    lists |= {"corrupt": [other, last_other], "against": [against, last_against]}
    of_prompts = causal_trace(sdpa, [clean, last], answers=[answer, last_answer], work=QUIET, **lists)
    pd.testing.assert_frame_equal(of_table, of_prompts, rtol=1e-5, atol=1e-6)
    right = causal_trace(sdpa, [clean, clean, last], answers=[answer, against, last_answer], only_correct=True,
                         corrupt=[other, clean, last_other], against=[against, answer, last_against], layers=[0],
                         work=QUIET)  # fmt: skip
    pd.testing.assert_frame_equal(right, of_prompts, rtol=1e-5, atol=1e-6)
    assert [each[0] for each in right.attrs["left_out"]] == [1]


def test_what_cannot_be_traced_is_refused(sdpa, pairs, worded):
    prompt, other, answer = pairs[0].prompt, pairs[0].other, pairs[0].answer
    longer = nv.encode(sdpa, "where is the dog ?", tiny.picture(0))
    both = nv.encode(sdpa, OTHER_WORDS, tiny.picture(39))
    wrong = [
        ({"corrupt": [prompt]}, "differs in nothing"),
        ({"corrupt": [longer]}, "as many tokens"),
        ({"corrupt": [both]}, "both picture and words"),
        ({"corrupt": [other, other]}, "one for each"),
        ({"corrupt": "blur"}, "write one of another image, noise, mean"),
        ({"noise": 2.0}, 'corrupt="noise"'),
        ({"corrupt": "noise", "noise": 0}, "noise=0"),
        ({"corrupt": "mean", "groups": ["words"]}, "no words are corrupted"),
        ({"corrupt": [other], "groups": ["words"]}, "no words were corrupted"),
        ({"corrupt": "mean", "window": 0}, "window=0"),
        ({"corrupt": "mean", "site": "head"}, "no site"),
        ({"corrupt": "mean", "against": [answer]}, "the answer of the corrupted run"),
        ({"corrupt": "another image"}, "two pictures or more"),
        ({"corrupt": [other], "against": [answer, answer]}, "2 answers for 1 prompts"),
    ]
    for options, message in wrong:
        with pytest.raises(nv.SpecError, match=message):
            causal_trace(sdpa, [prompt], answers=[answer], work=QUIET, **options)
    with pytest.raises(nv.SpecError, match="scores an answer"):
        causal_trace(sdpa, [prompt], work=QUIET)
    with pytest.raises(nv.SpecError, match="with different answers"):  # and no empty frame
        causal_trace(sdpa, [prompt, other], answers=[answer, answer], per_image=True, work=QUIET)
