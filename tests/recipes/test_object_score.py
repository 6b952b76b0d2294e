"""What descriptions name: scores counted by hand, a judge and its transcripts, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

import nnsight_vlm as nv
from nnsight_vlm.recipes import Thing, Work, coco_objects, object_names, object_score, shape_truth, vocabulary
from nnsight_vlm.recipes.said_means import decisions, kappa
from nnsight_vlm.shapes import parse, score

QUIET = Work(progress=False)
STEPS = 6
SCENES = 8


def named(*names):
    return [Thing(name=name) for name in names]


def is_named(text, names):
    """A judge that looks for the names themselves."""
    return [name for name in names if name in text]


@pytest.fixture(scope="module")
def shapes():
    return nv.load("shapes")


@pytest.fixture(scope="module")
def asked(shapes):
    scenes = [nv.shapes.scene(number) for number in range(SCENES)]
    prompts = [nv.encode(shapes, "describe the image .", scene.image) for scene in scenes]
    return scenes, prompts, [shape_truth(scene) for scene in scenes]


def value(frame, measure, scorer="names", control="none"):
    rows = frame[(frame["measure"] == measure) & (frame["scorer"] == scorer) & (frame["control"] == control)]
    assert len(rows) == 1
    return rows.iloc[0]


# counted by hand ----------------------------------------------------------------------------------


def greedy(model, prompt, steps):
    """The words of a description, from the bare module without a cache, one token after the other."""
    given = {name: torch.as_tensor(part) for name, part in prompt.inputs.items()}
    ids, module, words = given.pop("input_ids"), model._module, []
    given.pop("attention_mask", None)
    known = {number: token for token, number in tiny.vocabulary().items()}
    with torch.no_grad():
        for _ in range(steps):
            token = int(module(input_ids=ids, **given, use_cache=False).logits[0, -1].argmax())
            if known[token] == "</s>":
                break
            ids = torch.cat([ids, torch.tensor([[token]])], 1)
            words.append(known[token])
    return words


@pytest.mark.float64
def test_scores_are_those_counted_by_hand_on_a_tiny_model(sdpa):
    prompts = [nv.encode(sdpa, "describe the image .", tiny.picture(number)) for number in range(3)]
    words = [greedy(sdpa, prompt, STEPS) for prompt in prompts]
    every = list(dict.fromkeys(word for each in words for word in each if word.isalpha()))
    truths = [every[:2], every[1:3], [*every[:1], "lamp"]]
    # words that deny are names here, so nothing may be taken for a denial
    names = object_names([*every, "lamp"], negation=False)
    frame = object_score(
        sdpa,
        prompts,
        truths=[named(*each) for each in truths],
        objects=names,
        max_new_tokens=STEPS,
        work=QUIET,
        per_image=True,
    )
    for image, (said, truth) in enumerate(zip(words, truths, strict=True)):
        row = frame[(frame["image"] == image) & (frame["control"] == "none")].iloc[0]
        whole = " ".join(said).replace(" ##", "").split()
        singles = [word[:-1] if word.endswith("s") and not word.endswith("ss") else word for word in whole]
        found = {word for word in [*whole, *singles] if word in every}
        hits = len(found & set(truth))
        assert row["precision"] == hits / len(found) and row["recall"] == hits / len(set(truth))
        assert row["f1"] == 2 * hits / (len(found) + len(set(truth)))
        assert row["hallucinated"] == (len(found) - hits) / len(found) and row["objects"] == len(found)
        assert row["chair_s"] == float(hits < len(found)) and row["absent"] == len(found) - hits


def scored(monkeypatch, sdpa, texts, truths, **more):
    """The frame of a model that says these texts."""
    from nnsight_vlm.recipes import said_objects

    def saying(_model, wanted, **_):
        return [type("Said", (), {"text": texts[prompts.index(prompt)]}) for prompt, _ in wanted]

    prompts = [nv.encode(sdpa, "describe the image .", tiny.picture(number)) for number in range(len(texts))]
    monkeypatch.setattr(said_objects, "generations", saying)
    return object_score(sdpa, prompts, truths=[named(*each) for each in truths], **{"work": QUIET, **more})


TEXTS = ["Two men with a puppy; no cat.", "a sofa and a bench", "Nothing."]
THINGS = [["person", "person", "cat"], ["couch", "man"], ["dog"]]


def test_synonyms_denials_and_chair_follow_from_the_words(monkeypatch, sdpa):
    frame = scored(monkeypatch, sdpa, TEXTS, THINGS)
    # named: person, dog | couch, bench | nothing;  there: person, cat | couch, person | dog
    means = {measure: value(frame, measure)["mean"] for measure in ("precision", "recall", "f1", "objects", "chair_s")}
    assert means == {"precision": 1 / 3, "recall": 1 / 3, "f1": 1 / 3, "objects": 4 / 3, "chair_s": 2 / 3}
    assert value(frame, "hallucinated")["mean"] == 0.5 and value(frame, "hallucinated")["images"] == 2
    assert value(frame, "chair_i")["mean"] == 0.5


def test_amounts_count_where_objects_count(monkeypatch, sdpa):
    counting = object_names({"person": ["man"], "dog": ["puppy"], "cat": [], "couch": ["sofa"]}, counts=True)
    frame = scored(monkeypatch, sdpa, TEXTS, THINGS, objects=counting, per_image=True)
    first = frame[(frame["image"] == 0) & (frame["control"] == "none")].iloc[0]
    assert first["said"] == "person, person, dog" and first["not_there"] == "dog"
    assert (first["precision"], first["recall"]) == (2 / 3, 2 / 3)
    once = scored(monkeypatch, sdpa, TEXTS, THINGS, objects=counting, counts=False, per_image=True).iloc[0]
    assert (once["precision"], once["recall"], once["said"]) == (1 / 2, 1 / 2, "person, dog")


def test_pictures_without_known_objects_have_no_precision_but_may_be_hallucinated_in(monkeypatch, sdpa):
    frame = scored(monkeypatch, sdpa, ["a dog", "a cat"], [[], ["cat"]], per_image=True)
    first = frame[(frame["image"] == 0) & (frame["control"] == "none")].iloc[0]
    assert np.isnan(first["precision"]) and first["hallucinated"] == 1 and first["chair_s"] == 1


def test_agreement_and_kappa_are_counted_over_all_names_asked_about(monkeypatch, sdpa):
    names = object_names(["dog", "cat", "bird", "cow"])
    answers = {"a dog and a cat": ["dog"], "a bird": ["bird"]}
    frame = scored(
        monkeypatch,
        sdpa,
        list(answers),
        [["dog"], ["bird"]],
        objects=names,
        judge=lambda text, _: answers[text],
    )
    both, first, second, neither = 2, 1, 0, 5
    chance = ((both + first) * (both + second) + (neither + second) * (neither + first)) / 64
    assert value(frame, "agree", "names and judge")["mean"] == 7 / 8
    assert value(frame, "kappa", "names and judge")["mean"] == pytest.approx((7 / 8 - chance) / (1 - chance))
    assert value(frame, "precision", "judge")["mean"] == 1 and value(frame, "precision")["mean"] == 0.75


def test_kappa_is_that_of_a_known_table_and_unknown_where_chance_decides():
    assert float(kappa({"both": 45.0, "first_only": 15.0, "second_only": 25.0, "neither": 15.0})) == pytest.approx(
        (0.60 - 0.54) / (1 - 0.54)
    )
    assert np.isnan(kappa(decisions([], [], ["dog", "cat"])))


# what is known of the synthetic world -------------------------------------------------------------


def test_on_shapes_the_scores_are_the_exact_ones_and_another_picture_fails(shapes, asked):
    scenes, prompts, truths = asked
    rows = object_score(shapes, prompts, truths=truths, work=QUIET, per_image=True)
    own = rows[rows["control"] == "none"].set_index("image")
    for number, scene in enumerate(scenes):
        exact = score(own["text"][number], scene)
        found = own.loc[number, ["precision", "recall", "f1"]]
        assert tuple(found) == (exact.precision, exact.recall, exact.f1)
    frame = object_score(shapes, prompts, truths=truths, work=QUIET)
    assert value(frame, "f1")["low"] > value(frame, "f1", control="another image")["high"]
    assert value(frame, "hallucinated")["high"] < value(frame, "hallucinated", control="another image")["low"]


def test_an_object_that_is_taken_out_of_the_truth_is_found_as_hallucinated(shapes, asked):
    _, prompts, truths = asked
    rows = object_score(
        shapes, prompts[:3], truths=[truth[1:] for truth in truths[:3]], objects=nv.recipes.shape_objects, work=QUIET
    )
    number = sum(len(truth) for truth in truths[:3])
    assert value(rows, "chair_i")["mean"] == pytest.approx(3 / number) and value(rows, "chair_s")["mean"] == 1


def test_a_name_that_is_said_twice_counts_once_as_wrong_in_the_exact_scorer(monkeypatch, sdpa):
    text = "a red circle, a red circle and a blue ring."
    truth = [["red circle", "blue ring"]]
    frame = scored(monkeypatch, sdpa, [text], truth, objects=nv.recipes.shape_objects, per_image=True)
    exact = score(text, "red circle, blue ring.")
    assert frame["precision"][0] == exact.precision == 2 / 3
    assert Counter(frame["said"][0].split(", ")) == Counter(f"{each.color} {each.shape}" for each in parse(text))


def test_on_a_server_and_from_items_the_frame_is_the_same(shapes, asked, tmp_path):
    _, prompts, truths = asked
    here = object_score(shapes, prompts[:3], truths=truths[:3], judge=is_named, work=QUIET)
    there = object_score(shapes, prompts[:3], truths=truths[:3], judge=is_named, work=QUIET, remote="local")
    pd.testing.assert_frame_equal(here, there)
    rows = []
    for number in range(3):
        scene = nv.shapes.scene(number)
        boxes = [
            {
                "label": f"{each.color} {each.shape}",
                "box": [*np.argwhere(each.mask).min(0)[::-1].tolist(), *box_end(each)],
            }
            for each in scene.objects
        ]
        rows.append({"image": scene.image, "question": "describe the image .", "boxes": boxes})
    pd.testing.assert_frame_equal(here, object_score(shapes, items=rows, judge=is_named, work=QUIET))


def box_end(each):
    return (np.argwhere(each.mask).max(0)[::-1] + 1).tolist()


# the judge and its transcripts --------------------------------------------------------------------


def test_every_call_of_a_judge_is_kept_and_no_question_is_asked_twice(monkeypatch, sdpa, tmp_path):
    monkeypatch.setattr(sys.modules[__name__], "CALLS", tmp_path / "calls")
    texts, truths = ["a dog", "a cat", "a dog"], [["dog"], ["dog"], ["cat"]]
    given = {"objects": object_names(["dog", "cat"]), "transcripts": tmp_path / "kept", "judge": logged}
    first = scored(monkeypatch, sdpa, texts, truths, **given)
    assert (tmp_path / "calls").read_text() == "a dog\na cat\n"
    again = scored(monkeypatch, sdpa, texts, truths, **given)
    pd.testing.assert_frame_equal(first, again)
    assert (tmp_path / "calls").read_text() == "a dog\na cat\n"
    lines = [json.loads(file.read_text()) for file in (tmp_path / "kept").glob("*.jsonl")]
    assert {line["text"]: line["said"] for line in lines} == {"a dog": ["dog"], "a cat": ["cat"]}
    assert all(line["names"] == ["dog", "cat"] for line in lines)
    scored(monkeypatch, sdpa, texts, truths, **{**given, "judge": is_named})  # another judge has other transcripts
    assert len(list((tmp_path / "kept").iterdir())) == 4


CALLS = None


def logged(text, names):
    """A judge that writes down what it was asked."""
    with CALLS.open("a") as file:
        file.write(f"{text}\n")
    return [name for name in names if name in text]


def test_a_broken_transcript_is_asked_for_again(monkeypatch, sdpa, tmp_path):
    given = {"objects": object_names(["dog"]), "transcripts": tmp_path, "judge": is_named}
    whole = scored(monkeypatch, sdpa, ["a dog"], [["dog"]], **given)
    (file,) = tmp_path.iterdir()
    for content in ("{", '{"said": ["cow"]}\n', "[]\n", '{"said": 3}\n', ""):
        file.write_text(content)
        pd.testing.assert_frame_equal(whole, scored(monkeypatch, sdpa, ["a dog"], [["dog"]], **given))


def test_a_judge_that_fails_is_told_with_the_item_and_leaves_earlier_answers(monkeypatch, sdpa, tmp_path):
    def failing(text, names):
        if "cat" in text:
            raise TimeoutError("no answer in time")
        return list(names)

    given = {"objects": object_names(["dog", "cat"]), "transcripts": tmp_path}
    with pytest.raises(nv.SpecError, match=r"prompt 1: judge= raised TimeoutError: no answer in time; .*kept in"):
        scored(monkeypatch, sdpa, ["a dog", "a cat"], [["dog"], ["cat"]], judge=failing, **given)
    lines = [json.loads(file.read_text()) for file in tmp_path.iterdir()]
    assert sorted(key for line in lines for key in line if key in ("said", "error")) == ["error", "said"]
    for answer in ("dog", ["cow"], [3], 3, None, [["dog"]]):
        with pytest.raises(nv.SpecError, match=r"prompt 0: judge= answered .* some of the names"):
            scored(monkeypatch, sdpa, ["a dog"], [["dog"]], judge=lambda *_, answer=answer: answer, **given)


def test_a_lambda_judge_is_for_calls_without_a_journal(monkeypatch, sdpa, tmp_path):
    names = object_names(["dog"])
    scored(monkeypatch, sdpa, ["a dog"], [["dog"]], objects=names, judge=lambda _, names: names)
    with pytest.raises(nv.SpecError, match="lambda"):
        scored(
            monkeypatch,
            sdpa,
            ["a dog"],
            [["dog"]],
            objects=names,
            judge=lambda _, names: names,
            work=Work(progress=False, journal=tmp_path),
        )


JUDGE = """
import os, signal
from pathlib import Path

