"""Ablation of image tokens: equal to plain hooks on the module, and right where the truth is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
import zoo
from float64 import LIMIT
from zoo.parts import picture as noise

import nnsight_vlm as nv
from nnsight_vlm.families import view_of
from nnsight_vlm.recipes import Thing, Work, ablation, content_words, shape_truth
from nnsight_vlm.studies.image_token_sets import dilated, like_registers

QUIET = Work(progress=False)
QUESTION = "what is the red square ?"
NUMBER = tiny.vocabulary()["blue"]
OBJECT = (0, 1, 5, 6)
"""The tokens of an object of 8 x 8 pixels in the upper left of a picture of 5 x 5 patches."""
WITH_BORDER = (0, 1, 2, 5, 6, 7, 10, 11, 12)


def square(x, y, side=8):
    mask = np.zeros((tiny.SIDE, tiny.SIDE), bool)
    mask[y : y + side, x : x + side] = True
    return mask


TRUTH = (Thing(name="square", mask=square(0, 0)), Thing(name="dog", mask=square(12, 12)))


@pytest.fixture
def prompts(sdpa):
    return [nv.encode(sdpa, QUESTION, tiny.picture(number)) for number in range(3)]


def measured(model, prompts, **options):
    given = {"truths": [TRUTH] * len(prompts), "asked": ["square"] * len(prompts), "work": QUIET, "per_image": True}
    return ablation(model, prompts, **{**given, **options})


def asked(model, prompts, **options):
    return measured(model, prompts, answers=[NUMBER] * len(prompts), **options)


# by hand ------------------------------------------------------------------------------------------


def with_features(model, prompt, change=None):
    """The log-probabilities of the next token, with the projector's output changed by a plain hook; and that output."""
    module, seen = view_of(model).module, []

    def hook(_, __, output):
        changed = output.clone()
        if change is not None:
            change(changed.view(-1, changed.shape[-1]))
        seen.append(output.detach().view(-1, output.shape[-1]))
        return changed

    handle = module.model.multi_modal_projector.register_forward_hook(hook)
    try:
        with torch.no_grad():
            logits = module(**dict(prompt.inputs)).logits[0, -1]
    finally:
        handle.remove()
    return logits.log_softmax(-1), seen[0]


@pytest.mark.float64
def test_every_ablation_of_the_object_is_that_of_plain_hooks_on_the_module(sdpa, prompts):
    rows = asked(sdpa, prompts, border=[0, 1], how=["mean", "zero", "resample"], tokens="object")
    mine = rows[rows["control"] == "none"].set_index(["image", "border", "how"])["logprob_change"]
    runs = [with_features(sdpa, prompt) for prompt in prompts]
    donors = {image: (image + int(np.random.default_rng((0, 3)).integers(1, 3))) % 3 for image in range(3)}
    for image, prompt in enumerate(prompts):
        others = torch.stack([runs[other][1].mean(0) for other in range(3) if other != image])
        written = {"mean": others.mean(0), "zero": torch.zeros(1), "resample": runs[donors[image]][1]}
        for border, tokens in enumerate((OBJECT, WITH_BORDER)):
            for how, values in written.items():

                def change(features, tokens=tokens, values=values, how=how):
                    tokens = list(tokens)
                    features[tokens] = values[tokens] if how == "resample" else values.to(features)

                after = with_features(sdpa, prompt, change)[0][NUMBER]
                expected = float(after - runs[image][0][NUMBER])
                assert abs(expected) > 1e-3
                assert mine[image, border, how] == pytest.approx(expected, rel=LIMIT, abs=LIMIT)


