"""Every intervention, readout and recipe gives on a server what it gives on this machine, trusted and sandboxed.

For the server the model is loaded without weights (`dispatch=False`), as a user does, so that nothing can be computed
on this machine. Numbers are the same to `alike.EXACT`; tokens, texts and labels are equal.
"""

from __future__ import annotations

import functools
import os
from functools import partial
from pathlib import Path

import ledger as book
import nnsight
import numpy as np
import pytest
import sides
import tiny
import torch
import zstandard
from alike import EXACT, compared, distance, far_apart
from nnsight import save
from nnsight.intervention.backends.remote import RemoteError
from transformers import LlavaForConditionalGeneration
from zoo.parts import draw

import nnsight_vlm as nv
from nnsight_vlm.lowering.plan import layer_paths
from nnsight_vlm.remote import counting

SUBJECTS = ("shapes", "llava", "qwen2_5_vl", "internvl")
ACTED = 1e-3
"""The least change of logits that counts as an effect: a hundred times what rounding may cause."""

PER_VARIANT = 100
"""Bytes that one more variant may add to the payload; 2 to 9 were measured."""


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    """A function from a name to its subject, which is made at the first call."""

    @functools.cache
    def made(name):
        if name == "shapes":
            return sides.from_shapes()
        folder = tmp_path_factory.mktemp(name)
        return sides.from_tiny(folder) if name == "llava" else sides.from_zoo(name, folder)

    return made


@pytest.fixture(scope="module")
def local(subject):
    """A function from a name and an attention to the side on this machine, and what is known of the model."""

    @functools.cache
    def made(name, attention="sdpa"):
        side = subject(name).side(attention=attention)
        return side, sides.known(side)

    return made


@pytest.fixture(scope="module")
def remote_side(server, subject):
    """A function from a name and an attention to the side on the server."""
    return functools.cache(lambda name, attention="sdpa": subject(name).side(attention=attention, remote=True))


def every_question(side, facts):
    """Each intervention with each readout and in generation, rows, sweeps and proofs."""
    said = facts.said[:2]
    return {
        **sides.every_run(side, said),
        **sides.every_generation(side),
        **sides.every_row(side),
        **sides.every_sweep(side, facts.answers[0]),
        **sides.every_page(side),
        **sides.every_proof(side),
    }


@pytest.fixture(scope="module")
def expected(local):
    """A function that gives the results on this machine, computed once."""

    @functools.cache
    def computed(ask, name, attention="sdpa"):
        side, facts = local(name, attention)
        return side.every_answer(ask(side, facts))

    return computed


@pytest.fixture(scope="module")
def ledger(request, remote_side, tmp_path_factory):
    """The costs of all analyses; the table is written and shown at the end."""
    side = remote_side("shapes")
    nv.run(side.model, side.prompts[0], remote=True)  # so that the server loads the model before anything is timed
    pages = book.Ledger()
    yield pages
    path = os.environ.get("NNSIGHT_VLM_TABLE")
    pages.write(Path(path) if path else tmp_path_factory.mktemp("table") / "same.csv")
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{pages}")


def place(trust):
    return "trusted" if trust else "sandboxed"


def has_weights(model):
    return any(weight.device.type != "meta" for weight in model._module.parameters())


def changed(results, name, kinds=("run", "answered")):
    """How far an intervention moves the logits from the clean run's, with or without an answer behind the prompt."""
    return max(distance(results[f"{kind} {name}"].logits, results[f"{kind} nothing"].logits) for kind in kinds)


TRUSTED = [(name, attention, True) for name in SUBJECTS for attention in ("sdpa", "eager")]
SANDBOXED = [*((name, "sdpa", False) for name in SUBJECTS), ("llava", "eager", False), ("qwen2_5_vl", "eager", False)]


@pytest.mark.parametrize(
    ("name", "attention", "trust"),
    [pytest.param(*case, id="-".join([*case[:2], place(case[2])])) for case in (*TRUSTED, *SANDBOXED)],
    indirect=["trust"],
)
def test_interventions_and_readouts_are_the_same(name, attention, local, remote_side, expected, ledger, trust):
    side, (_, facts) = remote_side(name, attention), local(name, attention)
    assert not has_weights(side.model)
    asks = every_question(side, facts)
    with ledger.line(f"{len(asks)} of {name}, {attention}", place(trust)) as line:
        results = side.every_answer(asks)
    line.difference, differ = compared(results, expected(every_question, name, attention))
    assert not differ, differ
    assert line.jobs < len(asks) / 4
    cases = sides.interventions(side.model, *side.prompts[:2])
    idle = [case for case in cases if case != "nothing" and not changed(results, case) > ACTED]
    assert not idle, f"these change nothing: {idle}"
    assert distance(results["run generated"], results["run nothing"]) == 0, "there is no answer yet"
    generated = {results[f"generate {case}"].tokens for case in cases if f"generate {case}" in results}
    assert len(generated) > 1, "some answers should not be the clean one"
    assert len({row.start for row in side.rows.rows}) > 1, "rows should be padded"


