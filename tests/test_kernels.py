"""The kernels that edit masks, held to every kind of mask that an attention is handed; expected masks are by hand."""

from __future__ import annotations

import pytest
import torch

from nnsight_vlm.device import kernels

INF = float("-inf")
FORWARD = (0, 4, 0, 4, True)  # four queries, four keys, causal
SPEC = ("attention_mask", None, None)
CUT = ((0, ((2, 4),), ((0, 1),), None),)  # queries 2 and 3 of row 0 lose key 0
TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]

CAUSAL = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
CAUSAL_CUT = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]]
WINDOW = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]  # sliding: two keys back
BOTH_WAYS = [[1, 1, 1, 1]] * 4
BOTH_WAYS_CUT = [[1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1]]


def additive(rows, dtype=torch.float32, closed=INF):
    opened = torch.tensor(rows, dtype=torch.bool)
    return torch.zeros(opened.shape, dtype=dtype).masked_fill(~opened, closed)[None, None]


def closed(mask, cuts=CUT, window=FORWARD, batch=1, dtype=torch.float32, spec=SPEC):
    hidden = torch.zeros(batch, window[1], 8, dtype=dtype)
    before = None if mask is None else mask.clone()
    _, kwargs = kernels.close_edges(((hidden,), {"attention_mask": mask}), cuts, window, spec, {})
    assert mask is None or torch.equal(mask, before), "layers share the mask that was handed over"
    return kwargs["attention_mask"]


def opened(mask):
    return kernels.is_open(mask).int().tolist()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("least", ["-inf", "least", "-1e4"])
@pytest.mark.parametrize(
    "given, expected",
    [(CAUSAL, CAUSAL_CUT), (WINDOW, WINDOW), (BOTH_WAYS, BOTH_WAYS_CUT)],
    ids=["causal", "sliding", "both ways"],
)
def test_additive_masks_of_every_type_get_minus_infinity(given, expected, dtype, least):
    value = {"-inf": INF, "least": torch.finfo(dtype).min, "-1e4": -1e4}[least]
    found = closed(additive(given, dtype, value), dtype=dtype)
    assert opened(found)[0][0] == expected and found.dtype == dtype
    assert (found[0, 0, 2:, 0] == INF).all()
    assert torch.equal(found[0, 0, :, 1:], additive(given, dtype, value)[0, 0, :, 1:])


@pytest.mark.parametrize(
    "given, expected",
    [(CAUSAL, CAUSAL_CUT), (WINDOW, WINDOW), (BOTH_WAYS, BOTH_WAYS_CUT)],
    ids=["causal", "sliding", "both ways"],
)
def test_boolean_masks_get_false_and_stay_boolean(given, expected):
    """-inf written into a boolean mask would be stored as True, and open the edge."""
    found = closed(torch.tensor(given, dtype=torch.bool)[None, None])
    assert found.dtype == torch.bool and found[0, 0].int().tolist() == expected


@pytest.mark.parametrize("causal, expected", [(True, CAUSAL_CUT), (False, BOTH_WAYS_CUT)])
def test_where_no_mask_is_handed_over_the_one_that_it_means_is_built(causal, expected):
    found = closed(None, window=(*FORWARD[:4], causal), dtype=torch.bfloat16)
    assert found.dtype == torch.bfloat16 and opened(found)[0][0] == expected


@pytest.mark.parametrize("boolean", [False, True])
def test_a_mask_for_all_rows_is_spread_and_only_the_named_row_is_cut(boolean):
    mask = torch.tensor(CAUSAL, dtype=torch.bool)[None, None] if boolean else additive(CAUSAL)
    cuts = ((1, ((2, 4),), ((0, 1),), None),)
    assert opened(closed(mask, cuts, batch=2)) == [[CAUSAL], [CAUSAL_CUT]]


@pytest.mark.parametrize("boolean", [False, True])
@pytest.mark.parametrize("heads_given", [1, 3])
def test_a_cut_of_heads_leaves_the_other_heads_alone(boolean, heads_given):
    mask = torch.tensor(CAUSAL, dtype=torch.bool)[None, None] if boolean else additive(CAUSAL)
    cuts = ((0, ((2, 4),), ((0, 1),), (3, (1,))),)
    assert opened(closed(mask.expand(1, heads_given, 4, 4), cuts)) == [[CAUSAL, CAUSAL_CUT, CAUSAL]]
    both = (*cuts, (0, ((3, 4),), ((1, 2),), None))
    last = [*CAUSAL[:3], [1, 0, 1, 1]], [*CAUSAL_CUT[:3], [0, 0, 1, 1]]
    assert opened(closed(mask, both)) == [[last[0], last[1], last[0]]]


