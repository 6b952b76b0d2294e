"""Mistakes are refused before the model runs, and the message says what to write."""

from __future__ import annotations

import pytest
import tiny
import torch

import nnsight_vlm as nv
from nnsight_vlm.sweeping.wanted import answer_token


@pytest.fixture
def refused(model, prompt, forwards):
    """Checks a call's message for every part, and that no forward ran."""

    def expect(call, *parts):
        before = len(forwards)
        with pytest.raises(nv.SpecError) as error:
            call()
        missing = [part for part in parts if part not in str(error.value)]
        assert not missing, f"{missing} not in: {error.value}"
        assert len(forwards) == before, "the model ran"

    return expect


BAD = {
    "an unknown group": (nv.Knockout("sky", "last"), ["'sky'", "image", "query", "generated", "positions"]),
    "an unknown group as target": (nv.Knockout("image", "pixels"), ["'pixels'", "system"]),
    "a word of the prompt": (nv.Knockout("describe", "last"), ["prompt.find('describe')"]),
    "a misspelt group": (nv.Ablate("imge", layers=1), ["did you mean 'image'?"]),
    "a group with a number that has none": (nv.Ablate("query.1"), ["'query.1'", "image.N"]),
    "an unknown layer word": (nv.Knockout("image", "last", layers="some"), ["'some'", '"all"', "nv.window(8, 16)"]),
    "layers as a table spells them": (
        nv.Knockout("image", "last", layers="1:3"),
        ["write nv.window(1, 3)", '"all"'],
    ),
    "a layer too high": (nv.Knockout("image", "last", layers=4), ["layer 4", "0..3"]),
    "a layer before the first": (nv.Ablate("last", layers=[-5, 2]), ["layer -5", "0..3", "-4..-1"]),
    "a depth that holds no layer": (
        nv.Knockout("image", "last", layers=nv.depth(0.3, 0.35)),
        ["depth(0.3, 0.35)", "4 layers"],
    ),
    "a mean of tokens that are not generated yet": (
        nv.Ablate("generated", how="mean", layers=1),
        ["mean", "grown prompt"],
    ),
    "a bool": (nv.Knockout("image", True), ["bool"]),
    "a window past the end": (nv.Allow("image", "last", layers=nv.window(2, 7)), ["layer 4", "0..3"]),
    "a head too high": (nv.Knockout("image", "last", heads=[4]), ["head 4", "0..3"]),
    "a head of a pair too high": (nv.Knockout("image", "last", heads=[(1, 9)]), ["head 9", "0..3"]),
    "a pair outside the layers": (
        nv.Knockout("image", "last", layers=[0, 1], heads=[(2, 0)]),
        ["layer 2", "layers=(0, 1)"],
    ),
    "a picture that the prompt does not have": (nv.Knockout("image.1", "last"), ["'image.1'", "1 image", "image.0"]),
    "a position past the end": (nv.Ablate([5, 99], layers=1), ["position 99", "0..40", '"last"']),
    "a position below zero": (nv.Knockout("image", -1), ["position -1", '"last"']),
    "features of text": (nv.Ablate("query", site="features"), ["features", "'query'", '"image"']),
    "features of more than the image": (nv.Ablate("all", site="features"), ["features", "'all'", '"image"']),
    "a patch of fewer positions": (
        nv.Patch("image", source=torch.zeros(3, tiny.WIDTH)),
        ["(1, 3, 32)", "25 position", "source_where="],
    ),
    "a patch of more layers": (
        nv.Patch("last", source=torch.zeros(2, 1, tiny.WIDTH), layers=[0, 1, 2]),
        ["(2, 1, 32)", "2 layers", "3 layer", "layers="],
    ),
    "a direction of all layers in one": (
        nv.Add("last", torch.zeros(4, 1, tiny.WIDTH), layers=2),
        ["vector= gives values of 4 layers", "1 layer(s) are written (2)", "vector[2]"],
    ),
    "states of all layers in two": (
        nv.Patch("last", source=torch.zeros(4, 1, tiny.WIDTH), layers=[0, 3]),
        ["4 layers", "(0,3)", "source[[0, 3]]"],
    ),
    "a patch of another width": (nv.Patch("last", source=torch.zeros(1, 7), layers=1), ["7", "32"]),
    "a patch of one state of another width": (nv.Patch("last", source=torch.zeros(7), layers=1), ["7", "32"]),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("way", ["run", "generate", "install", "verify", "sweep", "generations"])
def test_a_bad_intervention_is_refused_everywhere(model, prompt, refused, name, way):
    case, parts = BAD[name]
    ways = {
        "run": lambda: nv.run(model, prompt, case),
        "generate": lambda: nv.generate(model, prompt, case),
        "install": lambda: nv.install(model, prompt, case),
        "verify": lambda: nv.verify(model, prompt, case),
        "sweep": lambda: nv.sweep(model, prompt, [nv.Knockout("image", "last"), case], answer=20),
        "generations": lambda: list(nv.generations(model, [(prompt, None), (prompt, case)])),
    }
    refused(ways[way], *parts)


def test_a_mistake_beside_a_patch_is_refused_before_the_source_runs(model, prompt, twin, refused):
    refused(
        lambda: nv.run(model, prompt, nv.Patch("query", source=twin, layers=1) | nv.Knockout("sky", "last")), "'sky'"
    )
    refused(
        lambda: nv.run(model, prompt, nv.Patch("query", source=twin, layers=1), reads=[nv.Residual("sky")]), "'sky'"
    )


def test_a_patch_whose_source_has_fewer_positions_is_refused_before_it_runs(model, prompt, refused):
    longer = nv.encode(model, "describe the big red square left of the circle .", tiny.picture(3))
    refused(
        lambda: nv.run(model, prompt, nv.Patch("query", source=longer, layers=1)),
        f"{len(prompt['query'])} position",
        "source_where=",
    )
    refused(lambda: nv.run(model, prompt, nv.Patch("sky", source=longer, layers=1)), "'sky'")
    refused(lambda: nv.run(model, prompt, nv.Patch("last", source=longer, source_where="sky", layers=1)), "'sky'")


@pytest.mark.parametrize(
    "case",
    [
        nv.Knockout("all", "last", layers=2),
        nv.Knockout("text", "query", layers=1) | nv.Knockout("image", "last", layers=1),
        nv.Knockout("image", "last", layers=3) | nv.Knockout("text", "last", layers=3, heads=[2]),
        nv.Knockout("first", "first"),
        nv.Knockout("system", "system", layers=0),
        nv.Allow("all", "query", layers=[0, 1]),
    ],
)
def test_a_query_left_without_a_key_is_refused(model, prompt, refused, case):
    for call in (nv.run, nv.generate, nv.install, nv.verify):
        refused(lambda call=call: call(model, prompt, case), "no key to attend to", '"first"')
    refused(lambda: nv.sweep(model, prompt, {"blind": case}, answer=20), "no key to attend to")


@pytest.mark.parametrize(
    "case",
    [
        nv.Knockout("all", "generated", heads=[1]),
        nv.Knockout("image", "generated", layers=1) | nv.Knockout("text", "generated", layers="all"),
    ],
)
def test_a_token_to_come_that_is_left_without_a_key_is_refused_where_it_may_be_written(model, prompt, refused, case):
    for call in (nv.generate, nv.install, nv.verify, lambda *args: nv.generations(args[0], [args[1:]])):
        refused(lambda call=call: call(model, prompt, case), "generated token 1", "no key to attend to")
    still = nv.run(model, prompt, case, empty="ignore")
    assert torch.equal(still.logits, nv.run(model, prompt).logits)  # which writes none


@pytest.mark.parametrize(
    "case",
    [
        nv.Knockout("text", "query", layers=1) | nv.Knockout("image", "last", layers=2),
        nv.Knockout("text", "last", heads=[(1, 1)]) | nv.Knockout("image", "last", heads=[(1, 2)]),
        nv.Knockout(("image", "query", "generated"), "generated"),
        nv.Knockout("image", "image") | nv.Knockout("query", "image"),
    ],
)
def test_a_query_that_keeps_one_key_is_not_refused(model, prompt, case):
    assert nv.run(model, prompt, case, positions="all", empty="ignore").logits.isfinite().all()
    assert len(nv.generate(model, prompt, case, max_new_tokens=4, empty="ignore").tokens) == 4


def test_a_query_left_without_a_key_is_refused_in_any_row_of_several(model, refused):
    prompt = tiny.several(model)
    image = [position for pixels in prompt.rows[2].images for position in pixels]
    blind = list(range(prompt.rows[0].start, prompt.width))
    assert image[0] < blind[0]
    refused(lambda: nv.run(model, prompt, nv.Knockout(blind, "last")), "no key to attend to")


def test_specs_with_impossible_values_are_refused_when_they_are_made(prompt):
    mistakes = [
        (lambda: nv.Ablate("image", how="median"), ["'median'", "zero, mean"]),
        (lambda: nv.Ablate("image", how="resample"), ["source=other"]),
        (lambda: nv.Ablate("image", how="zero", source=prompt), ["source=other"]),
        (lambda: nv.Ablate("image", site="logits"), ["'logits'", "residual", "features"]),
        (lambda: nv.Patch("image", source=[1, 2]), ["list", "Prompt", "tensor"]),
        (lambda: nv.Residual("image", site="mask"), ["'mask'", "residual"]),
        (lambda: nv.Attention("last", "image", reduce="max"), ["'max'", "rows, mean, mass, entropy, top"]),
        (lambda: nv.window(5, 5), ["window(5, 5)", "nv.window(8, 16)"]),
        (lambda: nv.window(-1, 2), ["nv.window(8, 16)"]),
        (lambda: nv.depth(0.5, 0.5), ["nv.depth(0.25, 0.5)"]),
        (lambda: nv.depth(0.5, 1.5), ["nv.depth(0.25, 0.5)"]),
        (lambda: nv.Knockout("image", "last") | "last", ["'last'", "|"]),
        (lambda: nv.Knockout("image", "last") + nv.Ablate("last"), ["join with |"]),
        (lambda: sum([nv.Ablate("last")]), ["join with |"]),
        (lambda: nv.Knockout("image", "last", layer=3), ["Knockout has no argument layer=", "did you mean layers=?"]),
        (lambda: nv.Patch("a", "b", "c"), ["Patch takes 1 value(s) without a name (where), and 3", "source="]),
        (lambda: nv.Attention("last", "image", reduced="mass"), ["did you mean reduce=?"]),
        (lambda: nv.Residual("last", zzz=1), ["Residual has no argument zzz=; it has where, layers"]),
        (lambda: nv.recipes.knockout_windows(None, [], answer="red", windws=1), ["has no argument", "did you mean"]),
        (lambda: nv.sweep(None, None, [], answers="red"), ["sweep has no argument answers=; did you mean answer=?"]),
        (
            lambda: nv.recipes.path_patching(None),
            ["missing", "'sender'", "write path_patching(model, pairs, sender=...)"],
        ),
        (
            nv.recipes.heads,
            ["missing", "'model'", "write heads(model, prompts), and other arguments by name"],
        ),
        (lambda: nv.recipes.heads(None, [], 3), ["too many positional", "write heads(model, prompts), and other"]),
        (lambda: nv.recipes.heads(None, model=1), ["multiple values", "'model'", "write heads(model, prompts), and"]),
        (
            lambda: nv.generate(None, temperature=1),
            ["missing", "'prompt'", "write generate(model, prompt, intervention)"],
        ),
    ]
    for make, parts in mistakes:
        with pytest.raises(nv.SpecError) as error:
            make()
        assert all(part in str(error.value) for part in parts), str(error.value)


def test_reads_and_positions_that_are_not_there_are_refused(model, prompt, refused):
    for read in (nv.Attention("last", "sky"), nv.Residual("sky"), nv.Attention("sky", "image")):
        refused(lambda read=read: nv.run(model, prompt, reads=[read]), "'sky'", "image")
    refused(lambda: nv.run(model, prompt, reads=[nv.Residual("last", layers=4)]), "layer 4", "0..3")
    few = nv.Attention("query", "last", reduce="top", top=2)
    refused(lambda: nv.run(model, prompt, reads=[few]), "top=2", "from 1 to 1")
    refused(lambda: nv.run(model, prompt, reads=[nv.Attention("last", "image", heads=[4])]), "head 4", "0..3")
    refused(lambda: nv.run(model, prompt, positions="sky"), "'sky'")
    refused(lambda: nv.run(model, prompt, positions=41), "position 41")


def test_positions_must_ascend_where_values_belong_to_them(model, prompt, refused):
    for call in (
        lambda: nv.run(model, prompt, positions=[30, 5]),
        lambda: nv.run(model, prompt, reads=[nv.Residual([30, 5])]),
        lambda: nv.run(model, prompt, reads=[nv.Attention([30, 30], "image")]),
        lambda: nv.run(model, prompt, nv.Patch([9, 8], source=torch.zeros(2, tiny.WIDTH))),
        lambda: nv.run(model, prompt, nv.Patch([8, 9], source=prompt, source_where=[9, 8])),
    ):
        refused(call, "ascend")


def test_beams_are_refused(model, prompt, refused):
    refused(lambda: nv.generate(model, prompt, num_beams=2), "num_beams=2")
    refused(lambda: nv.generate(model, prompt, num_return_sequences=3, do_sample=True), "num_return_sequences=3")


def test_an_intervention_made_for_one_row_is_not_run_on_two(model, prompt):
    edited = nv.install(model, prompt, nv.Knockout("image", "last"))
    with (
        pytest.raises(ValueError, match=r"1 row\(s\) and the model runs 2"),
        torch.no_grad(),
        edited.trace(**nv.stack([prompt, prompt]).inputs),
    ):
        edited.output.logits.save()


def test_asking_for_the_image_of_a_prompt_without_one_is_refused(model, refused):
    text_only = nv.encode(model, "what is red ?")
    refused(lambda: nv.run(model, text_only, nv.Knockout("image", "last")), "no image", "'image'", '"text"')
    refused(text_only.image, "no picture 0", "images=")
    refused(lambda: text_only.find("sky"), "'sky'", "what is red ?")


def test_inputs_that_do_not_fit_together_are_refused(model, refused):
    picture, two_pictures = tiny.picture(0), [tiny.picture(0), tiny.picture(1)]
    ids = torch.tensor([[2, *[4] * 25, 9]])
    pixels = torch.zeros(1, 3, tiny.SIDE, tiny.SIDE)
    refused(lambda: nv.encode(model), "nv.encode(model", "inputs=")
    refused(lambda: nv.encode(model, "red ?", inputs={"input_ids": ids}), "either")
    refused(lambda: nv.encode(model, "<s> red ?", picture, chat=False), "0 image placeholder", "1 picture", "<image>")
    refused(lambda: nv.encode(model, "<image> red <image>", picture, chat=False), "2 image placeholder", "1 picture")
    refused(lambda: nv.encode(model, inputs={}), "input_ids", "return_tensors")
    refused(lambda: nv.encode(model, inputs={"input_ids": [[1, 2]]}), "input_ids", "tensor")
    refused(lambda: nv.encode(model, inputs={"input_ids": ids}), "no pixel_values")
    refused(
        lambda: nv.encode(model, inputs={"input_ids": ids[:, 2:], "pixel_values": pixels}),
        "24 tokens",
        "do not form a grid",
    )
    refused(
        lambda: nv.encode(model, inputs={"input_ids": ids, "attention_mask": ids[:, 1:], "pixel_values": pixels}),
        "(1, 26)",
        "(1, 27)",
    )
    refused(
        lambda: nv.encode(model, inputs={"input_ids": ids, "pixel_values": pixels}, images=two_pictures),
        "[2] picture",
        "[1] image",
    )


def test_fewer_pictures_than_image_tokens_are_refused(model, refused):
    ids = torch.tensor([[2, *[4] * 25, 9, *[4] * 25, 9]])
    refused(
        lambda: nv.encode(model, inputs={"input_ids": ids, "pixel_values": torch.zeros(1, 3, tiny.SIDE, tiny.SIDE)}),
        "50 tokens",
        "do not form a grid",
    )


def test_sweeps_that_cannot_be_carried_out_are_refused(model, prompt, refused):
    cut = [nv.Knockout("image", "last")]
    refused(lambda: nv.sweep(model, prompt, cut, answer=20, execution="fast"), "'fast'", "packed, rows, single")
    refused(lambda: answer_token(model, "red square"), "'red square'", "'red'", "'square'", "one token")
    refused(lambda: answer_token(model, "footballs"), "'##ball'")
    refused(lambda: nv.sweep(model, prompt, cut, answer="zebra"), "'zebra'")
    for ask in (lambda: answer_token(model, "squarez"), lambda: nv.sweep(model, prompt, cut, answer="red squarez")):
        refused(ask, "knows no word 'squarez'", "did you mean 'square'?", "nv.generate")
    refused(lambda: nv.sweep(model, prompt, cut, answer=""), "''")
    refused(lambda: nv.sweep(model, prompt, cut, answer=99), "99", "0..65")
    refused(lambda: nv.sweep(model, prompt, [], answer=20), "no variants")
    refused(lambda: nv.sweep(model, nv.stack([prompt, prompt]), cut, answer=20), "2", "prompt.row(0)")


def test_packing_is_refused_where_results_would_change(model, prompt, refused):
    for case in (nv.Ablate("image", layers=1), nv.Knockout("system", "image"), nv.Ablate("system")):
        refused(lambda case=case: nv.sweep(model, prompt, [case], answer=20, execution="packed"), 'execution="rows"')
    inputs = nv.stack(
        [prompt, nv.encode(model, "what is the big red square left of the dog ?", tiny.picture(1))]
    ).inputs
    padded = nv.encode(model, inputs={name: value[:1] for name, value in inputs.items()})
    refused(lambda: nv.sweep(model, padded, [nv.Knockout("image", "last")], answer=20, execution="packed"), "padded")
    assert nv.sweep(model, padded, [nv.Knockout("image", "last")], answer=20).attrs["execution"] == "rows"


def test_sources_and_rows_that_do_not_match_are_refused(model, prompt, refused):
    several = tiny.several(model)
    refused(lambda: nv.run(model, prompt, nv.Patch("last", source=several)), "one row", "prompt.row(0)")
    refused(lambda: nv.generate(model, several, [None, None]), "2 interventions", "3 row")
    refused(lambda: nv.generate(model, tiny.several(model, "right")), "padding on the left")
    refused(lambda: list(nv.generations(model, [(several, None)])), "one row")
