"""Figures of joint routes and of path patching show the numbers of their frames."""

from __future__ import annotations

import numpy as np
import pandas as pd

import nnsight_vlm as nv


def test_a_route_is_drawn_at_its_mean():
    labels = {"route": "image->last", "condition": "cut", "shows": "could", "low": 0.2, "high": np.inf, "images": 8}
    rows = [
        {**labels, "control": "none", "measure": "needed", "mean": 0.5},
        {**labels, "control": "random edges", "measure": "needed", "mean": 0.25},
    ]
    axes = nv.plots.joint_routes(pd.DataFrame(rows))
    drawn = [float(bar.lines[0].get_xdata()[0]) for bar in axes.containers]
    assert drawn == [0.5, 0.25]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["image → last"]


def test_a_map_of_paths_has_the_means_and_marks_what_survives():
    rows = [
        {
            "receiver": "last",
            "site": "head",
            "layer": layer,
            "head": head,
            "mean": layer + head / 10,
            "low": 0.0,
            "high": 5.0,
            "survives": head == 1,
        }
        for layer in (2, 4)
        for head in (0, 1)
    ]
    same = {
        "receiver": "last",
        "site": "head",
        "sender": "image residual 0",
        "control": "none",
        "measure": "logit_diff_change",
    }
    axes = nv.plots.path_patching(pd.DataFrame([{**same, **row} for row in rows]))
    assert axes.images[0].get_array().tolist() == [[2.0, 4.0], [2.1, 4.1]]
    [dots] = axes.lines
    assert list(zip(dots.get_xdata(), dots.get_ydata(), strict=True)) == [(0, 1), (1, 1)]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["2", "4"]
