"""Information flow: cuts equal to a forward written by hand, matched controls, and models whose flow is known."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import reference
import tiny
import zoo
from float64 import LIMIT
from scene_questions import color_questions

import nnsight_vlm as nv
from nnsight_vlm.families import view_of
from nnsight_vlm.recipes import Thing, Work, edge_cuts, information_flow
from nnsight_vlm.recipes.flow_edges import EDGES, OBJECT_EDGES, edges_of, patches_of
from nnsight_vlm.shapes.embedded import checkpoint
from nnsight_vlm.studies.windows import Windows

QUIET = Work(progress=False)
COLUMNS = ["edge", "centre", "layers", "width", "control", "measure", "mean", "low", "high", "images"]
ANSWERS = ["dog", "red"]
WIDTH = 3
WINDOWS = {0: [0, 1], 1: [0, 1, 2], 2: [1, 2, 3], 3: [2, 3]}
"""The layers that windows of three cut around each of four."""


def mask_of(x, y, side):
    mask = np.zeros((tiny.SIDE, tiny.SIDE), bool)
    mask[y : y + side, x : x + side] = True
    return mask


def things_called(*names):
    """Things in the corner of both pictures."""
    return [[Thing(name=name, mask=mask_of(0, 0, 4)) for name in names]] * 2


@pytest.fixture
def prompts(sdpa):
    return [nv.encode(sdpa, "what is the red square ?", tiny.picture(number)) for number in range(2)]


@pytest.fixture
def truths():
    """The square of the question is 2 x 2 patches, at another place in each picture; nobody asks for the triangle."""
    other = Thing(name="blue triangle", mask=mask_of(16, 16, 4))
    return [[other, Thing(name="small square", mask=mask_of(4 * at, 4, 8))] for at in (0, 1)]


@pytest.fixture
def rows(sdpa, prompts, truths):
    return information_flow(sdpa, prompts, answers=ANSWERS, truths=truths, width=WIDTH, per_image=True, work=QUIET)


def logprob_by_hand(model, prompt, answer, layers=(), sources=(), targets=()):
    """The answer's log-probability in a forward without nnsight, with edges closed."""
    cut = reference.no_cut(model._module, prompt.inputs["input_ids"])
    for layer in layers:
        for target in targets:
            cut[layer, :, :, target, list(sources)] = True
    logits = reference.forward(model._module, prompt.inputs, cut).logits[0, -1]
    return float(logits.log_softmax(-1)[model.tokenizer.convert_tokens_to_ids(answer)])


def places_by_hand(prompt, image):
    """The positions of every group: 25 image tokens in rows of five, then the question between the chat's words."""
    first = prompt.inputs["input_ids"][0].tolist().index(tiny.vocabulary()["<image>"])
    corner = first + 5 + image
    square = [corner, corner + 1, corner + 5, corner + 6]
    stop = prompt.inputs["input_ids"].shape[1]
    every = list(range(first, first + tiny.IMAGE_TOKENS))
    question = list(range(first + tiny.IMAGE_TOKENS, stop - 2))  # without "assistant :"
    return {
        "image": every,
        "object": square,
        "rest of the image": [position for position in every if position not in square],
        "question": question,
        "last": [stop - 1],
    }


@pytest.mark.float64
def test_every_edge_in_every_window_is_cut_as_by_hand(sdpa, prompts, rows):
    measured = rows[rows["control"] == "none"]
    assert list(dict.fromkeys(measured["edge"])) == [*EDGES, *OBJECT_EDGES]
    for image, (prompt, answer) in enumerate(zip(prompts, ANSWERS, strict=True)):
        places, clean = places_by_hand(prompt, image), logprob_by_hand(sdpa, prompt, answer)
        assert {name: tuple(places[name]) for name in ("image", "question", "last")} == {
            name: prompt[name] for name in ("image", "question", "last")
        }
        for name in (*EDGES, *OBJECT_EDGES):
            source, target = name.split("->")
            for centre, layers in WINDOWS.items():
                cut = logprob_by_hand(sdpa, prompt, answer, layers, places[source], places[target])
                chosen = measured[(measured["image"] == image) & (measured["edge"] == name)]
                [row] = chosen[chosen["centre"] == centre].to_dict("records")
                assert (row["layers"], row["width"]) == (f"{layers[0]}-{layers[-1]}", len(layers))
                assert row["logprob_change"] == pytest.approx(cut - clean, rel=LIMIT, abs=LIMIT)
                in_per_cent = 100 * (math.exp(cut) - math.exp(clean)) / math.exp(clean)
                assert row["probability_change"] == pytest.approx(in_per_cent, rel=1e-9, abs=1e-9)
                assert abs(cut - clean) > 1e-7


