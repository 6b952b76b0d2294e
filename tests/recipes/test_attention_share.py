"""Attention share: masses add up to one, and equal attention that is read and averaged by hand."""

from __future__ import annotations

import math

import pytest
import tiny
from float64 import LIMIT

import nnsight_vlm as nv
from nnsight_vlm.recipes import Work, attention_share

QUIET = Work(progress=False)


pytestmark = pytest.mark.float64


@pytest.fixture
def prompts(sdpa):
    return [nv.encode(sdpa, "describe the image .", tiny.picture(number)) for number in range(2)]


@pytest.fixture
def rows(sdpa, prompts):
    return attention_share(sdpa, prompts, max_new_tokens=5, per_image=True, work=QUIET)


def test_the_masses_of_one_target_add_up_to_one_and_so_do_their_controls(rows):
    sums = rows.dropna(subset=["mass"]).groupby(["image", "target", "layer", "control"])["mass"].sum()
    assert len(sums) == 2 * 2 * tiny.LAYERS * 2
    assert sums.to_numpy() == pytest.approx(1, rel=LIMIT)


def test_mass_and_entropy_are_those_of_the_attention_read_by_hand(sdpa, prompts, rows):
    grown = nv.generate(sdpa, prompts[1], max_new_tokens=5).prompt
    full = nv.run(sdpa, grown, reads=[nv.Attention("query", "image")]).reads[0]
    mine = rows[(rows["image"] == 1) & (rows["target"] == "query") & (rows["control"] == "none")]
    mass = mine[(mine["source"] == "image") & mine["mass"].notna()].set_index("layer")["mass"]
    assert mass.to_numpy() == pytest.approx(full.sum(-1).mean((1, 2)).numpy(), rel=LIMIT)
    share = full / full.sum(-1, keepdim=True)
    entropy = -(share * share.log()).sum(-1).mean(1)
    for place in range(len(prompts[1]["query"])):
        of_token = mine[mine["token"].str.startswith(f"{place} ")].set_index("layer")["entropy"]
        assert of_token.to_numpy() == pytest.approx(entropy[:, place].numpy(), rel=LIMIT)


def test_the_controls_follow_from_counting_tokens(rows, prompts):
    seen = [len([p for p in prompts[0]["image"] if p <= q]) / (q + 1) for q in prompts[0]["query"]]
    chosen = rows[(rows["target"] == "query") & (rows["source"] == "image") & (rows["control"] == "random positions")]
    assert chosen["mass"].to_numpy() == pytest.approx(sum(seen) / len(seen))
    uniform = rows.loc[rows["control"] == "uniform", "entropy"]
    assert uniform.to_numpy() == pytest.approx(math.log(tiny.IMAGE_TOKENS))


def test_the_summary_has_one_row_for_each_group_and_measure(sdpa, prompts):
    tidy = attention_share(sdpa, prompts, max_new_tokens=3, work=QUIET)
    keys = ["target", "source", "layer", "token", "control"]
    assert list(tidy.columns) == [*keys, "measure", "mean", "low", "high", "images"]
    assert not tidy.duplicated([*keys, "measure"]).any()
    assert (tidy["images"] == 2).all()
