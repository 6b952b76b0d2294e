"""A knockout is what a forward written by hand gives with -inf at the cut edges."""

from __future__ import annotations

import pytest
import reference
import tiny
import torch
from float64 import LIMIT
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import nnsight_vlm as nv

GROUPS = ("image", "system", "query", "text", "last", "first", "bos", "generated", "all")
quick = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def positions_in(prompt, where, stop):
    """Positions of a group, open ends up to `stop`."""
    named = prompt.rows[0].ranges(where)
    return [p for a, b in named for p in range(a, stop if b is None else b)]


def wheres(length):
    places = st.lists(st.integers(0, length - 1), min_size=1, max_size=6, unique=True)
    return st.one_of(st.sampled_from(GROUPS), places, st.tuples(st.sampled_from(GROUPS), st.integers(0, length - 1)))


@st.composite
def choices(draw):
    """`(what is written, the layer numbers it means)`."""
    few = draw(st.lists(st.integers(0, tiny.LAYERS - 1), min_size=1, max_size=tiny.LAYERS, unique=True))
    a, b = draw(st.sampled_from([(0, 2), (1, 4), (2, 3)]))
    return draw(
        st.sampled_from(
            [
                ("all", range(tiny.LAYERS)),
                ("attention", range(tiny.LAYERS)),
                (few[0], few[:1]),
                (few, sorted(few)),
                (nv.window(a, b), range(a, b)),
                (nv.depth(a / 4, b / 4), range(a, b)),
            ]
        )
    )


heads_of = st.one_of(
    st.none(),
    st.lists(st.integers(0, tiny.HEADS - 1), min_size=1, max_size=3, unique=True),
    st.lists(
        st.tuples(st.integers(0, tiny.LAYERS - 1), st.integers(0, tiny.HEADS - 1)), min_size=1, max_size=4, unique=True
    ),
)


def planned(module, ids, prompt, source, target, layers, heads):
    """The reference's cut for one knockout, with one token more than the prompt has."""
    longer = torch.cat([ids, ids[:, -1:]], dim=1)
    stop = longer.shape[1]
    cut = reference.no_cut(module, longer)
    for layer in layers:
        some = (
            None
            if heads is None
            else [h if isinstance(h, int) else h[1] for h in heads if isinstance(h, int) or h[0] == layer]
        )
        at = positions_in(prompt, source, stop), positions_in(prompt, target, stop)
        cut |= reference.edges(module, longer, *at, [layer], some)
    return cut


@pytest.mark.float64
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@quick
@given(data=st.data())
def test_a_knockout_equals_the_forward_written_by_hand(attention, data):
    model = tiny.load(attention, dtype=torch.float64)
    prompt = nv.encode(model, "is the ball red ?", tiny.picture(2))
    source, target = data.draw(wheres(prompt.width)), data.draw(wheres(prompt.width))
    layers, numbers = data.draw(choices())
    heads = data.draw(heads_of)
    if heads is not None:
        heads = [head for head in heads if isinstance(head, int) or head[0] in numbers] or None
    cut = planned(model._module, prompt.inputs["input_ids"], prompt, source, target, numbers, heads)
    causal = torch.ones(cut.shape[-2:], dtype=torch.bool).tril()
    knockout = nv.Knockout(source, target, layers=layers, heads=heads)
    if (cut | ~causal).all(-1)[..., :-1].any():  # the last stands for a token to come, which no run writes
        with pytest.raises(nv.SpecError, match="no key"):
            nv.run(model, prompt, knockout)
        return
    empty = not (cut & causal)[..., :-1, :-1].any()
    if empty:
        with pytest.raises(nv.SpecError, match="changes nothing"):
            nv.run(model, prompt, knockout)
    expected = reference.forward(model._module, prompt.inputs, cut[..., :-1, :-1])
    found = nv.run(
        model,
        prompt,
        knockout,
        positions="all",
        reads=[nv.Attention("all", "all")],
        empty="ignore" if empty else "error",
    )
    assert tiny.gap(found.logits, expected.logits[0]) < LIMIT
    assert tiny.gap(found.reads[0], expected.weights[:, 0]) < LIMIT
    assert (found.reads[0][cut[:, 0, :, :-1, :-1]] == 0).all()


