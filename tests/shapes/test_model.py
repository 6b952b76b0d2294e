"""The checkpoints as users meet them, and the training that made them."""

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

from nnsight_vlm.shapes import checkpoint, scene, score
from nnsight_vlm.shapes.evaluate import _generate_cut, answers, evaluate, load, markdown, prompt
from nnsight_vlm.shapes.language import questions, tokens
from nnsight_vlm.shapes.model import CHECKPOINTS, IMAGE_TOKENS, build_model, build_processor, save, vocabulary
from nnsight_vlm.shapes.muon import orthogonal
from nnsight_vlm.shapes.packing import PREFIX, PREFIX_IDS, branch, branches, pack, pixels
from nnsight_vlm.shapes.train import Settings, exact, packed_logits, train
from nnsight_vlm.shapes.training_stages import TrainingStage

MEGABYTE = 1_000_000


@pytest.fixture(scope="module", params=CHECKPOINTS)
def shipped(request):
    return load(request.param)


@pytest.fixture(scope="module")
def fresh():
    model = build_model(3).eval()
    model.model.language_model.config._attn_implementation = "shapes_packed"
    return model


def test_weights_are_small_enough_to_ship():
    sizes = [sum(file.stat().st_size for file in checkpoint(name).iterdir()) for name in CHECKPOINTS]
    assert all(size < 5 * MEGABYTE for size in sizes)
    assert sum(sizes) < 10 * MEGABYTE


def test_an_unknown_checkpoint_is_refused_with_the_names_to_write():
    with pytest.raises(ValueError, match="write one of shapes, shapes-gist"):
        checkpoint("shape")


def test_a_checkpoint_is_an_ordinary_hub_checkpoint(shipped):
    model, processor = shipped
    assert type(model) is LlavaForConditionalGeneration
    assert model.config.text_config.num_hidden_layers >= 10
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    inputs = processor(images=scene(3).image, text=prompt(processor, "Describe the image."), return_tensors="pt")
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == IMAGE_TOKENS == 100
    assert processor.tokenizer.unk_token_id not in inputs["input_ids"]
    assert torch.equal(inputs["pixel_values"], pixels([scene(3)]))
    system = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])[:PREFIX]
    assert inputs["input_ids"][0, :PREFIX].tolist() == PREFIX_IDS
    assert system.index("<image>") > 8


def test_the_template_takes_system_and_assistant_messages_and_two_images():
    processor = build_processor()
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "count the objects."}]}
    text = processor.apply_chat_template([user, {"role": "assistant", "content": [{"type": "text", "text": "two"}]}])
    assert text.endswith("<image> user: count the objects. assistant: two </s>")
    text = processor.apply_chat_template(
        [{"role": "system", "content": "a picture."}, user], add_generation_prompt=True
    )
    assert text == "<s>a picture. <image> user: count the objects. assistant:"
    user["content"].insert(0, {"type": "image"})
    assert processor.apply_chat_template([user]).count("<image>") == 2


def test_the_tokenizer_splits_as_training_does_and_decoding_gives_the_text_back():
    tokenizer, ids = build_processor().tokenizer, vocabulary()
    for seed in range(20):
        for question in questions(scene(seed)):
            assert tokenizer(question.text)["input_ids"] == [ids[word] for word in tokens(question.text)]
            assert tokenizer.decode(tokenizer(question.answer)["input_ids"]) == question.answer


def test_a_packed_branch_computes_what_it_would_compute_alone(fresh):
    scenes, rng = [scene(0), scene(1)], random.Random(1)
    layout = [branches(it, rng) for it in scenes]
    batch = pack(scenes, layout, rng)
    alone = build_model(3).eval()
    with torch.no_grad():
        packed = packed_logits(fresh, batch).view(*batch.owner.shape, -1)
        for b, rows in enumerate(layout):
            start = 0
            for it in rows[1]:
                ids = torch.tensor([PREFIX_IDS + it.ids])
                expected = alone(input_ids=ids, pixel_values=batch.pixels[b : b + 1]).logits[0, PREFIX:]
                torch.testing.assert_close(packed[b, 1, start : start + len(it.ids)], expected, atol=1e-4, rtol=1e-4)
                start += len(it.ids)


