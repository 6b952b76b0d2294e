"""What a frame says was done is true of the call: every argument that changes what is done changes the sentences."""

from __future__ import annotations

import re

import pandas as pd
import pytest
import torch

import nnsight_vlm as nv
from nnsight_vlm.studies.methods import GIVEN, Only, facts_of, names_in, only, plain_facts, told
from nnsight_vlm.studies.registry import RECIPES
from nnsight_vlm.studies.study import Study

QUIET = nv.recipes.Work(progress=False)
SCENES = [nv.shapes.scene(number) for number in (3, 8)]
NAMES = ["red square", "purple ring"]
OTHERS = [next(f"{each.color} {each.shape}" for each in scene.objects if f"{each.color} {each.shape}" != name)
          for scene, name in zip(SCENES, NAMES, strict=True)]  # fmt: skip
TRUTHS = {"truths": [nv.recipes.shape_truth(scene) for scene in SCENES]}
ANSWERS = {"answers": ["red", "purple"]}
OBJECTS = {**TRUTHS, "asked": NAMES}
ABLATED = {**OBJECTS, **ANSWERS}
DESCRIBED = "The objects that descriptions of up to 5 tokens name were compared"
PAIRED = ("attribution_map", "pair_routes", "patching_map", "path_patching", "query_patching")
COMPARED = "Comparisons were tested"

