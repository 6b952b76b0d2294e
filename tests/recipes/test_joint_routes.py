"""Joint routes: one by one, swaps by hand, known and planted answers, controls, and what is refused."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import pytest
import reference
import tiny
from float64 import LIMIT
from known_pairs import known_pairs

import nnsight_vlm as nv
from nnsight_vlm.recipes import Work, joint_routes, route_cuts, route_losses, route_shares, shape_objects
from nnsight_vlm.report.study import color_pairs
from nnsight_vlm.studies.controls import rng_of, seen_edges

QUIET = Work(progress=False)
ROUTES = ["image->last", "image->question", "image->markers"]


def only(frame, **of):
    for name, value in of.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1, of
    return frame.iloc[0]


# by hand ------------------------------------------------------------------------------------------------


def groups_of(prompt):
    """The targets of `ROUTES`, worked out here: the template's tokens without the last one."""
    last, question = prompt["last"], prompt["question"]
    behind = [p for p in prompt["markers"] if p not in last and p > max(prompt["image"])]
    return {"image->last": last, "image->question": question, "image->markers": tuple(behind)}


@functools.cache
def measured(model):
    pairs = known_pairs(model, 2)
    prompts, answers = [pair.prompt for pair in pairs], [pair.answer for pair in pairs]
    return pairs, joint_routes(model, prompts, answers=answers, pairs=pairs, routes=ROUTES, per_image=True, work=QUIET)


@pytest.fixture
def rows(sdpa):
    """Two pairs, and what is measured of them; computed once."""
    return measured(sdpa)


@pytest.mark.float64
def test_cuts_are_those_of_single_runs_and_verdicts_follow_from_them(sdpa, rows):
    pairs, frame = rows
    for image, pair in enumerate(pairs):
        mine = frame[(frame["image"] == image) & (frame["shows"] == "could") & (frame["control"] == "none")]
        targets, answer = groups_of(pair.prompt), pair.answer
        clean = nv.run(sdpa, pair.prompt).logits.softmax(-1)[answer]

        def loss(*closed, pair=pair, targets=targets, clean=clean, answer=answer):
            cut = nv.Knockout("image", tuple(p for name in closed for p in targets[name]))
            return float(clean - nv.run(sdpa, pair.prompt, cut).logits.softmax(-1)[answer])

        alone = {name: loss(name) for name in ROUTES}
        of_all = loss(*ROUTES)
        for name in ROUTES:
            others = [other for other in ROUTES if other != name]
            cut, open_alone = (only(mine, route=name, condition=what) for what in ("cut", "only"))
            assert -cut["probability_change"] == pytest.approx(alone[name], rel=LIMIT, abs=LIMIT)
            assert cut["needed"] == pytest.approx(alone[name], rel=LIMIT, abs=LIMIT)
            assert open_alone["suffices"] == pytest.approx(of_all - loss(*others), rel=LIMIT, abs=LIMIT)
            assert cut["loss_of_all"] == pytest.approx(of_all, rel=LIMIT, abs=LIMIT)
        both = only(mine, route="image->last & image->question")
        assert -both["probability_change"] == pytest.approx(loss(*ROUTES[:2]), rel=LIMIT, abs=LIMIT)
        every = only(mine, route="all")
        cut_all = nv.Knockout("image", tuple(p for name in ROUTES for p in targets[name]))
        ended, begun = (nv.run(sdpa, pair.prompt, what).logits.log_softmax(-1)[answer] for what in (cut_all, None))
        assert every["logprob_change"] == pytest.approx(float(ended - begun), rel=LIMIT, abs=LIMIT)
        assert every["self_repair"] == pytest.approx(of_all - sum(alone.values()), rel=LIMIT, abs=LIMIT)
        blind = only(mine, condition="blind")  # nothing else behind the image reads it
        assert every["logprob_change"] == pytest.approx(blind["logprob_change"], rel=LIMIT, abs=LIMIT)
        assert abs(every["self_repair"]) > 1e-6