@pytest.mark.parametrize("name", SUBJECTS)
def test_every_recipe_is_the_same(name, local, remote_side, expected, ledger, trust):
    side, (_, facts) = remote_side(name), local(name)
    with ledger.line(f"recipes of {name}", place(trust)) as line:
        results = side.every_answer(permitted(sides.every_recipe(side, facts), trust))
    line.difference, differ = compared(results, permitted(expected(sides.every_recipe, name), trust))
    assert not differ, differ
    assert all(len(frame) for frame in results.values())


def permitted(recipes, trust):
    """The recipes that a server runs: all where it trusts a request."""
    return {name: given for name, given in recipes.items() if trust or name not in sides.OF_GRADIENTS}


def summarised(side, facts):
    """The recipes' means and intervals over three pictures."""
    return sides.every_recipe(side, facts, count=3, per_image=False)


def test_means_and_intervals_of_recipes_are_the_same(local, remote_side, expected, trust):
    side, (_, facts) = remote_side("llava"), local("llava")
    results = side.every_answer(permitted(summarised(side, facts), trust))
    differ = far_apart(results, permitted(expected(summarised, "llava"), trust))
    assert not differ, differ
    assert all({"mean", "low", "high"} <= set(frame) for name, frame in results.items() if name != "patch_knockout")
    assert (results["knockout_windows of answers"]["high"] > results["knockout_windows of answers"]["low"]).any()


# a copy of the model --------------------------------------------------------------------------


def traced(side):
    """States and logits of an installed copy in the user's own trace."""
    edited, inputs, where = installed(side, "everything")
    path = layer_paths(side.model, 4)[-1]
    with torch.no_grad(), edited.trace(**inputs, **where):
        results = save([edited.get(path).output, edited.output.logits])
    return results


def written(side, case):
    """Tokens that an installed copy generates, called by the user."""
    edited, inputs, where = installed(side, case)
    with torch.no_grad(), edited.generate(**inputs, max_new_tokens=4, do_sample=False, **where) as tracer:
        tokens = save(tracer.result.cpu())
    return tokens


def installed(side, name):
    """The copy, its inputs, and the options that say where it runs."""
    prompt, twin = side.prompts[:2]
    case = sides.interventions(side.model, prompt, twin)[name]
    edited = nv.install(side.model, prompt, case, remote=side.remote)
    return edited, prompt.inputs, {} if side.remote is False else {"remote": side.remote}


@pytest.mark.parametrize("name", SUBJECTS)
def test_an_installed_copy_is_the_same(name, local, remote_side, trust):
    side, _ = local(name)
    results = traced(remote_side(name))
    assert distance(results, traced(side)) <= EXACT
    clean = nv.run(side.model, side.prompts[0]).logits
    assert distance(results[1][0, -1], clean) > ACTED


def test_an_installed_copy_writes_the_same(local, remote_side, trust):
    for case in ("everything",) if trust else ("features", "zero"):
        assert distance(written(remote_side("llava"), case), written(local("llava")[0], case)) == 0
    if not trust:  # the copy cannot know that it will be used to generate
        with pytest.raises(RemoteError, match="in the sandbox of this server an attention that is cut loses its cache"):
            written(remote_side("llava"), "everything")


RECORDED = ("shapes", "llava")
"""Subjects whose towers are asked for their hidden states, and record them by hooks that cannot leave the process."""


@pytest.mark.parametrize("name", SUBJECTS)
def test_parts_of_a_tower_are_the_same_where_they_can_be_handed_over(name, local, remote_side, trust):
    side, (here, _) = remote_side(name), local(name)
    if not trust and name in RECORDED:
        with pytest.raises(RemoteError, match="an attention of this model's vision tower cannot be handed over"):
            nv.run(side.model, side.prompts[0], sides.TOWER_PARTS, remote=True)
    cases = (None,) if not trust and name in RECORDED else (None, sides.TOWER_PARTS)
    for case in cases:
        found, expected = (
            nv.run(each.model, each.prompts[0], case, reads=sides.TOWER_READS, remote=each.remote)
            for each in (side, here)
        )
        assert distance(found.logits, expected.logits) <= EXACT
        for ours, theirs in zip(found.reads, expected.reads, strict=True):
            assert distance(ours, theirs) <= EXACT


