"""Videos as prompts: which token is what in which frame, and which pixels it saw; what is taken for a video."""

from __future__ import annotations

import copy
import pickle
import re

import numpy as np
import pytest
import torch
import zoo
from transformers.utils import is_torchvision_available
from zoo import videos
from zoo.parts import picture
from zoo.planted import changed, inverted

import nnsight_vlm as nv
from nnsight_vlm import versions
from nnsight_vlm.families import FAMILIES, view_of
from nnsight_vlm.remote.job_files import StoredCall, read_job, write_job

pytestmark = pytest.mark.skipif(
    not versions.lies_in(versions.installed("transformers"), ">=5.23"),
    reason="the small video processors of the tests stand in for those of transformers 5.23",
)
NAMES = tuple(videos.VIDEO_ZOO)
PARTS = ("system", "image", "video", "markup", "query", "generated")
TEXT = "what happens then ?"
BY_TOKEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava_onevision")
"""Families whose videos have a token of their own; the frames of the others have that of images."""


def encoded(name: str, frames: int = 4, seed: int = 0, **named) -> nv.Prompt:
    model = videos.load(name, **named)
    return nv.encode(model, TEXT, videos=videos.film(name, frames, seed))


def placeholders(prompt: nv.Prompt) -> tuple[int, ...]:
    """Where the model itself puts features."""
    config = view_of(prompt.model).config
    ids = {getattr(config, name, None) for name in ("image_token_id", "video_token_id")}
    return tuple(place for place, token in enumerate(prompt.inputs["input_ids"][0].tolist()) if token in ids)


# which token is what --------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 4, 5])
@pytest.mark.parametrize("name", NAMES)
def test_video_tokens_are_those_in_whose_place_the_model_puts_features(name, frames):
    prompt, member = encoded(name, frames), videos.VIDEO_ZOO[name]
    assert prompt["video"] == prompt["video.0"] == placeholders(prompt)
    shown = [prompt[f"frame.{number}"] for number in range(frames)]
    assert all(len(tokens) == member.tokens for tokens in shown)
    assert len(set(shown)) == -(-frames // member.per_token)
    for number, tokens in enumerate(shown):
        assert tokens == shown[number // member.per_token * member.per_token]
    ends = {"llava_onevision": prompt["video"][-1:]}.get(name, ())  # a token that stands for no frame
    assert sorted({place for tokens in shown for place in tokens} | {*ends}) == list(prompt["video"])
    assert "frame.0" in prompt.groups and f"frame.{frames}" not in prompt.groups


@pytest.mark.parametrize("name", NAMES)
def test_groups_part_a_prompt_with_a_video(name):
    prompt = encoded(name)
    assert sorted(place for part in PARTS for place in prompt[part]) == list(prompt["all"])
    assert prompt["image"] == () and not set(prompt["text"]) & set(prompt["video"])
    assert prompt["text"] == tuple(place for place in prompt["all"] if place not in prompt["video"])
    assert max(prompt["system"]) < prompt["video"][0] < prompt["video"][-1] < min(prompt["query"])
    assert set(prompt["markup"]) == set(range(prompt["video"][0], prompt["video"][-1])) - set(prompt["video"])
    assert prompt["question"] == prompt.find("what happens then ?")
    assert {*prompt["video"], *prompt["question"]} <= set(prompt["turn.0"]) == set(prompt["user"])
    assert set(prompt["markers"]) == set(prompt["all"]) - set(prompt["user"])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "smolvlm"])
