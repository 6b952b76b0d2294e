"""Interventions that can change nothing in a call are refused, and `empty="ignore"` runs them all the same."""

from __future__ import annotations

import inspect

import pandas as pd
import pytest
import tiny
import torch
import zoo
from float64 import LIMIT

import nnsight_vlm as nv
from nnsight_vlm.execution.checking import check
from nnsight_vlm.families import view_of

EMPTY = {
    "a cut the wrong way round": (
        nv.Knockout("last", "image"),
        ["Knockout(source='last', target='image')", "exchanged"],
    ),
    "a cut of text before the image": (nv.Knockout("image", "system"), ["no edge is open", "layers 0,1,2,3"]),
    "no source": (nv.Knockout([], "last"), ["source=() names no position"]),
    "no target": (nv.Knockout("image", []), ["target=() names no position"]),
    "no heads": (nv.Knockout("image", "last", heads=[]), ["heads=() names no head"]),
    "no layers": (nv.Knockout("image", "last", layers=[]), ["layers=() names no layer"]),
    "a group that this prompt has not got": (nv.Knockout("markup", "last"), ["'markup' is empty in this prompt"]),
    "such a group among others": (nv.Knockout(["markup", "image"], "last"), ["'markup' is empty", "source="]),
    "an allow that closes nothing": (nv.Allow("image", "last"), ["Allow", "layers='all'", "none is left to cut"]),
    "an allow of no heads": (nv.Allow("image", "last", layers=1, heads=[]), ["heads=() names no head"]),
    "an ablation of nothing": (nv.Ablate([], layers=1), ["where=() names no position"]),
    "an ablation in no layer": (nv.Ablate("image", layers=[]), ["layers=() names no layer"]),
    "a mean of a group that is not there": (nv.Ablate("markup", how="mean"), ["'markup' is empty"]),
    "features of nothing": (nv.Ablate([], site="features"), ["where=() names no position"]),
    "a patch of nothing": (nv.Patch([], source=torch.zeros(0, tiny.WIDTH)), ["where=() names no position"]),
    "a patch in no layer": (nv.Patch("last", source=torch.zeros(1, tiny.WIDTH), layers=[]), ["layers=()"]),
    "one part of two": (
        nv.Knockout("image", "last") | nv.Knockout("last", "image"),
        ["part 2 of 2, Knockout(source='la"],
    ),
}
TO_COME = {
    "a target": nv.Knockout("image", "generated"),
    "a source": nv.Knockout("generated", "generated"),
    "an ablation": nv.Ablate("generated", layers=1),
    "an allow": nv.Allow("image", "generated", layers=1),
}
TOUCHING = {
    "the clean run": None,
    "a patch from the same prompt": lambda prompt: nv.Patch("last", source=prompt, layers=1),
    "a cut that is open in one layer only": nv.Knockout("image", "last", layers=[2]),
    "an allow in no layer": nv.Allow("image", "last", layers=[]),
    "a target that is partly before its source": nv.Knockout("image", ["system", "last"]),
    "tokens to come beside others": nv.Knockout("image", ["last", "generated"]),
    "one head": nv.Knockout("image", "last", heads=[(1, 2)]),
}


def calls(model, prompt, case, **options):
    return {
        "run": lambda: nv.run(model, prompt, case, **options),
        "generate": lambda: nv.generate(model, prompt, case, max_new_tokens=3, **options),
        "generations": lambda: list(nv.generations(model, [(prompt, case)], max_new_tokens=3, **options)),
        "sweep": lambda: nv.sweep(model, prompt, {"cut": case}, answer=20, **options),
        "verify": lambda: nv.verify(model, prompt, case, **options),
        "install": lambda: nv.install(model, prompt, case, **options),
    }


def refused(call, *parts):
    with pytest.raises(nv.SpecError) as error:
        call()
    missing = [part for part in (*parts, 'empty="ignore"') if part not in str(error.value)]
    assert not missing, f"{missing} not in: {error.value}"