def gradients(side):
    """Estimates by group, with the largest patched, and a saliency map."""
    clean, corrupt, *_ = side.prompts
    where = {"answer": 20, "remote": side.remote}
    frame = nv.attribute(side.model, clean, corrupt, at=("residual", "head"), layers=[1, 2], exact=2, **where)
    return frame, nv.saliency(side.model, clean, answer=20, remote=side.remote).values


@pytest.mark.parametrize("name", SUBJECTS)
def test_gradients_are_the_same_where_requests_are_trusted_and_refused_elsewhere(name, local, remote_side, trust):
    if not trust:
        with pytest.raises(RemoteError, match="no gradient crosses between processes"):
            gradients(remote_side(name))
        return
    (frame, values), (expected, expected_values) = gradients(remote_side(name)), gradients(local(name)[0])
    for column in ("estimate", "exact"):
        np.testing.assert_allclose(frame[column], expected[column], rtol=0, atol=EXACT)
    assert expected["estimate"].abs().max() > ACTED
    assert distance(torch.as_tensor(values), torch.as_tensor(expected_values)) <= EXACT


# ways to say where a call runs --------------------------------------------------------------------------------


def some_questions(side, facts):
    """A run, an answer and a sweep."""
    chosen = ("run everything", "generate patch", "sweep auto")
    return {name: ask for name, ask in every_question(side, facts).items() if name in chosen}


def test_a_model_with_weights_on_this_machine_can_run_on_the_server_too(subject, local, expected, trust, server):
    side, facts = subject("llava").side(remote=True, weights=True), local("llava")[1]
    assert has_weights(side.model)
    with counting() as traffic:
        results = side.every_answer(some_questions(side, facts))
    assert traffic.jobs == 1 and not far_apart(results, expected(some_questions, "llava"))


def test_an_address_instead_of_true_names_the_server(subject, local, expected, trust, server, monkeypatch):
    side, facts = subject("llava").side(remote=server.url, weights=False), local("llava")[1]
    monkeypatch.setattr(nnsight.CONFIG.API, "HOST", "http://127.0.0.1:9")
    with counting() as traffic:
        results = side.every_answer(some_questions(side, facts))
    assert traffic.jobs == 1 and not far_apart(results, expected(some_questions, "llava"))


@pytest.mark.parametrize("name", ["llava", "internvl"])
def test_the_simulation_is_the_same_and_sends_nothing(name, subject, local, expected):
    side, facts = subject(name).side(remote="local", weights=True), local(name)[1]
    with counting() as traffic:
        results = side.every_answer({**every_question(side, facts), **sides.every_recipe(side, facts)})
    assert traffic.jobs == traffic.payload == 0
    assert not far_apart(results, {**expected(every_question, name), **expected(sides.every_recipe, name)})


def test_each_request_runs_with_its_own_attention(remote_side, trust):
    for attention in ("eager", "sdpa"):
        model, inputs = remote_side("llava", attention).model, remote_side("llava", attention).prompts[0].inputs
        with torch.no_grad(), model.trace(**inputs, remote=True):
            results = save(model.model.language_model.layers[0].self_attn.output)
        assert (results[1] is not None) == (attention == "eager")  # only eager attention returns its probabilities


# costs --------------------------------------------------------------------------------


def analyses(side, facts):
    """Every function that takes `remote=`, as a user calls it, on the trained model."""
    model, remote, prompts = side.model, side.remote, side.prompts
    cases = sides.interventions(model, *prompts[:2])
    every = {name: case for name, case in cases.items() if case is not None}
    many = [(prompt, case) for prompt in prompts for case in (None, cases["knockout"])]
    few = {"max_new_tokens": sides.STEPS, "remote": remote}
    return {
        "run": partial(nv.run, model, prompts[0], cases["everything"], reads=sides.READS, remote=remote),
        "generate": partial(nv.generate, model, prompts[0], cases["everything"], **few),
        "generations": lambda: list(nv.generations(model, many, **few)),
        "sweep": partial(nv.sweep, model, prompts[0], every, answer=facts.answers[0], empty="ignore", remote=remote),
        "verify": partial(nv.verify, model, prompts[0], cases["knockout"], remote=remote),
        "install": partial(traced, side),
        **sides.every_recipe(side, facts, count=4, windows=4),
    }


JOBS = {
    "run": 1,
    "generate": 1,
    "generations": 1,
    "sweep": 1,
    "verify": 1,
    "install": 1,  # for the states that a patch takes from another run; the user's own traces are not counted
    "knockout_windows": 1,
    "knockout_windows of answers": 1,
    "attention_share": 2,
    "query_patching": 1,
    "patching_map": 1,
    "patching_map of heads": 1,
    "pair_routes": 1,
    "compressed_context": 2,  # what is kept follows from attention
    "heads": 2,  # which heads are cut follows from the scores
    "causal_trace": 2,  # the embeddings are read before noise is added to them
    "patch_grounding": 2,
    "patch_grounding of phrases": 3,  # which patches are ablated follows from the maps
    "prompt_ablation": 1,
    "information_flow": 1,
    "patch_knockout": 1,
    "patch_knockout of several": 1,
}