@pytest.mark.float64
def test_last_to_last_closes_one_edge_and_its_control_one_other(sdpa, prompts, rows):
    """The last token goes on attending to all others; the control takes one of these away and leaves it itself."""
    last = prompts[0]["last"][0]
    chosen = rows[(rows["image"] == 0) & (rows["edge"] == "last->last") & (rows["centre"] == 1)]
    control = float(chosen.loc[chosen["control"] == "random positions", "logprob_change"].iloc[0])
    clean = logprob_by_hand(sdpa, prompts[0], ANSWERS[0])
    others = [
        logprob_by_hand(sdpa, prompts[0], ANSWERS[0], WINDOWS[1], [other], [last]) - clean for other in range(1, last)
    ]
    assert sum(abs(control - change) < 1e-9 for change in others) == 1


def test_controls_close_as_many_edges_and_random_layers_are_as_many_as_the_windows(sdpa, prompts, truths):
    patches = patches_of(prompts[1], truths[1], None, "prompt 1")
    edges = edges_of(sdpa, prompts[1], (*EDGES, *OBJECT_EDGES), patches, Windows(width=WIDTH), 0, 1)
    for edge in edges:
        control, chosen = edge.random
        proofs = [nv.verify(sdpa, prompts[1], cut) for cut in (edge.cut((1, 2)), edge.cut((1, 2), chosen))]
        assert proofs[0].edges == proofs[1].edges > 0
        assert set(chosen) != set(edge.source)
        if edge.name.startswith("object"):
            assert control == "random patches"
            assert set(chosen) <= set(prompts[1]["image"]) - set(edge.source)
        assert {size: len(drawn) for size, drawn in edge.draws.items()} == {2: 2, 3: 3}


def test_means_are_tidy_and_every_window_has_its_controls(sdpa, prompts, truths, rows):
    tidy = information_flow(sdpa, prompts, answers=ANSWERS, truths=truths, width=WIDTH, work=QUIET)
    assert list(tidy.columns) == COLUMNS
    assert not tidy.duplicated(["edge", "centre", "control", "measure"]).any()
    assert (tidy["images"] == 2).all()
    for (edge, centre), of_window in tidy.groupby(["edge", "centre"]):
        kind = "random patches" if edge in OBJECT_EDGES else "random positions"
        assert set(of_window["control"]) == {"none", kind, "random layers"}, (edge, centre)
    one = tidy[(tidy["edge"] == "image->last") & (tidy["control"] == "none") & (tidy["centre"] == 2)]
    behind = rows[(rows["edge"] == "image->last") & (rows["control"] == "none") & (rows["centre"] == 2)]
    for measure in ("probability_change", "logprob_change", "kept"):
        found = float(one.loc[one["measure"] == measure, "mean"].iloc[0])
        assert found == pytest.approx(behind[measure].mean())


def test_windows_may_part_the_layers_and_by_default_their_width_follows_from_the_depth(sdpa, prompts):
    options = {"answers": ANSWERS, "edges": ["image->last"], "per_image": True, "work": QUIET}
    parted = information_flow(sdpa, prompts, windows=2, **options)
    assert list(dict.fromkeys(parted.loc[parted["control"] == "none", "layers"])) == ["0-1", "2-3"]
    single = information_flow(sdpa, prompts, **options)
    assert list(dict.fromkeys(single.loc[single["control"] == "none", "layers"])) == ["0", "1", "2", "3"]
    spaced = information_flow(sdpa, prompts, stride=2, **options)
    assert list(dict.fromkeys(spaced["centre"])) == [0, 2]
    everywhere = information_flow(sdpa, prompts, windows=1, **options)
    assert set(everywhere["control"]) == {"none", "random positions"}  # all layers drawn are no control


