"""Training of `shapes-smol`: packed questions equal questions asked alone, and a run keeps to its time and goes on.

The language model here is tiny and has random weights.
"""

from __future__ import annotations

import importlib
import json
import random
import struct
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nnsight_vlm.shapes.smol import assembly, gguf, train
from nnsight_vlm.shapes.smol.beginning import Settings, new_learner
from nnsight_vlm.shapes.smol.language_model import IMAGE_ID
from nnsight_vlm.shapes.smol.learning import on_device
from nnsight_vlm.shapes.smol.packing import DECISION, DECISIONS, ENDING, pack, row_about
from nnsight_vlm.shapes.smol.updates import PARTS, SCALE, matrix, put
from nnsight_vlm.shapes.world import scene

sys.path.insert(0, str(Path(__file__).parent))
tiny = importlib.import_module("smol_tiny")

CPU = torch.device("cpu")
TOKENS = 900
"""A vocabulary of bytes needs longer rows."""


@pytest.fixture(scope="module")
def file():
    return tiny.file()


@pytest.fixture(scope="module")
def processor(file):
    return assembly.processor(file)


@pytest.fixture
def learner(file):
    """A learner whose updates do something."""
    made = new_learner(file, Settings(rank=4), CPU)
    with torch.no_grad():
        for values in made.updates.b.values():
            values.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    return made


@pytest.fixture(scope="module")
def rows(processor):
    writer = tiny.writer(processor)
    return [row_about(scene(seed), random.Random(seed), writer, TOKENS) for seed in (3, 4, 5)]


def test_a_packed_question_is_answered_as_if_it_were_asked_alone(learner, processor, rows):
    learner.use_updated()
    batch = on_device(pack(rows, TOKENS), CPU)
    with torch.no_grad():
        packed = learner.answer_losses(batch).tolist()
    alone = []
    for row in rows:
        images = processor.image_processor(images=[row.scene.image], return_tensors="pt").pixel_values
        assert len(row.branches) > 3
        for branch in row.branches:
            ids = torch.tensor([[*row.before, *[IMAGE_ID] * 100, *branch.ids]])
            with torch.no_grad():
                logits = learner.model(input_ids=ids, pixel_values=images).logits[0]
            asked = len(row.before) + 100 + branch.question_tokens
            alone += F.cross_entropy(logits[asked - 1 : -1], ids[0, asked:], reduction="none").tolist()
    assert packed == pytest.approx(alone, abs=2e-5)


def test_a_row_reads_as_the_processor_writes_it(processor, rows):
    """The pieces that rows are made of, put together, are the tokens of the whole conversation."""
    for row in rows:
        for branch in row.branches:
            ids = [*row.before, *[IMAGE_ID] * 100, *branch.ids]
            text = processor.tokenizer.decode(ids)
            assert processor.tokenizer(text, add_special_tokens=False).input_ids == ids
    plain = next(row for row in rows if len(processor.tokenizer.decode(row.before)) < 20)
    asked = plain.branches[0].ids[: plain.branches[0].question_tokens]
    question = processor.tokenizer.decode(asked).split("\n", 1)[1].split("<|im_end|>")[0]
    content = [{"type": "image"}, {"type": "text", "text": question}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=[plain.scene.image], text=[prompt])
    assert list(inputs["input_ids"][0]) == [*plain.before, *[IMAGE_ID] * 100, *asked]


def test_weights_lie_where_answers_are_predicted(rows):
    batch = pack(rows, TOKENS)
    row, branch = rows[0], rows[0].branches[-1]
    start = len(row.before) + 100 + sum(len(each.ids) for each in row.branches[:-1])
    answer = slice(start + branch.question_tokens - 1, start + len(branch.ids) - 1)
    assert batch.targets[0, answer].tolist() == branch.ids[branch.question_tokens :]
    full = DECISION if branch.family in DECISIONS else batch.weights[0, answer][0]
    assert batch.weights[0, answer].tolist() == pytest.approx(
        [full] * (len(branch.ids) - branch.question_tokens - 1) + [full * ENDING]
    )
    assert not batch.weights[0, start : answer.start].any() and not batch.weights[0, answer.stop :].any()


