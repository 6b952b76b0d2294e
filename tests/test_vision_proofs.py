"""The vision tower as a stage: what is refused, what a proof finds, and what must follow from what a tower is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from float64 import LIMIT
from PIL import Image

import nnsight_vlm as nv
from nnsight_vlm.device import states, towers
from nnsight_vlm.execution import proof
from nnsight_vlm.lowering import layouts
from nnsight_vlm.lowering import towers as lowered

pytestmark = pytest.mark.float64

LAYERS, EACH, TAKEN = 4, tiny.IMAGE_TOKENS + 1, 2
IN_VISION: dict[str, Any] = {"stage": "vision"}


@pytest.fixture
def model(dtype):
    return tiny.load("sdpa", dtype=dtype, tower=LAYERS)


@pytest.fixture
def batch(model):
    """Three rows with one, one and two pictures."""
    return tiny.several(model)


@pytest.fixture
def pair(model):
    """A row with two pictures, of which `image` gives the grid."""
    return nv.encode(model, "<s>user : <image> or <image> ?", [tiny.picture(2), tiny.picture(3)], chat=False)


# groups and grids -----------------------------------------------------------------------------------


def test_a_tower_has_groups_and_a_grid_of_its_own_patches(pair, batch):
    first, second = range(1, EACH), range(EACH + 1, 2 * EACH)
    assert pair.positions("image", stage="vision") == (*first, *second)
    assert pair.positions("image.1", stage="vision") == tuple(second)
    assert pair.positions(["cls", 3], stage="vision") == (0, 3, EACH)
    assert pair.positions("all", stage="vision") == tuple(range(2 * EACH))
    assert pair.positions("registers", stage="vision") == pair.positions("text", stage="vision") == ()
    grid = pair.grid(1, stage="vision")
    assert grid.positions == tuple(second) and np.array_equal(grid.boxes, pair.grid(1).boxes)
    assert pair.region((0, 0, 3, 3), image=1, stage="vision") == (EACH + 1,)
    with pytest.raises(nv.SpecError, match="no token group 'cls'"):
        pair["cls"]
    with pytest.raises(nv.SpecError, match=r"different positions in the 3 rows; write prompt.row\(0\)"):
        batch.positions("image", stage="vision")
    text = nv.encode(pair.model, "<s>user : what ?", chat=False)
    with pytest.raises(nv.SpecError, match="no stage 'vision' here; the stages of this prompt are decoder"):
        text.positions("cls", stage="vision")


# what is refused ------------------------------------------------------------------------------------


REFUSED = {
    "edges between two pictures": (nv.Knockout("image.0", "image.1", **IN_VISION), "no target can attend to any"),
    "layers behind those taken": (
        nv.Knockout("cls", "image", layers=3, **IN_VISION),
        "output of layer 2 is taken",
    ),
    "states behind those taken": (
        nv.Ablate("cls", layers=[3], **IN_VISION),
        "output of layer 2 is taken",
    ),
    "no registers": (nv.Knockout("registers", "image", **IN_VISION), "the group 'registers' is empty"),
    "nothing left to read": (nv.Knockout("all", "cls", layers=0, **IN_VISION), "position 0 would be left with no key"),
    "no such layer": (nv.Ablate("cls", layers=4, **IN_VISION), r"layers 0\.\.3"),
    "no such head": (nv.Knockout("cls", "image", heads=[2], **IN_VISION), r"heads 0\.\.1"),
    "no cross-attention": (nv.Ablate("cls", site="cross", **IN_VISION), "have no site 'cross'"),
    "features of patches": (nv.Ablate("image", site="features", **IN_VISION), "leave out stage='vision'"),
    "words": (nv.Knockout("question", "image", **IN_VISION), "the group 'question' is empty"),
    "a group of the text": (nv.Knockout("turn.7", "image", **IN_VISION), "turn.7"),
    "another width": (nv.Add("cls", torch.ones(32), **IN_VISION), "are 32 wide and the model's states 24"),
    "too far": (nv.Ablate([2 * EACH], **IN_VISION), r"whose tokens are 0\.\.51"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_tower_has_not_got_or_that_can_change_nothing_is_refused(model, pair, name):
    case, words = REFUSED[name]
    with pytest.raises(nv.SpecError, match=words):
        nv.run(model, pair, case)


def test_keys_are_patched_at_equal_places_of_their_pictures_only(model, pair):
    one = nv.encode(model, "see the dog", tiny.picture(7))
    same = nv.Patch("image.1", source=one, source_where="image", site="key", layers=1, **IN_VISION)
    nv.run(model, pair, same)
    with pytest.raises(nv.SpecError, match=r"position \(0, 1\) would be written at position \(0, 0\)"):
        nv.run(model, pair, nv.Patch([1], source=one, source_where=[2], site="key", layers=1, **IN_VISION))


def test_a_tower_that_runs_on_other_pictures_than_planned_is_refused(model, pair):
    edited = nv.install(model, pair, nv.Ablate("cls", layers=0, **IN_VISION))
    other = nv.encode(model, "see the dog", tiny.picture(7))
    with pytest.raises(nv.SpecError, match="not those of this prompt"):
        nv.run(edited, other)
    with (
        pytest.raises(ValueError, match="was to run once, on 52 tokens, and it runs on 26"),
        torch.no_grad(),
        edited.trace(**other.inputs),
    ):
        pass


def test_an_installed_cut_of_the_tower_is_the_one_that_runs(model, pair):
    case = nv.Knockout("cls", "image", **IN_VISION)
    edited = nv.install(model, pair, case)
    assert tiny.gap(nv.run(edited, pair).logits, nv.run(model, pair, case).logits) < LIMIT


# identities -----------------------------------------------------------------------------------------


def test_patching_what_the_projector_takes_is_patching_the_features(model, pair):
    other = nv.encode(model, "<s>user : <image> or <image> ?", [tiny.picture(5), tiny.picture(6)], chat=False)
    patched = [
        nv.run(model, pair, case).logits
        for case in (
            nv.Patch("all", source=other, layers=TAKEN, **IN_VISION),
            nv.Patch("image", source=other, layers=TAKEN, **IN_VISION),
            nv.Patch("all", source=other, site="embedding", **IN_VISION),
            nv.Patch("image", source=other, site="features"),
        )
    ]
    assert all(tiny.gap(one, patched[-1]) < LIMIT for one in patched)
    assert tiny.gap(nv.run(model, pair).logits, patched[-1]) > 1e-3


def test_a_patch_cut_from_all_others_depends_on_its_own_pixels_alone(model):
    picture = tiny.picture(2)
    pixels = np.asarray(picture).copy()
    pixels[4:8, 8:12] = 255 - pixels[4:8, 8:12]  # the patch in row 1, column 2
    prompts = [nv.encode(model, "see the dog", shown) for shown in (picture, Image.fromarray(pixels))]
    [place] = prompts[0].region((9, 5, 11, 7), stage="vision")
    image, cls = (prompts[0].positions(group, stage="vision") for group in ("image", "cls"))
    alone = nv.Knockout("image", cls, **IN_VISION)
    for patch in image:
        alone |= nv.Knockout([*cls, *(other for other in image if other != patch)], [patch], **IN_VISION)
    read = nv.Residual("image", site="features")
    clean, apart = ([nv.run(model, prompt, case, reads=read).reads[0] for prompt in prompts] for case in (None, alone))
    assert bool((clean[0] != clean[1]).any(-1).all())
    assert (apart[0] != apart[1]).any(-1).nonzero().flatten().tolist() == [image.index(place)]


def test_a_class_token_that_nothing_reads_may_be_cut_from_patches(model, pair):
    features = nv.Residual("image", site="features")
    found = [
        nv.run(model, pair, case, reads=features).reads[0]
        for case in (
            nv.Knockout("cls", "image", **IN_VISION),
            nv.Knockout("cls", "image", **IN_VISION) | nv.Knockout("image", "cls", **IN_VISION),
            nv.Knockout("cls", "image", **IN_VISION) | nv.Scale("cls", 3.0, layers=0, **IN_VISION),
        )
    ]
    assert all(tiny.gap(one, found[0]) < LIMIT for one in found)
    clean = nv.run(model, pair, reads=features).reads[0]
    assert tiny.gap(clean, found[0]) > 1e-3
    last = nv.run(model, pair, nv.Knockout("image", "cls", layers=TAKEN, **IN_VISION), reads=features).reads[0]
    assert tiny.gap(last, clean) < LIMIT  # the patches of the layer that is taken do not read it any more


# proofs ---------------------------------------------------------------------------------------------


PROVED = {
    "cut": nv.Knockout("cls", "image", layers=[0, 1], heads=[1], **IN_VISION),
    "zero": nv.Knockout("image", "cls", layers=[0], how="zero", **IN_VISION),
    "limit": nv.Limit("image", "image", top=2, layers=[1], **IN_VISION),
    "state": nv.Scale("image", 0.5, layers=[1], **IN_VISION),
    "key": nv.Scale("image", 0.5, layers=[1], heads=[0], site="key", **IN_VISION),
    "embedding": nv.Add("cls", torch.linspace(-2, 2, 24), site="embedding", **IN_VISION),
}


@pytest.mark.parametrize("name", PROVED)
def test_what_is_done_in_a_tower_is_proved(model, batch, name):
    found = nv.verify(model, batch, PROVED[name] | nv.Knockout("image", "last", layers=[2]))
    assert found.edges >= 4 * tiny.IMAGE_TOKENS and found.moved > 0
    assert found.writes == (name in ("state", "key", "embedding"))


def in_other_sequences(edits: Any, sequences: int, length: int) -> Any:
    return [(row - 1, *rest) for row, *rest in BY_SEQUENCE(edits, sequences, length) if row]


def without_the_last(edits: Any, sequences: int, length: int) -> Any:
    return BY_SEQUENCE(edits, sequences, length)[:-1]


BY_SEQUENCE, IN_LINE, IN_ROWS = towers.by_sequence, towers.in_line, layouts.one_case_per_row


def one_further(prompt: nv.Prompt) -> Any:
    """Rows of a batch whose towers' tokens are said to lie where those of other rows do."""
    layout = IN_ROWS(prompt)
    wrong = tuple(replace(each, vision=max(each.vision - EACH, 0)) for each in layout.placements)
    return replace(layout, placements=wrong)