def test_some_knockouts_move_the_logits_far(model, prompt):
    clean = nv.run(model, prompt).logits
    for cut in (
        nv.Knockout("image", "text"),
        nv.Knockout("system", "last", layers=2),
        nv.Knockout("image", "last", heads=[(1, 3)]),
    ):
        assert tiny.gap(nv.run(model, prompt, cut).logits, clean) > 0.01


@pytest.mark.float64
@pytest.mark.parametrize(
    "source, target", [("image", "text"), ("text", "image"), ("image", "image"), (("system", "image"), "query")]
)
def test_other_decoders_equal_their_forward_written_by_hand(other, source, target):
    prompt = nv.encode(other, "is the ball red ?", tiny.picture(2))
    cut = reference.edges(other._module, prompt.inputs["input_ids"], prompt[source], prompt[target], [1, 2], [0, 3])
    cut[..., torch.arange(prompt.width), torch.arange(prompt.width)] = False  # all but itself
    pairs = [nv.Knockout([s for s in prompt[source] if s != t], t, layers=[1, 2], heads=[0, 3]) for t in prompt[target]]
    knockout = pairs[0]
    for pair in pairs[1:]:
        knockout = knockout | pair
    expected = reference.forward(other._module, prompt.inputs, cut)
    found = nv.run(other, prompt, knockout, positions="all", reads=[nv.Attention("all", "all")], empty="ignore")
    assert tiny.gap(found.logits, expected.logits[0]) < LIMIT
    assert tiny.gap(found.reads[0], expected.weights[:, 0]) < LIMIT


def test_a_row_whose_sliding_window_is_all_cut_is_refused():
    model = tiny.load("sdpa", "mistral")
    prompt = nv.encode(model, "is the ball red ?", tiny.picture(2))
    seen = range(prompt.width - tiny.WINDOW, prompt.width)  # all that the last token's window holds
    with pytest.raises(nv.SpecError, match="no key"):
        nv.run(model, prompt, nv.Knockout(seen, "last", layers=1))


@pytest.mark.float64
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    "source, target", [("image", "query"), ("system", "last"), ("image.0", "text"), ("text", "image")]
)
def test_each_of_several_padded_rows_equals_the_forward_written_by_hand(model, side, source, target):
    prompt = tiny.several(model, side)
    ids = prompt.inputs["input_ids"]
    cut = reference.no_cut(model._module, ids)
    for number, row in enumerate(prompt.rows):
        source_at, target_at = (
            [p for a, b in row.ranges(w) for p in range(a, b or row.stop)] for w in (source, target)
        )
        cut |= reference.edges(model._module, ids, source_at, target_at, [0, 2], [1, 2], number)
    knockout = nv.Knockout(source, target, layers=[0, 2], heads=[1, 2])
    if (source, target) == ("text", "image"):  # the second picture of the last row must keep something to read
        assert prompt.rows[2].images[0][0] > prompt.rows[2].start
    expected = reference.forward(model._module, prompt.inputs, cut)
    found = nv.run(model, prompt, knockout, reads=[nv.Attention("last", "image")])
    assert len(found.reads) == 1 and len(found.reads[0]) == 3
    for number, row in enumerate(prompt.rows):
        assert tiny.gap(found.logits[number], expected.logits[number, row.stop - 1]) < LIMIT
        pixels = [position for image in row.images for position in image]
        weights = expected.weights[:, number, :, row.stop - 1, pixels]
        assert tiny.gap(found.reads[0][number][:, :, 0], weights) < LIMIT


@pytest.mark.float64
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_equals_the_same_row_alone(model, side):
    prompt = tiny.several(model, side)
    knockout = nv.Knockout("image", "query", layers=nv.window(1, 3)) | nv.Knockout("first", "last", layers=0)
    together = nv.run(model, prompt, knockout).logits
    for number in range(3):
        assert tiny.gap(together[number], nv.run(model, prompt.row(number), knockout).logits) < LIMIT