def test_which_object_is_meant_is_said_or_follows_from_the_question(sdpa, prompts, truths, rows):
    options = {"answers": ANSWERS, "width": WIDTH, "per_image": True, "work": QUIET}
    said = information_flow(sdpa, prompts, truths=truths, asked=["small square", ["small square"]], **options)
    pd.testing.assert_frame_equal(said, rows)
    both = information_flow(sdpa, prompts, truths=truths, asked=[["small square", "blue triangle"]] * 2, **options)
    of_object = (rows["edge"] == "object->last") & (rows["control"] == "none")
    assert (both.loc[of_object, "logprob_change"] != rows.loc[of_object, "logprob_change"]).all()
    assert both.loc[~rows["edge"].isin(OBJECT_EDGES)].equals(rows.loc[~rows["edge"].isin(OBJECT_EDGES)])
    squares = [[*things, Thing(name="red square", mask=mask_of(12, 12, 4))] for things in truths]
    named = information_flow(sdpa, prompts, truths=squares, **options)  # the question says "red square" in full
    alone = information_flow(sdpa, prompts, truths=[things[-1:] for things in squares], **options)
    pd.testing.assert_frame_equal(named, alone)


def test_a_picture_whose_object_fills_it_has_no_rows_of_the_rest(sdpa, prompts):
    whole = [[Thing(name="square", mask=mask_of(0, 0, tiny.SIDE))], [Thing(name="square", mask=mask_of(0, 0, 4))]]
    tidy = information_flow(
        sdpa, prompts, answers=ANSWERS, truths=whole, edges=["object->last", "rest of the image->last"], work=QUIET
    )
    counts = tidy[tidy["control"] == "none"].groupby("edge")["images"].max()
    assert counts.to_dict() == {"object->last": 2, "rest of the image->last": 1}
    rest = {"truths": [whole[0]] * 2, "edges": ["rest of the image->last"], "answers": ANSWERS, "work": QUIET}
    assert information_flow(sdpa, prompts, **rest).empty
    assert list(information_flow(sdpa, prompts, **rest).columns) == COLUMNS


def test_items_give_questions_answers_and_objects_and_those_answered_wrong_can_be_left_out():
    """The same numbers as from prompts; what names the asked objects is matched with the items that stay."""
    model = nv.load("shapes")
    prompts, known = color_questions(model, 3)
    rows = [
        {"image": prompt.image(), "question": f"what color is the {asked.split()[1]}?", "answer": answer}
        for prompt, asked, answer in zip(prompts, known["asked"], known["answers"], strict=True)
    ]
    rows[1]["answer"] = next(answer for answer in ("red", "blue") if answer != rows[1]["answer"])
    options = {"edges": ["object->last"], "windows": 1, "work": QUIET, "asked": known["asked"]}
    found = information_flow(model, items=rows, truths=known["truths"], only_correct=True, **options)
    assert [name for name, _ in found.attrs["left_out"]] == [nv.items(rows).ids[1]]
    kept = [0, 2]
    expected = information_flow(
        model,
        [prompts[number] for number in kept],
        **{name: [values[number] for number in kept] for name, values in known.items()},
        **{name: value for name, value in options.items() if name != "asked"},
    )
    pd.testing.assert_frame_equal(
        found[found["control"] == "none"], expected[expected["control"] == "none"], check_exact=False, atol=1e-4
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"edges": ["image"]}, 'a route is "source->target"'),
        ({"edges": []}, "no edges to cut"),
        ({"edges": ["image->quarry"]}, "no token group 'quarry'"),
        ({"edges": ["last->image"]}, "edge 'last->image': Knockout.*changes nothing"),
        ({"edges": ["image->generated"]}, "edge 'image->generated'"),
        ({"edges": ["object->last"]}, "write truths= too"),
        ({"asked": ["red square"] * 2}, "write truths= as well"),
        ({"answers": None}, "answers=None is no list of answers"),
        ({"answers": ["dog"]}, "1 answers for 2 prompts"),
        ({"width": 5}, r"edge 'image->last': width=5 does not fit 4 layer\(s\)"),
        ({"windows": 2, "width": 2}, "windows= parts the layers"),
        ({"windows": 0}, "windows=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_what_cannot_be_cut_is_refused_before_the_model_runs(sdpa, prompts, wrong, message):
    ran = []
    hook = sdpa._module.register_forward_pre_hook(lambda *_: ran.append(1))
    try:
        with pytest.raises(nv.SpecError, match=message):
            information_flow(sdpa, prompts, **{"answers": ANSWERS, "work": QUIET, **wrong})
    finally:
        hook.remove()
    assert not ran


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"edges": ["image->last"]}, "truths= are not used"),
        ({"asked": ["red square"] * 2}, "asked= names 'red square' for prompt 0, and its picture has 'blue triangle'"),
        ({"asked": ["small square"]}, "1 names in asked= for 2 prompts"),
        ({"asked": [[], []]}, r"asked\[0\]=\[\] is no name of a thing"),
        ({"truths": [[Thing(name="small square")]] * 2}, "'small square', which has no mask"),
        ({"truths": [[Thing(name="square", mask=np.ones((3, 3), bool))]] * 2}, "mask has shape"),
        (
            {"truths": [[Thing(name=name, mask=mask_of(0, 0, 4)) for name in ("dog", "bike")]] * 2},
            "names none of 'dog'",
        ),
        (
            {"truths": [[Thing(name=name, mask=mask_of(0, 0, 4)) for name in ("big square", "small square")]] * 2},
            "names several of 'big square', 'small square'; write asked=",
        ),
    ],
)
def test_an_object_that_nothing_tells_is_refused(sdpa, prompts, truths, wrong, message):
    with pytest.raises(nv.SpecError, match=message):
        information_flow(sdpa, prompts, **{"answers": ANSWERS, "truths": truths, "work": QUIET, **wrong})


