"""Every argument of every public function is looked at before the model runs: bad ones are refused in words."""

from __future__ import annotations

import pytest

from .census import REFUSED, TABLES, arguments, entries_of, outcomes, public_callables, tables

MADE_HERE = {
    *("nnsight_vlm.BatchGeneration", "nnsight_vlm.BatchRun", "nnsight_vlm.Family", "nnsight_vlm.Generation"),
    *(
        "nnsight_vlm.Grid",
        "nnsight_vlm.VideoGrid",
        "nnsight_vlm.Prompt",
        "nnsight_vlm.PromptBatch",
        "nnsight_vlm.Proof",
        "nnsight_vlm.Run",
    ),
    *("nnsight_vlm.InterventionError", "nnsight_vlm.NonFiniteWarning", "nnsight_vlm.PassesDifferWarning"),
    "nnsight_vlm.UnknownWordsWarning",
    *("nnsight_vlm.RemoteError", "nnsight_vlm.SpecError", "nnsight_vlm.remote.RemoteError"),
    *("nnsight_vlm.Item", "nnsight_vlm.Items", "nnsight_vlm.Saliency", "nnsight_vlm.recipes.BoxScore"),
    *("nnsight_vlm.Intervention", "nnsight_vlm.recipes.Pair", "nnsight_vlm.remote.Job", "nnsight_vlm.remote.Traffic"),
    *("nnsight_vlm.shapes.Mention", "nnsight_vlm.shapes.Object", "nnsight_vlm.shapes.Question"),
    *("nnsight_vlm.shapes.Scene", "nnsight_vlm.shapes.Score", "nnsight_vlm.Word", "nnsight_vlm.View"),
}
"""Classes whose values this package makes, or checks where they are used; their methods are asked all the same."""
INSIDE = {"lower", "first_position", "first_layer", "why_without_writes", "capture", "named", "fields", "cut_layers"}
"""Methods of values that this package calls, with what it has checked."""
INSIDE |= {"numbers", "assemble", "set_values", "tensor_writes", "write_in", "cut_of", "captured_from", "limitation"}
SKIPPED = {"call", "function", "_", "__"}
by_table = pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__.rpartition(".")[2])
"""A test for each table and not for each entry: tables run recipes, which the collection of tests need not wait for."""


@by_table
def test_bad_values_are_refused_before_the_model_runs(table):
    tried = [outcome for name, entry in entries_of(table).items() for outcome in outcomes(name, entry)]
    wrong = [outcome for outcome in tried if outcome.ended != REFUSED]
    assert len(tried) > 10
    assert not wrong, "\n".join(f"{outcome.given}: {outcome.ended}" for outcome in wrong)


@by_table
def test_good_values_are_taken(table):
    for name, entry in entries_of(table).items():
        if entry.works:
            try:
                entry.call(**entry.good)
            except Exception as error:
                error.add_note(f"in the entry {name!r} of the table")
                raise


def test_every_argument_of_everything_public_has_bad_values():
    listed: dict[object, set[str]] = {}
    for entry in tables().values():
        listed.setdefault(entry.public, set()).update(entry.bad)
    missing = [
        f"{name}({argument}=)"
        for name, function in public_callables().items()
        if name not in MADE_HERE and name.rpartition(".")[2] not in INSIDE
        for argument in arguments(function)
        if argument not in listed.get(function, set())
    ]
    assert not missing, f"without bad values in tests/arguments: {', '.join(missing)}"