@pytest.mark.float64
def test_each_picture_of_a_prompt_is_cut_by_itself(model):
    prompt = nv.encode(model, "left or right ?", [tiny.picture(4), tiny.picture(5)])
    ids = prompt.inputs["input_ids"]
    assert len(prompt["image.0"]) == len(prompt["image.1"]) == tiny.IMAGE_TOKENS
    for picture in ("image.0", "image.1"):
        cut = reference.edges(model._module, ids, prompt[picture], prompt["last"], range(4))
        expected = reference.forward(model._module, prompt.inputs, cut).logits[0, -1]
        assert tiny.gap(nv.run(model, prompt, nv.Knockout(picture, "last")).logits, expected) < LIMIT


@pytest.mark.float64
@pytest.mark.parametrize(
    "text", ["<s> see <image> what is red ?", "<image> what is red ?", "<s> one <image> two <image> three"]
)
def test_text_before_and_after_pictures_is_system_and_query(model, text):
    prompt = nv.encode(model, text, [tiny.picture(n) for n in range(text.count("<image>"))], chat=False)
    first = prompt["image"][0]
    assert prompt["query"] == tuple(p for p in range(first, prompt.width) if p not in prompt["image"])
    assert not first or prompt["system"] == tuple(range(first))
    cut = reference.edges(model._module, prompt.inputs["input_ids"], prompt["image"], prompt["query"], [1, 3])
    expected = reference.forward(model._module, prompt.inputs, cut).logits[0, -1]
    assert tiny.gap(nv.run(model, prompt, nv.Knockout("image", "query", layers=[1, 3])).logits, expected) < LIMIT


@pytest.mark.float64
def test_a_prompt_without_a_picture_takes_knockouts_of_text(model):
    prompt = nv.encode(model, "what is red ?")
    words = prompt.find("what is")
    cut = reference.edges(model._module, prompt.inputs["input_ids"], words, prompt["last"], range(4))
    expected = reference.forward(model._module, prompt.inputs, cut).logits[0, -1]
    assert tiny.gap(nv.run(model, prompt, nv.Knockout(words, "last")).logits, expected) < LIMIT
    assert prompt["text"] == prompt["all"] == tuple(range(prompt.width))


@pytest.mark.parametrize(
    "layers, allowed", [(2, {2}), ("all", {0, 1, 2, 3}), (nv.window(1, 3), {1, 2}), (nv.depth(0.5, 1), {2, 3})]
)
def test_allow_is_the_knockout_of_all_other_layers(model, prompt, layers, allowed):
    others = [layer for layer in range(4) if layer not in allowed]
    found = nv.run(model, prompt, nv.Allow("image", "text", layers=layers), empty="ignore").logits
    expected = nv.run(model, prompt, nv.Knockout("image", "text", layers=others) if others else None).logits
    assert torch.equal(found, expected)


def test_heads_as_numbers_and_as_pairs_mean_the_same_cut(model, prompt):
    numbers = nv.Knockout("image", "last", layers=[1, 3], heads=[0, 2])
    pairs = nv.Knockout("image", "last", layers=[1, 3], heads=[(1, 0), (1, 2), (3, 0), (3, 2)])
    assert torch.equal(nv.run(model, prompt, numbers).logits, nv.run(model, prompt, pairs).logits)
    uneven = nv.Knockout("image", "last", layers=[1, 3], heads=[(1, 0), (3, 2)])
    split = nv.Knockout("image", "last", layers=1, heads=[0]) | nv.Knockout("image", "last", layers=3, heads=[2])
    assert torch.equal(nv.run(model, prompt, uneven).logits, nv.run(model, prompt, split).logits)


@pytest.mark.float64
def test_a_mask_in_the_encoding_makes_no_difference_to_what_is_cut(model, prompt):
    padded = nv.stack([prompt, nv.encode(model, "see a longer question about the red square ?", tiny.picture(1))])
    knockout = nv.Knockout("image", "last", layers=[1, 2])
    assert tiny.gap(nv.run(model, padded, knockout).logits[0], nv.run(model, prompt, knockout).logits) < LIMIT