def test_image_tokens_without_a_place_have_no_object():
    model, prompt = zoo.load("blip-2-opt"), zoo.prompt("blip-2-opt")
    things = [[Thing(name="dog", mask=np.ones((4, 4), bool))]]
    with pytest.raises(nv.SpecError, match=r"have no place in the picture: its qformer.*leave out truths="):
        information_flow(model, [prompt], answers=[5], truths=things, work=QUIET)


@pytest.mark.parametrize("name", ["mllama", "florence2", "qwen3_5", "gemma3", "llava_next"])
def test_windows_are_of_the_layers_that_have_the_edge(name):
    """Cross-attention reads the image in some layers only; some layers of a hybrid have no attention."""
    model, prompt = zoo.load(name), zoo.prompt(name)
    frame = information_flow(model, [prompt], answers=[5], width=1, per_image=True, work=QUIET)
    spec = view_of(model).stage()
    for edge, rows in frame[frame["control"] == "none"].groupby("edge"):
        source = edge.split("->")[0]
        layers = spec.cross if prompt[source][0] < 0 else spec.attention
        assert tuple(rows["centre"]) == layers
        for centre, change in zip(rows["centre"], rows["logprob_change"], strict=True):
            cut, clean = (
                float(nv.run(model, prompt, case).logits.log_softmax(-1)[5])
                for case in (nv.Knockout(*edge.split("->"), layers=[centre]), None)
            )
            assert change == pytest.approx(cut - clean, abs=1e-4)
    targets = {edge.split("->")[1] for edge in frame["edge"]}
    assert targets == ({"last"} if name == "florence2" else {"last", "question"})


SOME = {"edges": ["image->last", "object->question"], "windows": 2, "per_image": True}


@pytest.mark.float64
def test_on_a_simulated_server_numbers_are_the_same(sdpa, prompts, truths):
    options = {"answers": ANSWERS, "truths": truths, "work": QUIET, **SOME}
    here, there = (information_flow(sdpa, prompts, remote=remote, **options) for remote in (False, "local"))
    pd.testing.assert_frame_equal(here, there, check_exact=False, rtol=0, atol=1e-9)


