"""Path patching: by plain hooks in three passes, planted paths, its controls, and what it refuses."""

from __future__ import annotations

from contextlib import ExitStack

import pandas as pd
import pytest
import tiny
import torch
import zoo
from float64 import LIMIT
from known_pairs import known_pairs

import nnsight_vlm as nv
from nnsight_vlm.families import view_of
from nnsight_vlm.recipes import Place, Work, path_patching
from nnsight_vlm.recipes.carried_states import _paths
from nnsight_vlm.report.study import color_pairs

QUIET = Work(progress=False)
SENDER = Place("image", layers=0)


# by hand ------------------------------------------------------------------------------------------------


def modules_of(module, site, layer):
    part = module.model.language_model.layers[layer]
    return {"residual": part, "attention": part.self_attn, "mlp": part.mlp, "head": part.self_attn.o_proj}[site]


def first_of(given):
    return given[0] if isinstance(given, tuple) else given


@torch.no_grad()
def passed(module, prompt, writes=(), read=()):
    """One forward with plain hooks.

    Args:
        writes: `(site, layer, positions, columns, values)`; the first acts first.
        read: `(site, layer)` whose states `[position, width]` are kept, as they are before anything is written there.

    Returns:
        The states, and the logits at the last position.
    """
    states = {}
    with ExitStack() as stack:
        for site, layer in dict.fromkeys([*read, *(write[:2] for write in writes)]):
            here = [write[2:] for write in writes if write[:2] == (site, layer)]

            def act(state, key=(site, layer), here=here):
                states[key] = state[0].clone()
                changed = state.clone()
                for positions, columns, values in here:
                    changed[0, list(positions), columns] = values[list(positions), columns]
                return changed

            place = modules_of(module, site, layer)
            if site == "head":
                hook = place.register_forward_pre_hook(lambda _m, given, act=act: (act(given[0]), *given[1:]))
            else:

                def after(_m, _given, out, act=act):
                    changed = act(first_of(out))
                    return (changed, *out[1:]) if isinstance(out, tuple) else changed

                hook = place.register_forward_hook(after)
            stack.callback(hook.remove)
        logits = module(**prompt.inputs).logits[0, -1]
    return states, logits


ALL = slice(None)
EVERY = [(site, layer) for site in ("residual", "attention", "mlp", "head") for layer in range(tiny.LAYERS)]


def columns_of(head):
    width = tiny.WIDTH // tiny.HEADS
    return ALL if head is None else slice(head * width, (head + 1) * width)


def by_hand(module, pair, sender, receiver, between):
    """The logits of path patching from `sender` to `receiver`, each `(group, site, layer, head)`."""
    prompt, tokens = pair.prompt, pair.prompt["all"]
    own, _ = passed(module, prompt, read=EVERY)
    theirs, _ = passed(module, pair.other, read=EVERY)
    group, site, layer, head = sender
    writes = []
    to_group, to_site, to_layer, to_head = receiver
    if between != "free":
        last = to_layer if to_site == "mlp" else to_layer - 1
        writes += [("attention", at, tokens, ALL, own["attention", at]) for at in range(layer + 1, last + 1)]
    if between == "frozen":
        first = layer if site in ("attention", "head") else layer + 1
        writes += [("mlp", at, tokens, ALL, own["mlp", at]) for at in range(first, to_layer)]
    writes.append((site, layer, prompt[group], columns_of(head), theirs[site, layer]))
    changed, _ = passed(module, prompt, writes, read=[(to_site, to_layer)])
    write = (to_site, to_layer, prompt[to_group], columns_of(to_head), changed[to_site, to_layer])
    return passed(module, prompt, [write])[1]


RECEIVERS = [
    ("question", "residual", 2, None),
    ("last", "attention", 2, None),
    ("last", "mlp", 2, None),
    ("last", "head", 1, 3),
    ("last", "head", 3, 0),
]
FROM_IMAGE, FROM_HEAD, FROM_MLP = ("image", "residual", 0, None), ("question", "head", 1, 2), ("image", "mlp", 0, None)
CASES = [
    *((FROM_IMAGE, between) for between in ("frozen", "mlp", "free")),
    *((FROM_HEAD, between) for between in ("frozen", "free")),
    (FROM_MLP, "frozen"),
]


