"""The figure of every recipe draws the frame that the recipe gives, and shows numbers of it."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from matplotlib.colors import to_hex

import nnsight_vlm as nv
from nnsight_vlm import plots, recipes
from nnsight_vlm.plots.style import GREY
from nnsight_vlm.recipes import Place, Work
from nnsight_vlm.report.study import color_pairs
from nnsight_vlm.studies.registry import RECIPES

COUNT = 2
QUIET = Work(progress=False)


@functools.cache
def model():
    return nv.load("shapes")


@functools.cache
def pairs():
    return color_pairs(model(), first=0, count=COUNT)


@functools.cache
def questions():
    """Questions for the colour of an object in each scene, and what recipes want to know beside them."""
    scenes = [nv.shapes.scene(number) for number in range(COUNT)]
    asked = [scene.objects[0] for scene in scenes]
    prompts = [nv.encode(model(), f"what color is the {each.objects[0].shape}?", each.image) for each in scenes]
    names = [f"{thing.color} {thing.shape}" for thing in asked]
    return prompts, [thing.color for thing in asked], [recipes.shape_truth(scene) for scene in scenes], names


def described(**options):
    """Descriptions, which name objects."""
    scenes = [nv.shapes.scene(number) for number in range(COUNT)]
    prompts = [nv.encode(model(), "describe the image .", scene.image) for scene in scenes]
    return (model(), prompts), {"max_new_tokens": 12, "work": QUIET, **options}


def answered(*left_out, **options):
    prompts, answers, truths, names = questions()
    known = {"answers": answers, "truths": truths, "asked": names, "work": QUIET}
    return (model(), prompts), {**{name: known[name] for name in known if name not in left_out}, **options}


def paired(**options):
    return (model(), pairs()), {"work": QUIET, **options}


def routes():
    alone = [pair.prompt for pair in pairs()], [pair.answer for pair in pairs()]
    given = {"answers": alone[1], "pairs": pairs(), "routes": ["image->last", "image->question"], "work": QUIET}
    return (model(), alone[0]), given


def truths():
    return questions()[2]


CALLS = {
    "ablation": answered,
    "attention_share": described,
    "attribution_map": lambda: paired(layers=[2, 5], exact=2),
    "compressed_context": lambda: answered("truths", "asked", keep=[0, 2, 100], tokens=["attention", "fastv"], timed=0),
    "causal_trace": lambda: answered("truths", "asked", layers=[2, 5]),
    "information_flow": lambda: answered(edges=["object->last", "question->last"]),
    "heads": lambda: answered(top=2, draws=1),
    "image_lens": lambda: answered("asked", layers=[2, 5]),
    "joint_routes": routes,
    "knockout_windows": lambda: described(windows=2, routes=["image->generated"]),
    "object_score": lambda: described(truths=truths()),
    "pair_routes": lambda: paired(cuts=[2, 5]),
    "patch_grounding": lambda: described(truths=truths()),
    "patch_knockout": lambda: answered(size=5),
    "patching_map": lambda: paired(layers=[2, 5]),
    "path_patching": lambda: paired(sender=Place("image", layers=3), receivers=[Place("last", layers=[4, 6])]),
    "prompt_ablation": lambda: described(parts={"verb": "describe"}),
    "query_patching": lambda: paired(layers=[2, 5]),
}


def shown(axis):
    """The numbers of measurements, not of controls, that axes show: lines, dots and cells."""
    lines = [
        line
        for line in axis.lines
        if not str(line.get_label()).startswith("_") and len(line.get_xdata()) > 1 and line.get_marker() != "None"
    ]
    found = [line.get_ydata() for line in lines if to_hex(line.get_color()) != to_hex(GREY)]
    bars = [dots for dots in axis.containers if dots.has_xerr]
    found += [dots[0].get_xdata() for dots in bars if to_hex(dots[0].get_color()) != to_hex(GREY)]
    found += [image.get_array().compressed() for image in axis.images]
    return np.concatenate([np.asarray(each, dtype=float) for each in found]) if found else np.zeros(0)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_the_figure_of_a_recipe_draws_what_the_recipe_gives(name):
    given, options = CALLS[name]()
    frame = getattr(recipes, name)(*given, **options)
    axes = np.atleast_1d(getattr(plots, name)(frame))
    own = frame[frame["control"] == "none"]["mean"].dropna().to_numpy(dtype=float)
    for axis in axes:
        numbers = shown(axis)
        assert axis.has_data() and len(numbers)
        assert all(np.isclose(own, number, rtol=1e-12, atol=0).any() for number in numbers if np.isfinite(number))
    assert axes[0].figure.get_figwidth() == 3.3


def test_the_map_of_one_prompt_is_drawn_and_the_rows_of_images_are_refused_in_words():
    prompts, answers, _, _ = questions()
    frame = recipes.patch_knockout(model(), prompts[0], answer=answers[0], size=5)
    assert np.isin(plots.patch_knockout(frame).images[-1].get_array().compressed(), frame["logprob_change"]).all()
    rows = recipes.patch_knockout(model(), prompts[:2], answers=answers[:2], size=5, per_image=True, work=QUIET)
    with pytest.raises(nv.SpecError, match="frame="):
        plots.patch_knockout(rows)