def test_chunks_and_texts_add_up(learner, rows):
    """The gradients of a batch do not depend on how it is cut; texts add theirs, and nothing at the start."""
    texts = [[5, 40, 50, 60, 70, 80], [30, 31, 32]]

    def gradients(chunks, chosen):
        learner.zero_grad()
        losses = learner.backward(pack(rows, TOKENS), CPU, chunks, chosen, 1.0)
        found = {name: each.grad.clone() for name, each in learner.named_parameters() if each.grad is not None}
        return losses, found

    whole, at_once = gradients(1, [])
    parts, in_parts = gradients(3, [])
    assert whole.answers.item() == pytest.approx(parts.answers.item(), rel=1e-5)
    assert {name.split(".")[0] for name in at_once} == {"tower", "projector", "updates"}
    for name, gradient in at_once.items():
        torch.testing.assert_close(in_parts[name], gradient, rtol=1e-3, atol=1e-6)
    with_texts, found = gradients(1, texts)
    assert with_texts.texts.item() > 0
    assert not torch.equal(found["updates.b.v_proj"], at_once["updates.b.v_proj"])
    torch.testing.assert_close(found["projector.linear_1.weight"], at_once["projector.linear_1.weight"])
    with torch.no_grad():
        for values in learner.updates.b.values():
            values.zero_()
    assert gradients(1, texts)[0].texts.item() == pytest.approx(0, abs=1e-6)


def test_text_is_predicted_as_the_whole_model_predicts_it(learner):
    learner.use_updated()
    ids = torch.tensor([[5, 40, 50, 60], [30, 31, 0, 0]])
    is_token = torch.tensor([[True] * 4, [True, True, False, False]])
    with torch.no_grad():
        found = learner.text_logits(ids, is_token)
        whole = [learner.model(input_ids=each[kept][None]).logits[0] for each, kept in zip(ids, is_token, strict=True)]
    torch.testing.assert_close(found, torch.cat(whole), rtol=1e-4, atol=1e-4)


def test_in_bfloat16_the_loss_is_about_the_same(file, learner, rows):
    """On a GPU the language model computes in bfloat16; its rotations must not be rounded with its weights."""
    rough = new_learner(file, Settings(rank=4), CPU, torch.bfloat16)
    rough.load_state_dict(learner.state_dict())
    assert rough.decoder.rotary_emb.inv_freq.dtype == torch.float32
    assert rough.decoder.norm.weight.dtype == torch.bfloat16 and rough.tower.dtype == torch.float32
    batch = pack(rows, TOKENS)
    losses, exact = (each.backward(batch, CPU, 1, [[5, 6, 7]], 1.0) for each in (rough, learner))
    assert losses.answers.item() == pytest.approx(exact.answers.item(), rel=0.01)
    assert losses.texts.item() == pytest.approx(exact.texts.item(), rel=0.1)
    for name, each in learner.updates.b.named_parameters():
        cosine = F.cosine_similarity(each.grad.flatten(), rough.updates.b.get_parameter(name).grad.flatten(), dim=0)
        assert cosine > 0.99


def test_what_is_shipped_is_what_was_trained(learner, file, rows, tmp_path):
    parts = assembly.save_parts(tmp_path / "parts.safetensors", learner.tower, learner.projector, learner.updates)
    model = assembly.assemble(file, assembly.load_parts(tmp_path / "parts.safetensors"))
    for part in PARTS:
        a, b = (parts[f"updates.{side}.{part}"][1].double() for side in "ab")
        by_hand = (learner.original[part][1].double() + SCALE * b @ a).bfloat16().float()
        assert torch.equal(matrix(model.model.language_model.layers[1], part).weight, by_hand)
    # the learner as bfloat16 would round it
    for part in ("tower", "projector", "updates"):
        stored = {
            name.removeprefix(part + "."): values.float() for name, values in parts.items() if name.startswith(part)
        }
        getattr(learner, part).load_state_dict(stored, strict=part != "tower")
    with torch.no_grad():
        put(
            learner.decoder,
            {part: each.float() for part, each in learner.updates.updated(learner.original, torch.bfloat16).items()},
        )
        for values in learner.decoder.parameters():
            values.copy_(values.bfloat16())
    ids = torch.tensor([[*rows[0].before, *[IMAGE_ID] * 100, *rows[0].branches[0].ids]])
    pixels = on_device(pack(rows[:1], TOKENS), CPU).pixels
    with torch.no_grad():
        trained, shipped = (each(input_ids=ids, pixel_values=pixels).logits for each in (learner.model, model))
    torch.testing.assert_close(trained, shipped, rtol=1e-3, atol=1e-3)