@pytest.mark.float64
@pytest.mark.parametrize(
    ("sender", "between"), CASES, ids=lambda given: given if isinstance(given, str) else " ".join(given[:2])
)
def test_it_is_what_plain_hooks_give_in_three_passes(sdpa, sender, between):
    [pair] = known_pairs(sdpa, 1)
    module = pair.prompt.model._module
    group, site, layer, head = sender
    sending = Place(group, site=site, layers=layer, heads=None if head is None else [head])
    later = [each for each in RECEIVERS if each[2] > layer]
    asked = [Place(g, site=s, layers=at, heads=None if h is None else [h]) for g, s, at, h in later]
    rows = path_patching(sdpa, [pair], sender=sending, receivers=asked, between=between, per_image=True, work=QUIET)
    rows = rows[rows["control"] == "none"]
    clean, other = (passed(module, prompt)[1] for prompt in pair[:2])
    y, own = pair.other_answer, pair.answer
    assert len(rows) == len(later)
    moved = []
    for receiver in later:
        logits = by_hand(module, pair, sender, receiver, between)
        to_group, to_site, to_layer, to_head = receiver
        row = rows[(rows["receiver"] == to_group) & (rows["site"] == to_site) & (rows["layer"] == to_layer)]
        if to_head is not None:
            row = row[row["head"] == to_head]
        p = [float(each.softmax(-1)[y]) for each in (logits, clean, other)]
        change = float((logits[y] - logits[own]) - (clean[y] - clean[own]))
        assert row["logit_diff_change"].item() == pytest.approx(change, rel=LIMIT, abs=LIMIT)
        assert row["restoration"].item() == pytest.approx((p[0] - p[1]) / (p[2] - p[1]), rel=LIMIT, abs=LIMIT)
        moved.append(abs(change))
    assert max(moved) > 1e-3  # something is compared


@pytest.mark.float64
def test_a_receiver_before_the_sender_is_handed_nothing(sdpa):
    sender = Place("last", layers=2, site="head", heads=[1])
    before = [
        Place("last", layers=[0, 1]),
        Place("last", layers=[0, 1, 2], site="head"),
        Place("question", layers=2, site="head"),
        Place("question", layers=2, site="key"),
    ]
    rows = path_patching(sdpa, known_pairs(sdpa, 2), sender=sender, receivers=before, per_image=True, work=QUIET)
    rows = rows[rows["control"] == "none"]
    itself = (rows["receiver"] == "last") & (rows["layer"] == 2) & (rows["head"] == 1)
    assert len(rows) == 2 * (2 + 12 + 4 + 2)
    assert (rows.loc[~itself, ["logit_diff_change", "restoration"]] == 0).all(axis=None)
    assert (rows.loc[itself, "logit_diff_change"].abs() > 1e-6).all()


@pytest.mark.float64
def test_what_is_said_to_be_unreached_is_unreached(sdpa):
    """The patch that is left out would write what is there already."""
    [pair] = known_pairs(sdpa, 1)
    clean = nv.run(sdpa, pair.prompt).logits
    under = nv.Patch("last", source=pair.other, layers=2, site="head", heads=[1])
    for layer, site in ((1, "residual"), (2, "key"), (2, "query")):
        patch = nv.Patch("question", source=pair.prompt, layers=layer, site=site, under=under)
        assert nv.run(sdpa, pair.prompt, patch).logits.numpy() == pytest.approx(clean.numpy(), rel=LIMIT, abs=LIMIT)


@pytest.mark.float64
def test_the_output_takes_what_has_passed_no_other_part(sdpa):
    """Nothing lies behind the last layer: what its residual stream carries is what the sender adds to it."""
    [pair] = known_pairs(sdpa, 1)
    sender = Place("last", layers=3, site="attention")
    options = {"sender": sender, "receivers": Place("last", site="output"), "per_image": True, "work": QUIET}
    direct, through = (path_patching(sdpa, [pair], between=how, **options) for how in ("frozen", "free"))
    module = pair.prompt.model._module
    own, clean = passed(module, pair.prompt, read=EVERY)
    theirs, _ = passed(module, pair.other, read=EVERY)
    last = len(pair.prompt["all"]) - 1
    added = theirs["attention", 3][last] - own["attention", 3][last]
    state = own["residual", 3].clone()
    state[last] += added
    y, x = pair.other_answer, pair.answer
    direct_logits = passed(module, pair.prompt, [("residual", 3, [last], ALL, state)])[1]
    free_logits = passed(module, pair.prompt, [("attention", 3, [last], ALL, theirs["attention", 3])])[1]
    for frame, logits in ((direct, direct_logits), (through, free_logits)):
        expected = float((logits[y] - logits[x]) - (clean[y] - clean[x]))
        found = frame.loc[frame["control"] == "none", "logit_diff_change"].item()
        assert found == pytest.approx(expected, rel=LIMIT, abs=LIMIT)
    assert abs(expected) > 1e-3


# planted and known --------------------------------------------------------------------------------------


