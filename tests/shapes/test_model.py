"""The checkpoints as users meet them, and the training that made them."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from float64 import LIMIT
from transformers import AutoProcessor, LlavaForConditionalGeneration

from nnsight_vlm.shapes import checkpoint, scene, score
from nnsight_vlm.shapes import train as train_module
from nnsight_vlm.shapes.embedded import CHECKPOINTS
from nnsight_vlm.shapes.evaluate import _generate_with_cut, answers, evaluate, load, markdown, prompt_text
from nnsight_vlm.shapes.language import FAMILIES, questions, tokens
from nnsight_vlm.shapes.model import IMAGE_TOKENS, build_model, build_processor, save, vocabulary
from nnsight_vlm.shapes.muon import orthogonal
from nnsight_vlm.shapes.packing import PREFIX_IDS, PREFIX_TOKENS, branch, pack, pixels, segments_about
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
    inputs = processor(images=scene(3).image, text=prompt_text(processor, "Describe the image."), return_tensors="pt")
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == IMAGE_TOKENS == 100
    assert processor.tokenizer.unk_token_id not in inputs["input_ids"]
    torch.testing.assert_close(inputs["pixel_values"], pixels([scene(3)]), rtol=0, atol=1e-6)  # as torchvision rounds
    prefix = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])[:PREFIX_TOKENS]
    assert inputs["input_ids"][0, :PREFIX_TOKENS].tolist() == PREFIX_IDS
    assert prefix.index("<image>") > 8


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


@pytest.mark.float64
def test_a_packed_branch_computes_what_it_would_compute_alone(dtype):
    scenes, rng = [scene(0), scene(1)], random.Random(1)
    segments = [segments_about(each, rng) for each in scenes]
    batch = pack(scenes, segments, rng)
    fresh, alone = (build_model(3).to(dtype).eval() for _ in range(2))
    fresh.model.language_model.config._attn_implementation = "shapes_packed"
    with torch.no_grad():
        packed = packed_logits(fresh, batch).view(*batch.branch_numbers.shape, -1)
        for number, about_scene in enumerate(segments):
            start, image = 0, batch.pixels[number : number + 1]
            for each in about_scene[1]:
                stop = start + len(each.ids)
                logits = alone(input_ids=torch.tensor([PREFIX_IDS + each.ids]), pixel_values=image).logits
                expected = logits[0, PREFIX_TOKENS:]
                away = (packed[number, 1, start:stop] - expected).abs().max()
                assert away < LIMIT * expected.abs().max()
                start = stop


def test_blind_tokens_do_not_depend_on_the_image(fresh):
    rng = random.Random(2)
    segments = [segments_about(scene(0), rng)]
    for text_only, cut in ((1.0, 0.0), (0.0, 1.0)):
        one, other = (pack([scene(seed)], segments, random.Random(0), text_only, cut) for seed in (0, 5))
        assert one.blind.sum() > 0
        with torch.no_grad():
            is_equal = packed_logits(fresh, one).sub(packed_logits(fresh, other)).abs().amax(-1) == 0
        is_padding = one.branch_numbers.flatten(1) == 0
        assert bool((is_equal | is_padding).all()) == (text_only == 1.0)


def test_muon_makes_singular_values_near_one():
    torch.manual_seed(0)
    for shape in ((2, 16, 16), (2, 16, 48), (2, 48, 16)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert values.min() > 0.3 and values.max() < 1.4


def test_an_interrupted_training_resumes_where_it_stopped(tmp_path, monkeypatch):
    tiny = {"see_steps": 2, "see_batch": 2, "speak_steps": 4, "speak_batch": 2, "save_every": 2, "watched": 2}
    train(Settings(**tiny), tmp_path / "uninterrupted", compiled=False)
    update, stages = TrainingStage._update, []

    def stop_after_three_speak_steps(stage, full_rates):
        stages.append(stage.name)
        if stages.count("speak") == 4:
            raise KeyboardInterrupt
        update(stage, full_rates)

    monkeypatch.setattr(TrainingStage, "_update", stop_after_three_speak_steps)
    with pytest.raises(KeyboardInterrupt):
        train(Settings(**tiny), tmp_path / "interrupted", compiled=False)
    monkeypatch.setattr(TrainingStage, "_update", update)
    train(Settings(**tiny), tmp_path / "interrupted", compiled=False)
    one, other = (
        torch.load(tmp_path / name / "speak.pt", weights_only=True)["parts"]
        for name in ("uninterrupted", "interrupted")
    )
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name])
    lines = [json.loads(line) for line in Path(tmp_path / "interrupted" / "log.jsonl").read_text().splitlines()]
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


def test_decoding_under_an_open_mask_equals_generate(shipped):
    model, processor = shipped
    scenes, texts = [scene(0), scene(1)], ["count the objects.", "what is in the picture?"]
    inputs = processor(
        images=[each.image for each in scenes],
        text=[prompt_text(processor, t) for t in texts],
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        generated = _generate_with_cut(model, inputs, "none", 48)
    assert processor.batch_decode(generated, skip_special_tokens=True) == answers(model, processor, scenes, texts)


def test_held_out_accuracy_is_above_the_floor(shipped):
    results = evaluate(*shipped, seeds=range(30))
    assert "| describe | 30 |" in markdown(results)
    for result in results:
        assert result.exact >= 0.9, result
    assert results[0].f1 >= 0.95


def test_half_precision_gives_the_same_text(shipped):
    model, processor = shipped
    scenes = [scene(seed) for seed in range(8)]
    texts = ["describe the image."] * len(scenes)
    full = answers(model, processor, scenes, texts)
    inputs = processor(
        images=[each.image for each in scenes], text=[prompt_text(processor, t) for t in texts], return_tensors="pt"
    )
    half = build_model()
    half.load_state_dict(model.state_dict())
    half = half.to(torch.float16).eval()
    sequences = half.generate(**inputs.to(torch.float16), max_new_tokens=48, do_sample=False)
    generated = sequences[:, inputs["input_ids"].shape[1] :]
    assert processor.batch_decode(generated, skip_special_tokens=True) == full


def test_the_two_models_differ_in_where_the_image_goes():
    scenes = [scene(seed) for seed in range(24)]
    f1 = {}
    for name in CHECKPOINTS:
        texts = answers(*load(name), scenes, ["describe the image."] * len(scenes), cut="generated")
        f1[name] = sum(score(text, each).f1 for text, each in zip(texts, scenes, strict=True)) / len(scenes)
    assert f1["shapes-gist"] >= 0.85
    assert f1["shapes"] < f1["shapes-gist"]


def test_exact_counts_the_answers_that_are_right_word_by_word(fresh, monkeypatch):
    """A model that always predicts the right token has all answers right; one wrong token of an answer spoils it."""

    def perfect(model, batch):
        return torch.nn.functional.one_hot(batch.targets, len(vocabulary())).float()

    def wrong_at_the_end(model, batch):
        targets = batch.targets.masked_fill(batch.targets == vocabulary()["</s>"], 0)
        return perfect(model, replace(batch, targets=targets))

    scenes = [scene(0), scene(1)]
    assert all(0 <= share <= 1 for share in exact(fresh, scenes, random.Random(0)).values())
    monkeypatch.setattr(train_module, "packed_logits", perfect)
    shares = exact(fresh, scenes, random.Random(0))
    assert len(shares) > 3 and set(shares) <= set(FAMILIES) and set(shares.values()) == {1.0}
    monkeypatch.setattr(train_module, "packed_logits", wrong_at_the_end)
    assert set(exact(fresh, scenes, random.Random(0)).values()) == {0.0}


def test_a_branch_knows_where_its_answer_begins():
    question = next(question for question in questions(scene(0)) if question.family == "count")
    made, ids = branch(question), vocabulary()
    assert made.ids[: made.question_tokens] == [ids[word] for word in ("user:", *tokens(question.text), "assistant:")]
    assert made.ids[made.question_tokens :] == [ids[word] for word in (*tokens(question.answer), "</s>")]
    assert len(made.weights) == len(made.ids) and made.weights[made.question_tokens] == max(made.weights)
