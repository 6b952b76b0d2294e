"""What a recipe's frame says of where it comes from."""

from __future__ import annotations

import inspect
import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import nnsight_vlm as nv
from nnsight_vlm.errors import SpecError
from nnsight_vlm.studies import provenance
from nnsight_vlm.studies.papers import GEVA, KADURI, NNSIGHT, PAPERS
from nnsight_vlm.studies.registry import RECIPES, recipe

QUIET = nv.recipes.Work(progress=False)
SCENES = [nv.shapes.scene(number) for number in (3, 4)]
EXAMPLES = {
    "ablation": {
        "truths": [nv.recipes.shape_truth(scene) for scene in SCENES],
        "asked": [f"{scene.objects[0].color} {scene.objects[0].shape}" for scene in SCENES],
        "answers": ["red", "blue"],
        "tokens": "object",
    },
    "attention_share": {"max_new_tokens": 2},
    "heads": {
        "truths": [nv.recipes.shape_truth(scene) for scene in SCENES],
        "asked": [f"{scene.objects[0].color} {scene.objects[0].shape}" for scene in SCENES],
        "answers": ["red", "blue"],
        "top": 2,
        "draws": 1,
    },
    "compressed_context": {"answers": ["red", "blue"], "keep": [1, 100], "tokens": ["norm"], "timed": 0},
    "information_flow": {"answers": ["red", "red"], "edges": ["image->last"], "windows": 2},
    "knockout_windows": {"answers": ["red", "red"], "routes": ["image->last"], "windows": 2},
    "object_score": {"truths": [nv.recipes.shape_truth(scene) for scene in SCENES], "max_new_tokens": 4},
    "patch_grounding": {"max_new_tokens": 2},
    "patch_knockout": {"answer": "red", "size": 1},
    "prompt_ablation": {"max_new_tokens": 2, "parts": {"color": "color"}},
    "query_patching": {"groups": ["last"], "layers": nv.window(1, 3)},
}
"""A cheap call of each recipe, beside its prompts."""
COMPARED = ("comparisons", "level", "against")
"""What frames say beside, in which many numbers were compared."""


@pytest.fixture(scope="module")
def model():
    return nv.load("shapes")


@pytest.fixture(scope="module")
def prompts(model):
    return [nv.encode(model, "what color is the ring ?", nv.shapes.scene(number).image) for number in (3, 4)]


def given(name, prompts):
    """What a recipe is about."""
    if name == "patch_knockout":
        return prompts[0]
    return [(*prompts, "red", "blue")] if name == "query_patching" else prompts


def called(name, model, prompts, **more):
    quiet = {} if name == "patch_knockout" else {"work": QUIET}
    return getattr(nv.recipes, name)(model, given(name, prompts), **{**quiet, **EXAMPLES[name], **more})


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_a_frame_has_every_key_as_plain_values(name, model, prompts, tmp_path):
    frame = called(name, model, prompts)
    assert set(provenance.KEYS) <= set(frame.attrs) <= {*provenance.KEYS, "ids", *COMPARED}
    assert json.loads(json.dumps(frame.attrs, allow_nan=False)) == frame.attrs
    assert frame.attrs["recipe"] == name and frame.attrs["call"].startswith(f"{name}(model, ")
    assert frame.attrs["model"] == "shapes" and frame.attrs["dtype"] == "float32" and frame.attrs["device"] == "cpu"
    assert frame.attrs["attention"] == {"text": "sdpa", "vision": "sdpa"} and frame.attrs["left_out"] == []
    assert frame.attrs["prompts"] == frame.attrs["images"] == (1 if name in ("patch_knockout", "query_patching") else 2)
    assert "{" not in frame.attrs["method"]
    frame.to_parquet(tmp_path / "frame.parquet")
    assert pd.read_parquet(tmp_path / "frame.parquet").attrs == frame.attrs
    assert pickle.loads(pickle.dumps(frame)).attrs == frame.attrs


def test_rows_of_every_image_say_the_same_but_for_the_call(model, prompts):
    means, rows = (called("knockout_windows", model, prompts, per_image=each) for each in (False, True))
    assert rows.attrs.pop("call") == means.attrs.pop("call").replace(")", ", per_image=True)")
    assert rows.attrs == means.attrs


def test_the_call_has_what_differs_from_defaults_and_can_be_typed(model, prompts):
    frame = called("query_patching", model, prompts, seed=7, per_image=False)
    assert frame.attrs["call"] == "query_patching(model, pairs, groups=['last'], layers=nv.window(1, 3), seed=7)"
    assert frame.attrs["seed"] == 7 and frame.attrs["settings"]["groups"] == "last"
    frame = called("knockout_windows", model, prompts, objects=None, forms=["block"])
    assert frame.attrs["call"] == (
        "knockout_windows(model, prompts, answers=['red', 'red'], routes=['image->last'], windows=2, forms=['block'])"
    )
    assert "(image->last)" in frame.attrs["method"] and "2 windows" in frame.attrs["method"]


def test_a_job_in_the_background_gives_the_attrs_of_a_call_that_is_waited_for(model, prompts, tmp_path):
    waited = called("attention_share", model, prompts, remote="local")
    job = called("attention_share", model, prompts, remote="local", blocking=False, path=tmp_path / "job")
    assert job.result(60).attrs == waited.attrs and waited.attrs["remote"] == "simulated here"
    assert "remote='local'" in waited.attrs["call"]
    assert nv.remote.resume(tmp_path / "job", model=model).result(60).attrs == waited.attrs


