"""`nv.describe`: what its table lists is what can be named, and what it does not list is refused."""

from __future__ import annotations

import pytest
import zoo

import nnsight_vlm as nv
from nnsight_vlm.families import view_of
from nnsight_vlm.lowering.sites import AT_PROJECTOR, SITES, STATES

SOME = (
    "llava",
    "internvl",
    "mllama",
    "blip-2-t5",
    "instructblip-llama",
    "got_ocr2",
    "qwen3_5",
    "chameleon",
    "idefics2",
)


@pytest.mark.parametrize("name", SOME)
def test_all_that_is_listed_can_be_named_and_no_other_site(name):
    attention = zoo.ZOO[name].implementations[0]
    model, prompt = zoo.load(name, attention), zoo.prompt(name, attention)
    for line in nv.describe(model).itertuples():
        if line.layers is None or line.layers != line.layers:
            assert line.stage == "vision" and line.missing["vision"] == view_of(model).family.limitations["vision"]
            continue
        tokens = prompt.rows[0].stage(line.stage)
        assert set(line.groups) <= set(tokens.group_names)
        held = {group for group in tokens.group_names if tokens.group(group).positions(tokens.stop)}
        assert {group.partition(".")[0] for group in held} - {"frame", "turn", "markers"} <= set(line.groups)
        inside = next(
            group for group in ("image", "query", "all") if min(tokens.group(group).positions(tokens.stop)) >= 0
        )

        def read(site: str, where: str = inside, stage: str = line.stage) -> nv.Residual:
            where = "image" if site in AT_PROJECTOR else where
            layers = "attention" if SITES[site].needs == "attention" else "all"
            return nv.Residual(where, layers=layers, site=site, stage=stage)

        reads = [read(site) for site in line.sites]
        assert len(nv.run(model, prompt, reads=reads).reads) == len(line.sites)
        for site in set(STATES) - set(line.sites) - (set(AT_PROJECTOR) if line.stage == "encoder" else set()):
            with pytest.raises(nv.SpecError, match=r"no site|no self-attention|no cross-attention|features|projector"):
                nv.run(model, prompt, reads=[read(site)])


def test_windows_and_whole_pictures_are_told_apart():
    table = nv.describe(zoo.load("qwen2_5_vl")).set_index("stage")
    assert table.loc["vision", "attends"] == "windows: layers 0; whole pictures: layers 1"
    assert nv.describe(zoo.load("qwen3_5")).set_index("stage").loc["decoder", "attends"] == "layers 1, 3"
