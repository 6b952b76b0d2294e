"""An argument that would not be used is an error, which says what to write instead."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from typer.testing import CliRunner

import nnsight_vlm as nv
from nnsight_vlm.cli import app
from nnsight_vlm.report import config, write_report

QUESTION = "what is red ?"
CHAT = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
TOOL = {"type": "function", "function": {"name": "look", "description": "looks", "parameters": {}}}


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.load("sdpa")


@pytest.fixture(scope="module")
def prompt(model) -> nv.Prompt:
    return nv.encode(model, QUESTION, tiny.picture())


def test_arguments_of_encode_that_do_not_go_together(model, prompt):
    picture, inputs = tiny.picture(), prompt.inputs
    for given, message in (
        (
            {"text": QUESTION, "image": picture, "images": [picture]},
            "given twice, as the third argument and as",
        ),
        ({"text": QUESTION, "image": picture, "images": []}, "given twice"),
        ({"text": QUESTION, "continue_final_message": True}, "last message of a chat, and a text was given"),
        ({"text": QUESTION, "tools": [TOOL]}, "its chat template takes no tools"),
        ({"text": "red <image>", "image": picture, "tools": [TOOL]}, "the text is complete"),
        ({"text": QUESTION, "chat": "no"}, "chat='no' is no choice; write chat=True or chat=False"),
        ({"text": CHAT, "continue_final_message": "content"}, "continue_final_message='content' is no choice"),
        ({"text": CHAT, "tools": TOOL}, "a list of descriptions or functions, and a dict was given"),
        ({"text": CHAT, "tools": []}, "a list of descriptions or functions, and none of them was given"),
        ({"text": CHAT, "chat": False}, "messages go into the chat template"),
        ({"text": CHAT, "image": picture}, r"0 image entries .* 1 picture\(s\) were given"),
        ({"inputs": inputs, "tools": [TOOL]}, "tools= says how a text is encoded"),
        ({"inputs": inputs, "continue_final_message": True}, "continue_final_message= says how a text is encoded"),
        ({"inputs": inputs, "image": picture}, "image= says how a text is encoded, .* are images="),
        ({"inputs": inputs, "chat": False}, "chat= says how a text is encoded"),
        ({"inputs": inputs, "chat": True}, "chat= says how a text is encoded"),
        ({"inputs": inputs, "text": QUESTION}, "give either a text"),
        ({}, "give either a text"),
    ):
        with pytest.raises(nv.SpecError, match=message):
            nv.encode(model, **given)


@pytest.mark.parametrize(
    "option",
    [
        {"attn_implementation": "eager"},
        {"dtype": "bfloat16"},
        {"device_map": "auto"},
        {"dispatch": False},
        {"revision": "x"},
    ],
)
def test_options_of_loading_beside_a_model_in_memory(option):
    [name] = option
    with pytest.raises(nv.SpecError, match=f"{name}=.* this one is in memory already"):
        nv.load(tiny.build_module(), processor=tiny.build_processor(), **option)


def test_a_revision_of_a_model_inside_the_package():
    with pytest.raises(nv.SpecError, match="has no revisions"):
        nv.load("shapes", revision="main")


@pytest.mark.parametrize("argument", [{"under": nv.Knockout("image", "last")}, {"source_where": "image"}])
def test_a_patch_from_a_tensor_runs_no_source(argument):
    [name] = argument
    with pytest.raises(nv.SpecError, match=f"{name}= says how the source is run, and a tensor is not run"):
        nv.Patch("last", source=torch.zeros(1, 1, tiny.WIDTH), **argument)


@pytest.mark.parametrize("reduce", ["rows", "mean", "mass", "entropy"])
def test_how_many_keys_are_listed_where_none_are(reduce):
    with pytest.raises(nv.SpecError, match='top=3 is for reduce="top"'):
        nv.Attention("last", "image", reduce=reduce, top=3)


def test_ten_keys_are_listed_unless_told_otherwise(model, prompt):
    ten, listed = (
        nv.run(model, prompt, reads=nv.Attention("last", "image", reduce="top", **top)).reads[0]
        for top in ({}, {"top": 10})
    )
    assert torch.equal(ten, listed) and ten.shape[-2] == 10


def test_memory_of_a_sweep_that_runs_one_variant_at_a_time(model, prompt):
    with pytest.raises(
        nv.SpecError, match='memory= says how many variants run at once, and execution="single" runs one'
    ):
        nv.sweep(model, prompt, [nv.Knockout("image", "last")], answer="red", execution="single", memory=10**9)


def test_a_batch_of_no_rows(model, prompt):
    with pytest.raises(nv.SpecError, match="rows=0 is no number of cases"):
        nv.generations(model, [(prompt, None)], rows=0)


def test_where_a_job_is_kept_that_is_none(model, prompt, tmp_path):
    for call in (
        lambda: nv.run(model, prompt, path=tmp_path),
        lambda: nv.generate(model, prompt, path=tmp_path),
        lambda: nv.verify(model, prompt, None, path=tmp_path),
    ):
        with pytest.raises(nv.SpecError, match="path= is where a job is kept; write blocking=False"):
            call()


@pytest.mark.parametrize("said", [{"truths": [()]}, {"objects": str.split}, {"max_new_tokens": 8}, {"rows": 2}])
def test_what_is_said_of_descriptions_where_answers_are_scored(model, prompt, said):
    [name] = said
    with pytest.raises(nv.SpecError, match=f"{name}= is not used where answers= are given"):
        nv.recipes.knockout_windows(model, [prompt], answers=["red"], **said)


def test_names_of_objects_beside_the_objects_themselves(model, prompt):
    with pytest.raises(nv.SpecError, match="objects= is not used where truths= are given"):
        nv.recipes.patch_grounding(model, [prompt], truths=[()], objects=str.split)


def test_scenes_beside_pictures(tmp_path):
    tiny.picture().save(tmp_path / "0.png")
    with pytest.raises(nv.SpecError, match="give one of them"):
        write_report(tmp_path / "out", images=str(tmp_path), scenes=3)
    asked = ["report", "--images", str(tmp_path), "--scenes", "3", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 2 and "give one of them" in done.stderr
    assert config.ReportConfig().scenes == 24


def test_an_answer_to_score_that_no_cut_can_reach(tmp_path, monkeypatch):
    monkeypatch.setattr("nnsight_vlm.report.single.load_by_name", lambda *_: pytest.fail("a model was loaded"))
    tiny.picture().save(tmp_path / "0.png")
    asked = ["knockout", str(tmp_path / "0.png"), QUESTION, "--target", "generated", "--answer", "red"]
    done = CliRunner().invoke(app, [*asked, "--out", str(tmp_path / "out.png")])
    assert done.exit_code == 2 and "never depends on generated; leave it out" in done.stderr
