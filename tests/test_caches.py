"""A cache with room is transformers' own, without its copies."""

from __future__ import annotations

import pytest
import tiny
import torch
from transformers import LlamaConfig
from transformers.cache_utils import DynamicCache

import nnsight_vlm as nv
from nnsight_vlm.execution.caches import CroppableCache, cache_continuing, growing_cache, keeps_every_key
from nnsight_vlm.sweeping.schedule import cheapest

CONFIG = LlamaConfig(num_hidden_layers=2, hidden_size=8, num_attention_heads=2)


def added(caches, layer, length, rows=1, heads=2):
    states = torch.randn(rows, heads, length, 4), torch.randn(rows, heads, length, 4)
    return [cache.update(*states, layer) for cache in caches]


def filled(length=7):
    """The same keys in a cache of transformers and in one with room for 3 tokens."""
    caches = DynamicCache(config=CONFIG), growing_cache(CONFIG, room=3)
    for layer in range(2):
        added(caches, layer, length)
    return caches


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("rows", [1, 3])
def test_it_holds_what_transformers_cache_holds_within_its_room_and_beyond(rows, heads):
    caches = DynamicCache(config=CONFIG), growing_cache(CONFIG, room=3)
    for length in (5, 1, 1, 1, 1, 4, 9, 1):
        for layer in range(2):
            assert equal(*added(caches, layer, length, rows, heads))
        assert caches[0].get_seq_length() == caches[1].get_seq_length()


def test_a_token_is_written_into_the_room_and_what_was_handed_out_stays():
    _, cache = filled()
    before = cache.layers[0].keys
    held = before.clone()
    added([cache], 0, 2)
    assert cache.layers[0].keys.data_ptr() == before.data_ptr() and torch.equal(before, held)


def test_every_beginning_can_be_had_after_others_were_run_on_from():
    dynamic, cache = filled()
    kept = CroppableCache.of(cache, [0, 1], first=4)
    for length in (4, 6, 7, 5, 7, 4):
        part = kept.beginning(length)
        for layer in range(2):
            assert torch.equal(part.layers[layer].keys, dynamic.layers[layer].keys[:, :, :length])
            assert torch.equal(part.layers[layer].values, dynamic.layers[layer].values[:, :, :length])
        batch = cache_continuing([part], [[0], [0]], room=1)
        added([batch], 0, 3)
        added([batch], 1, 3)  # writes over what lies behind
        assert part.layers[0].keys.shape[2] == length


def test_rows_continue_the_caches_they_are_given_and_share_nothing():
    (one, _), (two, _) = filled(), filled()
    batch = cache_continuing([one, two], [[0, 0, 1], [1, 1, 1]], room=2)
    expected = [[one, one, two], [two, two, two]]
    for layer, origins in enumerate(expected):
        assert torch.equal(batch.layers[layer].keys, torch.cat([cache.layers[layer].keys for cache in origins]))
    added([batch], 0, 5, rows=3)
    assert one.get_seq_length() == 7 and batch.get_seq_length() == 12


def test_a_sliding_window_cannot_be_cut():
    assert keeps_every_key(CONFIG)
    assert not keeps_every_key(
        LlamaConfig(num_hidden_layers=2, layer_types=["sliding_attention"] * 2, sliding_window=4)
    )


@pytest.mark.parametrize("fixed", [0, 5, 50, 1000])
def test_groups_cost_least(fixed):
    begins = [0, 0, 3, 3, 9, 4, 9, 1]
    groups = cheapest(list(range(8)), begins, 12, tokens=2.0, fixed=fixed)
    assert sorted(number for group in groups for number in group) == list(range(8))

    def cost(groups):
        return sum(len(group) * 2.0 * (12 - min(begins[n] for n in group)) + fixed for group in groups)

    known = sorted(set(begins))
    splits = []
    for cuts in range(2 ** (len(known) - 1)):
        pieces = [[known[0]]]
        for number, begin in enumerate(known[1:]):
            if cuts >> number & 1:
                pieces.append([begin])
            else:
                pieces[-1].append(begin)
        splits.append([[n for n in range(8) if begins[n] in piece] for piece in pieces])
    assert cost(groups) == min(cost(split) for split in splits)


def test_no_groups_of_nothing():
    assert cheapest([], [], 5, tokens=1, fixed=1) == []


@pytest.mark.float64
def test_long_answers_outgrow_the_room(monkeypatch):
    model = tiny.load("sdpa", dtype=torch.float64)
    prompt = nv.encode(model, "what is the red square ?", tiny.picture(0))
    cases = [nv.Knockout("image", "generated", layers=layer) for layer in range(3)]
    expected = [nv.generate(model, prompt, case, max_new_tokens=12).tokens for case in cases]
    for room in ("execution.caches.ROOM", "execution.decoding.ROOM", "sweeping.prefixes.ROOM"):
        monkeypatch.setattr(f"nnsight_vlm.{room}", 2)
    answers = nv.generations(model, [(prompt, case) for case in cases], max_new_tokens=12)
    assert [out.tokens for out in answers] == expected
    assert [nv.generate(model, prompt, case, max_new_tokens=12).tokens for case in cases] == expected
