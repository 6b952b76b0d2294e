"""Token groups: five of them part every prompt of every family, the others are views, and all can be listed."""

from __future__ import annotations

import pytest
import tiny
import torch
import zoo
from zoo.parts import picture

import nnsight_vlm as nv
from nnsight_vlm.families import view_of
from nnsight_vlm.recipes import Pair, Work, attention_share, knockout_windows, prompt_ablation, query_patching

PARTS = ("system", "image", "markup", "query", "generated")
VIEWS = ("question", "text", "last", "first", "bos", "all")
QUIET = Work(progress=False)
MORE = " see the big red dog"


def encoded(name: str, kind: str) -> nv.Prompt:
    """A prompt of a member of the zoo, of one kind."""
    member, model = zoo.ZOO[name], zoo.load(name, zoo.ZOO[name].implementations[0])
    small, large = (picture(seed, size) for seed, size in enumerate((member.sizes[0], member.sizes[-1]), 1))
    texts = [member.text, member.text + MORE]
    if kind == "one tile":
        return nv.encode(model, member.text, small)
    if kind == "several tiles":
        return nv.encode(model, member.text, large)
    if kind == "grown":
        return nv.encode(model, member.text, large).grown([7, 8, 9])
    if kind == "two images":
        if "several images" in view_of(model).family.limitations:
            pytest.skip(view_of(model).family.limitations["several images"])
        twice = f"{member.text} {member.text.removeprefix('<s>')}"
        return nv.encode(model, twice, [picture(1, member.sizes[-1]), large])
    batch = nv.encode(model, texts, [picture(1, member.sizes[-1]), large])
    return batch.grown_rows([[7, 8], [9, 7]]) if kind == "grown rows" else batch


KINDS = ("one tile", "several tiles", "two images", "grown", "rows", "grown rows")