@pytest.mark.float64
def test_tokens_of_large_norm_and_of_large_gradient_are_those_of_the_modules_own_features(sdpa, prompts):
    rows = asked(sdpa, prompts, how="zero", tokens=["register-like", "gradient"])
    mine = rows.set_index(["image", "tokens"])["logprob_change"]
    module, held = view_of(sdpa).module, []
    for image, prompt in enumerate(prompts):
        plain, features = with_features(sdpa, prompt)
        handle = module.model.multi_modal_projector.register_forward_hook(
            lambda _, __, output: held.append(output.detach().clone().requires_grad_()) or held[-1]
        )
        logit = module(**dict(prompt.inputs)).logits[0, -1, NUMBER]
        handle.remove()
        [gradient] = torch.autograd.grad(logit, [held[-1]])
        products = (gradient * held[-1].detach()).view(25, -1).sum(-1)
        for kind, values in (("register-like", features.norm(dim=-1)), ("gradient", products)):
            tokens = values.argsort(descending=True)[: len(OBJECT)].tolist()
            after = with_features(
                sdpa, prompt, lambda changed, tokens=tokens: changed.index_fill_(0, torch.tensor(tokens), 0)
            )
            assert mine[image, kind] == pytest.approx(float(after[0][NUMBER] - plain[NUMBER]), rel=LIMIT, abs=LIMIT)


@pytest.mark.float64
def test_steps_integrate_the_gradient_from_zero(sdpa, prompts):
    """Completeness: with many steps the attributions add up to what zeroing the whole picture takes from the logit."""
    from nnsight_vlm.recipes.token_variants import Target, attributions_of
    from nnsight_vlm.recipes.token_writes import states_of, writing_given
    from nnsight_vlm.studies.image_token_sets import object_tokens

    prompt, grid = prompts[0], prompts[0].grid()
    target = Target(0, object_tokens(grid, TRUTH, "square"), prompt, NUMBER)
    gaps = []
    for steps in (1, 32):
        writing = writing_given(None, 0, "zero", "features", None, None, steps, answered=True)
        found = attributions_of(sdpa, target, states_of(sdpa, prompt, grid, writing, False), writing, False)
        before, after = (
            nv.run(sdpa, prompt, case).logits[NUMBER] for case in (None, nv.Ablate("image", site="features"))
        )
        gaps.append(abs(found.sum() - float(before - after)) / abs(float(before - after)))
    assert gaps[1] < 0.05 < gaps[0]


@pytest.mark.float64
@pytest.mark.parametrize("cluster", [["a", "a", "b"], [0, 1, 2], None], ids=["joined", "apart", "pixels"])
def test_the_mean_is_that_of_other_pictures_whatever_the_clusters(sdpa, cluster):
    """The third prompt shows the first one's picture again; clusters join two pictures, or part one from itself."""
    pictures = [tiny.picture(number) for number in (0, 1, 0)]
    prompts = [nv.encode(sdpa, QUESTION, picture) for picture in pictures]
    rows = asked(sdpa, prompts, tokens="object", how="mean", cluster=cluster)
    rows = rows[(rows["how"] == "mean") & (rows["control"] == "none")].sort_values("image")
    grid = prompts[0].grid().placed
    own = tuple(np.asarray(grid.positions)[grid.coverage(square(0, 0)) > 0].tolist())
    for number, other in enumerate((1, 0, 1)):
        states = nv.run(sdpa, prompts[other], reads=nv.Residual(grid.positions, site="features")).reads[0]
        patch = nv.Patch(own, source=states.reshape(len(grid.positions), -1).double().mean(0), site="features")
        score = nv.sweep(sdpa, prompts[number], [patch], answer=NUMBER).iloc[0]
        expected = float(score["logprob"] - score["clean_logprob"])
        assert rows["logprob_change"].iloc[number] == pytest.approx(expected, rel=LIMIT)


@pytest.mark.float64
def test_a_poll_compares_the_two_replies_alone(sdpa, prompts):
    rows = measured(sdpa, prompts, form="polling", replies=("yes", "no"), how="zero", tokens="object", site="embedding")
    replies = [tiny.vocabulary()[word] for word in ("yes", "no")]
    for image, prompt in enumerate(prompts):
        where = tuple(prompt["image"][token] for token in OBJECT)
        for tokens, case in (("nothing", None), ("object", nv.Ablate(where, site="embedding"))):
            logits = nv.run(sdpa, prompt, case).logits
            share = float(logits[replies].softmax(-1)[0])
            row = rows[(rows["image"] == image) & (rows["tokens"] == tokens) & (rows["control"] == "none")].iloc[0]
            assert row["yes"] == pytest.approx(share, rel=LIMIT)
            assert row["kept"] == (share > 0.5)