@pytest.mark.parametrize("boolean", [False, True])
def test_a_padding_mask_that_has_one_line_for_all_queries_gets_one_for_each(boolean):
    padded = [[[[0, 1, 1, 1]]], [[[1, 1, 1, 1]]]]
    mask = torch.tensor(padded, dtype=torch.bool)
    mask = mask if boolean else torch.zeros(mask.shape).masked_fill(~mask, INF)
    cuts = ((0, ((2, 4),), ((1, 2),), None), (1, ((0, 1),), ((3, 4),), None))
    expected = [
        [[[0, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]],
        [[[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]],
    ]
    assert opened(closed(mask, cuts, batch=2, window=(*FORWARD[:4], False))) == expected


@pytest.mark.parametrize("boolean", [False, True])
def test_columns_of_a_sliding_or_static_cache_are_counted_from_its_first_key(boolean):
    """A decoded token at position 9: the cache holds the keys 6 to 9, and a static one has room behind them."""
    line = torch.tensor([[[[1, 1, 1, 1, 0, 0]]]], dtype=torch.bool)
    mask = line if boolean else torch.zeros(line.shape).masked_fill(~line, INF)
    cuts = ((0, ((5, None),), ((0, 2), (7, 9)), None),)
    assert opened(closed(mask, cuts, window=(9, 1, 6, 4, True))) == [[[[1, 0, 0, 1, 0, 0]]]]
    assert opened(closed(mask, ((0, ((5, 9),), ((7, 9),), None),), window=(9, 1, 6, 4, True))) == [
        [[[1, 1, 1, 1, 0, 0]]]
    ]


@pytest.mark.parametrize("boolean", [False, True])
def test_keys_outside_the_sequence_have_negative_positions(boolean):
    mask = torch.ones(1, 1, 4, 3, dtype=torch.bool) if boolean else torch.zeros(1, 1, 4, 3)
    cuts = ((0, ((1, 2),), ((-3, -1),), None),)
    found = closed(mask, cuts, spec=("attention_mask", (3, None), None))
    assert opened(found) == [[[[1, 1, 1], [0, 0, 1], [1, 1, 1], [1, 1, 1]]]]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8])
def test_masks_of_whole_numbers_are_refused_because_a_one_may_mean_either(dtype):
    mask = torch.ones(1, 1, 4, 4, dtype=dtype)
    with pytest.raises(ValueError, match=r"mask of torch\.u?int"):
        closed(mask)
    with pytest.raises(ValueError, match=r"mask of torch\.u?int"):
        kernels.is_open(mask)


@pytest.mark.parametrize("shape", [(1, 4), (1, 4, 4), (1, 1, 4, 3), (1, 1, 3, 4), (3, 1, 4, 4), (1, 1, 4, 1)], ids=str)
def test_masks_without_an_entry_for_every_edge_are_refused(shape):
    for mask in (torch.zeros(shape), torch.ones(shape, dtype=torch.bool)):
        with pytest.raises(ValueError, match="batch 2, 4 queries and 4 keys"):
            closed(mask, batch=2)


@pytest.mark.parametrize("boolean", [False, True])
def test_a_decoded_token_leaves_out_the_keys_that_nobody_may_look_at(boolean):
    class Cache:
        def update(self, keys, values):
            return keys, values

    line = torch.tensor([[[[1, 1, 1, 1]]]], dtype=torch.bool)
    mask, cache = line if boolean else torch.zeros(1, 1, 1, 4), Cache()
    inputs = (torch.zeros(1, 1, 8),), {"attention_mask": mask, "past_key_values": cache}
    cuts = ((0, ((3, None),), ((0, 2),), None),)
    _, kwargs = kernels.drop_edges(inputs, cuts, (3, 1, 0, 4, True), SPEC, {})
    assert opened(kwargs["attention_mask"]) == [[[[1, 1]]]]
    keys = torch.arange(4.0)[None, None, :, None]
    assert cache.update(keys, keys)[0].flatten().tolist() == [2, 3]
    assert cache.update(keys, keys)[0].flatten().tolist() == [0, 1, 2, 3], "of the next update all are returned"


@pytest.mark.parametrize("boolean", [False, True])
def test_a_query_that_may_read_nothing_gets_nothing(boolean):
    mask = torch.tensor([[[[1, 1], [0, 0]]]], dtype=torch.bool)
    mask = mask if boolean else torch.zeros(mask.shape).masked_fill(~mask, INF)
    call = ((None, None, None, None, mask), {}), (torch.ones(1, 2, 3, 5), None)
    mixed, _ = kernels.zero_unattended(call, (), (0, 2, -2, 2, False), SPEC, {})
    assert (mixed[:, 0] == 1).all() and (mixed[:, 1] == 0).all()


def test_copies_behind_a_prefix_see_the_prefix_and_themselves():
    """Two copies of two tokens behind a prefix of two, in full, with a window of two keys, and with a block."""
    window, like = (0, 6, 0, 6, True), torch.zeros(1)
    full = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 1, 1],
    ]
    sliding = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 1],
    ]
    chunks = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 1],
    ]
    block = [[1, 1, 0, 0, 0, 0], *full[1:]]
    for packing, expected in (
        ((2, 2, (), None, None, ()), full),
        ((2, 2, (), 2, None, ()), sliding),
        ((2, 2, (), None, 2, ()), chunks),
        ((2, 2, (), None, None, (((0, 2),),)), block),
        ((2, 2, (), None, None, (((0, 1), (1, 2)),)), block),
        ((2, 2, (), None, None, (((0, 1),), ((1, 2),))), full),
    ):
        assert opened(kernels.packed_mask(packing, window, like)) == [[expected]]
    behind = kernels.packed_mask((2, 2, (), None, None, ()), (2, 4, 0, 6, True), like)  # the prefix is in a cache
    assert opened(behind) == [[full[2:]]]
