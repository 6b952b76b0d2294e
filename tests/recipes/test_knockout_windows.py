"""Knockout windows: equal to runs by hand, and every control matched."""

from __future__ import annotations

import pytest
import tiny
from float64 import LIMIT

import nnsight_vlm as nv
from nnsight_vlm.recipes import Work, content_words, knockout_windows
from nnsight_vlm.recipes.routes import BLIND, ROUTES, cases_of
from nnsight_vlm.statistics import bootstrap
from nnsight_vlm.studies.controls import with_picture_of
from nnsight_vlm.studies.words import agreement

QUIET = Work(progress=False)
COLUMNS = ["route", "form", "window", "layers", "control", "measure", "mean", "low", "high", "images"]


@pytest.fixture
def prompts(sdpa):
    return [nv.encode(sdpa, "describe the image .", tiny.picture(number)) for number in range(3)]


@pytest.fixture
def rows(sdpa, prompts):
    return knockout_windows(sdpa, prompts, windows=2, max_new_tokens=6, per_image=True, work=QUIET)


def test_the_summary_is_tidy_and_its_means_are_those_of_the_rows(sdpa, prompts, rows):
    tidy = knockout_windows(sdpa, prompts, windows=2, max_new_tokens=6, work=QUIET)
    assert list(tidy.columns) == COLUMNS
    assert not tidy.duplicated(["route", "form", "window", "control", "measure"]).any()
    row = tidy[(tidy["form"] == "blind") & (tidy["measure"] == "f1")].iloc[0]
    blind = rows.loc[rows["form"] == "blind", "f1"]
    assert (row["mean"], row["low"], row["high"]) == bootstrap(blind.to_numpy(), share=True)
    assert row["images"] == 3


def test_every_text_is_the_one_that_a_single_generation_gives(sdpa, prompts, rows):
    by_hand = {
        ("image->generated", "block", "all", "none"): nv.Knockout("image", "generated"),
        ("image->query", "block", "0-1", "none"): nv.Knockout("image", "query", layers=[0, 1]),
        ("image->query", "allow", "0-1", "none"): nv.Allow("image", "query", layers=[0, 1]),
        ("image->text", "blind", "all", "none"): nv.Knockout("image", "text"),
        ("image->text", "block", "outer half", "none"): nv.Knockout("image", "text", layers=[0, 3]),
    }
    for image, prompt in enumerate(prompts[:2]):
        own = content_words(nv.generate(sdpa, prompt, max_new_tokens=6).text)
        for (route, form, window, control), cut in by_hand.items():
            text = nv.generate(sdpa, prompt, cut, max_new_tokens=6).text
            chosen = rows[(rows["image"] == image) & (rows["route"] == route) & (rows["form"] == form)]
            [row] = chosen[(chosen["window"] == window) & (chosen["control"] == control)].to_dict("records")
            assert row["text"] == text
            assert row["f1"] == agreement(content_words(text), own)["f1"]


def test_the_clean_row_agrees_with_itself_and_rows_of_an_image_do_not_depend_on_the_others(sdpa, prompts, rows):
    assert (rows.loc[rows["form"] == "clean", "f1"] == 1).all()
    alone = knockout_windows(sdpa, prompts[:1], windows=2, max_new_tokens=6, per_image=True, work=QUIET)
    borrowed = rows["control"] == "query of another image"
    assert list(alone["text"]) == list(rows.loc[(rows["image"] == 0) & ~borrowed, "text"])


@pytest.mark.float64
def test_answers_are_scored_as_single_runs_score_them(sdpa, prompts):
    rows = knockout_windows(sdpa, prompts[:2], answers=["dog", "red"], windows=2, per_image=True, work=QUIET)
    assert not rows["route"].str.endswith("generated").any()
    for image, answer in enumerate(["dog", "red"]):
        token = sdpa.tokenizer.convert_tokens_to_ids(answer)
        cut, clean = (
            nv.run(sdpa, prompts[image], case).logits.log_softmax(-1)[token]
            for case in (nv.Knockout("image", "last"), None)
        )
        chosen = rows[(rows["image"] == image) & (rows["route"] == "image->last") & (rows["window"] == "all")]
        row = chosen[chosen["control"] == "none"].iloc[0]
        assert row["logprob_change"] == pytest.approx(float(cut - clean), rel=LIMIT, abs=LIMIT)


@pytest.mark.parametrize("route", ROUTES)
def test_a_random_cut_closes_as_many_edges_as_the_route(sdpa, prompts, route):
    cases = cases_of(sdpa, prompts, [route], windows=2)(1)
    everywhere = [case for case in cases if case.labels["window"] == "all" and case.labels["route"] == route]
    [cut] = [case.intervention for case in everywhere if case.labels["control"] == "none"]
    [control] = [case for case in everywhere if case.labels["control"] == "random positions"]
    edges = {part: nv.verify(sdpa, prompts[1], part).edges for part in (cut, control.intervention)}
    assert edges[cut] == edges[control.intervention] > 0
    assert 0 <= control.overlap < 1