def test_descriptions_are_those_of_single_generations(sdpa, prompts):
    own = [nv.generate(sdpa, prompt, max_new_tokens=8) for prompt in prompts]
    truths = [
        [Thing(name=content_words(each.text)[0], mask=square(0, 0)), Thing(name="zebra", mask=square(12, 12))]
        for each in own
    ]
    rows = ablation(
        sdpa, prompts, truths=truths, form="generative", how="zero", max_new_tokens=8, per_image=True, work=QUIET,
        tokens=["object", "gradient"],
    )  # fmt: skip
    assert "zebra" not in set(rows["thing"])  # no description names it
    for image, prompt in enumerate(prompts):
        where = tuple(prompt["image"][token] for token in OBJECT)
        text = nv.generate(sdpa, prompt, nv.Ablate(where, site="features"), max_new_tokens=8).text
        mine = rows[(rows["image"] == image) & (rows["tokens"] == "object") & (rows["control"] == "none")].iloc[0]
        assert mine["text"] == text
        assert mine["named"] == (truths[image][0].name in content_words(text))
    assert (rows.loc[rows["tokens"] == "nothing", ["named", "f1"]] == 1).all(axis=None)
    assert len(rows[rows["tokens"] == "gradient"]) == len(prompts)


def test_where_no_description_names_the_object_there_are_no_rows(sdpa, prompts):
    truths = [[Thing(name="zebra", mask=square(0, 0))]] * 3
    frame = ablation(sdpa, prompts, truths=truths, form="generative", how="zero", max_new_tokens=2, work=QUIET)
    assert frame.empty and list(frame.columns)[-5:] == ["measure", "mean", "low", "high", "images"]


def test_answers_with_boxes_are_compared_with_the_box_of_the_mask(sdpa, prompts, monkeypatch):
    """No model here writes boxes, so what the model writes is read as one: its own answer as the object's box."""
    from nnsight_vlm.recipes import image_tokens

    own = {nv.generate(sdpa, prompt, max_new_tokens=3).tokens for prompt in prompts}
    box = '[{"bbox_2d": [0, 0, 400, 400], "label": "square"}]'  # thousandths of 20 x 20 pixels: the first 8 x 8
    monkeypatch.setattr(image_tokens, "whole_text", lambda _, tokens: box if tuple(tokens) in own else "none")
    options = {"form": "box", "boxes": "qwen3_vl", "how": "zero", "max_new_tokens": 3, "tokens": "object"}
    rows = measured(sdpa, prompts, **options)
    assert (rows.loc[rows["tokens"] == "nothing", ["box_iou", "box_hit", "boxes"]] == 1).all(axis=None)
    others = rows[rows["text"] == "none"]
    assert len(others) and (others[["box_iou", "box_hit", "boxes"]] == 0).all(axis=None)


# sets of tokens -----------------------------------------------------------------------------------


def test_all_sets_have_as_many_tokens_and_random_ones_lie_outside(sdpa, prompts):
    rows = asked(sdpa, prompts, border=[0, 1])
    sets = rows[rows["tokens"] != "nothing"]
    assert set(zip(sets["tokens"], sets["control"], strict=True)) == {
        ("object", "none"), ("object", "other object"), ("random", "random patches"),
        ("random", "random patches, again"), ("register-like", "none"), ("gradient", "none"),
    }  # fmt: skip
    for border, tokens in ((0, OBJECT), (1, WITH_BORDER)):
        assert (sets.loc[sets["border"] == border, "count"] == len(tokens)).all()
    outside = sets[sets["control"].isin(["random patches", "random patches, again", "other object"])]
    assert (outside["overlap"] == 0).all()
    own = sets[(sets["tokens"] == "object") & (sets["control"] == "none")].set_index("border")["overlap"]
    assert set(own[0]) == {1.0} and set(own[1]) == {len(OBJECT) / len(WITH_BORDER)}


def test_no_control_where_too_few_tokens_lie_outside(sdpa, prompts):
    large = (Thing(name="square", mask=square(0, 0, 16)), TRUTH[1])  # 16 of 25 tokens
    rows = asked(sdpa, prompts, truths=[large] * 3)
    assert set(rows["control"]) == {"none"}


