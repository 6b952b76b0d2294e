"""What is said of families: the table of what works, its page, drafts of rows, and how an unknown one is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import zoo
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

import nnsight_vlm as nv
from nnsight_vlm.cli import app
from nnsight_vlm.families import FAMILIES, family_of, lookup
from nnsight_vlm.families.columns import AttentionSpec, Family, Stage
from nnsight_vlm.families.drafting import draft, source
from nnsight_vlm.families.support import COLUMNS, markdown, unsupported, works

PAGE = Path(nv.__file__).parent.parent / "docs" / "families.md"
MOVED = {"chameleon-swin"}
"""Rows whose norms are behind what they usually stand before: names do not tell."""


@pytest.fixture(scope="module")
def members():
    """Row name to a model of the zoo as transformers makes it, one a row."""
    made = [member.module(member.implementations[0]) for member in zoo.ZOO.values()]
    return {family_of(module.config).name: module for module in reversed(made)}


# the table ------------------------------------------------------------------------------------


def test_the_page_is_what_the_command_prints():
    printed = CliRunner().invoke(app, ["families", "--markdown"])
    assert printed.exit_code == 0
    introduction, _, table = PAGE.read_text().partition("| family")
    assert f"| family{table}" == printed.output, "docs/families.md is out of date: docs/adding-a-family.md, section 5"
    assert introduction.startswith("# Families")


def test_every_reason_for_what_does_not_work_is_printed_where_it_does_not():
    table, notes = works(FAMILIES.values())
    printed = table.set_index("family")
    for row in FAMILIES.values():
        for lacked, reason in row.limitations.items():
            columns = [name for name, (whole, parts) in COLUMNS.items() if lacked in (whole, *parts)]
            assert columns, f"no column tells of {lacked!r}"
            for column in columns:
                cell = printed.loc[row.name, column]
                told = [notes[int(number) - 1] for number in re.findall(r"\[(\d+)\]", cell)]
                assert any(note.endswith(f": {reason}") for note in told)
                assert cell.startswith("-") == (COLUMNS[column][0] == lacked)
        wanted = {name for name, (whole, _) in COLUMNS.items() if whole not in unsupported(row)}
        assert {name for name in COLUMNS if printed.loc[row.name, name].startswith("yes")} == wanted


def test_the_terminal_shows_every_row_and_every_footnote(monkeypatch):
    monkeypatch.setattr("nnsight_vlm.cli.console", Console(width=240))
    shown = CliRunner().invoke(app, ["families"]).output
    assert all(f"│ {name} " in shown for name in FAMILIES)
    assert all(note in shown for note in works(FAMILIES.values())[1])


def test_a_row_that_lacks_nothing_has_no_footnotes():
    table, notes = works([Family(model_type="some")])
    assert notes == [] and set(table.loc[0, list(COLUMNS)]) == {"yes"}
    assert markdown([Family(model_type="some", limitations={"grid": "why"})]).endswith("[1] no grid: why  ")


# drafts ---------------------------------------------------------------------------------------


def paths(row):
    """Where a row says that the parts of the decoder, and the projector, are."""
    stage = row.decoder
    return {
        "entry": stage.entry,
        "layers": stage.layers,
        "attention": stage.attention.module,
        "output": stage.attention.output,
        "mlp": stage.mlp,
        "config": stage.config,
        "projector": row.projector,
    }


def test_drafts_find_the_paths_of_every_family_of_one_stage(members):
    single = {name: module for name, module in members.items() if len(FAMILIES[name].stages) == 1}
    agree = {name for name, module in single.items() if paths(draft(module)) == paths(FAMILIES[name])}
    assert set(single) - agree == MOVED
    assert len(agree) > 30


def test_a_draft_from_the_config_alone_is_the_draft_from_the_model(members):
    for name in ("llava", "qwen2_vl", "gemma3", "lfm2_vl", "llama4", "chameleon"):
        assert draft(members[name].config) == draft(members[name])


def test_the_family_that_was_added_by_its_draft_is_its_draft(members):
    assert draft(members["lighton_ocr"]) == FAMILIES["lighton_ocr"]


def test_a_draft_printed_and_pasted_is_the_draft(members):
    names = {"Family": Family, "Stage": Stage, "AttentionSpec": AttentionSpec}
    for name in ("llava", "qwen3_5", "glm4v", "llama4", "florence2"):
        found = draft(members[name])
        assert eval(source(found).removesuffix(","), names) == found


# what is refused ------------------------------------------------------------------------------


def test_an_unknown_family_is_refused_with_the_rows_there_are_and_one_to_paste(members, monkeypatch):
    others = {name: row for name, row in FAMILIES.items() if row.model_type != "lighton_ocr"}
    monkeypatch.setattr(lookup, "FAMILIES", others)
    with pytest.raises(nv.SpecError) as told:
        nv.load(members["lighton_ocr"])
    message = str(told.value)
    assert all(name in message for name in others)
    assert source(FAMILIES["lighton_ocr"]) in message


def test_a_model_that_cannot_be_drafted_is_refused_with_the_reason():
    config = LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=8)
    with pytest.raises(nv.SpecError, match="no image-text-to-text model of type 'llama'"):
        nv.load(LlamaForCausalLM(config))


def test_the_command_line_drafts_from_a_folder_with_a_config(members, tmp_path):
    members["mistral3"].config.save_pretrained(tmp_path)
    printed = CliRunner().invoke(app, ["draft", str(tmp_path)])
    row = replace(FAMILIES["mistral3"], assumes={"text_config.model_type": ("mistral",)}, limitations={})
    assert printed.exit_code == 0 and printed.output == f"{source(row)}\n"
    refused = CliRunner().invoke(app, ["draft", str(tmp_path / "nowhere")])
    assert refused.exit_code == 2 and refused.stderr.startswith("error: no model")


@pytest.mark.parametrize("command", ["families", "draft"])
def test_the_commands_explain_themselves(command):
    found = CliRunner().invoke(app, [command, "--help"])
    assert found.exit_code == 0 and "Usage" in found.output