def planted(layer, head):
    """A tiny model in which one head alone writes: every other head's output is multiplied by 0."""
    module = tiny.build_module(seed=1)
    with torch.no_grad():
        for number, part in enumerate(module.model.language_model.layers):
            kept = part.self_attn.o_proj.weight[:, columns_of(head)] * (3 if number == layer else 0)
            part.self_attn.o_proj.weight[:] = 0
            part.self_attn.o_proj.weight[:, columns_of(head)] = kept
    return nv.load(module, processor=tiny.build_processor())


def test_a_planted_head_carries_all_and_survives_and_no_other_head_does():
    model = planted(2, 1)
    pairs = [pair for pair in known_pairs(model, 20, pictures=40) if pair[2:] in ((37, 24), (24, 37))]
    pairs += [nv.recipes.Pair(pair.other, pair.prompt, pair.other_answer, pair.answer) for pair in pairs]
    receivers, sender, alone = Place("last", site="head", layers=2), Place("image", layers=1), range(len(pairs))
    frame = path_patching(model, pairs, sender=sender, receivers=receivers, cluster=alone, work=QUIET)
    tested = frame[frame["p"].notna()]
    assert frame.attrs["against"] is None  # both answers are those of every pair: there is no third picture
    assert frame.attrs["comparisons"] == len(tested) == 8  # two measures of four heads
    assert set(tested.loc[tested["survives"], "head"]) == {1}
    restored = tested[tested["measure"] == "restoration"]
    assert restored.loc[restored["head"] == 1, "mean"].item() == pytest.approx(1, abs=1e-4)
    assert restored.loc[restored["head"] != 1, "mean"].to_numpy() == pytest.approx(0, abs=1e-4)


@pytest.fixture(scope="module")
def on_shapes():
    model = nv.load("shapes")
    receivers = [Place("last", layers=9), Place("question", layers=9), Place("last", layers=5, site="head")]
    pairs = color_pairs(model, 0, 8)
    return path_patching(model, pairs, sender=Place("image", layers=3), receivers=receivers, between="free", work=QUIET)


def only(frame, **of):
    for name, value in of.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def test_on_shapes_the_last_token_carries_what_the_image_writes_and_the_question_does_not(on_shapes):
    last = only(on_shapes, receiver="last", layer=9, site="residual", control="none", measure="restoration")
    assert last["low"] > 0.5 and last["images"] == 8
    question = only(on_shapes, receiver="question", layer=9, control="none", measure="restoration")
    assert question["low"] <= question["mean"] <= question["high"] and abs(question["mean"]) < 0.01
    moved = only(on_shapes, receiver="last", layer=9, site="residual", control="none", measure="logit_diff_change")
    assert moved["low"] > 0 and moved["survives"] and moved["p"] == pytest.approx(2**-7)


def test_a_third_picture_does_not_bring_the_other_answer(on_shapes):
    third = only(on_shapes, receiver="last", layer=9, site="residual", control="another image", measure="restoration")
    assert third["high"] < 0.5
    assert pd.isna(third["p"]) and not third["survives"]


# controls -----------------------------------------------------------------------------------------------


def test_as_many_other_heads_and_tokens_send_in_the_controls(sdpa):
    from nnsight_vlm.recipes.path_patches import sendings_of
    from nnsight_vlm.studies.places import PlaceInModel

    pairs = known_pairs(sdpa, 3)
    heads = PlaceInModel("last", "head", (1,), ((1, 0), (1, 2)))
    by_control = {each.control: each for each in sendings_of(sdpa, pairs, 0, heads, 0)}
    assert len(by_control["random sender"].heads) == 2
    assert not set(by_control["random sender"].heads) & set(heads.heads)
    assert by_control["random sender"].positions == pairs[0].prompt["last"]
    tokens = PlaceInModel("question", "residual", (1,), None)
    drawn = {each.control: each for each in sendings_of(sdpa, pairs, 0, tokens, 0)}["random sender"].positions
    assert len(drawn) == len(pairs[0].prompt["question"]) and not set(drawn) & set(pairs[0].prompt["question"])
    assert min(drawn) >= min(pairs[0].prompt["image"])
    image = PlaceInModel("image", "residual", (1,), None)  # more tokens than lie outside it
    assert "random sender" not in {each.control for each in sendings_of(sdpa, pairs, 0, image, 0)}


# work -----------------------------------------------------------------------------------------------------


@pytest.mark.float64
def test_here_and_in_a_simulated_job_it_gives_the_same_rows(sdpa):
    pairs, asked = known_pairs(sdpa, 2), [Place("last", layers=2), Place("last", site="head", layers=3)]
    here, there = (
        path_patching(sdpa, pairs, sender=SENDER, receivers=asked, per_image=True, remote=remote, work=QUIET)
        for remote in (False, "local")
    )
    assert here.attrs["remote"] != there.attrs["remote"]
    here.attrs, there.attrs = {}, {}
    pd.testing.assert_frame_equal(here, there, rtol=LIMIT, atol=LIMIT)