def test_a_border_stays_inside_its_tile():
    member = zoo.ZOO["llava_next"]
    grid = nv.encode(zoo.load("llava_next"), member.text, noise(1, member.sizes[0])).grid().placed
    assert len(set(grid.tiles)) > 1
    for token in (0, len(grid.positions) - 1):
        members = np.zeros(len(grid.positions), bool)
        members[token] = True
        grown = np.flatnonzero(dilated(grid, members, 1))
        (row, column), tile = grid.cells[token], grid.tiles[token]
        expected = [
            n
            for n, (other, place) in enumerate(zip(grid.tiles, grid.cells, strict=True))
            if other == tile and abs(place[0] - row) <= 1 and abs(place[1] - column) <= 1
        ]
        assert grown.tolist() == expected and 1 < len(expected) < 10


def test_registers_lie_two_deviations_above_the_mean():
    norms = np.array([1.0] * 24 + [9.0])
    assert like_registers(norms).tolist() == [False] * 24 + [True]
    assert not like_registers(np.arange(5.0)).any()


# known truth --------------------------------------------------------------------------------------


def colors(seeds):
    """Questions for the colour of an object, with the object's name."""
    for seed in seeds:
        scene = nv.shapes.scene(seed)
        for question in nv.shapes.questions(scene):
            if question.family == "color":
                [name] = [
                    f"{o.color} {o.shape}" for o in scene.objects if o.shape in question.text.replace("?", "").split()
                ]
                yield scene, question, name


@pytest.fixture(scope="module")
def shapes():
    return nv.load("shapes")


@pytest.fixture(scope="module")
def on_shapes(shapes):
    model, items = shapes, list(colors(range(18)))
    return ablation(
        model,
        [nv.encode(model, question.text, scene.image) for scene, question, _ in items],
        truths=[shape_truth(scene) for scene, *_ in items],
        asked=[name for *_, name in items],
        answers=[question.answer for _, question, _ in items],
        tokens=["object", "random"],
        work=QUIET,
    )


def row_of(frame, measure, tokens, control="none"):
    [row] = frame[
        (frame["measure"] == measure) & (frame["tokens"] == tokens) & (frame["control"] == control)
    ].itertuples()
    return row


def test_shapes_cannot_tell_the_colour_of_an_object_without_its_tokens_and_can_without_as_many_others(on_shapes):
    assert row_of(on_shapes, "logprob_change", "object").high < 0
    assert row_of(on_shapes, "kept", "nothing").mean == 1
    assert row_of(on_shapes, "kept", "object").high < 1
    for control in ("random patches", "random patches, again"):
        row = row_of(on_shapes, "logprob_change", "random", control)
        assert max(abs(row.low), abs(row.high)) < 0.05
        assert row_of(on_shapes, "kept", "random", control).mean == 1


def test_the_tokens_of_another_object_do_not_matter(on_shapes):
    row = row_of(on_shapes, "logprob_change", "object", "other object")
    assert max(abs(row.low), abs(row.high)) < 0.05 and row.images >= 12


@pytest.mark.parametrize("name", ["shapes", "shapes-gist"])
def test_tokens_resampled_from_a_picture_that_differs_in_one_object_bring_its_answer(name):
    """Planted: two pictures equal but for the colour of one object, whose tokens are taken from the other picture."""
    if not (nv.shapes.checkpoint(name) / "config.json").is_file():
        pytest.skip(f"this checkout has no {name}")
    model, scenes = nv.load(name), nv.shapes.pair(4, change="color")
    one, other = next((a, b) for a, b in zip(*(scene.objects for scene in scenes), strict=True) if a.color != b.color)
    assert all(sum(each.shape == one.shape for each in scene.objects) == 1 for scene in scenes)
    options = {
        "truths": [shape_truth(scene) for scene in scenes],
        "asked": [f"{each.color} {each.shape}" for each in (one, other)],
        "how": "resample",
        "tokens": ["object", "random"],
        "border": 1,
    }
    prompts = [nv.encode(model, f"what color is the {one.shape}?", scene.image) for scene in scenes]
    for answers, kept in (([one.color, other.color], 0), ([other.color, one.color], 1)):
        rows = ablation(model, prompts, answers=answers, per_image=True, work=QUIET, **options)
        assert (rows.loc[(rows["tokens"] == "object") & (rows["control"] == "none"), "kept"] == kept).all()
        assert (rows.loc[rows["tokens"] == "random", "kept"] == 1 - kept).all()


