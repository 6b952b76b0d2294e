"""What attribution finds in the model `shapes` is what the answer hangs on; `attribution_table` measures more of it."""

from __future__ import annotations

import itertools

import attribution_table

import nnsight_vlm as nv


def test_heads_that_are_found_give_the_answer_away_and_random_heads_do_not():
    model = nv.load("shapes")
    some = list(itertools.islice(attribution_table.pairs(model), 6))
    heads = attribution_table.found_heads(model, some[:3])
    scores = attribution_table.knocked_out(model, some[3:], heads)
    exchanged = scores[(scores["how"] == "resample") & (scores["size"] == 6)]
    assert (exchanged.loc[exchanged["heads"] == "found", "right"] == 0).all()
    assert (exchanged.loc[exchanged["heads"] == "random", "right"] > 0.7).all()
