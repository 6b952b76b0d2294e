"""Claims: data made so that a claim is true or false, and what the table says of it."""

from __future__ import annotations

import numpy as np
import pandas as pd

import nnsight_vlm as nv
from nnsight_vlm.plots.marks import ends
from nnsight_vlm.report import judge
from nnsight_vlm.report.numbers import with_interval
from nnsight_vlm.report.pieces import claim_lines
from nnsight_vlm.statistics import FAILS, HOLDS, OPEN

IMAGES = 16


def knockouts(cut, blind, borrowed, middle, outer):
    """Per-image rows of `knockout_windows` with these F1 values, a little noise on each."""
    noise = np.random.default_rng(0).uniform(-0.03, 0.03, (IMAGES, 5))
    conditions = [
        (cut, "image->generated", "block", "all", "none"),
        (blind, "image->text", "blind", "all", "none"),
        (borrowed, "image->generated", "block", "all", "query of another image"),
        (middle, "image->text", "block", "middle half", "none"),
        (outer, "image->text", "block", "outer half", "none"),
    ]
    return pd.DataFrame(
        [
            {
                "image": image,
                "route": route,
                "form": form,
                "window": window,
                "control": control,
                "f1": value + noise[image, n],
            }
            for image in range(IMAGES)
            for n, (value, route, form, window, control) in enumerate(conditions)
        ]
    )


def verdicts(frames):
    table = judge(frames)
    return {(row["claim"], row["control"]): row["verdict"] for _, row in table.iterrows()}


def test_claims_1_and_2_hold_where_the_data_have_a_summary_and_a_middle_and_the_control_fails():
    decided = verdicts({"knockout_windows": knockouts(cut=0.9, blind=0.1, borrowed=0.15, middle=0.2, outer=0.9)})
    assert decided["1", False] == decided["2", False] == HOLDS
    assert decided["1", True] == FAILS


def test_claims_1_and_2_fail_where_the_data_have_neither():
    decided = verdicts({"knockout_windows": knockouts(cut=0.15, blind=0.1, borrowed=0.1, middle=0.5, outer=0.5)})
    assert decided["1", False] == decided["2", False] == FAILS


def test_where_neither_half_matters_nothing_is_decided():
    decided = verdicts({"knockout_windows": knockouts(cut=1, blind=1, borrowed=1, middle=1, outer=1)})
    assert decided["1", False] == decided["2", False] == OPEN


def test_without_object_masks_the_verdict_says_that_they_are_needed():
    table = judge({"knockout_windows": knockouts(0.9, 0.1, 0.1, 0.2, 0.9), "patch_grounding": pd.DataFrame()})
    assert set(table.loc[table["claim"].str.startswith("3"), "verdict"]) == {
        "needs boxes or masks of objects, and a description that names one of them"
    }
    assert table.loc[table["claim"] == "3a", "value"].isna().all()


def grounding(hit, other, lost):
    rows = []
    for image in range(IMAGES):
        labels = {"image": image, "read_at": "predicting", "layer": "middle half"}
        rows += [
            {**labels, "control": "none", "hit": float(image % 10 < hit * 10)},
            {**labels, "control": "other object", "hit": other},
        ]
        for control, value in (
            ("none", -lost),
            ("random patches", 0.0),
            ("random patches, again", 0.01 * (-1) ** image),
        ):
            rows.append({**labels, "layer": "all", "control": control, "logprob_change": value + image / 1000})
    return pd.DataFrame(rows)


def test_a_control_that_changes_nothing_says_so():
    """Exactly 0 nats in every image are no statement about other images, and not "undecided" either."""
    frame = grounding(hit=0.9, other=0.0, lost=2.0)
    unchanged = frame["control"] == "random patches, again"
    frame.loc[unchanged, "logprob_change"] = frame.loc[frame["control"] == "random patches", "logprob_change"].tolist()
    claims = judge({"patch_grounding": frame})
    assert claims.set_index(["claim", "control"]).loc[("3b", True), "verdict"] == (
        f"the control changed nothing in any of the {IMAGES} images"
    )


def test_numbers_are_shown_to_the_digits_of_their_interval_and_unknown_ends_in_words():
    """A change of 8 nats in one image of 16, and none in the others: nothing tells how far the mean may lie."""
    frame = grounding(hit=0.9, other=0.0, lost=0.0)
    own = (frame["control"] == "none") & frame["logprob_change"].notna()
    frame.loc[own & (frame["image"] == 3), "logprob_change"] -= 8.0
    claims = judge({"patch_grounding": frame})
    shown = {(line.statement, line.control): line.measured for line in claim_lines(claims)}
    assert shown["Object words need their object's patches", False].endswith(", no bound] nats")
    assert with_interval(0.00016, -0.00026, 0.0027) == "0.0002 [-0.0003, 0.0027]"
    assert with_interval(0.5, float("nan"), float("nan")) == "0.50 (no interval)"
    assert with_interval(0.772, 0.6722, 0.866, threshold=2 / 3) == "0.772 [0.672, 0.866]"
    assert np.isfinite(ends(claims.rename(columns={"value": "mean"}).dropna())).all()
    nv.plots.claims(claims)[0].figure.canvas.draw()


def test_a_claim_and_its_control_show_one_criterion():
    """Also where one of both needs more digits to tell an end of its interval from the criterion."""
    rows = [("2", False, 0.672, 0.866), ("2", True, 0.35, 0.73), ("3a", False, 0.79, 1.0), ("3a", True, 0.0, 0.21)]
    claims = pd.DataFrame(rows, columns=["claim", "control", "low", "high"])
    claims = claims.assign(threshold=[2 / 3, 2 / 3, 0.5, 0.5], value=0.5, unit="", statement="so", verdict="")
    assert [line.criterion for line in claim_lines(claims)] == ["> 0.667", "> 0.667", "> 0.5", "> 0.5"]


def test_claim_3_needs_attention_on_the_object_and_a_loss_when_the_object_is_hidden():
    decided = verdicts({"patch_grounding": grounding(hit=0.9, other=0.0, lost=2.0)})
    assert (decided["3a", False], decided["3a", True], decided["3b", False], decided["3b", True]) == (
        HOLDS,
        FAILS,
        HOLDS,
        OPEN,
    )
    decided = verdicts({"patch_grounding": grounding(hit=0.1, other=0.1, lost=-0.5)})
    assert (decided["3a", False], decided["3b", False]) == (FAILS, FAILS)