@pytest.fixture
def model(sdpa):
    return sdpa


@pytest.fixture
def short(sdpa):
    return nv.encode(sdpa, "what is red ?", tiny.picture(0))


@pytest.mark.parametrize("name", EMPTY)
def test_what_changes_nothing_is_refused_by_every_call_before_the_model_runs(sdpa, short, forwards, name):
    case, parts = EMPTY[name]
    for way, call in calls(sdpa, short, case).items():
        refused(call, *parts, *(["variant 'cut'"] if way == "sweep" else []))
    assert not forwards


@pytest.mark.parametrize("name", EMPTY)
def test_ignoring_runs_it_as_far_as_there_is_something_to_do(sdpa, short, name):
    case, _ = EMPTY[name]
    left = nv.Knockout("image", "last") if name in ("one part of two", "such a group among others") else None
    found, expected = (nv.run(sdpa, short, each, empty="ignore").logits for each in (case, left))
    assert torch.equal(found, expected)
    answer = nv.generate(sdpa, short, case, max_new_tokens=3, empty="ignore")
    assert answer.tokens == nv.generate(sdpa, short, left, max_new_tokens=3).tokens
    frame = nv.sweep(sdpa, short, [case, nv.Knockout("image", "query")], answer=20, empty="ignore")
    alone = nv.sweep(sdpa, short, [nv.Knockout("image", "query"), nv.Knockout("image", "last")], answer=20)
    assert frame.logit[0] == pytest.approx(alone.clean_logit[0] if left is None else alone.logit[1], abs=1e-4)
    assert frame.logit[1] == pytest.approx(alone.logit[0], abs=1e-4)


@pytest.mark.parametrize("name", TO_COME)
def test_tokens_to_come_are_there_only_where_they_are_generated_and_run(sdpa, short, name):
    case = TO_COME[name]
    for way in ("run", "sweep"):
        refused(calls(sdpa, short, case)[way], "'generated'", "nv.generate", "grown")
    for call in (
        lambda: nv.generate(sdpa, short, case, max_new_tokens=1),
        lambda: list(nv.generations(sdpa, [(short, case)], max_new_tokens=1)),
    ):
        refused(call, "'generated'", "max_new_tokens=2")
    for way in ("generate", "generations", "verify", "install"):
        calls(sdpa, short, case)[way]()
    grown = nv.generate(sdpa, short, max_new_tokens=3).prompt
    assert not torch.equal(nv.run(sdpa, grown, case).logits, nv.run(sdpa, grown).logits)


def test_a_patch_of_tokens_to_come_is_refused_where_they_come_too(sdpa, short):
    refused(lambda: nv.generate(sdpa, short, nv.Patch("generated", source=short, layers=1)), "still to come", "ablate")
    for case in (
        nv.Patch(["last", "generated"], source=short, layers=1),
        nv.Ablate(["last", "generated"], how="resample", source=short, layers=1),
    ):
        for call in (nv.run, nv.generate):
            with pytest.raises(nv.SpecError, match="still to come"):
                call(sdpa, short, case)
    grown = nv.generate(sdpa, short, max_new_tokens=2).prompt
    nv.run(sdpa, grown, nv.Patch(["last", "generated"], source=grown, layers=1))


@pytest.mark.parametrize("name", TOUCHING)
def test_what_touches_something_is_run_whether_numbers_move_or_not(sdpa, short, name):
    case = TOUCHING[name](short) if callable(TOUCHING[name]) else TOUCHING[name]
    for call in calls(sdpa, short, case).values():
        call()


def test_the_source_of_a_patch_is_held_to_the_same_rule(sdpa, short):
    patch = nv.Patch("last", source=short, layers=1, under=nv.Knockout("last", "image"))
    refused(lambda: nv.run(sdpa, short, patch), "under=", "Knockout(source='last', target='image')")
    found = nv.run(sdpa, short, patch, empty="ignore").logits
    assert torch.equal(found, nv.run(sdpa, short, nv.Patch("last", source=short, layers=1)).logits)


