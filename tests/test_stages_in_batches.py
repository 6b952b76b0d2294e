"""Stages in batches: every row of a Q-Former, resampler or encoder is what it is for the same prompt alone.

A prompt that is run alone is the reference: all logits and reads of a row must be its own. Writes are also compared
with hooks on the modules of the plain model.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import zoo
from float64 import LIMIT, float64
from zoo import reference
from zoo.parts import picture

import nnsight_vlm as nv
from nnsight_vlm.device import readouts
from nnsight_vlm.execution.preparing import prepare
from nnsight_vlm.execution.requests import LogitRead, logit_columns, run_forward
from nnsight_vlm.families import view_of
from nnsight_vlm.lowering.layouts import Placement, one_case_per_row, padded_batch
from nnsight_vlm.lowering.read_requests import LogitRequest
from nnsight_vlm.lowering.sites import locate

SEEN = 1e-3
QFORMERS = ("blip-2-opt", "blip-2-t5", "instructblip-llama", "instructblip-t5")
RESAMPLERS = ("idefics2", "kosmos-2")
ENCODERS = ("florence2", "blip-2-t5", "instructblip-t5")
LONG, SMALL, TALL = " red dog on the left ?", (16, 9), (20, 40)


@pytest.fixture(autouse=True)
def in_float64():
    with float64():
        yield


def model_of(name: str) -> Any:
    return zoo.load(name, "sdpa", torch.float64)


@functools.cache
def prompt_of(name: str, kind: str) -> nv.Prompt:
    """A prompt alone: `short`, `long` and `tall` have a picture each, `two` has two and `text` none."""
    model, text = model_of(name), zoo.ZOO[name].text
    if kind == "text":
        return nv.encode(model, "<s>user : what is a big dog ? assistant :", chat=False)
    if kind == "two":
        return nv.encode(model, text.replace("<image>", "<image> or <image>"), [picture(5, SMALL), picture(6, TALL)])
    shown = {"short": picture(1, SMALL), "long": picture(2, SMALL), "tall": picture(3, TALL)}[kind]
    return nv.encode(model, text + LONG * (kind == "long"), shown)


def batch_of(name: str, kinds: Sequence[str]) -> tuple[nv.Prompt, list[nv.Prompt]]:
    """Prompts as rows of one batch, and alone."""
    alone = [prompt_of(name, kind) for kind in kinds]
    return nv.stack(alone), alone


def gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The greatest difference as a share of the expected values' scale."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def answered(ask: Callable[[], Any]) -> Any:
    """What a call gives; None where the model or the prompt has not got what it names."""
    try:
        return ask()
    except nv.SpecError:
        return None


def changes(model: Any) -> list[nv.Intervention]:
    """Cuts and writes in every stage but the decoder, at every site, and at the projector."""
    found: list[nv.Intervention] = [
        nv.Ablate("image", site="features"),
        nv.Ablate("image", site="features", how="mean"),
    ]
    for stage in (name for name in view_of(model).family.stages if name not in ("vision", "decoder")):
        for source, target in (("image", "query"), ("text", "query"), ("query", "text")):
            found.append(nv.Knockout(source, target, stage=stage))
        for site in ("embedding", "attention", "cross", "mlp", "residual"):
            found += [nv.Ablate(where, site=site, stage=stage) for where in ("query", "image", "text")]
        found.append(nv.Ablate("query", how="mean", layers=[0], stage=stage))
        found.append(nv.Ablate("image", site="features", stage=stage))
    return found


def reads_of(model: Any) -> list[Any]:
    found: list[Any] = [nv.Residual("image", site="features")]
    for stage in (name for name in view_of(model).family.stages if name not in ("vision", "decoder")):
        pairs = (("query", "image"), ("text", "query"), ("query", "text"))
        found += [nv.Attention(queries, keys, stage=stage) for queries, keys in pairs]
        found += [nv.Residual(where, layers=[0], stage=stage) for where in ("query", "text", "image")]
        found.append(nv.Residual("image", site="features", stage=stage))
    return found


BATCHES = (
    *(
        (name, kinds)
        for name in (*QFORMERS, "kosmos-2", "florence2")
        for kinds in (("short", "long"), ("long", "short"))
        if kinds[0] == "short" or not name.endswith("t5")  # both orders in one family with a question are enough
    ),
    *(
        ("idefics2", kinds)
        for kinds in (("short", "tall"), ("tall", "long"), ("two", "short"), ("text", "two", "tall"))
    ),
)


@pytest.mark.float64
@pytest.mark.parametrize(
    ("name", "kinds"), BATCHES, ids=lambda value: value if isinstance(value, str) else "-".join(value)
)
def test_every_change_and_read_of_a_row_is_that_of_the_row_alone(name, kinds):
    model, (batch, alone) = model_of(name), batch_of(name, kinds)
    clean = [nv.run(model, prompt).logits for prompt in alone]
    seen = 0
    for change in changes(model):
        expected = [answered(lambda: nv.run(model, prompt, change).logits) for prompt in alone]  # noqa: B023
        cases = [None if logits is None else change for logits in expected]
        if not any(cases):
            continue
        seen += 1
        if not all(cases):
            with pytest.raises(nv.SpecError):
                nv.run(model, batch, change)
        found = nv.run(model, batch, cases).logits
        for row, logits in enumerate(expected):
            assert gap(found[row], clean[row] if logits is None else logits) < LIMIT, (change, row)
        first = next(row for row, case in enumerate(cases) if case is not None)
        assert gap(nv.run(model, batch.row(first), change).logits, expected[first]) < LIMIT, change
    for read in reads_of(model):
        rows = [answered(lambda: nv.run(model, prompt, reads=[read]).reads[0]) for prompt in alone]  # noqa: B023
        if all(row is not None for row in rows):
            seen += 1
            for found, row in zip(nv.run(model, batch, reads=[read]).reads[0], rows, strict=True):
                assert gap(found, row) < LIMIT, read
    assert seen > 3


@pytest.mark.float64
@pytest.mark.parametrize("name", ["idefics2", "instructblip-llama", "florence2"])
def test_rows_of_a_batch_are_stacked_again_and_generate_as_alone(name):
    model, (batch, alone) = (
        model_of(name),
        batch_of(name, ("short", "tall") if name == "idefics2" else ("short", "long")),
    )
    again = nv.stack([batch.row(1), alone[0]])
    stage = next(name for name in view_of(model).family.stages if name != "vision")
    for change in (nv.Knockout("image", "query", stage=stage), nv.Ablate("query", stage=stage, layers=[0])):
        expected = [nv.run(model, prompt, change).logits for prompt in (alone[1], alone[0])]
        found = nv.run(model, again, change).logits
        assert max(map(gap, found, expected)) < LIMIT, change
        if name != "florence2":  # padding on the right of an encoder: rows are equally long in the decoder
            answers = nv.generate(model, batch, change, max_new_tokens=4).tokens
            assert answers == tuple(nv.generate(model, row, change, max_new_tokens=4).tokens for row in alone)


# reference: hooks on the plain model ----------------------------------------------------------------------


@contextmanager
def zeroed(module: Any, path: str, row: int):
    """A hook that writes 0 over one batch row of what a module returns."""

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        state = (output[0] if isinstance(output, tuple) else output).clone()
        state[row] = 0
        return (state, *output[1:]) if isinstance(output, tuple) else state

    handle = module.get_submodule(reference.plain(path)).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


HOOKED = (
    ("idefics2", ("two", "tall"), 1, "resampler", "residual", 2),
    ("idefics2", ("text", "tall", "short"), 2, "resampler", "mlp", 1),
    ("blip-2-opt", ("short", "long"), 1, "qformer", "residual", 1),
    ("instructblip-t5", ("long", "short"), 1, "encoder", "residual", 1),
    ("florence2", ("short", "long"), 0, "encoder", "residual", 0),
)
"""Family, batch, the prompt's row that is ablated, the stage and site, and the row of the stage's own batch."""


@pytest.mark.float64
@pytest.mark.parametrize(("name", "kinds", "row", "stage", "site", "own_row"), HOOKED)
def test_a_write_lands_in_the_row_of_the_stages_own_batch(name, kinds, row, stage, site, own_row):
    model, (batch, _) = model_of(name), batch_of(name, kinds)
    path, _ = locate(view_of(model).family, stage, site, 0)
    real = tuple(range(batch.rows[row].stage(stage).stop))  # the hook writes padding too, which is never read
    cases = [nv.Ablate(real, site=site, layers=[0], stage=stage) if at == row else None for at in range(len(kinds))]
    clean = nv.run(model, batch).logits
    found = nv.run(model, batch, cases).logits
    with zeroed(model._module, path, own_row):
        expected = nv.run(model, batch).logits
    assert gap(found, expected) < LIMIT
    assert gap(expected[row], clean[row]) > SEEN


# padding ----------------------------------------------------------------------------------------------------


@pytest.mark.float64
@pytest.mark.parametrize("name", ["instructblip-llama", "instructblip-t5"])
def test_a_question_that_is_padded_on_the_left_is_found_behind_its_padding(name):
    model, (batch, alone) = model_of(name), batch_of(name, ("short", "long"))
    ids, mask = batch.inputs["qformer_input_ids"].clone(), batch.inputs["qformer_attention_mask"].clone()
    padding = int((mask[0] == 0).sum())
    ids[0], mask[0] = ids[0].roll(padding), mask[0].roll(padding)
    left = nv.encode(model, inputs={**batch.inputs, "qformer_input_ids": ids, "qformer_attention_mask": mask})
    queries, stop = 4, 4 + len(ids[0])
    assert padding > 0
    assert left.rows[0].stage("qformer").ranges("text").positions(stop) == tuple(range(queries + padding, stop))
    with pytest.raises(nv.SpecError, match="lies outside the prompt"):
        nv.run(model, left, [nv.Knockout(queries, "query", stage="qformer"), None])
    with pytest.raises(nv.SpecError, match="no key to attend to"):  # keys of padding are none
        nv.run(model, left, nv.Knockout("all", "query", stage="qformer"))
    names = ("pixel_values", "input_ids", "attention_mask", "decoder_input_ids")
    single = {key: value[:1] for key, value in left.inputs.items() if key in names}
    lone = nv.encode(model, inputs={**single, "qformer_input_ids": ids[:1], "qformer_attention_mask": mask[:1]})
    for change in (nv.Knockout("text", "query", stage="qformer"), nv.Ablate("text", stage="qformer", layers=[0])):
        expected = [nv.run(model, lone, change).logits, nv.run(model, alone[1], change).logits]
        assert max(map(gap, nv.run(model, left, change).logits, expected)) < LIMIT
        assert gap(nv.run(model, left.row(0), change).logits, expected[0]) < LIMIT


@pytest.mark.float64
def test_positions_of_a_prompt_alone_are_the_same_patches_in_a_batch_of_larger_pictures():
    model, alone = model_of("idefics2"), [prompt_of("idefics2", kind) for kind in ("short", "tall")]
    layout = padded_batch(alone)
    last = [placement.place(placement.tokens.stop - 1) for placement in layout.placements]
    columns = logit_columns(layout, last[:1])
    read = LogitRead(readouts.logit_rows, tuple(LogitRequest(row, (columns[last[0]],)) for row in range(2)), last[:1])
    for prompt, latents in zip(alone, (4, 4), strict=True):
        tokens = prompt.rows[0].stage("resampler")
        assert tokens.ranges("latents").positions(0) == tuple(range(-latents, 0))
    for some in (slice(0, 1), slice(2, 5), slice(-1, None)):
        cases = [
            nv.Knockout(prompt.rows[0].stage("resampler").images[0][some], "query", stage="resampler")
            for prompt in alone
        ]
        plan = prepare(model, layout, cases, {})
        found = [rows[0] for rows in run_forward(model, layout, plan, [], read, False).logits]
        expected = [nv.run(model, prompt, case).logits for prompt, case in zip(alone, cases, strict=True)]
        assert max(map(gap, found, expected)) < LIMIT


@pytest.mark.float64
@pytest.mark.parametrize("name", RESAMPLERS)
def test_the_image_of_a_resampler_is_its_patches_and_its_latents_are_keys_of_their_own(name):
    model, prompt = model_of(name), prompt_of(name, "tall" if name == "idefics2" else "short")
    tokens = prompt.rows[0].stage("resampler")
    image, latents = (tokens.ranges(group).positions(0) for group in ("image", "latents"))
    assert not set(image) & set(latents)
    assert latents == tuple(range(-len(tokens.ranges("query").positions(99)), 0))
    reads = [nv.Attention("query", keys, stage="resampler", reduce="mass") for keys in ("image", "latents")]
    patches, own = nv.run(model, prompt, reads=reads).reads
    assert float((patches + own - 1).abs().max()) < LIMIT  # what pads a tile is never read
    assert float(own.min()) > 0


@pytest.mark.float64
@pytest.mark.parametrize(
    ("name", "kinds"), BATCHES, ids=lambda value: value if isinstance(value, str) else "-".join(value)
)
def test_every_group_of_a_stage_has_as_many_tokens_in_a_batch_as_alone(name, kinds):
    def sizes(tokens):
        groups = tokens.group_names
        return {group: len(tokens.group(group).positions(tokens.stop)) for group in groups if group != "generated"}

    batch, alone = batch_of(name, kinds)
    for row, prompt in zip(batch.rows, alone, strict=True):
        expected = {stage: sizes(tokens) for stage, tokens in prompt.rows[0].stages}
        assert {stage: sizes(tokens) for stage, tokens in row.stages} == expected


# what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*QFORMERS, *RESAMPLERS])
def test_features_of_a_stage_before_the_projector_are_refused(name):
    model, (batch, alone) = model_of(name), batch_of(name, ("short", "long"))
    stage = next(name for name in view_of(model).family.stages if name != "vision")
    for prompt in (batch, alone[0]):
        for where in ("image", "query", (-3, -2)):
            with pytest.raises(nv.SpecError, match=f"leave out stage='{stage}'"):
                nv.run(model, prompt, nv.Ablate(where, site="features", stage=stage))
            with pytest.raises(nv.SpecError, match=f"leave out stage='{stage}'"):
                nv.run(model, prompt, reads=[nv.Residual(where, site="features", stage=stage)])


def test_questions_that_do_not_read_an_image_and_rows_without_one_are_refused():
    model, (batch, _) = model_of("instructblip-llama"), batch_of("instructblip-llama", ("short", "long"))
    with pytest.raises(nv.SpecError, match='write "query"'):
        nv.run(model, batch, reads=[nv.Attention("text", "image", stage="qformer")])
    for row in (0, 1):
        other = {"input_ids": batch.inputs["input_ids"].clone(), "pixel_values": batch.inputs["pixel_values"][:1]}
        image = batch.rows[row].images[0]
        other["input_ids"][row, list(image)] = batch.inputs["input_ids"][1, -1]
        with pytest.raises(nv.SpecError, match=r"1 picture\(s\) for 2 question\(s\)"):
            nv.encode(model, inputs={**batch.inputs, **other})
    several, (mixed, _) = model_of("idefics2"), batch_of("idefics2", ("two", "short"))
    with pytest.raises(nv.SpecError, match="one image of one crop"):
        nv.run(several, mixed, nv.Knockout("image", "query", stage="resampler"))


# proof ------------------------------------------------------------------------------------------------------

PROVED = (
    ("idefics2", ("short", "tall"), nv.Knockout("image", "query", stage="resampler")),
    ("idefics2", ("short", "tall"), nv.Ablate("query", layers=[0], stage="resampler")),
    ("instructblip-llama", ("short", "long"), nv.Knockout("text", "query", stage="qformer")),
    ("blip-2-t5", ("short", "long"), nv.Ablate("image", site="features", stage="encoder")),
    ("florence2", ("long", "short"), nv.Ablate("image", site="features", stage="encoder")),
    ("llava", ("short", "long"), nv.Ablate("image", site="features")),
)


@pytest.mark.float64
@pytest.mark.parametrize(("name", "kinds", "change"), PROVED)
def test_a_batch_is_proved_and_a_plan_that_names_another_rows_places_is_not(name, kinds, change, monkeypatch):
    model = model_of(name)
    text, sizes = zoo.ZOO[name].text, {"short": SMALL, "long": SMALL, "tall": TALL}
    prompts = [
        nv.encode(model, text + LONG * (kind == "long"), picture(at, sizes[kind])) for at, kind in enumerate(kinds)
    ]
    batch = nv.stack(prompts)
    nv.verify(model, batch, change)
    swapped = {"features": 0} if getattr(change, "site", "") == "features" else {"row": 0}
    place, every = Placement.at, one_case_per_row

    def in_row_0(placement: Placement, stage: str) -> Placement:
        return replace(place(placement, stage), **swapped)

    monkeypatch.setattr(Placement, "at", in_row_0)
    if name == "llava":
        monkeypatch.setattr(
            "nnsight_vlm.execution.proof.one_case_per_row",
            lambda prompt: replace(
                every(prompt), placements=tuple(replace(each, **swapped) for each in every(prompt).placements)
            ),
        )
    with pytest.raises(nv.InterventionError, match="row 1: under the intervention"):
        nv.verify(model, batch, change)


# prompts without a picture, and layers that only read one --------------------------------------------------


def test_layers_that_only_read_an_image_are_refused_in_a_prompt_without_one():
    model = model_of("mllama")
    prompts = [nv.encode(model, f"<s>user : what is {words} ?", chat=False) for words in ("red", "a big red dog")]
    for prompt in (prompts[0], nv.stack(prompts)):
        for layers in ([1], "all", [0, 3]):
            with pytest.raises(nv.SpecError, match=r"does not run in a prompt without one; write layers=\[0"):
                nv.run(model, prompt, nv.Ablate("last", layers=layers))
            with pytest.raises(nv.SpecError, match=r"does not run in a prompt without one; write layers=\[0"):
                nv.run(model, prompt, reads=[nv.Residual("last", layers=layers)])
        assert nv.verify(model, prompt, nv.Ablate("last", layers=[0])).layers == 2


@pytest.mark.parametrize("counts", [(1, 2), (0, 1)])
def test_rows_with_other_numbers_of_images_are_refused_where_text_reads_the_padding_of_missing_ones(counts):
    model = model_of("mllama")
    texts = ["<s>user : " + "<|image|> " * count + "what is red ?" for count in counts]
    pictures = [[picture(number, SMALL) for number in range(count)] for count in counts]
    inputs = dict(model.processor(text=texts, images=pictures, padding=True, return_tensors="pt"))
    with pytest.raises(nv.SpecError, match="a row is not what it is alone"):
        nv.encode(model, inputs=inputs)