def test_images_and_videos_stand_side_by_side(name):
    model, member = videos.load(name), videos.VIDEO_ZOO[name]
    films = [videos.film(name, 4), videos.film(name, 2, seed=1)]
    if name in ("llava_onevision", "internvl"):  # whose processors make one tensor of all videos of a prompt
        films[1] = videos.film(name, 4, seed=1)
    chat = [
        {"role": "user", "content": [{"type": "video"}, {"type": "image"}, {"type": "text", "text": "the dog ?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
        {"role": "user", "content": [{"type": "video", "video": films[1]}, {"type": "text", "text": "the bike ?"}]},
    ]
    prompt = nv.encode(model, chat, picture(7, member.size), videos=films[0])
    assert sorted(place for part in PARTS for place in prompt[part]) == list(prompt["all"])
    assert tuple(sorted((*prompt["image"], *prompt["video"]))) == placeholders(prompt)
    first, second = prompt["video.0"], prompt["video.1"]
    assert first[-1] < prompt["image"][0] < prompt["image"][-1] < second[0]
    assert prompt["frame.0"] == first[: member.tokens] and prompt["frame.4"] == second[: member.tokens]
    assert set(first) | set(prompt["image"]) < set(prompt["turn.0"]) and set(second) < set(prompt["turn.2"])
    assert not {*prompt["video"], *prompt["image"]} & {*prompt["turn.1"], *prompt["markers"]}
    assert prompt.find("bike", within="turn.2") == prompt.find("bike")
    assert [len(prompt.grid(video=number).pictures) for number in (0, 1)] == [4, len(films[1])]
    assert prompt.grid(0).positions == prompt["image"]
    assert nv.run(model, prompt).logits.isfinite().all()


def test_words_are_found_within_a_turn():
    model = videos.load("qwen3_vl")
    chat = [
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "is the dog red ?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "the dog is blue"}]},
        {"role": "user", "content": [{"type": "text", "text": "and the bike ?"}]},
    ]
    prompt = nv.encode(model, chat, videos={"video": videos.film("qwen3_vl"), "fps": 2})
    both = prompt.find("dog")
    assert len(both) == 2
    assert prompt.find("dog", within="turn.0") == both[:1] == prompt.find("dog", within="user")
    assert prompt.find("dog", within="turn.1") == both[1:] == prompt.find("dog", within="assistant")
    assert prompt.find("the", within="turn.2") == prompt.find("the", occurrence=2)
    with pytest.raises(nv.SpecError, match=re.escape("'dog' is not in the prompt ('turn.2'), it is elsewhere")):
        prompt.find("dog", within="turn.2")
    with pytest.raises(nv.SpecError, match="the chat has 3 message"):
        prompt.find("dog", within="turn.3")
    assert [word.text for word in prompt.words("turn.1")] == ["the", "dog", "is", "blue"]


def test_the_times_between_frames_are_text():
    model = videos.load("qwen3_vl")
    prompt = nv.encode(model, TEXT, videos={"video": videos.film("qwen3_vl", 6), "fps": 2.0})
    assert [match.text for match in prompt.find_all("seconds")] == ["seconds"] * 3
    assert all(f"<{middle} seconds>" in prompt.text for middle in ("0.2", "1.2", "2.2"))
    later = prompt.find("1.2 seconds")
    assert set(later) <= set(prompt["markup"]) <= set(prompt["text"])
    assert prompt["frame.1"][-1] < later[0] < later[-1] < prompt["frame.2"][0]
    assert prompt.find("0.2 seconds", within="system")[0] < prompt["video"][0]


@pytest.mark.parametrize("name, words", [("internvl", "frame2"), ("smolvlm", "frame from")])
def test_what_is_written_between_frames_is_text(name, words):
    prompt = encoded(name)
    found = prompt.find(words, within="markup")
    assert found and set(found) <= set(prompt["text"])
    assert prompt.text.count("\n") >= 4  # each frame is a line break


# pixels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_pixels_planted_in_one_frame_change_the_features_that_the_grid_says(name):
    model, member = videos.load(name, local=True), videos.VIDEO_ZOO[name]
    frames = videos.film(name, 5)
    clean = nv.encode(model, TEXT, videos=frames)
    width, height = member.size
    grid = clean.grid(video=0)
    for frame, (x0, y0, x1, y1) in (
        (0, (0, 0, 3, 3)),
        (3, (9, 5, 11, 12)),
        (4, (width - 4, height - 4, width, height)),
    ):
        where = np.zeros((height, width), dtype=bool)
        where[y0:y1, x0:x1] = True
        planted = [*frames]
        planted[frame] = inverted(frames[frame], where)
        moved = changed(clean, nv.encode(model, TEXT, videos=planted))
        found = tuple(np.flatnonzero(moved > 1e-6).tolist())
        assert found == clean.region((x0, y0, x1, y1), video=0, frame=frame) == grid.frame(frame).tokens_in(where)
        assert set(found) <= set(clean[f"frame.{frame}"]) < set(clean["video"])
        everywhere = clean.region((x0, y0, x1, y1), video=0)
        assert set(found) < set(everywhere) == {place for n in range(5) for place in grid.frame(n).tokens_in(where)}


@pytest.mark.parametrize("name", NAMES)
def test_boxes_are_those_of_frames_as_they_were_given(name):
    member = videos.VIDEO_ZOO[name]
    width, height = (3 * side for side in member.size)
    prompt = nv.encode(videos.load(name), TEXT, videos=videos.film(name, 3, size=(width, height)))
    grid, small = prompt.grid(video=0), encoded(name, 3).grid(video=0)
    np.testing.assert_allclose(grid.placed.boxes, 3 * small.placed.boxes, atol=0.25)
    assert grid.size == (width, height) and grid.frame_count == 3
    assert prompt.video(0)[1].size == (width, height)
    assert [grid.frame(number).positions for number in range(3)] == [prompt[f"frame.{n}"] for n in range(3)]
    assert grid.frame(1).shape == grid.shapes[0] and grid.frame(1).picture is prompt.video(0)[1]
    heat = grid.frame(1).heatmap(np.arange(len(grid.frame(1).positions)))
    assert heat.shape == (height, width) and np.nanmax(heat) > 0
    assert "VideoGrid(" in repr(grid) and "3 frames" in repr(grid) and "frame 0: " in grid._repr_html_()
    assert f"frames 3 of {width} x {height}" in repr(prompt) and "video.0" in prompt._repr_html_()


def test_an_image_has_the_grid_that_it_had():
    model, member = videos.load("qwen2_vl"), zoo.ZOO["qwen2_vl"]
    shown = picture(1, member.sizes[1])
    there = nv.encode(model, member.text, shown)
    grid, plain = there.grid(0), nv.encode(zoo.load("qwen2_vl"), member.text, shown).grid(0)
    assert type(grid) is nv.Grid and np.array_equal(grid.boxes, plain.boxes) and grid.positions == plain.positions
    assert there["video"] == () and "frame.0" not in there.groups
    with pytest.raises(nv.SpecError, match="no video 0: the prompt holds 0"):
        there.grid(video=0)


# what is taken --------------------------------------------------------------------------------


def test_a_video_is_a_list_an_array_a_tensor_or_an_entry_of_a_chat():
    model, frames = videos.load("qwen2_vl"), videos.film("qwen2_vl")
    expected = nv.encode(model, TEXT, videos=frames)
    array = np.stack([np.asarray(frame) for frame in frames])
    tensor = torch.as_tensor(array).permute(0, 3, 1, 2)
    entry = {"type": "video", "video": frames}
    chat = [{"role": "user", "content": [entry, {"type": "text", "text": TEXT}]}]
    for prompt in (
        *(nv.encode(model, TEXT, videos=given) for given in ([frames], array, tensor, tensor / 255, {"video": array})),
        nv.encode(model, TEXT, videos=list(array)),
        nv.encode(model, chat),
        nv.encode(model, [{"role": "user", "content": [{"video": array}, {"type": "text", "text": TEXT}]}]),
        nv.encode(model, expected.model.processor.apply_chat_template(chat, add_generation_prompt=True), videos=frames),
    ):
        assert prompt.inputs.keys() == expected.inputs.keys()
        for key, value in expected.inputs.items():
            torch.testing.assert_close(prompt.inputs[key], value, atol=1e-5, rtol=0)
        assert prompt["frame.3"] == expected["frame.3"] and len(prompt.video(0)) == 4
    batch = nv.encode(model, [TEXT, "see the dog"], videos=[frames, None])
    assert [len(row.videos) for row in batch.rows] == [1, 0]


def test_a_file_is_read_by_the_reader_that_is_there(monkeypatch, tmp_path):
    from transformers import video_utils

    from nnsight_vlm.prompts import video_sources

    model, frames = videos.load("qwen3_vl"), videos.film("qwen3_vl", 8)
    file, asked = tmp_path / "bike.mp4", []
    file.write_bytes(b"")

    def read(path, backend, sample_indices_fn=None):
        known = video_utils.VideoMetadata(total_num_frames=8, fps=4.0, duration=2.0)
        known.frames_indices = sample_indices_fn(metadata=known)
        asked.append((path, backend))
        return np.stack([np.asarray(frames[index]) for index in known.frames_indices]), known

    monkeypatch.setattr(video_sources, "READERS", {"decord": "no_such_module", "pyav": "json"})
    monkeypatch.setattr(video_utils, "load_video", read)
    monkeypatch.setattr(videos.Patches, "do_sample_frames", True)
    monkeypatch.setattr(videos.Patches, "sample_frames", lambda _, **__: [0, 2, 4, 6], raising=False)
    prompt = nv.encode(model, TEXT, videos=file)
    assert asked == [(str(file), "pyav")]
    assert [np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(prompt.video(0), frames[::2], strict=True)]
    assert "<0.2 seconds>" in prompt.text and "<1.2 seconds>" in prompt.text
    monkeypatch.setattr(video_sources, "READERS", {"torchcodec": "no_such_module"})
    with pytest.raises(nv.SpecError, match=r"needs torchcodec, and none of them is installed; write pip install"):
        nv.encode(model, TEXT, videos=file)
    with pytest.raises(nv.SpecError, match=r"no file '.*bike\.mp5'"):
        nv.encode(model, TEXT, videos=str(file).replace("mp4", "mp5"))
    with pytest.raises(nv.SpecError, match="a file says its own"):
        nv.encode(model, TEXT, videos={"video": file, "fps": 2.0})


@pytest.mark.parametrize("name", NAMES)
def test_a_ready_encoding_says_where_its_video_is(name):
    prompt, model = encoded(name, 3), videos.load(name)
    frames = prompt.video(0)
    ready = nv.encode(model, inputs=dict(prompt.inputs), videos=[frames])
    assert {group: ready[group] for group in (*PARTS, "frame.2")} == {g: prompt[g] for g in (*PARTS, "frame.2")}
    np.testing.assert_array_equal(ready.grid(video=0).boxes, prompt.grid(video=0).boxes)
    bare = nv.encode(model, inputs=dict(prompt.inputs))
    assert bare["video"] == prompt["video"] and bare["frame.0"] == prompt["frame.0"]
    with pytest.raises(nv.SpecError, match=r"\[2\] video\(s\) were given for the 1 row\(s\).*\[1\] video"):
        nv.encode(model, inputs=dict(prompt.inputs), videos=[frames, frames])
    with pytest.raises(nv.SpecError, match=r"a video of 7 frame\(s\) was given, and the encoding has one of [34]"):
        nv.encode(model, inputs=dict(prompt.inputs), videos=[[*frames, *frames, frames[0]]])


@pytest.mark.parametrize("name", ["internvl", "smolvlm"])
def test_frames_that_are_given_as_images_are_images(name):
    prompt, model = encoded(name, 3), videos.load(name)
    ready = nv.encode(model, inputs=dict(prompt.inputs), images=list(prompt.video(0)))
    assert ready["image"] == prompt["video"] and ready["image.1"] == prompt["frame.1"] and ready["video"] == ()


def test_images_with_a_frames_text_around_them_are_images():
    model = videos.load("internvl")
    text = "<s>user : Frame1: <IMG_CONTEXT>\nFrame2: <IMG_CONTEXT>\nwhat is red ? assistant :"
    prompt = nv.encode(model, text, [picture(seed, (32, 32)) for seed in (0, 1)])
    assert prompt["video"] == () and len(prompt["image.1"]) == 16
    assert nv.encode(model, inputs=dict(prompt.inputs))["frame.1"] == prompt["image.1"]  # where nobody says it


# what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["llava", "qwen3_5", "glm4v", "idefics3", "gemma3", "mllama", "florence2", "blip-2-opt"]
)
def test_a_video_is_refused_by_all_other_families(name):
    if name not in zoo.ZOO:
        pytest.skip("does not run with this transformers")
    model, frames = zoo.load(name, zoo.ZOO[name].implementations[0]), [picture(0), picture(1)]
    assert FAMILIES[view_of(model).family.name].video is None
    for ask in (
        lambda: nv.encode(model, zoo.ZOO[name].text, videos=frames, chat=False),
        lambda: nv.encode(model, inputs={"input_ids": torch.tensor([[5, 6]]), "pixel_values_videos": torch.ones(1, 2)}),
    ):
        with pytest.raises(
            nv.SpecError, match=f"{view_of(model).family.name!r} models are run without: videos of these"
        ):
            ask()


def test_families_that_take_videos_are_those_of_the_tests():
    assert {name for name, family in FAMILIES.items() if family.video is not None} == set(NAMES)


@pytest.mark.skipif(is_torchvision_available(), reason="torchvision is there")
@pytest.mark.parametrize("name", ["qwen2_vl", "smolvlm"])
def test_without_torchvision_it_is_said_what_to_install(name):
    model = zoo.load(name)
    with pytest.raises(
        nv.SpecError, match=r'videos need torchvision, which is not installed; pip install "nnsight-vlm\['
    ):
        nv.encode(model, "<s>user : <video> what is red ?", videos=[picture(0)], chat=False)


@pytest.mark.parametrize(
    "given, said",
    [
        ([], "a video without frames|placeholder"),
        (5, "int is no video"),
        (np.zeros((4, 4, 3), dtype=np.uint8), r"an array of shape \[4, 4, 3\] is no video"),
        ([picture(0, (8, 8)), picture(1, (9, 8))], r"2 sizes, \(8, 8\) and \(9, 8\)"),
        ({"frames": [picture(0)]}, "a dict with the keys 'frames'"),
        ({"video": [picture(0)], "fps": 0}, "fps="),
        ({"video": [picture(0)], "fps": "fast"}, "fps="),
        ([[picture(0)], [picture(1)]], r"1 video placeholder\(s\).* and 2 video\(s\)"),
        ("nowhere.mp4", "no file 'nowhere.mp4'"),
    ],
)
def test_what_is_no_video_is_refused_before_anything_runs(given, said):
    model = videos.load("qwen2_vl")
    with pytest.raises(nv.SpecError, match=said):
        nv.encode(model, "<|vision_start|><|video_pad|><|vision_end|> what ?", videos=given, chat=False)


def test_what_does_not_fit_is_refused():
    model, frames = videos.load("smolvlm"), videos.film("smolvlm")
    with pytest.raises(nv.SpecError, match="'smolvlm' models take no images beside a video"):
        nv.encode(model, TEXT, picture(0), videos=frames)
    model, frames = videos.load("qwen2_vl"), videos.film("qwen2_vl")
    with pytest.raises(nv.SpecError, match=r"1 video entries without a video of their own and 2 video\(s\)"):
        nv.encode(model, [{"role": "user", "content": [{"type": "video"}]}], videos=[frames, frames])
    with pytest.raises(nv.SpecError, match="a video entry one video or none"):
        nv.encode(model, [{"role": "user", "content": [{"type": "video", "image": picture(0)}]}])
    with pytest.raises(nv.SpecError, match=r"videos for 1 row\(s\) were given, and there are 2"):
        nv.encode(model, [TEXT, TEXT], videos=frames)
    prompt = nv.encode(model, TEXT, videos=frames)
    for ask, said in (
        (lambda: prompt["frame.4"], r"the prompt has 4 frame\(s\), counted from frame.0"),
        (lambda: prompt["video.1"], r"the prompt has 1 video\(s\), counted from video.0"),
        (lambda: prompt.grid(1, video=0), "a picture and a video were named"),
        (lambda: prompt.grid(video=0).frame(4), "number"),
        (lambda: prompt.region((0, 0, 4, 4), frame=1), "frame=1 is one of a video"),
        (lambda: prompt.region((90, 90, 99, 99), video=0), "touches no patch"),
        (lambda: prompt.video(1), "no video 1: the prompt holds 1"),
    ):
        with pytest.raises(nv.SpecError, match=said):
            ask()
    bare = {name: value for name, value in prompt.inputs.items() if name != "pixel_values_videos"}
    with pytest.raises(nv.SpecError, match="input_ids have video tokens, but the inputs have no pixel_values_videos"):
        nv.encode(model, inputs=bare)
    cut = {**prompt.inputs, "pixel_values_videos": prompt.inputs["pixel_values_videos"][:-4]}
    with pytest.raises(nv.SpecError, match="the input pixel_values_videos has 44 entries, and the rows have 48"):
        nv.encode(model, inputs=cut)


# rows and copies ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_rows_with_and_without_videos_are_what_they_are_alone(name):
    model = videos.load(name)
    alone = [
        encoded(name, 4),
        nv.encode(model, "see the dog please", picture(3, videos.VIDEO_ZOO[name].size)),
        encoded(name, 4 if name == "llava_onevision" else 2, seed=2),
    ]
    batch = nv.stack(alone)
    logits = nv.run(model, batch).logits
    for number, prompt in enumerate(alone):
        row = batch.row(number)
        assert row.rows == prompt.rows and row.inputs.keys() == prompt.inputs.keys()
        if name != "smolvlm":  # whose batches are padded with empty frames
            for key, value in prompt.inputs.items():
                assert torch.equal(torch.as_tensor(row.inputs[key]), torch.as_tensor(value)), key
        assert [len(frames) for frames in row.videos[0]] == [len(frames) for some in prompt.videos for frames in some]
        torch.testing.assert_close(logits[number], nv.run(model, prompt).logits, atol=2e-4, rtol=1e-3)


def test_videos_that_one_tensor_cannot_hold_are_no_batch():
    with pytest.raises(nv.SpecError, match="the videos of these prompts have 2 and 4 frames"):
        nv.stack([encoded("llava_onevision", 2), encoded("llava_onevision", 4)])


def test_a_prompt_with_a_video_is_copied_and_pickled():
    prompt = encoded("qwen2_5_vl", 3)
    for same in (copy.copy(prompt), pickle.loads(pickle.dumps(prompt))):
        assert same.groups == prompt.groups and len(same.video(0)) == 3
        assert same.grid(video=0).frames == prompt.grid(video=0).frames


def test_an_answer_may_say_what_stands_for_pixels_that_it_was_not_given():
    model, member = videos.load("qwen2_vl"), videos.VIDEO_ZOO["qwen2_vl"]
    config = view_of(model).config
    shown = {
        config.image_token_id: nv.encode(model, TEXT, picture(0, member.size)),
        config.video_token_id: encoded("qwen2_vl"),
    }
    for token, prompt in shown.items():
        for said in shown:
            grown = prompt.grown([20, said, 21])
            assert grown["video"] == prompt["video"] and len(grown["generated"]) == 3
            if said == token:
                with pytest.raises(nv.SpecError, match="stands for pixels"):
                    nv.run(model, grown)
            else:
                assert nv.run(model, grown).logits.isfinite().all()


def test_a_prompt_with_a_video_is_kept_in_the_file_of_a_job(tmp_path):
    videos.module("qwen2_5_vl").save_pretrained(tmp_path / "model")
    model = nv.load(str(tmp_path / "model"), dispatch=False, processor=videos.processor("qwen2_5_vl"))
    prompt = nv.encode(model, TEXT, videos=videos.film("qwen2_5_vl", 3))
    write_job(tmp_path / "job", StoredCall(nv.run, (prompt,), {"remote": True}))
    again = read_job(tmp_path / "job", model=model).args[0]
    assert again.rows == prompt.rows and again.groups == prompt.groups
    assert all(np.array_equal(*map(np.asarray, pair)) for pair in zip(again.video(0), prompt.video(0), strict=True))
    assert torch.equal(again.inputs["pixel_values_videos"], prompt.inputs["pixel_values_videos"])