def test_a_row_in_which_nothing_changes_is_named(sdpa, short):
    rows = nv.stack([short, nv.encode(sdpa, "what is red ?"), short])
    case = nv.Knockout("last", "first")
    refused(lambda: nv.run(sdpa, rows, [nv.Knockout("first", "last"), case, None]), "row 1: ", "exchanged")
    refused(lambda: nv.verify(sdpa, rows, case), "row 0: ")
    nv.run(sdpa, rows, [nv.Knockout("first", "last"), case, None], empty="ignore")


def test_a_word_that_is_not_known_is_refused(sdpa, short):
    for call in calls(sdpa, short, None, empty="warn").values():
        with pytest.raises(nv.SpecError, match="no empty='warn'"):
            call()


def test_every_function_that_refuses_what_is_empty_says_so():
    functions = [nv.run, nv.generate, nv.generations, nv.sweep, nv.verify, nv.install]
    for function in functions:
        assert inspect.signature(function).parameters["empty"].default == "error"
        assert "empty" in function.__doc__


# what layers see -------------------------------------------------------------------------------------


def test_edges_beyond_a_sliding_window_are_no_edges():
    model = tiny.load("sdpa", "mistral")
    prompt = nv.encode(model, "is the ball red ?", tiny.picture(2))
    last = prompt["last"][0]
    nv.run(model, prompt, nv.Knockout([last - tiny.WINDOW + 1], "last"))
    refused(lambda: nv.run(model, prompt, nv.Knockout([last - tiny.WINDOW], "last")), "no edge is open")
    far = nv.Knockout("first", "generated")
    refused(lambda: nv.generate(model, prompt, far, max_new_tokens=4), "no edge is open")


GROUPS = ("image", "system", "query", "text", "last", "first")


def pairs_of(tokens):
    """Pairs of groups that a stage has, whose queries lie in its sequence."""
    there = {name: tokens.group(name) for name in GROUPS if tokens.images or name not in ("image", "system", "query")}
    there = {name: ranges for name, ranges in there.items() if ranges.positions(tokens.stop)}
    return [
        (source, target)
        for source in there
        for target in there
        if not there[target].outside and not (there[source].inside and there[source].outside)
    ]


def cuts_of(model, prompt):
    """A cut of every pair of groups in every stage, in the layers that have this attention."""
    for stage in ("decoder", *dict(prompt.rows[0].stages)):
        tokens, spec = prompt.rows[0].stage(stage), view_of(model).stage(stage)
        for source, target in pairs_of(tokens):
            layers = spec.cross if tokens.group(source).outside else spec.attention
            readers = tokens.readers if tokens.group(source).outside else None
            if layers and (readers is None or tokens.group(target).positions(tokens.stop)[-1] < readers):
                yield nv.Knockout(source, target, layers=layers, stage=stage)


@pytest.mark.parametrize("name", sorted(zoo.ZOO))
def test_what_is_refused_in_a_family_is_what_its_clean_run_pays_no_attention_to(name):
    """In every stage, for every pair of groups: a cut is refused exactly where all probabilities are 0 without it."""
    prompt = zoo.prompt(name, zoo.ZOO[name].implementations[0])
    model = prompt.model
    cuts = list(cuts_of(model, prompt))
    reads = [nv.Attention(cut.target, cut.source, layers=cut.layers, stage=cut.stage, reduce="mass") for cut in cuts]
    seen = [bool((mass > 0).any()) for mass in nv.run(model, prompt, reads=reads).reads]
    refused = [refusal(model, prompt, cut) for cut in cuts]
    told = [(cut, "changes nothing" in why) for cut, why in zip(cuts, refused, strict=True) if "no key" not in why]
    meant = [(cut, not any_seen) for cut, any_seen, why in zip(cuts, seen, refused, strict=True) if "no key" not in why]
    assert told == meant and any(seen)


