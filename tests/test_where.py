"""Positions, layers and heads in every form in which a user may give them, and what is refused in words."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from float64 import LIMIT

import nnsight_vlm as nv
from nnsight_vlm.prompts.where import as_tuples, shown

FORMS = {
    "a list": list,
    "a tuple": tuple,
    "a generator": lambda numbers: (number for number in numbers),
    "a map": lambda numbers: map(int, numbers),
    "a filter": lambda numbers: filter(lambda number: number >= 0, numbers),
    "a chain": lambda numbers: itertools.chain(numbers[:1], numbers[1:]),
    "an iterator": iter,
    "a range": lambda numbers: range(numbers[0], numbers[-1] + 1),
    "a set": set,
    "a frozen set": frozenset,
    "keys of a dictionary": lambda numbers: dict.fromkeys(numbers).keys(),
    "an array": np.array,
    "an array of small numbers": lambda numbers: np.array(numbers, dtype=np.uint8),
    "a list of numpy's numbers": lambda numbers: list(np.array(numbers)),
    "a tensor": torch.tensor,
    "a list of tensors": lambda numbers: [torch.tensor(number) for number in numbers],
    "a pandas series": pd.Series,
    "lists in a list": lambda numbers: [numbers[:1], numbers[1:]],
}


@pytest.fixture
def model(sdpa):
    return sdpa


@pytest.fixture
def short(sdpa):
    return nv.encode(sdpa, "what is red ?", tiny.picture(0))


@pytest.mark.float64
@pytest.mark.parametrize("form", FORMS)
def test_a_knockout_means_the_same_in_whatever_form_its_numbers_come(sdpa, short, form):
    give, image = FORMS[form], list(short["image"])
    layers = [1, 2] if form == "lists in a list" else give([1, 2])
    cut = nv.Knockout(give(image), give([37, 38]), layers=layers)
    plain = nv.Knockout(image, [37, 38], layers=[1, 2])
    assert isinstance(hash(cut), int)
    expected = nv.verify(sdpa, short, plain)
    for _ in range(2):  # a generator would be used up by the first call
        assert nv.verify(sdpa, short, cut) == expected
    assert torch.equal(nv.run(sdpa, short, cut).logits, nv.run(sdpa, short, plain).logits)
    frame = nv.sweep(sdpa, short, [cut, plain], answer=20)
    assert abs(frame.logit[0] - frame.logit[1]) < LIMIT < abs(frame.logit[0] - frame.clean_logit[0])


@pytest.mark.parametrize("form", [form for form in FORMS if form != "lists in a list"])
def test_heads_mean_the_same_in_whatever_form_they_come(sdpa, short, form):
    cut = nv.Knockout("image", "last", heads=FORMS[form]([1, 2]))
    assert cut.heads == (1, 2) and cut == nv.Knockout("image", "last", heads=[1, 2])
    pairs = nv.Knockout("image", "last", heads=(pair for pair in [(1, 2), [3, 0], np.array([0, 1])]))
    assert pairs.heads == ((1, 2), (3, 0), (0, 1))


@pytest.mark.parametrize("form", FORMS)
def test_states_and_reads_mean_the_same_in_whatever_form_their_positions_come(sdpa, short, form):
    give, values = FORMS[form], torch.randn(2, tiny.WIDTH, generator=torch.Generator().manual_seed(0))
    layers = (lambda: [1, 2]) if form == "lists in a list" else (lambda: give([1, 2]))
    reads = [nv.Residual(give([36, 37]), layers=layers()), nv.Attention(give([36, 37]), give([9, 10]))]
    plain = [nv.Residual([36, 37], layers=[1, 2]), nv.Attention([36, 37], [9, 10])]
    for case, same in (
        (nv.Ablate(give([36, 37]), layers=layers()), nv.Ablate([36, 37], layers=[1, 2])),
        (nv.Patch(give([36, 37]), source=values, layers=1), nv.Patch([36, 37], source=values, layers=1)),
        (
            nv.Patch([36, 37], source=short, source_where=give([33, 34]), layers=1),
            nv.Patch([36, 37], source=short, source_where=[33, 34], layers=1),
        ),
    ):
        found = nv.run(sdpa, short, case, reads=reads, positions=give([36, 37]))
        expected = nv.run(sdpa, short, same, reads=plain, positions=[36, 37])
        assert torch.equal(found.logits, expected.logits) and len(found.logits) == 2
        assert all(torch.equal(*pair) for pair in zip(found.reads, expected.reads, strict=True))


def test_every_row_sees_positions_that_can_be_gone_through_once(sdpa):
    rows = tiny.several(sdpa)
    places = [rows.width - 2, rows.width - 1]
    found = nv.run(sdpa, rows, nv.Ablate(iter(places), layers=1), positions=iter(places)).logits
    assert torch.equal(found, nv.run(sdpa, rows, nv.Ablate(places, layers=1), positions=places).logits)
    assert rows[iter(places)] == tuple(places)
    one = rows.row(0)
    assert one.find("dog", within=iter(one["query"])) == one.find("dog", within="query")


@pytest.mark.parametrize("make", [list, np.array, torch.tensor, lambda mask: torch.tensor(mask)[None]])
def test_a_mask_with_an_entry_for_every_token_is_where_it_is_true(sdpa, short, make):
    mask = make([position in short["image"] for position in range(short.width)])
    found = nv.run(sdpa, short, nv.Knockout(mask, "last")).logits
    assert torch.equal(found, nv.run(sdpa, short, nv.Knockout("image", "last")).logits)
    assert short[mask] == short["image"]
    frame = nv.sweep(sdpa, short, [nv.Knockout(mask, "last")], answer=20)
    assert frame.source[0] == ",".join(map(str, short["image"]))


def test_a_mask_of_another_length_is_refused(sdpa, short, forwards):
    for length in (1, len(short["image"]), short.width - 1, short.width + 1):
        for case in (nv.Knockout([True] * length, "last"), nv.Ablate(np.ones(length, dtype=bool), layers=1)):
            with pytest.raises(nv.SpecError, match=f"a mask of {length} entries .* {short.width} tokens"):
                nv.run(sdpa, short, case)
    assert not forwards


@pytest.mark.parametrize(
    "where, words",
    [
        (1.0, "1.0 of type float"),
        ([3, 4.5], "4.5 of type float"),
        (np.array([3.0]), "3.0 of type float"),
        (torch.tensor([3.0, 4.0]), "3.0 of type float"),
        (None, "None of type NoneType"),
        ([3, None], "None of type NoneType"),
        (True, "a bool is no position"),
        ([3, True], "a bool is no position"),
        ({"image": 1}, "of type dict"),
        (b"image", "of type bytes"),
        (slice(3, 4), "of type slice"),
        ([-1], "position -1 lies outside"),
        (short_of := 99, f"position {short_of} lies outside"),
        ("imag", "no token group 'imag'"),
    ],
    ids=str,
)
def test_what_is_no_position_is_refused_in_words(sdpa, short, forwards, where, words):
    for case in (nv.Knockout(where, "last"), nv.Knockout("image", where), nv.Ablate(where, layers=1)):
        for empty in ("error", "ignore"):
            with pytest.raises(nv.SpecError, match=words):
                nv.run(sdpa, short, case, empty=empty)
    with pytest.raises(nv.SpecError, match=words):
        nv.run(sdpa, short, reads=[nv.Residual(where)])
    with pytest.raises(nv.SpecError, match=words):
        short[where]
    assert not forwards


@pytest.mark.parametrize(
    "layers",
    [1.0, [1, 2.0], None, [None], True, [1, True], [True, False, True, False], "some", ["all"], [[1, 2]], {1: 2}],
    ids=str,
)
def test_what_is_no_layer_is_refused_in_words(sdpa, short, forwards, layers):
    for case in (nv.Knockout("image", "last", layers=layers), nv.Ablate("last", layers=layers)):
        with pytest.raises(nv.SpecError, match=r"no layers .* write"):
            nv.run(sdpa, short, case, empty="ignore")
    assert not forwards


@pytest.mark.parametrize(
    "heads",
    [1.0, [1, 2.0], [None], True, [1, True], [True, False], "all", [(1, 2, 3)], [(1,)], [(1, True)], {1: 2}],
    ids=str,
)
def test_what_is_no_head_is_refused_in_words(heads):
    for make in (nv.Knockout, nv.Allow, nv.Attention):
        with pytest.raises(nv.SpecError, match=r"no heads .* write"):
            make("last", "image", heads=heads)


def test_values_must_not_be_handed_to_positions_in_another_order_by_lists_in_a_list():
    with pytest.raises(nv.SpecError, match=r"\(9, 8\) must ascend"):
        nv.Patch([[9], [8]], source=torch.zeros(2, tiny.WIDTH))


def test_sets_are_taken_in_order():
    assert as_tuples({9, 3, 5}) == (3, 5, 9) and as_tuples({"text", "image", 4}) == ("image", "text", 4)


def test_a_long_list_is_named_by_its_ends():
    assert shown("image") == "'image'" and shown((1, 2)) == "(1, 2)"
    assert shown(tuple(range(40))) == "(0, 1, 2, ... 39; 40 positions)"


# an order of one's own ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [[2, 1], [1, 1], (3, 0)], ids=str)
def test_layers_and_heads_in_an_order_of_their_own_are_refused_where_values_go_with_them(layers):
    for make in (
        lambda: nv.Patch("last", source=torch.zeros(2, 1, 8), layers=layers),
        lambda: nv.Residual("last", layers=layers),
        lambda: nv.Attention("last", "image", layers=layers),
        lambda: nv.Attention("last", "image", heads=layers),
    ):
        with pytest.raises(nv.SpecError, match="must ascend"):
            make()
    assert nv.Knockout("image", "last", layers=layers) and nv.Attention("last", "image", layers=[1, 2], heads=[0, 1])
