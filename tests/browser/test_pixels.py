"""What is painted lies on the screen where the pixels are that the token saw."""

from __future__ import annotations

import numpy as np
import pytest
from pixels import box_of, differing, grown, red, shrunk
from shown_tokens import CASES, page_about

EDGE = 3
"""How many pixels of the screen an edge may be away: lines around patches, and parts of pixels."""


@pytest.mark.parametrize("name", CASES)
def test_a_patch_is_painted_over_the_pixels_that_its_token_saw(show, name):
    html, payload, words = page_about(name)
    reader = show(html)
    [own] = [index for index, panel in enumerate(payload["panels"]) if CASES[name].token in panel["tokens"]]
    reader.let_go()
    object_ = red(reader.seen(own))
    looks = []
    for word in words:
        reader.word(word).click()
        reader.away()
        looks.append([reader.seen(panel) for panel in range(len(payload["panels"]))])
    for panel, (first, second, third) in enumerate(zip(*looks, strict=True)):
        painted = differing(first, second) & differing(first, third)
        if panel != own:
            assert not painted.any()
            continue
        assert np.abs(np.subtract(box_of(painted), box_of(object_))).max() <= EDGE
        assert painted[shrunk(object_, EDGE)].mean() > 0.98 and not painted[~grown(object_, EDGE)].any()