@pytest.fixture(scope="module")
def measured_locally(local, ledger):
    """A function that gives the result of an analysis on this machine, measured once."""

    @functools.cache
    def computed(analysis):
        ask = analyses(*local("shapes"))[analysis]
        with ledger.line(analysis, "here"):
            return ask()

    return computed


PLACES = [(name, trusted) for trusted in (True, False) for name in JOBS]


@pytest.mark.parametrize(
    ("analysis", "trust"),
    [pytest.param(*case, id=f"{case[0]}-{place(case[1])}") for case in PLACES],
    indirect=["trust"],
)
def test_an_analysis_is_one_job_for_each_thing_that_must_be_known_before_the_next(
    analysis, local, remote_side, measured_locally, ledger, trust
):
    wanted, ask = measured_locally(analysis), analyses(remote_side("shapes"), local("shapes")[1])[analysis]
    with ledger.line(analysis, place(trust)) as line:
        results = ask()
    line.difference = distance(results, wanted, analysis)
    assert line.difference <= EXACT
    assert line.jobs == JOBS[analysis] and 0 < line.payload < 2**20 and line.answer > 0


SIDE, PATCH = 80, 16
"""Larger pictures than the tiny model's, of as many tokens: a picture weighs more than what is done to it."""


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """A model of 24 layers, and pictures of noise, which cannot be packed."""
    folder, config = tmp_path_factory.mktemp("deep"), tiny.build_config()
    config.text_config.num_hidden_layers = 24
    config.vision_config.image_size, config.vision_config.patch_size = SIDE, PATCH
    torch.manual_seed(0)
    sides.keep(draw(LlavaForConditionalGeneration._from_config(config)), folder)
    return sides.Subject(
        name=str(folder),
        processor=build_processor,
        texts=("what is the red square ?", "see the dog", "describe ."),
        pictures=tuple(tiny.picture(number, (SIDE, SIDE)) for number in range(4)),
    )


def build_processor():
    processor = tiny.build_processor({"shortest_edge": SIDE})
    processor.image_processor.crop_size = {"height": SIDE, "width": SIDE}
    processor.patch_size = PATCH
    return processor


def windows_of(side, answers, *, images=4, windows=12, **options):
    """A study of windows: of answers, or of descriptions where there are none."""
    chosen = {"answers": answers[:images]} if answers else {"max_new_tokens": 3}
    prompts = side.prompts[:images]
    options = {"windows": windows, "per_image": True, "work": sides.QUIET, **chosen, **options}
    return nv.recipes.knockout_windows(side.model, prompts, remote=side.remote, **options)


def test_twelve_windows_of_four_pictures_are_one_job(deep, server):
    local, remote = deep.side(), deep.side(remote=True)
    answers = sides.known(local).answers
    for given in (answers, ()):
        with counting() as traffic:
            results = windows_of(remote, given, forms=["block"])
        assert traffic.jobs == 1
        assert results["image"].nunique() == 4 and results["window"].nunique() > 12
        assert distance(results, windows_of(local, given, forms=["block"])) <= EXACT


def test_what_is_sent_grows_with_pictures_and_hardly_with_variants(deep, server, capsys):
    side, answers = deep.side(remote=True), (5, 6, 7, 8)
    pixels = side.prompts[3].inputs["pixel_values"]
    least, most = pixels.numel(), len(zstandard.ZstdCompressor().compress(pixels.numpy().tobytes()))  # a byte a number

    def sent(given, **options):
        with counting() as traffic:
            frame = windows_of(side, given, routes=["image->last", "image->query"], **options)
        return traffic.payload, len(frame)

    for given in (answers, ()):
        (three, few), (four, some), (wide, many) = (
            sent(given, **options) for options in ({"images": 3}, {"images": 4}, {"images": 4, "windows": 24})
        )
        picture, each = four - three, (wide - four) / (many - some)
        with capsys.disabled():
            print(
                f"\n{'answers' if given else 'descriptions'}: {three} bytes for 3 pictures and {few} variants, "
                f"{four} for 4 and {some}, {wide} for 4 and {many}: {picture} a picture, which holds {least} and takes "
                f"{most} alone, and {each:.0f} a variant"
            )
        assert least <= picture <= most + PER_VARIANT * (some - few)
        assert 0 < each < PER_VARIANT