@pytest.mark.float64
def test_swaps_are_what_a_forward_written_by_hand_gives(sdpa, rows):
    """The targets' states come from a run on the other picture, in which the rest of the text is as in the first."""
    pairs, frame = rows
    for image, pair in enumerate(pairs):
        mine = frame[(frame["image"] == image) & (frame["shows"] == "does") & (frame["control"] == "none")]
        module, prompt = pair.prompt.model._module, pair.prompt
        own, theirs = (reference.forward(module, each.inputs) for each in pair[:2])
        y, layers = pair.other_answer, range(tiny.LAYERS)

        def held(states, positions, layers=layers):
            def write(layer):
                def into(state):
                    state[0, positions] = states["residual", layer][0, positions]
                    return state

                return into

            return {("residual", layer): write(layer) for layer in layers}

        p = [float(each.logits[0, -1].softmax(-1)[y]) for each in (own, theirs)]
        for name, targets in groups_of(prompt).items():
            text = [q for q in prompt["all"] if q not in {*prompt["image"], *targets}]
            crossed = reference.forward(module, pair.other.inputs, writes=held(own.states, text))
            ended = reference.forward(module, prompt.inputs, writes=held(crossed.states, list(targets)))
            expected = (float(ended.logits[0, -1].softmax(-1)[y]) - p[0]) / (p[1] - p[0])
            found = only(mine, route=name, condition="swapped")["restoration"]
            assert found == pytest.approx(expected, rel=1e-7, abs=1e-7)
        assert only(mine, route="all")["restoration"] == pytest.approx(1, rel=LIMIT)


@pytest.mark.float64
def test_in_some_layers_a_route_is_cut_and_swapped_in_these_alone(sdpa):
    [pair] = known_pairs(sdpa, 1)
    options = {"answers": [pair.answer], "pairs": [pair], "per_image": True, "work": QUIET}
    split = [
        joint_routes(sdpa, [pair.prompt], routes=ROUTES[:2], layers=layers, **options)
        for layers in ([0, 1, 2, 3], [1, 2], [3])
    ]
    whole = joint_routes(sdpa, [pair.prompt], routes=ROUTES[:2], **options)
    split[0].attrs = whole.attrs = {}
    pd.testing.assert_frame_equal(split[0], whole, rtol=LIMIT, atol=LIMIT)
    cut = nv.run(sdpa, pair.prompt, nv.Knockout("image", "last", layers=[1, 2])).logits.softmax(-1)[pair.answer]
    clean = nv.run(sdpa, pair.prompt).logits.softmax(-1)[pair.answer]
    found = only(split[1], route="image->last", condition="cut", control="none")["needed"]
    assert found == pytest.approx(float(clean - cut), rel=LIMIT, abs=LIMIT)
    swapped = [only(each, route="image->last", condition="swapped", control="none")["restoration"] for each in split]
    assert len({round(value, 9) for value in swapped}) == 3
    # in the last layer alone, the last token attends with its own states to the other picture's keys and values
    keys = {
        ("key", "value")[n]: nv.run(sdpa, pair.other, reads=nv.Residual("image", layers=3, site=site)).reads[0]
        for n, site in enumerate(("key", "value"))
    }
    patch = nv.Patch("image", source=keys["key"], site="key", layers=3)
    patch |= nv.Patch("image", source=keys["value"], site="value", layers=3)
    clean_p, other_p = (
        float(nv.run(sdpa, each).logits.softmax(-1)[pair.other_answer]) for each in (pair.prompt, pair.other)
    )
    p = float(nv.run(sdpa, pair.prompt, patch).logits.softmax(-1)[pair.other_answer])
    assert swapped[2] == pytest.approx((p - clean_p) / (other_p - clean_p), rel=1e-7, abs=1e-7)


# known and planted --------------------------------------------------------------------------------------


def test_on_shapes_the_last_token_reads_the_colour_itself_and_the_question_is_not_needed():
    model = nv.load("shapes")
    pairs = color_pairs(model, 0, 4)
    prompts, answers = [pair.prompt for pair in pairs], [pair.answer for pair in pairs]
    frame = joint_routes(model, prompts, answers=answers, pairs=pairs, routes=ROUTES[:2], work=QUIET)
    named = {"control": "none", "route": "image->last"}
    assert only(frame, measure="needed", **named)["low"] > 0
    assert only(frame, measure="suffices", **named)["low"] > 0
    assert only(frame, measure="suffices_share", **named)["mean"] > 0.9
    assert only(frame, measure="restoration", condition="swapped", **named)["low"] > 0.5
    question = {"control": "none", "route": "image->question"}
    assert only(frame, measure="needed", **question)["high"] < only(frame, measure="needed", **named)["low"]
    assert only(frame, measure="restoration", condition="swapped", **question)["high"] < 0.5
    # a control that fails where it should: as many random edges, and a picture of a third answer
    random = only(frame, measure="needed_share", route="image->last", control="random edges")
    assert abs(random["mean"]) < 0.05 and random["high"] < 0.5
    third = only(frame, measure="restoration", route="image->last", control="another image")
    assert third["high"] < only(frame, measure="restoration", condition="swapped", **named)["low"]