def refusal(model, prompt, cut):
    try:
        check(model, prompt, cut)
    except nv.SpecError as error:
        return str(error)
    return ""


# proofs ----------------------------------------------------------------------------------------------


@pytest.mark.float64
@pytest.mark.parametrize("rows", [1, 3])
def test_a_proof_says_how_far_the_logits_have_moved(sdpa, rows):
    prompt = nv.encode(sdpa, "what is red ?", tiny.picture(0)) if rows == 1 else tiny.several(sdpa)
    cut = nv.Knockout("image", "last", layers=[1, 2])
    clean, found = (sdpa_logits(sdpa, prompt, case) for case in (None, cut))
    assert nv.verify(sdpa, prompt, cut).moved == pytest.approx(float((found - clean).abs().max()), rel=LIMIT)
    still = nv.Knockout("image", [prompt.rows[-1].stop - 2], layers=[tiny.LAYERS - 1])
    assert nv.verify(sdpa, prompt, still).moved == 0.0 < nv.verify(sdpa, prompt, still).edges
    assert nv.verify(sdpa, prompt, None).moved == 0.0


def sdpa_logits(model, prompt, case):
    """Logits at the last token of every row, each row run by itself."""
    return torch.stack([nv.run(model, prompt.row(row), case).logits for row in range(len(prompt))])


@pytest.mark.float64
def test_decoded_tokens_count_in_how_far_the_logits_have_moved(sdpa, short):
    cut = nv.Knockout("image", "generated")
    proof = nv.verify(sdpa, short, cut)
    answer = nv.generate(sdpa, short, cut, max_new_tokens=proof.tokens, min_new_tokens=proof.tokens)
    after = list(range(short.width - 1, short.width + proof.tokens))
    clean, found = (nv.run(sdpa, answer.prompt, case, positions=after).logits for case in (None, cut))
    assert torch.equal(clean[0], found[0])  # the prompt's last token is not cut
    assert proof.moved == pytest.approx(float((found - clean).abs().max()), rel=LIMIT) and proof.moved > 0


def test_nothing_is_proven_of_what_is_empty(sdpa, short):
    for case, _ in EMPTY.values():
        with pytest.raises(nv.SpecError):
            nv.verify(sdpa, short, case)
    assert nv.verify(sdpa, short, nv.Knockout("last", "image"), empty="ignore").edges == 0


# reads -----------------------------------------------------------------------------------------------


def test_reads_of_nothing_are_refused(sdpa, short, forwards):
    for read in (
        nv.Attention([], "image"),
        nv.Attention("last", []),
        nv.Attention("generated", "image"),
        nv.Attention("last", "markup"),
        nv.Attention("last", ["image", "markup"]),
        nv.Residual([]),
        nv.Residual("generated"),
        nv.Residual("markup", layers=1),
    ):
        refused(lambda read=read: nv.run(sdpa, short, reads=read), "nothing to read")
    for read in (nv.Attention("last", "image", layers=[]), nv.Residual("last", layers=[])):
        with pytest.raises(nv.SpecError, match="names no layer"):
            nv.run(sdpa, short, reads=read, empty="ignore")
    with pytest.raises(nv.SpecError, match="names no head"):
        nv.Attention("last", "image", heads=[])
    assert not forwards
    reads = [nv.Residual([]), nv.Attention([], "image"), nv.Attention("last", []), nv.Attention("last", "last")]
    shapes = [tuple(read.shape) for read in nv.run(sdpa, short, reads=reads, empty="ignore").reads]
    assert shapes == [(4, 0, tiny.WIDTH), (4, 4, 0, 25), (4, 4, 1, 0), (4, 4, 1, 1)]