@pytest.mark.parametrize("fault", [in_other_sequences, without_the_last])
@pytest.mark.parametrize("name", ["cut", "zero", "limit"])
def test_a_proof_finds_edges_of_another_sequence(monkeypatch, model, pair, name, fault):
    monkeypatch.setattr(towers, "by_sequence", fault)
    with pytest.raises(nv.InterventionError, match=r"vision layer|site 'attention' of vision"):
        nv.verify(model, pair, PROVED[name])


@pytest.mark.parametrize("name", ["cut", "state", "embedding"])
def test_a_proof_finds_a_row_whose_tower_is_another_rows(monkeypatch, model, batch, name):
    monkeypatch.setattr(proof, "one_case_per_row", one_further)
    with pytest.raises(nv.InterventionError, match="off by"):
        nv.verify(model, batch, PROVED[name])


def test_a_proof_finds_states_that_are_not_written(monkeypatch, model, pair):
    def unwritten(output: Any, writes: Any, window: Any, mask_spec: Any, memo: Any) -> Any:
        return output + 0.0

    monkeypatch.setitem(lowered.IN_SEQUENCES, states.write_output, unwritten)
    with pytest.raises(nv.InterventionError, match="site 'residual' of vision layer 1"):
        nv.verify(model, pair, PROVED["state"])
