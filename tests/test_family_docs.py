"""The family table: its choices resolve, its page is up to date, drafts of new entries, refusal of unknown families."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import real
import verified
import zoo
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

import nnsight_vlm as nv
from nnsight_vlm.cli import app
from nnsight_vlm.families import FAMILIES, family_of, lookup
from nnsight_vlm.families.columns import Family, Stage
from nnsight_vlm.families.drafting import GRIDS as DRAFTED_GRIDS
from nnsight_vlm.families.drafting import INPUTS, draft, source
from nnsight_vlm.families.options import (
    Bidirectional,
    Counted,
    GridLayout,
    ImageLocation,
    LayerSet,
    Limitation,
    PositionCounting,
    TowerLayout,
    VideoLayout,
)
from nnsight_vlm.families.part_columns import AttentionSpec, VideoSpec
from nnsight_vlm.families.stage_spec import LAYER_SETS
from nnsight_vlm.families.support import COLUMNS, cells_of, markdown, support, unsupported
from nnsight_vlm.families.tower_support import TOKENS
from nnsight_vlm.families.verified import MEANING, record, status_of
from nnsight_vlm.grids import GRIDS, VIDEO_LAYOUTS
from nnsight_vlm.grids.towers import TOWER_SEQUENCES, TOWER_TILES
from nnsight_vlm.prompts.position_ids import COUNTING
from nnsight_vlm.prompts.row_inputs import ENTRIES
from nnsight_vlm.prompts.token_roles import BLOCKS, BUILDERS

PAGE = Path(nv.__file__).parent.parent / "docs" / "families.md"
NAMES_MISLEAD = {"chameleon-swin", "molmo2", "molmo2-norms-after"}
"""Families with norms after attention and feed-forward that are named as if they came before them; and Molmo2, whose
projector is the last part of what is called so."""


@pytest.fixture(scope="module")
def members():
    """Family name to a model of the zoo as transformers makes it, one per family."""
    modules = [member.module(member.implementations[0]) for member in zoo.ZOO.values()]
    return {family_of(module.config).name: module for module in reversed(modules)}


# choices --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "choices, table",
    [
        (GridLayout, GRIDS),
        (ImageLocation, BUILDERS),
        (Bidirectional, BLOCKS),
        (PositionCounting, {**COUNTING, "own": None}),
        (Counted, ENTRIES),
        (LayerSet, LAYER_SETS),
        (VideoLayout, VIDEO_LAYOUTS),
    ],
)
def test_every_option_of_a_column_is_resolved_by_its_table(choices, table):
    assert len(get_args(choices)) > 2
    assert list(get_args(choices)) == list(table)


def test_every_limitation_is_shown_in_a_column():
    shown = {name for column in COLUMNS.values() for name in (column.main, *column.parts)}
    assert set(get_args(Limitation)) == shown


@pytest.mark.parametrize("name", FAMILIES)
def test_every_choice_of_a_family_is_an_option(name):
    family = FAMILIES[name]
    attentions = [spec for stage in family.stages.values() for spec in (stage.attention, stage.cross) if spec]
    assert family.grid in GRIDS
    assert family.image_at in BUILDERS
    assert family.blocks in BLOCKS
    assert family.positions in get_args(PositionCounting)
    assert set(family.inputs.values()) <= set(ENTRIES)
    assert {attention.layers for attention in attentions} <= set(LAYER_SETS)
    assert {stage.keys for stage in family.stages.values() if stage.keys} <= set(GRIDS)
    assert set(family.limitations) <= set(get_args(Limitation))
    assert family.video is None or (family.video.layout in VIDEO_LAYOUTS and family.video.pixels in family.inputs)
    assert list(family.stages)[-1] == "decoder"
    assert family.projector_after in (None, *family.stages)


def test_every_family_has_a_vision_tower_or_says_why_not():
    for family in FAMILIES.values():
        assert (family.tower is None) == ("vision" in family.limitations)
        assert not family.towers or family.tower in family.towers.values()


def test_drafts_choose_among_the_same_options():
    assert set(DRAFTED_GRIDS.values()) <= set(GRIDS)
    assert set(INPUTS.values()) <= set(ENTRIES)


# the table of what works ----------------------------------------------------------------------


def test_the_page_is_what_the_command_prints():
    printed = CliRunner().invoke(app, ["families", "--markdown"])
    assert printed.exit_code == 0
    introduction, _, table = PAGE.read_text().partition("| family")
    assert f"| family{table}" == printed.output, "docs/families.md is out of date: docs/adding-a-family.md, section 5"
    assert introduction.startswith("# Families")


def test_what_is_recorded_as_verified_has_tests_members_and_columns():
    kept = record()
    assert set(verified.TESTS) == set(COLUMNS) and set(kept.columns) <= set(FAMILIES)
    assert kept.versions.items() >= verified.pinned("transformers", "torch", "nnsight").items()
    tried = {zoo.row(name).name for name in zoo.ZOO}
    assert kept.loads == tried and set(kept.columns) <= tried
    for name in tried:
        statuses = {column: cell.status for column, cell in cells_of(FAMILIES[name]).items()}
        assert {column for column, status in statuses.items() if status == "verified"} == kept.columns[name]
        assert set(statuses.values()) <= set(MEANING) - {"untried"}
        assert statuses["knockout"] == statuses["generate"] == "verified"
    for test in {test for tests in verified.TESTS.values() for test in tests}:
        path, _, called = test.partition("::")
        assert f"def {called}(" in (PAGE.parent.parent / path).read_text(), test


def test_a_status_is_what_the_record_says():
    assert status_of("llava", "knockout", "yes") == "verified" and status_of("llava", "knockout", "no") == "broken"
    assert (
        status_of("llava", "something new", "yes") == "loads" and status_of("unknown", "knockout", "yes") == "untried"
    )


def test_the_page_of_vision_towers_is_what_the_command_prints():
    printed = CliRunner().invoke(app, ["families", "--towers"])
    assert printed.exit_code == 0
    assert printed.output in (PAGE.parent / "vision.md").read_text(), "write what nnsight-vlm families --towers prints"
    assert set(get_args(TowerLayout)) == set(TOKENS)
    assert list(get_args(TowerLayout)) == list(TOWER_SEQUENCES) and set(TOWER_SEQUENCES) == set(TOWER_TILES)


def test_the_page_says_which_published_configurations_were_tried():
    kept = json.loads(real.TRIED.read_text())
    assert real.markdown(kept) in PAGE.read_text(), "write what python tests/real.py --markdown prints"
    assert {tried["family"] for tried in kept.values()} <= set(FAMILIES)
    for tried in kept.values():
        assert all(set(cells) <= {*real.CHECKS, *real.HALVES} for cells in tried["sizes"].values())


def test_every_limitation_of_a_family_is_a_footnote_where_it_counts():
    table, footnotes = support(FAMILIES.values())
    printed = table.set_index("family")
    for family in FAMILIES.values():
        for limitation, reason in family.limitations.items():
            columns = [name for name, column in COLUMNS.items() if limitation in (column.main, *column.parts)]
            assert columns, f"no column shows {limitation!r}"
            for column in columns:
                cell = printed.loc[family.name, column]
                notes = [footnotes[int(number) - 1] for number in re.findall(r"\[(\d+)\]", cell)]
                assert any(note.endswith(f": {reason}") for note in notes)
                assert cell.startswith("broken") == (COLUMNS[column].main == limitation)
        working = {name for name, column in COLUMNS.items() if column.main not in unsupported(family)}
        assert {name for name in COLUMNS if not printed.loc[family.name, name].startswith("broken")} == working


def test_the_terminal_shows_every_family_and_every_reason(monkeypatch):
    monkeypatch.setattr("nnsight_vlm.commands.output.console", Console(width=5000))
    shown = CliRunner().invoke(app, ["families"]).output
    assert all(f"│ {name} " in shown for name in FAMILIES)
    each = "".join(CliRunner().invoke(app, ["families", name]).output for name in FAMILIES)
    assert all(note in each for note in support(FAMILIES.values()).footnotes)


def test_a_family_without_limitations_has_no_footnotes():
    shown = VideoSpec(layout="pooled frames")
    table, footnotes = support([Family(model_type="some", video=shown)])
    assert footnotes == [] and set(table.loc[0, list(COLUMNS)]) == {"untried"}
    limited = Family(model_type="some", video=shown, limitations={"grid": "why"})
    assert markdown([limited]).endswith("[1] grid not supported: why  ")
    assert limited.limitation("grid") == "why" and limited.limitation("features") is None


# drafts ---------------------------------------------------------------------------------------


def paths(family):
    """Where a family has the parts of its decoder, and its projector."""
    stage = family.decoder
    return {
        "entry": stage.entry,
        "layers": stage.layers,
        "attention": stage.attention.module,
        "output": stage.attention.output,
        "mlp": stage.mlp,
        "config": stage.config,
        "projector": family.projector,
    }


def without_tower(name):
    """A family as it is drafted: transformers does not say how a vision tower lays out its tokens."""
    return replace(FAMILIES[name], tower=None, towers={})


def test_drafts_find_the_paths_of_every_family_with_one_stage(members):
    single = {name: module for name, module in members.items() if set(FAMILIES[name].stages) <= {"vision", "decoder"}}
    agree = {name for name, module in single.items() if paths(draft(module)) == paths(FAMILIES[name])}
    assert set(single) - agree == NAMES_MISLEAD
    assert len(agree) > 30


def test_a_draft_from_the_config_alone_is_the_draft_from_the_model(members):
    for name in ("llava", "qwen2_vl", "gemma3", "lfm2_vl", "llama4", "chameleon"):
        assert draft(members[name].config) == draft(members[name])


def test_the_family_that_was_added_from_its_draft_equals_it(members):
    assert draft(members["lighton_ocr"]) == without_tower("lighton_ocr")


def test_the_source_of_a_draft_evaluates_to_the_draft(members):
    names = {"Family": Family, "Stage": Stage, "AttentionSpec": AttentionSpec}
    for name in ("llava", "qwen3_5", "glm4v", "llama4", "florence2"):
        drafted = draft(members[name])
        assert eval(source(drafted).removesuffix(","), names) == drafted


# what is refused ------------------------------------------------------------------------------


def test_an_unknown_family_is_refused_with_the_known_ones_and_a_draft_to_paste(members, monkeypatch):
    others = {name: family for name, family in FAMILIES.items() if family.model_type != "lighton_ocr"}
    monkeypatch.setattr(lookup, "FAMILIES", others)
    with pytest.raises(nv.SpecError) as error:
        nv.load(members["lighton_ocr"])
    message = str(error.value)
    assert all(name in message for name in others)
    assert source(without_tower("lighton_ocr")) in message


def test_a_config_value_that_was_never_tested_is_refused_with_those_that_were(members, monkeypatch):
    monkeypatch.setattr(members["lighton_ocr"].config.text_config, "model_type", "llama")
    with pytest.raises(nv.SpecError, match=r"text_config\.model_type='llama'.*'lighton_ocr'.*only with 'qwen3'"):
        family_of(members["lighton_ocr"].config)


def test_unknown_layer_types_are_refused_with_the_known_ones(members, monkeypatch):
    monkeypatch.setattr(members["llava"].config.text_config, "layer_types", ["full_attention", "mamba"], raising=False)
    with pytest.raises(nv.SpecError, match=r"layers of type mamba; .*sliding_attention"):
        family_of(members["llava"].config)


def test_a_model_that_cannot_be_drafted_is_refused_with_the_reason():
    config = LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=8)
    with pytest.raises(nv.SpecError, match="models of type 'llama' take no pixels"):
        nv.load(LlamaForCausalLM(config))


def test_the_command_line_drafts_from_a_folder_with_a_config(members, tmp_path):
    members["mistral3"].config.save_pretrained(tmp_path)
    printed = CliRunner().invoke(app, ["draft", str(tmp_path)])
    family = replace(without_tower("mistral3"), assumes={"text_config.model_type": ("mistral",)}, limitations={})
    assert printed.exit_code == 0 and printed.output == f"{source(family)}\n"
    refused = CliRunner().invoke(app, ["draft", str(tmp_path / "nowhere")])
    assert refused.exit_code == 2 and refused.stderr.startswith("error: there is no folder")


@pytest.mark.parametrize("command", ["families", "draft"])
def test_the_commands_explain_themselves(command):
    help_page = CliRunner().invoke(app, [command, "--help"])
    assert help_page.exit_code == 0 and "Usage" in help_page.output