# items --------------------------------------------------------------------------------------------


def test_items_are_measured_as_their_prompts_and_about_follows_those_that_are_left_out(shapes):
    """The second item has a wrong answer, so that the numbers of items and of what is measured differ."""
    model, chosen = shapes, list(colors(range(3)))
    rows = [
        {
            "id": f"scene {scene.seed}",
            "image": scene.image,
            "question": question.text,
            "answer": question.answer if number != 1 else "small",
            "masks": [{"label": thing.name, "mask": thing.mask} for thing in shape_truth(scene)],
        }
        for number, (scene, question, _) in enumerate(chosen)
    ]
    options = {"how": "zero", "tokens": "object", "per_image": True, "work": QUIET}
    names = [name for *_, name in chosen]
    of_items = ablation(model, items=rows, only_correct=True, asked=names, **options)
    assert [each for each, _ in of_items.attrs["left_out"]] == [rows[1]["id"]]
    kept = [number for number in range(len(chosen)) if number != 1]
    of_prompts = ablation(
        model,
        [nv.encode(model, chosen[number][1].text, chosen[number][0].image) for number in kept],
        truths=[shape_truth(chosen[number][0]) for number in kept],
        asked=[names[number] for number in kept],
        answers=[chosen[number][1].answer for number in kept],
        **options,
    )
    pd.testing.assert_frame_equal(of_items, of_prompts)
    polled = ablation(model, items=rows, asked=names, form="polling", **options)
    assert {"yes", "yes_change"} <= set(polled)  # the items' answers are not those of a poll


def test_the_only_object_with_a_mask_is_what_a_question_is_about(sdpa, prompts):
    alone = [(TRUTH[0], Thing(name="dog"))] * 3
    named, unnamed = (
        asked(sdpa, prompts, truths=alone, asked=about, tokens="object") for about in (["square"] * 3, None)
    )
    pd.testing.assert_frame_equal(named, unnamed)
    by_name, said = (asked(sdpa, prompts, asked=given, tokens="object") for given in (["square"] * 3, None))
    pd.testing.assert_frame_equal(by_name, said)  # the question says "square", which is one of two things
    unsaid = [tuple(Thing(name=name, mask=TRUTH[0].mask) for name in ("cat", "dog"))] * 3
    with pytest.raises(nv.SpecError, match="nothing tells which object prompt 0 asks about"):
        asked(sdpa, prompts, truths=unsaid, asked=None)
    with pytest.raises(nv.SpecError, match="an ablation is of one object, and prompt 0 asks about 'cat', 'dog'"):
        asked(sdpa, prompts, truths=unsaid, asked=[["cat", "dog"]] * 3)


# remote, interruption, input ------------------------------------------------------------------------


def test_remote_equals_local(sdpa, prompts):
    options = {"how": ["mean", "zero", "resample"], "border": 1}
    here, there = (
        asked(sdpa, prompts[:2], truths=[TRUTH] * 2, asked=["square"] * 2, remote=remote, **options)
        for remote in (False, "local")
    )
    pd.testing.assert_frame_equal(here, there, rtol=1e-4, atol=1e-5)


def test_an_interrupted_ablation_ends_with_the_frame_of_one_that_was_not(sdpa, prompts, tmp_path, monkeypatch):
    from nnsight_vlm.recipes import image_tokens

    whole = asked(sdpa, prompts)
    work, answered = Work(progress=False, journal=tmp_path, chunk=1), image_tokens.answer_rows

    def stopping(model, target, *rest):
        if target.image == 2:
            raise KeyboardInterrupt
        return answered(model, target, *rest)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(image_tokens, "answer_rows", stopping)
        asked(sdpa, prompts, work=work)
    assert len(list(tmp_path.glob("ablation-*.parquet"))) == 2
    assert len(list(tmp_path.glob("ablation_means-*.parquet"))) == 3

    def counting(model, target, *rest):
        assert target.image == 2
        return answered(model, target, *rest)

    monkeypatch.setattr(image_tokens, "answer_rows", counting)
    pd.testing.assert_frame_equal(asked(sdpa, prompts, work=work), whole, rtol=1e-5, atol=1e-6)