def test_on_shapes_gist_descriptions_fall_back_on_the_query_tokens_that_hold_a_summary():
    """Planted in its training: neither route alone is needed as much as both together."""
    model = nv.load("shapes-gist")
    prompts = [nv.encode(model, "describe the image.", nv.shapes.scene(seed).image) for seed in range(8)]
    options = {"objects": shape_objects, "max_new_tokens": 32, "work": QUIET}
    frame = joint_routes(model, prompts, routes=["image->generated", "image->query"], **options)
    repaired = only(frame, measure="self_repair", control="none")
    assert repaired["low"] > 0
    assert only(frame, measure="self_repair", control="random edges")["mean"] < repaired["low"]
    assert (frame.loc[frame["shows"] == "does", "images"] == 0).all()


# conditions and controls --------------------------------------------------------------------------------


def test_routes_part_the_tokens_and_random_edges_are_as_many_and_belong_to_none(sdpa):
    [pair] = known_pairs(sdpa, 1)
    prompt = pair.prompt
    routes = route_cuts.routes_in(sdpa, prompt, ROUTES, None)
    targets = [set(route.edges.target) for route in routes]
    assert not set.intersection(*targets[:2]) and not targets[0] & targets[2]
    assert set.union(*targets) == set(prompt["query"])
    of_routes = {(s, t) for route in routes for s in route.edges.source for t in route.edges.target}
    drawn = route_cuts.random_cuts(prompt, routes, 0, rng_of(0, 0))
    assert set(drawn) <= set(ROUTES) and drawn
    used = set()
    for route in routes:
        if route.name not in drawn:
            continue
        parts = drawn[route.name].parts
        edges = {(s, t) for part in parts for s in part.source for t in part.target}
        assert len(edges) == sum(len(part.source) for part in parts) == seen_edges(prompt, route.edges)
        assert all(0 < s < t for s, t in edges) and not edges & of_routes and not edges & used
        used |= edges


def test_the_other_conditions_are_each_once():
    steps = route_cuts.steps_of(["a->b", "a->c", "a->d"])
    found = [(step.route, step.condition) for step in steps]
    assert found == list(dict.fromkeys(found)) and len(found) == 3 + 3 + 3 + 1
    assert only(pd.DataFrame(steps), route="a->b", condition="only")["routes"] == {"a->c", "a->d"}
    assert len(route_cuts.alone_and_all(steps)) == 7


def test_where_nothing_is_lost_there_are_no_shares():
    frame = pd.DataFrame(
        {
            "image": range(8),
            "route": "a->b",
            "condition": "cut",
            "shows": "could",
            "control": "none",
            "needed": np.linspace(-1, 1, 8),
            "suffices": np.nan,
            "self_repair": np.nan,
            route_losses.LOSS: np.linspace(-1, 1, 8),
        }
    )
    share = only(route_losses.summary(frame), measure="needed_share")
    assert np.isnan(share["mean"]) and share["images"] == 8
    certain = route_losses.summary(frame.assign(**{"needed": 1.0, route_losses.LOSS: np.linspace(3, 5, 8)}))
    assert only(certain, measure="needed_share")["mean"] == pytest.approx(1 / 4)


def test_intervals_of_differences_of_shares_end_where_these_can():
    """One picture of eight loses all: nothing bounds the bootstrap, and the loss itself is bounded."""
    columns = {"route": "a->b", "condition": "cut", "shows": "could", "control": "none", "suffices": np.nan}
    lost = [1.0, *[0.0] * 7]
    frame = pd.DataFrame({"image": range(8), **columns, "self_repair": np.nan, "needed": lost, route_losses.LOSS: 1.0})
    needed = only(route_losses.summary(frame), measure="needed")
    assert -1 <= needed["low"] <= 1 / 8 <= needed["high"] == 1
    certain = frame.assign(**{route_losses.LOSS: [0.5, *[1.0] * 7]})
    assert only(route_losses.summary(certain), measure="needed_share")["mean"] == pytest.approx((1 / 8) / (7.5 / 8))


def test_without_pairs_the_frame_says_that_what_the_model_does_was_not_measured(sdpa):
    [pair] = known_pairs(sdpa, 1)
    frame = joint_routes(sdpa, [pair.prompt], answers=[pair.answer], routes=ROUTES, work=QUIET)
    unmeasured = frame[frame["shows"] == "does"]
    assert list(unmeasured["route"]) == [*ROUTES, "all"]
    assert (unmeasured["images"] == 0).all() and unmeasured["mean"].isna().all()
    assert frame.attrs["swapped"] is False