GRID = [
    # recipe, arguments, what is said, what is not
    ("ablation", {**ABLATED}, ["(object, random", "(mean) at the site features", "study's other pictures",
        "answer's log-probability", "drawn twice", "Controls overwrote as many tokens of other objects"],
        ["output of layer", "vector that was given", "probability of yes", "box"]),
    ("ablation", {**ABLATED, "tokens": "object", "how": "zero"},
        ["(object) were overwritten (zero)", "of other objects"], ["mean", "random", "Gradients"]),
    ("ablation", {**ABLATED, "tokens": "random", "means": torch.ones(128), "site": "residual", "layer": 2, "border": 1},
        ["output of layer 2", "a vector that was given", "drawn twice", "border of 1 patches"],
        ["other pictures", "of other objects"]),
    ("ablation", {**ABLATED, "tokens": ["gradient"], "steps": 3}, ["integrated in 3 step(s)"], ["Controls"]),
    ("ablation", {**OBJECTS, "form": "polling", "replies": ("red", "blue")}, ["probability of yes"],
        ["log-prob", "box"]),
    ("ablation", {**TRUTHS, "form": "generative", "max_new_tokens": 5}, ["described the picture in up to 5 tokens"],
        ["log-probability", "box"]),
    ("ablation", {**OBJECTS, "form": "box", "tokens": "object"}, ["up to 64 tokens, and its first box"], ["log-prob"]),
    ("attention_share", {"max_new_tokens": 5}, ["up to 5 tokens"], []),
    ("attribution_map", {"layers": [9]}, ["sites residual and head; groups image, question and last; layers: 9",
        "steps: 1", "(10 of them) were patched", COMPARED], ["At the site edge"]),
    ("attribution_map", {"layers": [9], "at": "edge", "groups": ["image", "last"], "exact": 0},
        ["At the site edge", "groups image and last"], ["were patched in every pair"]),
    ("attribution_map", {"layers": [9], "at": "residual", "per_image": True, "exact": 1, "steps": 2},
        ["(1 of them)", "steps: 2"], [COMPARED]),
    ("causal_trace", {**ANSWERS}, ["(another image)", "one group and window of 1", "(site residual)",
        "tokens at random positions", "third picture's run", COMPARED], ["noise", "another answer", "Layers:"]),
    ("causal_trace", {**ANSWERS, "corrupt": "noise", "noise": 2.0, "against": ["blue", "blue"], "layers": [3]},
        ["(noise)", "standard deviation of 2 times", "with that of another answer", "Layers: 3."], []),
    ("causal_trace", {**ANSWERS, "corrupt": "mean", "over": "position", "per_image": True},
        ["(mean)", "one position", "third picture's run"], ["random positions", COMPARED, "noise"]),
    ("causal_trace", {**ANSWERS, "corrupt": "words", "over": "position"},
        ["(other words)", "tokens at random positions"], ["third picture"]),
    ("compressed_context", {**ANSWERS}, ['passed once (request: "Describe', "chosen by attention, ",
        "By fastv, layer 2 was", "By again"], ["replied", "last token ran"]),
    ("compressed_context", {**ANSWERS, "request": None, "tokens": "norm", "keep": 7},
        ["passed once with the question, whose last token ran", "7 per cent", "chosen by norm"],
        ["request", "fastv", "again", "default"]),
    ("compressed_context", {**ANSWERS, "reply": "a square .", "tokens": ["fastv"], "fastv_layer": 4},
        ['replied "a square ."', "layer 4 was the first"], ["again"]),
    ("heads", {"per_image": True, **OBJECTS, "top": 2}, ["tokens (last)",
        "share 0.5", "(2 in number)", "drawn 5 times", "whose peak lies",
        "deviation 1 patches"], ["kept from", "spatial entropy"]),
    ("heads", {"per_image": True, **OBJECTS, **ANSWERS, "choose": "paper", "lowest": 3, "smooth": 0, "layers": [2, 3]},
        ["among the 3 whose", "heads that attend to the image", "no mask was used",
            "also kept from the image", "layers: 2 and 3"],
        ["peak", "smoothed", "another object"]),
    ("heads", {"per_image": True, **OBJECTS, **ANSWERS, "choose": "mass", "towards": OTHERS,
        "other_answers": ["blue", "blue"]},
        ["of whose attention to the image the object has most", "all of the image but another object"], ["peak"]),
    ("heads", {"per_image": True, **OBJECTS, "choose": "iou"}, ["intersection over union"], ["peak", "kept from"]),
    ("image_lens", {}, ["(logit lens; layers: all)"], ["share of an object's", "Controls", "contextual", "rank"]),
    ("image_lens", {**TRUTHS, **ANSWERS, "layers": [2, 3], "top": 4, "bank": ["a red ring", "a blue cross", "a ring"]},
        ["layers: 2 and 3", "in 3 texts", "among the first 4", "rank of the answer"], []),
    ("information_flow", {**ANSWERS, "edges": ["image->last"], "windows": 1}, ["(image->last)", "one window of"], []),
    ("information_flow", {**ANSWERS, "width": 3, "stride": 2}, ["a window of 3 layers around every 2 layers"], []),
    ("joint_routes", {"max_new_tokens": 5}, [DESCRIBED], ["another picture", "third", "Layers:", "probability"]),
    ("joint_routes", {**ANSWERS, "pairs": "pairs", "layers": [2], "routes": ["image->last", "image->question"]},
        ["(image->last and image->question)", "carry another picture", "third picture", "Layers: 2.",
            "probability was"], ["descriptions"]),
    ("knockout_windows", {"max_new_tokens": 5}, [DESCRIBED, "closed in each of 4 windows", "outside each of 4 windows",
        "random layers", "took the query's states"], ["objects in the picture", "log-probability"]),
    ("knockout_windows", {**TRUTHS, "max_new_tokens": 5, "forms": ["allow"], "routes": ["image->last"]},
        ["all layers outside each of 4", "compared with the objects in the picture"],
        ["closed in each", "took the query's"]),
    ("knockout_windows", {**ANSWERS, "forms": ["block"], "windows": 1}, ["one window of layers",
        "generated tokens, which follow it"],
        ["outside", "descriptions", "query's states"]),
    ("knockout_windows", {**ANSWERS, "windows": 0}, ["closed in all layers. The answer's"],
        ["window", "random layers"]),
    ("object_score", {**TRUTHS, "max_new_tokens": 5}, ["up to 5 tokens"], ["judge"]),
    ("object_score", {**TRUTHS, "judge": "judge"}, ["A judge (judge) was also asked"], []),
    ("pair_routes", {"cuts": [0, 2]}, ["each cut on (0 and 2)"], []),
    ("patch_grounding", {}, ["(weight)", "heads: mean; read at: predicting and word", "each token of an object's name"],
        ["mask", "Controls", "hidden", "mean feature", "sinks", "frame"]),
    ("patch_grounding", {**TRUTHS, "tolerance": 15, "tolerance_in": "pixels", "of": ["token", "phrase"]},
        ["each token and phrase of", "a peak within 15", " pixels of the object", "patches were also hidden"], []),
    ("patch_grounding", {**TRUTHS, "cut": False, "ablate": True, "sinks": 3.5, "heads": "each", "words": ["ring"],
        "quantity": "contribution", "read_at": ["word"]},
        ["(contribution)", "heads: each; read at: word", "of the words ring", "threshold 3.5", "within 0 pixels",
         "mean feature was also written"], ["hidden", "object's name"]),
    ("patch_grounding", {"cut": True, "ablate": False}, [], ["hidden", "mean feature"]),
    ("patch_knockout", {**ANSWERS}, ["squares of 3 x 3", "layers: attention", "prompt's last token"], ["object"]),
    ("patch_knockout", {**ABLATED, "size": 1, "layers": [2], "target": "question"},
        ["squares of 1 x 1", "layers: 2", "from the tokens question", "object's patches, and all others"],
        ["last token"]),
    ("patching_map", {}, ["one group and layer", "third picture", "random positions", COMPARED], ["Layers:"]),
    ("patching_map", {"over": "head", "layers": [3], "per_image": True}, ["(site head)", "one head and", "Layers: 3."],
        ["random positions", COMPARED]),
    ("path_patching", {"sender": "image"}, ["Attention and feed-forward parts", "third picture", COMPARED],
        ["computed anew", "Nothing between"]),
    ("path_patching", {"sender": "image", "between": "mlp", "receivers": "last"}, ["parts were computed anew"], []),
    ("path_patching", {"sender": "image", "between": "free", "per_image": True}, ["Nothing between them was held"],
        ["as in that run", COMPARED]),
    ("prompt_ablation", {"max_new_tokens": 5}, ["up to 5 tokens"], ["The parts were"]),
    ("prompt_ablation", {"parts": {"the noun": "ring", "question": "question"}}, ["were the noun and question"], []),
    ("query_patching", {"groups": ["last"], "layers": nv.window(1, 3)}, ["group (last)",
        "Layers: nv.window(1, 3)."], []),
    ("query_patching", {}, ["(image, question and last)"], ["Layers:"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return nv.load("shapes")


@pytest.fixture(scope="module")
def prompts(model):
    return [nv.encode(model, "what color is the ring ?", scene.image) for scene in SCENES]


@pytest.fixture
def unmeasured(monkeypatch):
    """Recipes that check all that they are given, and measure nothing."""
    rows = [(image, image, layer, 0, "none", 0.5) for image in (0, 1) for layer in (2, 3)]
    heads = pd.DataFrame(rows, columns=["image", "cluster", "layer", "head", "control", "hit"])
    heads = heads.assign(**dict.fromkeys(("mass", "iou", "attention", "entropy"), 0.5))  # some are chosen of them

    def frame(study, settings, *_, **__):
        if study.recipe == "heads":
            return study.finished(heads.copy(), settings)
        empty = pd.DataFrame(columns=[*heads, "site", "group", "source", "estimate", "span"])
        return study.finished(empty.astype({"estimate": float, "span": float}), settings)

    monkeypatch.setattr(Study, "frame", frame)
    monkeypatch.setattr("nnsight_vlm.recipes.estimated_places.summary", lambda rows, _: rows)
    return {name: getattr(nv.recipes, name) for name in RECIPES}


def judge(text, names):
    return list(names)


def replaced(given, model, prompts):
    """Arguments that need the model."""
    pairs = [(prompts[0], prompts[1], "red", "purple"), (prompts[1], prompts[0], "purple", "red")]
    words = [nv.encode(model, "what color is the cross ?", scene.image) for scene in SCENES]
    objects = {"pairs": pairs, "judge": judge, "words": words}
    return {name: objects.get(value, value) if isinstance(value, str) else value for name, value in given.items()}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_what_is_said_was_done_and_what_was_not_done_is_not_said(unmeasured, model, prompts, name):
    pairs = [(prompts[0], prompts[1], "red", "purple"), (prompts[1], prompts[0], "purple", "red")]
    about, methods = pairs if name in PAIRED else prompts, []
    for _, given, said, unsaid in (row for row in GRID if row[0] == name):
        frame = unmeasured[name](model, about, **replaced(given, model, prompts), work=QUIET)
        method = frame.attrs["method"]
        assert not [words for words in said if words not in method], method
        assert not [words for words in unsaid if words in method], method
        assert "the default" not in method and "None" not in method and "facts" not in frame.attrs
        assert method.endswith(".")
        methods.append(method)
    assert methods, "write calls of the recipe into GRID"
    for part in RECIPES[name].method:
        if isinstance(part, Only) and not {"frame", "image"} & {name for name, _ in part.when}:  # here is one picture
            spoken = [all(text in method for text in re.split(r"{.*?}", part.text)) for method in methods]
            assert any(spoken) and not all(spoken), f"a call that says this, and one that does not: {part.text}"


def test_what_conditions_mean():
    facts = {"none": None, "zero": 0, "no": False, "yes": True, "words": ("a", "b"), "word": "a", "empty": ()}
    for when, holds in (
        ({"none": False}, True),
        ({"none": GIVEN}, False),
        ({"zero": GIVEN, "no": False}, True),
        ({"zero": True}, False),
        ({"zero": 0, "yes": True, "empty": False}, True),
        ({"words": "b"}, True),
        ({"words": "c"}, False),
        ({"word": ("b", "a")}, True),
        ({"word": ("b", "c")}, False),
        ({"yes": True, "word": "b"}, False),
        ({"not there": False}, True),
    ):
        assert only("It was.", **when).holds(facts) == holds, when
    assert told(("One.", only("Two {word}.", yes=True), only("Three.", no=True)), facts, {"word": "b"}) == "One. Two b."
    assert names_in(("{a} and", only("{b}", c=True))) == {"a", "b", "c"}


def test_a_default_that_was_filled_in_counts_and_a_word_that_was_given_stays():
    settings = plain_facts({"windows": "each of 4 windows", "routes": ["a", "b"], "means": torch.ones(2), "cut": True})
    arguments = {"windows": 0, "routes": None, "cut": True, "answers": False, "corrupt": [object()], "of": "token"}
    facts = facts_of(arguments, {**settings, "corrupt": "other words"}, {"answers": True})
    assert facts["windows"] == 0 and facts["routes"] == ("a", "b") and facts["means"] is True
    assert facts["answers"] is True and facts["corrupt"] == "other words" and facts["of"] == "token"