def test_another_mean_vector_or_border_never_meets_kept_rows(sdpa, prompts, tmp_path):
    work, width, prompts = Work(progress=False, journal=tmp_path), tiny.WIDTH, prompts[:2]
    frames = [
        asked(sdpa, prompts, tokens="object", work=work, **options)
        for options in (
            {"means": torch.zeros(width)},
            {"means": torch.ones(width)},
            {"means": torch.ones(width), "border": 1},
        )
    ]
    changes = [frame[frame["control"] == "none"]["logprob_change"].to_numpy() for frame in frames]
    assert not np.allclose(changes[0], changes[1]) and not np.allclose(changes[1], changes[2])
    zero = asked(sdpa, prompts, tokens="object", how="zero")
    assert changes[0] == pytest.approx(zero[zero["control"] == "none"]["logprob_change"].to_numpy(), abs=1e-5)


BAD = {
    "no truths": ({"truths": None}, "truths"),
    "another object": ({"asked": ["cat"] * 3}, "asked= names 'cat' for prompt 0"),
    "one name for all": ({"asked": "square"}, "is no list; write the names of things, one prompt after the other"),
    "no answers": ({"answers": None}, "answers="),
    "answers of a poll": ({"form": "polling"}, "no answers"),
    "replies that are one": ({"form": "polling", "answers": None, "replies": ("yes", "yes")}, "both replies"),
    "gradient of a box": ({"form": "box", "answers": None, "tokens": "gradient"}, "a box"),
    "boxes of a question": ({"boxes": "molmo"}, "boxes= is not used"),
    "objects of a question": ({"objects": content_words}, "objects= is not used"),
    "residual without a layer": ({"site": "residual"}, "needs layer"),
    "a layer of the features": ({"layer": 2}, "has no layer"),
    "gradient behind a layer": ({"site": "residual", "layer": 1, "tokens": "gradient"}, "gradient"),
    "no such layer": ({"site": "residual", "layer": 9}, "layer"),
    "a vector of another width": ({"means": torch.zeros(3)}, "wide"),
    "a vector that is not written": ({"means": torch.zeros(tiny.WIDTH), "how": "zero"}, "leave it out"),
    "no steps": ({"steps": 0}, "steps"),
    "a border below 0": ({"border": [-1]}, "border"),
    "an empty mask": ({"truths": [[Thing(name="square", mask=square(0, 0, 0))]] * 3}, "touches no patch"),
    "a mask of another size": ({"truths": [[Thing(name="square", mask=np.ones((3, 3), bool))]] * 3}, "mask"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_measured_is_refused_before_the_model_runs(sdpa, prompts, forwards_of, what):
    options, words = BAD[what]
    with pytest.raises(nv.SpecError, match=words):
        measured(sdpa, prompts, **{"answers": [NUMBER] * 3, **options})
    assert not forwards_of


@pytest.fixture
def forwards_of(sdpa):
    """The forwards of the model, noted by a plain hook."""
    calls = []
    handle = view_of(sdpa).module.register_forward_pre_hook(lambda *_: calls.append(1))
    yield calls
    handle.remove()


def test_latents_one_picture_and_pictures_of_other_sizes_are_refused_in_words(sdpa, prompts):
    member = zoo.ZOO["blip-2-opt"]
    model, size = zoo.load("blip-2-opt"), member.sizes[0]
    prompt = nv.encode(model, member.text, noise(1, size))
    truth = [[Thing(name="a", mask=np.ones(size[::-1], bool))]]
    with pytest.raises(nv.SpecError, match="latents"):
        ablation(model, [prompt], truths=truth, asked=["a"], answers=[20], work=QUIET)
    with pytest.raises(nv.SpecError, match="there is one picture"):
        asked(sdpa, prompts[:1])
    with pytest.raises(nv.SpecError, match="no other one has its tokens"):
        asked(sdpa, prompts[:1], how="resample")