# work -----------------------------------------------------------------------------------------------------


@pytest.mark.float64
def test_here_and_in_a_simulated_job_it_gives_the_same_rows(sdpa):
    pairs = known_pairs(sdpa, 1)
    options = {"answers": [pairs[0].answer], "pairs": pairs, "routes": ROUTES[:2], "per_image": True, "work": QUIET}
    here, there = (joint_routes(sdpa, [pairs[0].prompt], remote=remote, **options) for remote in (False, "local"))
    here.attrs, there.attrs = {}, {}
    pd.testing.assert_frame_equal(here, there, rtol=LIMIT, atol=LIMIT)


def test_an_interrupted_run_resumes_to_the_same_frame(sdpa, tmp_path, monkeypatch):
    pairs = known_pairs(sdpa, 3)
    options = {"answers": [pair.answer for pair in pairs], "routes": ROUTES[:2]}
    prompts = [pair.prompt for pair in pairs]
    whole = joint_routes(sdpa, prompts, **options, work=QUIET)
    work, rows, seen = Work(progress=False, journal=tmp_path, chunk=1), route_shares.answer_rows, []

    def once(model, prompt, cases, answer, image, *rest):
        seen.append(image)
        if seen == [0, 1, 2]:
            raise KeyboardInterrupt
        return rows(model, prompt, cases, answer, image, *rest)

    monkeypatch.setattr(route_shares, "answer_rows", once)
    with pytest.raises(KeyboardInterrupt):
        joint_routes(sdpa, prompts, **options, work=work)
    pd.testing.assert_frame_equal(joint_routes(sdpa, prompts, **options, work=work), whole)
    assert seen == [0, 1, 2, 2]
    joint_routes(sdpa, prompts, **options, layers=[1], work=work)  # other settings never meet these rows
    assert seen[4:] == [0, 1, 2]


# what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"routes": ["image->last"]}, "compared with each other"),
        ({"routes": ["image->last", "last"]}, "source->target"),
        ({"routes": ["image->last", "image->last"]}, "belongs to routes before it"),
        ({"routes": ["image->last", "image->system"]}, "no token of 'system' sees 'image'"),
        ({"routes": ["image->last", "image->generated"]}, "behind the answer's first"),
        ({"routes": "image->last"}, "routes"),
        ({"routes": [3, 4]}, "routes"),
        ({"layers": 9}, "layer"),
        ({"layers": ()}, "no layer is named"),
        ({"max_new_tokens": 3}, "max_new_tokens"),
        ({"answers": ["red"] * 2}, "2 answers"),
        ({"pairs": [3]}, "pairs"),
        ({"pairs": []}, "pairs"),
    ],
)
def test_what_is_no_set_of_routes_is_refused_before_the_model_runs(sdpa, given, said, monkeypatch):
    [pair] = known_pairs(sdpa, 1)
    monkeypatch.setattr("nnsight_vlm.studies.study.measured", lambda *_a, **_b: pytest.fail("it ran"))
    with pytest.raises(nv.SpecError, match=said):
        joint_routes(sdpa, [pair.prompt], **{"answers": [pair.answer], **given}, work=QUIET)


def test_pairs_of_other_pictures_and_routes_of_several_sources_are_refused(sdpa):
    one, two = known_pairs(sdpa, 2)
    options = {"answers": [one.answer], "work": QUIET}
    with pytest.raises(nv.SpecError, match="another picture than prompt 0"):
        joint_routes(sdpa, [one.prompt], pairs=[two], **options)
    with pytest.raises(nv.SpecError, match="of one source"):
        joint_routes(sdpa, [one.prompt], pairs=[one], routes=["image->last", "question->last"], **options)
    with pytest.raises(nv.SpecError, match="generated tokens only"):
        joint_routes(sdpa, [one.prompt], pairs=[one], routes=["image->generated", "question->generated"], work=QUIET)


def test_items_are_taken_and_named(sdpa):
    rows = [{"image": tiny.picture(0), "question": "what is the red square ?", "answer": "red", "id": "first"}]
    frame = joint_routes(sdpa, items=rows, routes=ROUTES[:2], work=QUIET)
    assert frame.attrs["ids"] == ["first"] and frame["images"].max() == 1
    pair = known_pairs(sdpa, 1)
    with pytest.raises(nv.SpecError, match="one for one"):
        joint_routes(sdpa, items=rows, pairs=pair, routes=ROUTES[:2], work=QUIET)