def test_an_interrupted_run_resumes_to_the_same_frame(sdpa, tmp_path, monkeypatch):
    from nnsight_vlm.recipes import carried_states

    pairs = known_pairs(sdpa, 3)
    options = {"sender": SENDER, "receivers": Place("last", layers=2), "between": "free"}
    whole = path_patching(sdpa, pairs, **options, work=QUIET)
    work, rows, measured = Work(progress=False, journal=tmp_path, chunk=1), carried_states.path_rows, []

    def once(model, pairs, image, *rest):
        if image == 2 and not measured.count(2):
            measured.append(2)
            raise KeyboardInterrupt
        measured.append(image)
        return rows(model, pairs, image, *rest)

    monkeypatch.setattr(carried_states, "path_rows", once)
    with pytest.raises(KeyboardInterrupt):
        path_patching(sdpa, pairs, **options, work=work)
    pd.testing.assert_frame_equal(path_patching(sdpa, pairs, **options, work=work), whole)
    assert measured == [0, 1, 2, 2]
    path_patching(sdpa, pairs, **options | {"between": "mlp"}, work=work)  # other settings never meet these rows
    assert measured[4:] == [0, 1, 2]


# other families -----------------------------------------------------------------------------------------


@pytest.mark.float64
@pytest.mark.parametrize("name", ["gemma4", "paligemma2", "exaone4_5", "aya_vision", "mistral3"])
def test_frozen_layers_add_what_they_add_without_the_sender(name):
    """Norms behind parts, parts side by side: the residual stream changes by what the sender wrote, in every layer."""
    attention = zoo.ZOO[name].implementations[0]
    model = zoo.load(name, attention, torch.float64)
    prompt, other = (zoo.prompt(name, attention, seed=seed, dtype=torch.float64) for seed in (1, 2))
    last = view_of(model).stage().layer_count
    paths = _paths(model, Place("last", layers=0), [Place("last", site="output")], "frozen")
    [patch] = paths.patches(prompt, other, paths.receivers[0])
    states = [nv.run(model, prompt, under, reads=nv.Residual("all")).reads[0] for under in (None, patch.patch.under)]
    added = states[1] - states[0]
    assert added[0].abs().max() > 1e-2
    for layer in range(1, last):
        assert added[layer].numpy() == pytest.approx(added[0].numpy(), rel=LIMIT, abs=LIMIT)


@pytest.mark.parametrize("name", ["gemma3n", "gemma4-causal-shared"])
def test_layers_with_inputs_of_their_own_cannot_be_frozen(name):
    model, prompts = zoo.load(name), [zoo.prompt(name, seed=seed) for seed in (1, 2)]
    words, options = [nv.run(model, prompt).logits.argmax() for prompt in prompts], {"sender": Place("image", layers=0)}
    pair = (*prompts, int(words[0]), (int(words[1]) if words[0] != words[1] else int(words[0]) + 1))
    with pytest.raises(nv.SpecError, match='between="mlp" or "free"'):
        path_patching(model, [pair], **options, work=QUIET)
    assert len(path_patching(model, [pair], **options, receivers=["last"], between="mlp", work=QUIET))


# what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sender": 3}, "sender"),
        ({"sender": "sky"}, "sky"),
        ({"sender": Place("last", site="output")}, "nothing follows"),
        ({"sender": Place("last", layers=[1, 2], site="head")}, "between"),
        ({"sender": Place("last", layers=9)}, "layer 9"),
        ({"sender": Place("last", layers=1, site="head", heads=[(2, 0)])}, "another layer"),
        ({"sender": Place("last", layers=1, site="head", heads=[8])}, "head 8"),
        ({"sender": Place("last", layers=3)}, "no layer is named or left"),
        ({"sender": SENDER, "receivers": []}, "names no place"),
        ({"sender": SENDER, "receivers": [3]}, "receivers"),
        ({"sender": SENDER, "between": "closed"}, "between"),
        ({"sender": SENDER, "receivers": Place("last", layers=())}, "no layer"),
    ],
)
def test_what_is_no_path_is_refused_before_the_model_runs(sdpa, given, said, monkeypatch):
    pairs = known_pairs(sdpa, 1)
    monkeypatch.setattr("nnsight_vlm.studies.study.measured", lambda *_a, **_b: pytest.fail("it ran"))
    with pytest.raises(nv.SpecError, match=said):
        path_patching(sdpa, pairs, **given, work=QUIET)


@pytest.mark.parametrize(
    "given", [{"group": 3}, {"site": "sky"}, {"heads": [1]}, {"site": "output", "layers": 3}, {"site": "features"}]
)
def test_what_is_no_place_is_refused(given):
    with pytest.raises(nv.SpecError):
        Place(**{"group": "last", **given})