def test_random_layers_are_as_many_as_a_window_has_and_differ_between_images(sdpa, prompts):
    plans = cases_of(sdpa, prompts * 4, ["image->query"], windows=2)
    chosen = []
    for image in range(12):
        cases = {case.labels["form"]: case for case in plans(image) if case.labels["control"] == "random layers"}
        assert len(cases["block"].intervention.layers) == 2
        assert sorted(cases["block"].intervention.layers + cases["allow"].intervention.layers) == [0, 1, 2, 3]
        chosen.append(cases["block"].intervention.layers)
    assert len(set(chosen)) > 1


def test_windows_do_not_overlap_and_each_size_has_its_own_random_layers(sdpa, prompts):
    answers = {"answers": ["dog"] * 3, "routes": ["image->last"], "work": QUIET}
    frame = knockout_windows(sdpa, prompts, windows=3, **answers)
    cuts = frame[(frame["control"] == "none") & frame["window"].str[0].str.isdigit()]
    assert list(dict.fromkeys(cuts["window"])) == list(dict.fromkeys(cuts["layers"])) == ["0", "1", "2-3"]
    assert set(frame.loc[frame["control"] == "random layers", "window"]) == {"any 1", "any 2"}


@pytest.mark.float64
def test_windows_around_layers_are_cut_as_single_runs_cut_them(sdpa, prompts):
    frame = knockout_windows(
        sdpa, prompts[:1], answers=["dog"], routes=["image->last"], width=3, stride=2, per_image=True, work=QUIET
    )
    token = sdpa.tokenizer.convert_tokens_to_ids("dog")
    rows = frame[(frame["form"] == "block") & (frame["control"] == "none") & (frame["window"] != "all")]
    assert dict(zip(rows["window"], rows["layers"], strict=True)) == {"0": "0-1", "2": "1-3"}
    for window, layers in {"0": [0, 1], "2": [1, 2, 3]}.items():
        cut, clean = (
            float(nv.run(sdpa, prompts[0], case).logits.log_softmax(-1)[token])
            for case in (nv.Knockout("image", "last", layers=layers), None)
        )
        found = float(rows.loc[rows["window"] == window, "logprob_change"].iloc[0])
        assert found == pytest.approx(cut - clean, rel=LIMIT, abs=LIMIT) and abs(found) > 1e-6


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"windows": 5}, r"route 'image->last': windows=5 does not fit 4 layer\(s\) \(0-3\)"),
        ({"width": 5}, r"route 'image->last': width=5 does not fit 4 layer\(s\)"),
        ({"width": 2, "stride": 5}, "route 'image->last': stride=5 does not fit"),
        ({"windows": 2, "width": 2}, "windows= parts the layers"),
        ({"windows": 2, "stride": 2}, "windows= parts the layers"),
        ({"stride": 2}, "none is given; write width=9 as well"),
        ({"width": 0}, "width=0 is no number of layers"),
        ({"width": 2, "stride": 1.5}, "stride=1.5 is no number of layers"),
    ],
)
def test_windows_that_cannot_be_are_refused_before_the_model_runs(sdpa, prompts, wrong, message, forwards):
    with pytest.raises(nv.SpecError, match=message):
        knockout_windows(sdpa, prompts, answers=["dog"] * 3, routes=["image->last"], work=QUIET, **wrong)
    assert not forwards


def test_the_query_of_another_image_leaves_nothing_of_this_one(sdpa, prompts):
    """With the query replaced and the image cut from the answer, the text is that of the other picture, cut alike."""
    rows = knockout_windows(
        sdpa, prompts, routes=["image->generated"], windows=0, max_new_tokens=6, per_image=True, work=QUIET
    )
    texts = rows[rows["control"] == "query of another image"].set_index("image")["text"]
    cut = nv.Knockout("image", "generated")
    others = [nv.generate(sdpa, with_picture_of(prompts[0], prompt), cut, max_new_tokens=6).text for prompt in prompts]
    assert len(set(others)) > 1
    assert all(texts[image] in others[:image] + others[image + 1 :] for image in range(3))


def test_the_blind_baseline_is_always_measured(sdpa, prompts):
    rows = knockout_windows(
        sdpa, prompts[:1], routes=["image->last"], windows=0, max_new_tokens=3, per_image=True, work=QUIET
    )
    assert {key: rows[rows["form"] == "blind"].iloc[0][key] for key in BLIND} == BLIND
    assert set(rows["form"]) == {"clean", "blind", "block"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"routes": ["image"]}, 'a route is "source->target"'),
        ({"routes": ["image->quarry"]}, "no token group 'quarry'"),
        ({"forms": ["deny"]}, "no form 'deny'"),
        ({"answers": ["dog"]}, "1 answers for 3 prompts"),
        ({"answers": ["dog", "dog", "dog dog"]}, "not one token"),
        ({"answers": "dog"}, "is one text"),
    ],
)
def test_wrong_routes_forms_and_answers_are_refused(sdpa, prompts, wrong, message, monkeypatch):
    options = {} if "answers" in wrong else {"max_new_tokens": 3}
    with pytest.raises(nv.SpecError, match=message):
        knockout_windows(sdpa, prompts, windows=2, work=QUIET, **options, **wrong)