def test_an_interrupted_study_goes_on_from_its_journal(sdpa, prompts, truths, tmp_path, monkeypatch):
    options = {"answers": ANSWERS, "truths": truths, **SOME}
    work = Work(progress=False, journal=tmp_path, chunk=1)
    asked, measured = [], edge_cuts._rows

    def stops(model, prompt, edges, answer, image, *rest):
        asked.append(image)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return measured(model, prompt, edges, answer, image, *rest)

    monkeypatch.setattr(edge_cuts, "_rows", stops)
    with pytest.raises(KeyboardInterrupt):
        information_flow(sdpa, prompts, work=work, **options)
    resumed = information_flow(sdpa, prompts, work=work, **options)
    assert asked == [0, 1, 1]
    pd.testing.assert_frame_equal(resumed, information_flow(sdpa, prompts, work=QUIET, **options))
    for other in ({"windows": 1}, {"seed": 1}, {"asked": ["blue triangle"] * 2}, {"edges": ["object->last"]}):
        before = len(asked)
        information_flow(sdpa, prompts, work=work, **{**options, **other})
        assert len(asked) == before + 2, other


# models whose flow is known ---------------------------------------------------------------------------


def of(frame, edge, measure="logprob_change", control="none", centre=None):
    """The only row of a frame with these labels."""
    chosen = frame[(frame["edge"] == edge) & (frame["measure"] == measure) & (frame["control"] == control)]
    [row] = chosen[chosen["centre"] == (chosen["centre"].iloc[0] if centre is None else centre)].to_dict("records")
    return row


def test_on_shapes_the_last_token_reads_the_object_that_the_question_is_about():
    """Cut in all layers, the image and the object are needed; the rest and as many other patches are not."""
    model = nv.load("shapes")
    prompts, known = color_questions(model, 24)
    edges = ["image->last", "object->last", "rest of the image->last"]
    frame = information_flow(model, prompts, edges=edges, windows=1, work=QUIET, **known)
    for edge in edges[:2]:
        assert of(frame, edge)["high"] < -1 and of(frame, edge)["images"] == 24
        assert of(frame, edge, "kept")["high"] < 0.5
    assert of(frame, "rest of the image->last")["low"] > -0.1
    assert of(frame, "object->last", control="random patches")["low"] > -0.1
    assert of(frame, "rest of the image->last", control="random patches")["high"] < -1  # that hides the object too


def test_on_shapes_the_question_is_read_before_the_image():
    model = nv.load("shapes")
    prompts, known = color_questions(model, 6)
    frame = information_flow(
        model, prompts, answers=known["answers"], edges=["image->last", "question->last"], work=QUIET
    )
    drops = {
        edge: frame[(frame["edge"] == edge) & (frame["measure"] == "logprob_change") & (frame["control"] == "none")]
        for edge in ("image->last", "question->last")
    }
    worst = {edge: int(rows.loc[rows["mean"].idxmin(), "centre"]) for edge, rows in drops.items()}
    assert worst["question->last"] < worst["image->last"]
    assert of(frame, "question->last", control="none", centre=worst["question->last"])["high"] < -1


def test_a_word_of_a_description_needs_the_image_in_shapes_and_by_construction_not_in_shapes_gist():
    """The answer's own tokens of `shapes-gist` were trained without the image: its question's tokens carry it."""
    if not (checkpoint("shapes-gist") / "config.json").is_file():
        pytest.skip("this checkout has no shapes-gist")
    changes = {}
    for name in ("shapes", "shapes-gist"):
        model = nv.load(name)
        begun, colors = [], []
        for seed in range(6):
            prompt = nv.encode(model, "describe the image.", nv.shapes.scene(seed).image)
            said = nv.generate(model, prompt, max_new_tokens=12).tokens
            words = [model.tokenizer.decode([token]).strip() for token in said]
            place = [number for number, word in enumerate(words) if word in ("small", "large")][1] + 1
            begun.append(prompt.grown(said[:place]))
            colors.append(int(said[place]))
        frame = information_flow(model, begun, answers=colors, edges=["image->generated"], windows=1, work=QUIET)
        changes[name] = of(frame, "image->generated")
    assert changes["shapes"]["high"] < -1.5  # one colour of six is a guess: -log 6 = -1.79
    assert changes["shapes-gist"]["low"] > -0.2
