"""A lens gives the words that the model would say, were a layer its last: in every family, and in bounded memory.

The reference is the model's own ending, reached by plain hooks: its last layer is made to return what an earlier layer
returned, and the logits of that forward are those of the earlier layer's states.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
import zoo
from float64 import LIMIT, float64
from matplotlib.figure import Figure
from zoo import reference

import nnsight_vlm as nv
from nnsight_vlm.device import lenses
from nnsight_vlm.families import unsupported, view_of
from nnsight_vlm.families.unembedding import head_call
from nnsight_vlm.specs import lenses as specs

SMALLEST = torch.finfo(torch.float32).min


@torch.no_grad()
def endings(model, prompt, row=0):
    """The log-probabilities `[layer, position, word]` of all positions of a row, by plain hooks."""
    view = view_of(model)
    layers = reference.layers(view.module, view.family.decoder)
    held, logits = {}, []
    with ExitStack() as stack:
        for number, layer in enumerate(layers):
            hook = layer.register_forward_hook(lambda _, __, output, number=number: held.__setitem__(number, output))
            stack.callback(hook.remove)
        last = view.module(**prompt.inputs).logits
    for number in range(len(layers) - 1):
        hook = layers[-1].register_forward_hook(lambda *_, number=number: held[number])
        logits.append(view.module(**prompt.inputs).logits)
        hook.remove()
    positions = [position for position in prompt.row(row)["all"] if position >= 0]
    return torch.stack([*logits, last]).log_softmax(-1)[:, row, positions]


def ranked(expected, tokens):
    """Token, rank and log-probability of tokens, by counting the words that are more probable."""
    wanted = expected[..., tokens]
    ranks = (expected[..., None, :] > wanted[..., None]).sum(-1)
    return torch.stack([torch.tensor(tokens).expand_as(ranks).to(expected), ranks.to(expected), wanted], -1)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_words_are_those_of_the_model_whose_last_layer_returns_what_this_one_did(name):
    member = zoo.ZOO[name]
    attention = member.implementations[0]
    with float64():
        model = zoo.load(name, attention, torch.float64)
        prompt = zoo.prompt(name, attention, dtype=torch.float64)
        words = view_of(model).vocab_size
        reads = [nv.Lens("all", tokens=range(words)), nv.Lens("all", top=5)]
        run = nv.run(model, prompt, reads=reads, positions="all")
        expected = endings(model, prompt)
    every, best = run.reads
    assert every.shape == (*expected.shape, 3) and every.dtype == torch.float64
    assert (every[..., 2] - expected).abs().max() <= 1e-10 * expected[expected > SMALLEST].abs().max().clamp(min=1)
    last = run.logits.log_softmax(-1)
    assert (every[-1, ..., 2] - last).abs().max() < 1e-10  # of the last layer the words are the model's own
    order = expected.topk(5, dim=-1)
    assert (best[..., 2] - order.values).abs().max() < 1e-9
    assert (expected.gather(-1, best[..., 0].long()) - order.values).abs().max() < 1e-9
    assert torch.equal(best[..., 1], torch.arange(5.0).expand_as(best[..., 1]))


FORMS = ("llava", "fuyu", "chameleon", "gemma3n", "gemma4", "granite4_vision", "blip-2-opt", "blip-2-t5", "florence2")


@pytest.mark.parametrize("name", FORMS)
def test_in_float32_the_last_layer_says_what_the_model_says(name):
    model, prompt = zoo.load(name), zoo.prompt(name)
    words = view_of(model).vocab_size
    run = nv.run(model, prompt, reads=nv.Lens("all", layers=-1, tokens=range(words)), positions="all")
    assert (run.reads[0][0, ..., 2] - run.logits.log_softmax(-1)).abs().max() < 1e-5


@pytest.mark.float64
@pytest.mark.parametrize(
    "name, settings",
    [
        ("blip-2-t5", {"scale_decoder_outputs": True}),
        ("gemma4", {"final_logit_softcapping": None}),
        ("paligemma", {"final_logit_softcapping": 3.0}),
        ("granite4_vision", {"logits_scaling": 7.0}),
        ("blip-2-opt", {"_remove_final_layer_norm": True}),
    ],
)
def test_what_a_configuration_does_to_logits_is_done(name, settings):
    """A norm that is missing, a cap, a divisor and a root of the width, each as a checkpoint may have it."""
    member = zoo.ZOO[name]
    module = member.module("sdpa").double()
    text = module.config.get_text_config()
    for key, value in settings.items():
        setattr(text, key, value)
        for part in (getattr(module, "language_model", None), getattr(module.config, "text_config", None)):
            if part is not None and hasattr(getattr(part, "config", part), key):
                setattr(getattr(part, "config", part), key, value)
    if "_remove_final_layer_norm" in settings:
        module.language_model.model.decoder.final_layer_norm = None
    model = nv.load(module, processor=member.processor())
    prompt = nv.encode(model, member.text, zoo.picture(1, member.sizes[0]))
    words = range(view_of(model).vocab_size)
    found = nv.run(model, prompt, reads=nv.Lens("last", tokens=words)).reads[0]
    expected = endings(model, prompt)[:, -1:]
    assert tiny.gap(found[..., 2], expected) < LIMIT
    unchanged = zoo.load(name, "sdpa", torch.float64)
    other = nv.run(unchanged, zoo.prompt(name, "sdpa", dtype=torch.float64), reads=nv.Lens("last", tokens=words))
    assert tiny.gap(found[..., 2], other.reads[0][..., 2]) > 1e-4


# interventions, rows, generated tokens ------------------------------------------------------------


@pytest.mark.float64
def test_words_are_read_after_every_intervention(model, prompt, twin):
    case = nv.Knockout("image", "query", layers=[1, 2]) | nv.Patch("last", source=twin, layers=[2, 3])
    run = nv.run(model, prompt, case, reads=[nv.Lens("last", tokens=range(20, 30)), nv.Residual("last", layers=1)])
    clean = nv.run(model, prompt, reads=nv.Lens("last", tokens=range(20, 30))).reads[0]
    module = model._module
    head = [torch.log_softmax(module.lm_head(module.model.language_model.norm(run.reads[1])), -1)]
    source = endings(model, twin)[2:, [twin["last"][0]]]
    assert tiny.gap(run.reads[0][1, :, :, 2], head[0][0][:, 20:30]) < LIMIT
    assert (
        tiny.gap(run.reads[0][2:, :, :, 2], source[..., 20:30]) < LIMIT
    )  # written states stand for the source's words
    assert torch.equal(run.reads[0][0], clean[0]) and tiny.gap(run.reads[0][1], clean[1]) > 1e-3
    assert tiny.gap(run.reads[0][-1, 0, :, 2], run.logits.log_softmax(-1)[20:30]) < LIMIT


@pytest.mark.float64
@pytest.mark.parametrize("side", ["left", "right"])
def test_each_row_of_a_batch_has_the_words_that_it_has_alone(model, side):
    rows, asked = tiny.several(model, side), [nv.Lens(["image", "last"], top=4), nv.Lens("query", tokens=[20, 21])]
    cut = nv.Knockout("image", "last", layers=1)
    together = nv.run(model, rows, cut, reads=asked)
    assert any(tokens.start for tokens in rows.rows) == (side == "left")
    for number in range(len(rows)):
        alone = nv.run(model, rows.row(number), cut, reads=asked)
        for found, expected in zip(together.reads, alone.reads, strict=True):
            assert torch.equal(found[number][..., :2], expected[..., :2])
            assert tiny.gap(found[number][..., 2], expected[..., 2]) < LIMIT


@pytest.mark.float64
def test_before_each_generated_token_the_last_layer_says_that_token(model, prompt):
    case = nv.Knockout("image", ["last", "generated"], layers=[0, 3])
    out = nv.generate(model, prompt, case, max_new_tokens=5)
    frame = nv.lens(model, out.prompt, case, where=["last", "generated"], layers=-1, top=1, empty="ignore")
    said = frame[frame["position"] >= prompt.width]
    assert list(said["position"]) == list(out.prompt["generated"])
    before = nv.lens(model, out.prompt, case, where=[p - 1 for p in out.prompt["generated"]], layers=-1, top=1)
    assert tuple(before["token"]) == out.tokens
    whole = nv.run(model, out.prompt, case, positions="generated").logits.log_softmax(-1).max(-1).values
    assert tiny.gap(torch.tensor(said["logprob"].to_numpy()), whole) < LIMIT


# what the code that travels does ------------------------------------------------------------------


@pytest.mark.parametrize("words", [30, 400, 4001])
def test_the_greatest_of_chunks_are_the_greatest_of_all(words):
    scores = torch.randn(7, words, generator=torch.Generator().manual_seed(words))
    scores[0, -1], scores[1, 3:5], scores[2] = 9.0, 9.0, float("-inf")
    values, places = lenses.greatest(scores, 5)
    assert torch.equal(values, scores.topk(5).values) and torch.equal(scores.gather(1, places), values)
    assert all(len(set(row)) == 5 for row in places.tolist())


def test_few_logits_exist_at_once_and_blocks_change_nothing(sdpa, monkeypatch):
    prompt = nv.encode(sdpa, "what is the red square ?", tiny.picture(0))
    words, sizes, reads = len(tiny.vocabulary()), [], [nv.Lens("image", top=3), nv.Lens("image", tokens=[20, 21])]
    hook = sdpa._module.lm_head.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[-2]))
    whole = nv.run(sdpa, prompt, reads=reads).reads
    monkeypatch.setattr(specs, "MOST", 4 * words)
    parts = nv.run(sdpa, prompt, reads=reads).reads
    hook.remove()
    assert sizes.count(25) == 2 * tiny.LAYERS and max(sizes[2 * tiny.LAYERS + 1 :]) == 4
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(one[..., :2], other[..., :2]) and tiny.gap(other[..., 2], one[..., 2]) < 1e-5


@pytest.mark.parametrize("states, words", [(1, 70), (6912, 4000), (80_000, 152_064), (10**6, 32_000)])
def test_the_logits_of_a_block_are_a_small_share_of_all_and_bounded(states, words):
    block = specs._at_once(states, words) * words
    assert block <= max(states * words / 24, 2**18, words) and block <= max(2**24, words)


def test_a_logit_that_is_no_number_leaves_no_word():
    logits = torch.zeros(3, 400)
    logits[0, 7], logits[1, 7] = float("nan"), float("inf")
    for asked in ((2, ()), (0, (7, 8))):
        words = lenses.words_of(logits, asked)
        assert words[:2].isnan().all() and not words[2].isnan().any()


# the table ----------------------------------------------------------------------------------------


def test_the_table_has_a_row_for_each_position_layer_and_word(sdpa):
    prompt = nv.encode(sdpa, "what is the red square ?", tiny.picture(0))
    frame = nv.lens(sdpa, prompt, where=["query", "image"], layers=[0, 2], top=3)
    assert list(frame) == ["position", "layer", "rank", "token", "text", "logprob"]
    positions = sorted({*prompt["image"], *prompt["query"]})
    assert len(frame) == len(positions) * 2 * 3 and list(frame["position"].unique()) == positions
    assert frame.equals(frame.sort_values(["position", "layer", "rank"]))
    expected = endings(sdpa, prompt)
    for row in frame.iloc[:: len(frame) // 7].itertuples():
        scores = expected[row.layer, row.position]
        assert int((scores > scores[row.token]).sum()) == row.rank
        assert abs(row.logprob - float(scores[row.token])) < 1e-5
        assert row.text == sdpa.processor.tokenizer.decode([row.token])
    assert frame.attrs["top"] == 3 and frame.attrs["where"] == "query,image" and frame.attrs["layers"] == "0,2"
    frame.to_parquet(path := BytesIO())
    assert pd.read_parquet(path).equals(frame)


def test_chosen_words_are_followed_by_layer(sdpa):
    prompt, red = nv.encode(sdpa, "what is the red square ?", tiny.picture(0)), tiny.vocabulary()["red"]
    frame = nv.lens(sdpa, prompt, where="last", tokens=["red", 20])
    assert list(frame["token"]) == [red, 20] * tiny.LAYERS and list(frame["text"][:1]) == ["red"]
    expected = ranked(endings(sdpa, prompt)[:, -1:], [red, 20])
    assert list(frame["rank"]) == expected[..., 1].flatten().int().tolist()
    assert np.allclose(frame["logprob"], expected[..., 2].flatten(), atol=1e-5)
    assert frame.attrs["tokens"] == [red, 20] and nv.lens(sdpa, prompt, where="last", tokens="red").shape[0] == 4


def test_states_without_numbers_have_no_words_and_are_named():
    model = tiny.build()
    prompt = nv.encode(model, "what is red ?", tiny.picture(0))
    spoilt = nv.Patch("last", source=torch.full((1, tiny.WIDTH), float("nan")), layers=3)
    with pytest.warns(nv.NonFiniteWarning, match=r"5 of 10 words"):
        frame = nv.lens(model, prompt, spoilt, where="last", layers=[2, 3])
    assert frame["token"].isna().tolist() == [False] * 5 + [True] * 5 and frame["text"].isna().sum() == 5


@pytest.mark.parametrize(
    "where, more, message",
    [
        ("image", {"top": 3, "tokens": [1]}, "one nv.Lens for each"),
        ("image", {"tokens": []}, "tokens"),
        ("image", {"tokens": [10**6]}, r"1000000 is no token id; the model has 0\.\."),
        ("image", {"top": 10**6}, "top=1000000 words were asked for"),
        ("image", {"layers": [2, 1]}, "must ascend"),
        ("generated", {}, "Lens has nothing to read"),
        ("nowhere", {}, "nowhere"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_the_model_runs(model, prompt, forwards, where, more, message):
    with pytest.raises(nv.SpecError, match=message):
        nv.run(model, prompt, reads=nv.Lens(where, **more))
    assert not forwards


def test_an_image_that_the_decoder_only_reads_has_no_words():
    for name in ("mllama", "florence2", "blip-2-t5"):
        model, prompt = zoo.load(name), zoo.prompt(name)
        reason = unsupported(view_of(model).family)["image lens"]
        with pytest.raises(nv.SpecError, match=reason.partition(":")[0]):
            nv.lens(model, prompt)
        assert len(nv.lens(model, prompt, where="last", layers=-1)) == 5


def test_a_prompt_of_several_rows_and_a_model_without_a_head_are_refused(sdpa):
    with pytest.raises(nv.SpecError, match=r"prompt.row\(0\)"):
        nv.lens(sdpa, tiny.several(sdpa))
    family = replace(view_of(sdpa).family, unembedding=replace(view_of(sdpa).family.unembedding, norms=("no_norm",)))
    with pytest.raises(nv.SpecError, match=r"no\s+module 'model.language_model.no_norm'"):
        head_call(sdpa._module, sdpa._module.config, family, 1, 10)
    with pytest.raises(nv.SpecError, match="transformers names none"):
        head_call(sdpa._module.model, sdpa._module.config, family, 1, 10)


# words over the picture ---------------------------------------------------------------------------


def test_words_are_drawn_at_their_patches_in_given_axes(sdpa):
    prompt = nv.encode(sdpa, "what is the red square ?", tiny.picture(0))
    frame, grid = nv.lens(sdpa, prompt, top=2), prompt.grid(0)
    figure = Figure()
    one, other = figure.subplots(1, 2)
    assert nv.plots.image_words(frame, grid, layer=1, ax=one) is one
    nv.plots.image_words(frame, grid, layer=-1, rank=1, ax=other)
    for axis, layer, rank in ((one, 1, 0), (other, 3, 1)):
        rows = frame[(frame["layer"] == layer) & (frame["rank"] == rank)].set_index("position")
        assert [text.get_text() for text in axis.texts] == [rows.loc[place, "text"] for place in grid.positions]
        centres = np.asarray([text.get_position() for text in axis.texts])
        assert np.allclose(centres, (grid.boxes[:, :2] + grid.boxes[:, 2:]) / 2)
        bars = [patch.get_width() for patch in axis.patches if patch.get_fill()]
        wide = grid.boxes[:, 2] - grid.boxes[:, 0]
        assert np.allclose(bars, np.exp(rows.loc[list(grid.positions), "logprob"]) * wide)
    figure.savefig(path := BytesIO())
    assert path.getbuffer().nbytes > 1000


def test_the_whole_picture_is_left_out_beside_its_tiles_and_drawn_when_asked_for():
    model, prompt = zoo.load("llava_next"), zoo.prompt("llava_next", size=-1)
    grid, frame = prompt.grid(0), nv.lens(model, prompt, top=1)
    counts = {tile: grid.tiles.count(tile) for tile in (0, 1)}
    assert len(nv.plots.image_words(frame, grid, layer=0).texts) == counts[1]
    assert len(nv.plots.image_words(frame, grid, layer=0, tile=0).texts) == counts[0]
    with pytest.raises(nv.SpecError, match="tile=7 is no tile of this picture, which has 0, 1"):
        nv.plots.image_words(frame, grid, layer=0, tile=7)
    with pytest.raises(nv.SpecError, match="nothing to draw"):
        nv.plots.image_words(frame, grid, layer=9)