def test_a_resumed_run_has_the_attrs_of_an_uninterrupted_one(model, prompts, tmp_path):
    first = called("knockout_windows", model, prompts, work=nv.recipes.Work(progress=False, journal=tmp_path, chunk=1))
    parts = sorted(Path(tmp_path).glob("*.parquet"))
    parts[0].unlink()
    again = called("knockout_windows", model, prompts, work=nv.recipes.Work(progress=False, journal=tmp_path, chunk=1))
    assert len(parts) == 2 and again.attrs == first.attrs == called("knockout_windows", model, prompts).attrs
    pd.testing.assert_frame_equal(again, first)


def test_other_weights_and_edits_are_told_apart(model, prompts):
    other = nv.load("shapes")
    weight = next(other._module.parameters())
    weight.data.view(-1)[0] += 1.0
    attrs = [called("knockout_windows", each, prompts).attrs for each in (model, other)]
    assert attrs[0]["weights"] != attrs[1]["weights"] and attrs[0]["edits"] == 0


def test_of_a_model_on_a_server_only_what_is_decided_here_is_said(model):
    view = provenance.view_of(model)
    facts = provenance.model_facts(view, "http://me:secret@my-server:8001/path?token=abc")
    assert facts["remote"] == "http://my-server:8001"
    unknown = "unknown: runs on http://my-server:8001"
    assert facts["dtype"] == facts["device"] == facts["weights"] == facts["versions"]["server"] == unknown
    assert facts["attention"] == {"text": "sdpa", "vision": unknown}  # nnsight sends the decoder's with each request


def test_no_secret_is_in_a_call():
    parameters = dict.fromkeys(("items", "remote"), provenance.Parameter("items", provenance.Parameter.KEYWORD_ONLY))
    arguments = {"items": "https://me:pw@host/a.csv?token=abc#x", "remote": "http://u:pw@host:1/?key=abc"}
    call = provenance.call_of("some_recipe", arguments, parameters)
    assert call == "some_recipe(items='https://host/a.csv', remote='http://host:1')"
    assert provenance.without_secrets(f"token={'hf_' + 'a' * 34}") == "token=hf_..."
    assert provenance.without_secrets("C:/files/a b.csv, image->last") == "C:/files/a b.csv, image->last"


def test_numbers_of_other_libraries_stay_numbers(model, prompts):
    frame = called("knockout_windows", model, prompts, seed=np.int64(4), windows=np.int64(1))
    assert frame.attrs["seed"] == 4 and "windows=1, seed=4" in frame.attrs["call"]
    said = {"ids": [np.int64(3), "a"], "left_out": [(np.int64(1), "why")], "prompts": 1}
    arguments = {"model": model, "prompts": prompts}
    entry = RECIPES["knockout_windows"]
    attrs = provenance.provenance("knockout_windows", "could", "It was cut.", arguments, parameters_of(entry), said)
    assert attrs["ids"] == [3, "a"] and attrs["left_out"] == [[1, "why"]]


def parameters_of(entry):
    return inspect.signature(entry.function).parameters


def test_long_values_are_shortened():
    assert provenance.spelled_or("answers", ["red"] * 100) == "['red', 'red', 'red', 'red', ...]"
    assert provenance.in_words([str(number) for number in range(20)]) == "0, 1, 2, 3, 4, 5, 6, 7, ... (20 in all)"
    assert provenance.spelled_or("truths", [object()]) == "truths"


@pytest.mark.parametrize(
    "wrong",
    [
        {"papers": ()},
        {"shows": "proves"},
        {"shows_of": {"kept": "proves"}},
        {"method": "{layer} was cut"},
        {"asks": ""},
        {"asks": "two\nlines"},
    ],
)
def test_a_recipe_that_says_too_little_cannot_be_defined(wrong):
    def fine(model, prompts):
        raise AssertionError

    said = {"papers": (GEVA,), "asks": "What?", "method": "{prompts} were cut", "shows": "could", **wrong}
    with pytest.raises(TypeError, match="fine"):
        recipe(**said)(fine)
    assert "fine" not in RECIPES


def test_the_order_of_the_decorators_matters_and_is_checked():
    with pytest.raises(TypeError, match="write @recipe below @can_run_in_background"):
        recipe(papers=(GEVA,), asks="What?", method="It was cut.", shows="could")(nv.recipes.attention_share)


def test_papers_are_named_as_texts_name_them():
    assert KADURI.cited == "Kaduri et al. 2024" and PAPERS["2604.09364"].cited == "arXiv 2604.09364"
    assert all(number == paper.arxiv and paper.year > 2000 for number, paper in PAPERS.items())
    assert NNSIGHT.cited == "Fiotto-Kaufman et al. 2024"


def test_a_call_that_is_refused_is_refused_as_before(model, prompts):
    with pytest.raises(SpecError, match="windows"):
        called("knockout_windows", model, prompts, windows=-1)
    with pytest.raises(SpecError, match="knockout_windows has no argument no_such="):
        called("knockout_windows", model, prompts, no_such=1)