def judge(text, names):
    asked = Path(os.environ["ASKED"])
    with asked.open("a") as file:
        file.write("asked\\n")
    if os.environ.get("DIES") and len(asked.read_text().splitlines()) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return [name for name in names if name in text]
"""
CALL = """
import nnsight_vlm as nv, slow_judge
model = nv.load("shapes")
scenes = [nv.shapes.scene(number) for number in range(4)]
nv.recipes.object_score(
    model, [nv.encode(model, "describe the image .", scene.image) for scene in scenes],
    truths=[nv.recipes.shape_truth(scene) for scene in scenes], judge=slow_judge.judge,
    work=nv.recipes.Work(progress=False, journal="journal", chunk=4),
)
"""


def test_after_a_kill_the_judge_is_asked_only_what_it_had_not_answered(shapes, asked, tmp_path, monkeypatch):
    (tmp_path / "slow_judge.py").write_text(textwrap.dedent(JUDGE))
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    paths = os.pathsep.join([str(tmp_path), str(nv.__path__[0]) + "/..", *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", CALL], cwd=tmp_path, env={**os.environ, "DIES": "1", "PYTHONPATH": paths}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert len((tmp_path / "asked").read_text().splitlines()) == 3
    monkeypatch.syspath_prepend(str(tmp_path))
    import slow_judge

    _, prompts, truths = asked
    given = {"truths": truths[:4], "judge": slow_judge.judge}
    work = Work(progress=False, journal=tmp_path / "journal", chunk=4)
    frame = object_score(shapes, prompts[:4], work=work, **given)
    assert len((tmp_path / "asked").read_text().splitlines()) == 5  # the third, which was killed, and the fourth
    pd.testing.assert_frame_equal(frame, object_score(shapes, prompts[:4], work=work, **given))
    assert len((tmp_path / "asked").read_text().splitlines()) == 5
    pd.testing.assert_frame_equal(frame, object_score(shapes, prompts[:4], work=QUIET, **given))


# what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"truths": None}, "none are known"),
        ({"truths": [named("lighthouse")]}, "prompt 0: objects= does not know 'lighthouse'"),
        ({"truths": [named("dog")], "objects": vocabulary(["cat"])}, "does not know 'dog'"),
        ({"truths": [named("dog")], "counts": True}, "counts="),
        ({"truths": [named("dog")], "objects": vocabulary(["dog"]), "counts": True}, "counts="),
        ({"truths": [named("dog")], "counts": "yes"}, "counts="),
        ({"truths": [named("dog")], "transcripts": "folder"}, "write judge= too"),
        ({"truths": [named("dog")], "judge": "gpt"}, "judge="),
        ({"truths": [named("dog")], "judge": is_named, "transcripts": __file__}, "transcripts="),
        ({"truths": [named("dog")], "objects": str.upper}, "prompt 0: objects= gave"),
    ],
)
def test_what_cannot_be_scored_is_refused(sdpa, more, message):
    prompts = [nv.encode(sdpa, "describe the image .", tiny.picture(0))]
    with pytest.raises(nv.SpecError, match=message):
        object_score(sdpa, prompts, max_new_tokens=2, work=QUIET, **more)


def test_a_prompt_without_a_picture_is_refused(sdpa):
    with pytest.raises(nv.SpecError, match="image"):
        object_score(sdpa, [nv.encode(sdpa, "describe .")], truths=[named("dog")], objects=coco_objects, work=QUIET)


def test_the_figure_has_a_row_for_each_measure_and_controls_in_grey(monkeypatch, sdpa):
    frame = scored(monkeypatch, sdpa, TEXTS, THINGS, judge=lambda text, names: [n for n in names if n in text])
    axis = nv.plots.object_score(frame)
    rows = [label.get_text().replace("\n", " ") for label in axis.get_yticklabels()]
    assert rows[:3] == ["precision", "recall", "F1"] and len(rows) == 8
    assert [text.get_text() for text in axis.get_legend().get_texts()][:3] == ["names", "judge", "names and judge"]
    alone = nv.plots.object_score(scored(monkeypatch, sdpa, TEXTS, THINGS))
    assert len(alone.get_yticklabels()) == 6