def real_tokens(prompt: nv.Prompt, number: int) -> set[int]:
    """Where a row has a token or a key, from the masks alone: padding is nowhere."""
    inputs, tokens = prompt.inputs, prompt.rows[number]
    read = set(inputs["attention_mask"][number].nonzero().flatten().tolist())
    family = view_of(prompt.model).family
    if family.image_at == "encoder":
        written = inputs[family.tokens].shape[1]
        return {place - inputs["attention_mask"].shape[1] for place in read} | set(range(written))
    if family.image_at == "cross":
        tiles = prompt.model._module.config.vision_config
        keys = tiles.max_num_tiles * ((tiles.image_size // tiles.patch_size) ** 2 + 1)
        there = int((inputs["aspect_ratio_ids"][number] > 0).sum())
        assert tokens.outside == keys * inputs["aspect_ratio_ids"].shape[1]
        return read | set(range(-tokens.outside, -tokens.outside + keys * there))
    return read


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", zoo.ZOO)
def test_five_groups_part_the_sequence_and_the_others_are_views_of_it(name, kind):
    prompt = encoded(name, kind)
    for number, tokens in enumerate(prompt.rows):
        groups = {name: tokens.group(name).positions(tokens.stop) for name in tokens.group_names}
        listed = [position for part in PARTS for position in groups[part]]
        assert sorted(listed) == sorted(set(listed)), "a token is in two groups"
        assert set(listed) == real_tokens(prompt, number)
        assert all(position == sorted(position) for position in map(list, groups.values()))
        assert set(groups["text"]) == set(listed) - set(groups["image"])
        assert groups["last"] == (tokens.answer - 1,)
        special = set(prompt.model.processor.tokenizer.all_special_ids)
        assert set(groups["markers"]) == {
            place for place in groups["system"] + groups["query"] if place_has(tokens, place, special)
        }
        assert set(groups["question"]) == set(groups["query"]) - set(groups["last"]) - set(groups["markers"])
        assert groups["all"] == tuple(range(tokens.start, tokens.stop))
        assert groups["generated"] == tuple(range(tokens.answer, tokens.stop))
        by_image = [groups[name] for name in groups if name.startswith("image.")]
        assert sorted(position for image in by_image for position in image) == list(groups["image"])
        assert len(by_image) == len(tokens.images)
        assert all(set(groups[view]) <= set(listed) for view in VIEWS)
        assert not groups["image"] or not groups["system"] or groups["system"][-1] < max(groups["query"])


def place_has(tokens, place: int, ids: set[int]) -> bool:
    """Whether the token in some place, of the sequence or outside it, is one of some ids."""
    return (tokens.tokens[place] if place >= 0 else tokens.outside_tokens[place]) in ids


@pytest.mark.parametrize("name", zoo.ZOO)
def test_a_row_of_a_batch_has_the_groups_of_the_row_alone(name):
    batch = encoded(name, "grown rows")
    for number, text in enumerate((zoo.ZOO[name].text, zoo.ZOO[name].text + MORE)):
        shown = picture(number + 1, zoo.ZOO[name].sizes[-1])
        alone = nv.encode(batch.model, text, shown).grown([[7, 8], [9, 7]][number])
        assert batch.row(number).groups == alone.groups


def test_the_mark_of_an_image_outside_the_sequence_is_markup():
    prompt = encoded("mllama", "two images")
    ids, mark = prompt.inputs["input_ids"][0], prompt.model._module.config.image_token_index
    places = tuple((ids == mark).nonzero().flatten().tolist())
    assert len(places) == 2 and prompt["markup"] == places
    assert set(places) < set(prompt["text"]) and max(prompt["system"]) < places[0] < min(prompt["query"])


def test_the_token_with_which_a_decoder_begins_is_markup():
    for name in ("blip-2-t5", "instructblip-t5", "florence2"):
        prompt = encoded(name, "one tile")
        assert prompt["markup"] == prompt["last"] == (0,)
        assert prompt["question"] == tuple(place for place in prompt["query"] if place not in prompt["markers"])
        assert max(prompt["query"]) < 0 and len(prompt["question"]) >= 3


def test_line_breaks_and_tile_numbers_are_markup():
    for name in ("fuyu", "llava-pixtral", "idefics3", "llama4"):
        prompt = encoded(name, "several tiles")
        image = prompt["image"]
        assert prompt["markup"] == tuple(p for p in range(image[0], image[-1] + 1) if p not in image) != ()


# groups that are listed, and groups without tokens ----------------------------------------------------


def test_all_groups_can_be_listed(sdpa):
    prompt = nv.encode(sdpa, "what is the red square ?", tiny.picture(0))
    by_role = ("markers", "system_message", "user", "assistant", "turn.0")
    shown = ("image", "image.0", "video")
    assert tuple(prompt.groups) == ("system", *shown, "markup", "query", "generated", *VIEWS, *by_role)
    assert all(prompt[name] == positions for name, positions in prompt.groups.items())
    assert prompt.groups["markup"] == prompt["markup"] == prompt["generated"] == ()


def test_a_prompt_without_a_picture_has_empty_groups_and_all_its_text_is_query(sdpa):
    groups = nv.encode(sdpa, inputs={"input_ids": torch.tensor([[7, 8, 9]])}).groups
    whole = dict.fromkeys(("query", "text", "all"), (0, 1, 2))
    assert groups == {
        **dict.fromkeys(("system", "image", "video", "markup", "generated", "bos", "markers"), ()),
        **whole,
        "question": (0, 1),
        "first": (0,),
        "last": (2,),
    }


def test_rows_with_equal_groups_list_them_and_others_say_what_to_write(sdpa):
    same = nv.encode(sdpa, ["what is the red square ?", "where is a blue circle ?"], [tiny.picture(0), tiny.picture(1)])
    assert same.groups == same.row(0).groups == same.row(1).groups
    with pytest.raises(nv.SpecError, match=r"write prompt\.row\(0\)\.groups"):
        tiny.several(sdpa).groups  # noqa: B018
    two = nv.encode(sdpa, ["red", "red"], [[tiny.picture(0)], []])
    with pytest.raises(nv.SpecError, match=r"prompt\.row\(0\)\.groups"):
        two.groups  # noqa: B018


@pytest.mark.parametrize("name", ["sky", "image.", "image.-1", "image.1", "image.x", "query.0", "image.²", "Image", ""])
def test_a_group_that_no_prompt_has_is_refused_with_those_that_this_one_has(sdpa, name):
    prompt = nv.encode(sdpa, "what is the red square ?", tiny.picture(0))
    with pytest.raises(nv.SpecError, match=r"counted from image\.0|system, image, image\.0, video, markup, query"):
        prompt[name]


def test_a_single_image_of_a_prompt_without_one_is_refused(sdpa):
    with pytest.raises(nv.SpecError, match=r"has 0 image\(s\)"):
        nv.encode(sdpa, inputs={"input_ids": torch.tensor([[7, 8, 9]])})["image.0"]


# recipes ----------------------------------------------------------------------------------------------


def test_a_recipe_does_not_measure_a_group_without_tokens(sdpa):
    text_only = nv.encode(sdpa, inputs={"input_ids": torch.tensor([[7, 8, 9]])})
    shown = nv.encode(sdpa, inputs={**tiny_inputs(sdpa)})
    for recipe in (attention_share, knockout_windows, prompt_ablation):
        with pytest.raises(nv.SpecError, match="'image' is empty in this prompt: it has no image"):
            recipe(sdpa, [text_only], max_new_tokens=2, work=QUIET)
    for route in ("system->query", "image->system", "markup->last"):
        with pytest.raises(nv.SpecError, match="is empty in this prompt"):
            knockout_windows(sdpa, [shown], routes=[route], answers=["dog"], work=QUIET)
    with pytest.raises(nv.SpecError, match="'system' is empty in this prompt"):
        query_patching(sdpa, [Pair(shown, shown, 7, 8)], groups=["system"], work=QUIET)


def tiny_inputs(model):
    """An encoding that begins with its image."""
    inputs = dict(nv.encode(model, "what is the red square ?", tiny.picture(0)).inputs)
    first = nv.encode(model, "what is the red square ?", tiny.picture(0))["image"][0]
    return {**inputs, **{name: inputs[name][:, first:] for name in ("input_ids", "attention_mask")}}


def test_the_question_is_patched_beside_the_last_token_and_shares_none_with_it(sdpa):
    one, two = (nv.encode(sdpa, "what is the red square ?", tiny.picture(seed)) for seed in (0, 1))
    frame = query_patching(sdpa, [Pair(one, two, 7, 8)], layers=[1], per_image=True, work=QUIET)
    assert set(frame["group"]) == {"image", "question", "last"}
    assert not set(one["question"]) & set(one["last"])