@pytest.mark.float64
@pytest.mark.parametrize("order", [[0, 3], [3, 0]])
def test_in_whatever_order_a_user_reads_while_tokens_come_an_installed_copy_changes_the_same_tokens(sdpa, short, order):
    """From the second token on, nnsight answers a read of a layer that was passed already with the next token's."""
    cut = nv.Knockout("image", ["last", "generated"], layers=[1, 2]) | nv.Ablate("generated", layers=2)
    edited, expected = nv.install(sdpa, short, cut), nv.generate(sdpa, short, cut, max_new_tokens=6)
    layers = edited.model.language_model.layers
    with torch.no_grad(), edited.generate(**short.inputs, max_new_tokens=6, do_sample=False) as tracer:
        seen = [].save()
        for _ in tracer.iter[1:3]:
            seen.extend([layers[layer].output[0, -1] for layer in order])
        sequence = tracer.result.save()
    assert tuple(sequence[0, short.width :].tolist()) == expected.tokens
    steps = [short.width, short.width + 1, short.width + 2]
    states = nv.run(sdpa, expected.prompt, cut, reads=[nv.Residual(steps, layers=[0, 3])]).reads[0]
    in_order = [states[0, 0], states[1, 0], states[0, 1], states[1, 1]]
    shifted = [states[1, 0], states[0, 1], states[1, 1], states[0, 2]]
    for found, meant in zip(seen, in_order if order == [0, 3] else shifted, strict=True):
        assert tiny.gap(found, meant) < LIMIT


# recipes ---------------------------------------------------------------------------------------------


def test_a_route_along_which_nothing_can_flow_is_refused_by_its_name(sdpa, short, forwards):
    for options in ({"answers": [20]}, {"max_new_tokens": 3}):
        for route in ("last->image", "image->system"):
            with pytest.raises(nv.SpecError, match=f"route '{route}': Knockout.*changes nothing"):
                nv.recipes.knockout_windows(sdpa, [short], routes=["image->last", route], **options)
    with pytest.raises(nv.SpecError, match=r"route 'image->generated'.*max_new_tokens=2"):
        nv.recipes.knockout_windows(sdpa, [short], max_new_tokens=1)
    with pytest.raises(nv.SpecError, match="changes nothing"):
        nv.recipes.patch_knockout(sdpa, short, answer=20, target="system")
    assert not forwards


@pytest.mark.float64
def test_patches_that_no_layer_sees_leave_the_answer_as_it_is_and_a_recipe_goes_on():
    """In a sliding decoder the windows of all layers may end behind a patch."""
    model = tiny.load("sdpa", "mistral", torch.float64)
    prompt = nv.encode(model, "is the ball red ?", tiny.picture(2))
    frame = nv.recipes.patch_knockout(model, prompt, answer=20, size=1)
    last = prompt["last"][0]
    seen = frame.token > last - tiny.WINDOW
    change = frame.logprob_change.abs()
    assert (change[~seen] < LIMIT).all() and (change[seen] > LIMIT).all()
    assert seen.any() and not seen.all()


def test_recipes_take_what_can_be_gone_through_once(sdpa, short):
    options = {"answers": [20], "per_image": True, "windows": 2}
    routes, forms = ["image->last", "image->text"], ["block"]
    once = nv.recipes.knockout_windows(sdpa, iter([short]), routes=iter(routes), forms=iter(forms), **options)
    pd.testing.assert_frame_equal(
        once, nv.recipes.knockout_windows(sdpa, [short], routes=routes, forms=forms, **options)
    )
    other = nv.encode(sdpa, "what is red ?", tiny.picture(1))
    pairs, options = [nv.recipes.Pair(short, other, 20, 21)], {"per_image": True}
    once = nv.recipes.query_patching(sdpa, iter(pairs), groups=iter(["query", "last"]), layers=iter([1, 2]), **options)
    pd.testing.assert_frame_equal(
        once, nv.recipes.query_patching(sdpa, pairs, groups=["query", "last"], layers=[1, 2], **options)
    )