def test_a_run_keeps_to_its_time_and_goes_on(file, tmp_path):
    texts = {"texts": 2, "text_rows": 1, "text_tokens": 4, "text_every": 2}
    settings = Settings(rows=1, rank=2, warmup=1, watched=1, save_seconds=0.5, **texts)

    def run(seconds):
        made = train.Run(file, settings, tmp_path, seconds, CPU)
        begun = time.monotonic()
        made.go(workers=0)
        return made, time.monotonic() - begun

    first, took = run(2.0)
    assert took < 2.0 + 2.0 and first.step > 1
    assert train.rate_share(first.step, first.clock.share, settings) == 0
    later, _ = run(first.clock.elapsed + 1.0)
    assert later.step > first.step
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["done"] and lines[-1]["step"] == later.step and lines[-1]["seconds"] > lines[0]["seconds"]
    assert later.texts == first.texts and len(first.texts) == 2


def test_a_loss_out_of_hand_goes_back_to_the_saved_state(file, tmp_path):
    settings = Settings(rows=1, rank=2, text_every=0, warmup=1)
    run = train.Run(file, settings, tmp_path, 100, CPU)
    run.mean["loss"] = 1.0
    run._keep_or_go_back()
    saved = run.learner.updates.a["q_proj"].clone()
    with torch.no_grad():
        run.learner.updates.a["q_proj"].fill_(float("nan"))
    run.step, run.mean["loss"] = 7, float("nan")
    run._keep_or_go_back()
    assert torch.equal(run.learner.updates.a["q_proj"], saved)
    assert run.step == 7 and run.caution == 0.5 and run.mean["loss"] == 1.0


# --- the file of the language model -------------------------------------------------------------------------------


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def stored(kind, values):
    """Three kinds of tensors as ggml stores them, with the numbers that they stand for, one at a time."""
    if kind == 0:
        return struct.pack(f"<{len(values)}f", *values), list(values)
    packed, meant = b"", []
    for start in range(0, len(values), 32):
        block = values[start : start + 32]
        if kind == 8:
            scale = float(np.float16(max(map(abs, block)) / 127))
            whole = [round(value / scale) for value in block]
            packed += struct.pack("<e32b", scale, *whole)
            meant += [scale * each for each in whole]
        else:
            least = float(np.float16(min(block)))
            scale = float(np.float16((max(block) - least) / 15))
            whole = [min(15, max(0, round((value - least) / scale))) for value in block]
            packed += struct.pack("<ee", scale, least) + bytes(whole[n] | whole[n + 16] << 4 for n in range(16))
            meant += [scale * each + least for each in whole]
    return packed, meant


def test_a_gguf_file_is_read_as_it_was_written(tmp_path):
    random_numbers = np.random.default_rng(0)
    written, infos, data = {}, b"", b""
    for name, kind, shape in (("plain", 0, (3,)), ("four", 3, (2, 64)), ("eight", 8, (3, 32))):
        raw, meant = stored(kind, random_numbers.standard_normal(int(np.prod(shape))).tolist())
        sizes = b"".join(struct.pack("<Q", size) for size in reversed(shape))
        infos += text(name) + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", kind, len(data))
        data += raw + bytes(-len(raw) % 32)
        written[name] = np.array(meant, np.float32).reshape(shape)
    settings = text("words") + struct.pack("<IIQ", 9, 8, 2) + text("ä") + text("b")
    settings += text("rate") + struct.pack("<If", 6, 0.5) + text("count") + struct.pack("<IQ", 10, 7)
    head = b"GGUF" + struct.pack("<IQQ", 3, 3, 3) + settings + infos
    (tmp_path / "model.gguf").write_bytes(head + bytes(-len(head) % 32) + data)
    found = gguf.read(tmp_path / "model.gguf")
    assert found.settings == {"words": ["ä", "b"], "rate": 0.5, "count": 7}
    assert found.tensors.keys() == written.keys()
    for name, values in written.items():
        np.testing.assert_allclose(found.tensors[name], values, rtol=1e-6)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "no.gguf").write_bytes(b"GGML" + bytes(100))
    with pytest.raises(ValueError, match="does not begin with GGUF"):
        gguf.read(tmp_path / "no.gguf")
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("t") + struct.pack("<IQIQ", 1, 32, 2, 0)
    (tmp_path / "no.gguf").write_bytes(head + bytes(100))
    with pytest.raises(ValueError, match="type 2 are not read"):
        gguf.read(tmp_path / "no.gguf")