def test_blind_tokens_do_not_depend_on_the_image(fresh):
    rng = random.Random(2)
    layout = [branches(scene(0), rng)]
    for text_only, cut in ((1.0, 0.0), (0.0, 1.0)):
        one, other = (pack([scene(seed)], layout, random.Random(0), text_only, cut) for seed in (0, 5))
        assert one.blind.sum() > 0
        with torch.no_grad():
            same = packed_logits(fresh, one).sub(packed_logits(fresh, other)).abs().amax(-1) == 0
        padding = one.owner.flatten(1) == 0
        assert bool((same | padding).all()) == (text_only == 1.0)


def test_muon_makes_singular_values_near_one():
    torch.manual_seed(0)
    for shape in ((2, 16, 16), (2, 16, 48), (2, 48, 16)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert values.min() > 0.3 and values.max() < 1.4


def test_training_goes_on_where_it_stopped(tmp_path, monkeypatch):
    tiny = {"see_steps": 2, "see_batch": 2, "speak_steps": 4, "speak_batch": 2, "save_every": 2, "watched": 2}
    train(Settings(**tiny), tmp_path / "whole", compiled=False)
    update, taken = TrainingStage._update, []

    def stop_after_three(stage, base):
        taken.append(stage.name)
        if taken.count("speak") == 4:
            raise KeyboardInterrupt
        update(stage, base)

    monkeypatch.setattr(TrainingStage, "_update", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        train(Settings(**tiny), tmp_path / "parts", compiled=False)
    monkeypatch.setattr(TrainingStage, "_update", update)
    train(Settings(**tiny), tmp_path / "parts", compiled=False)
    one, other = (torch.load(tmp_path / name / "speak.pt", weights_only=True)["parts"] for name in ("whole", "parts"))
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name])
    lines = [json.loads(line) for line in Path(tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in lines] == [("see", 2), ("speak", 2), ("speak", 4)]


def test_saving_rounds_to_half_precision_and_loads_back(tmp_path):
    model = build_model(1)
    save(model, tmp_path / "saved")
    save(model, tmp_path / "saved")
    assert [file.name for file in tmp_path.iterdir()] == ["saved"]
    loaded = LlavaForConditionalGeneration.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    for (name, old), new in zip(model.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(old.half().float(), new), name
    AutoProcessor.from_pretrained(tmp_path / "saved")


def test_a_cut_of_nothing_generates_what_generate_does(shipped):
    model, processor = shipped
    scenes, texts = [scene(0), scene(1)], ["count the objects.", "what is in the picture?"]
    inputs = processor(
        images=[it.image for it in scenes],
        text=[prompt(processor, t) for t in texts],
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        made = _generate_cut(model, inputs, "none", 48)
    assert processor.batch_decode(made, skip_special_tokens=True) == answers(model, processor, scenes, texts)


def test_held_out_accuracy_is_above_the_floor(shipped):
    rows = evaluate(*shipped, seeds=range(60))
    assert "| describe | 60 |" in markdown(rows)
    for row in rows:
        assert row.exact >= 0.9, row
    assert rows[0].f1 >= 0.95


def test_half_precision_gives_the_same_text(shipped):
    model, processor = shipped
    scenes = [scene(seed) for seed in range(8)]
    texts = ["describe the image."] * len(scenes)
    full = answers(model, processor, scenes, texts)
    inputs = processor(
        images=[it.image for it in scenes], text=[prompt(processor, t) for t in texts], return_tensors="pt"
    )
    half = build_model()
    half.load_state_dict(model.state_dict())
    half = half.to(torch.float16).eval()
    made = half.generate(**inputs.to(torch.float16), max_new_tokens=48, do_sample=False)[
        :, inputs["input_ids"].shape[1] :
    ]
    assert processor.batch_decode(made, skip_special_tokens=True) == full


def test_the_two_models_differ_in_where_the_image_goes():
    scenes = [scene(seed) for seed in range(24)]
    f1 = {}
    for name in CHECKPOINTS:
        said = answers(*load(name), scenes, ["describe the image."] * len(scenes), cut="generated")
        f1[name] = sum(score(text, it).f1 for text, it in zip(said, scenes, strict=True)) / len(scenes)
    assert f1["shapes-gist"] >= 0.85
    assert f1["shapes"] < f1["shapes-gist"]


def test_exact_counts_teacher_forced_answers(fresh):
    found = exact(fresh, [scene(0)], random.Random(0))
    assert set(found.values()) <= {0.0, 1.0} or all(0 <= value <= 1 for value in found.values())
    assert branch(questions(scene(0))[0]).family == "describe"
