"""What runs on a server gives what it gives here: every intervention, readout and recipe, trusted and sandboxed.

The server's side has no weights here (`dispatch=False`), as a user has it, so that nothing can be computed at home.
Numbers are the same to `alike.EXACT`; tokens, texts and labels are equal.
"""

from __future__ import annotations

import functools
import os
from functools import partial
from pathlib import Path

import ledger as book
import nnsight
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
from nnsight_vlm.remote.background import counting

SUBJECTS = ("shapes", "llava", "qwen2_5_vl", "internvl")
ACTED = 1e-3
"""What an intervention changes at least: a hundred times what rounding may."""

PER_VARIANT = 100
"""Bytes that one more variant may add to what is sent; measured are 2 to 9, packed beside the others."""


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    """Name to what a server can load, made when it is first asked for."""

    @functools.cache
    def made(name):
        if name == "shapes":
            return sides.from_shapes()
        folder = tmp_path_factory.mktemp(name)
        return sides.from_tiny(folder) if name == "llava" else sides.from_zoo(name, folder)

    return made


@pytest.fixture(scope="module")
def here(subject):
    """Name and attention to the side with weights, and what is known of it."""

    @functools.cache
    def made(name, attention="sdpa"):
        side = subject(name).side(attention=attention)
        return side, sides.known(side)

    return made


@pytest.fixture(scope="module")
def there(server, subject):
    """Name and attention to the side without weights."""
    return functools.cache(lambda name, attention="sdpa": subject(name).side(attention=attention, remote=True))


def every_question(side, facts):
    """Each intervention with each readout and in generation, rows, sweeps and proofs."""
    said = facts.said[:2]
    return {
        **sides.every_run(side, said),
        **sides.every_generation(side),
        **sides.every_row(side),
        **sides.every_sweep(side, facts.answers[0]),
        **sides.every_proof(side),
    }


@pytest.fixture(scope="module")
def expected(here):
    """What a subject gives here, computed once."""

    @functools.cache
    def computed(ask, name, attention="sdpa"):
        side, facts = here(name, attention)
        return side.every_answer(ask(side, facts))

    return computed


@pytest.fixture(scope="module")
def ledger(request, there, tmp_path_factory):
    """The lines of all analyses; the table is written and shown in the end."""
    side = there("shapes")
    nv.run(side.model, side.prompts[0], remote=True)  # the server has loaded the model
    pages = book.Ledger()
    yield pages
    told = os.environ.get("NNSIGHT_VLM_TABLE")
    pages.write(Path(told) if told else tmp_path_factory.mktemp("table") / "same.csv")
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{pages}")


def place(trust):
    return "trusted" if trust else "sandboxed"


def has_weights(model):
    return any(weight.device.type != "meta" for weight in model._module.parameters())


def changed(found, name, kinds=("run", "answered")):
    """How far an intervention moves the logits from the clean run's, with or without an answer behind the prompt."""
    return max(distance(found[f"{kind} {name}"].logits, found[f"{kind} nothing"].logits) for kind in kinds)


TRUSTED = [(name, attention, True) for name in SUBJECTS for attention in ("sdpa", "eager")]
SANDBOXED = [*((name, "sdpa", False) for name in SUBJECTS), ("llava", "eager", False), ("qwen2_5_vl", "eager", False)]


@pytest.mark.parametrize(
    ("name", "attention", "trust"),
    [pytest.param(*case, id="-".join([*case[:2], place(case[2])])) for case in (*TRUSTED, *SANDBOXED)],
    indirect=["trust"],
)
def test_interventions_and_readouts_are_the_same(name, attention, here, there, expected, ledger, trust):
    side, (_, facts) = there(name, attention), here(name, attention)
    assert not has_weights(side.model)
    asks = every_question(side, facts)
    with ledger.line(f"{len(asks)} of {name}, {attention}", place(trust)) as line:
        found = side.every_answer(asks)
    line.difference, differ = compared(found, expected(every_question, name, attention))
    assert not differ, differ
    assert line.jobs < len(asks) / 4
    cases = sides.interventions(side.model, *side.prompts[:2])
    idle = [case for case in cases if case != "nothing" and not changed(found, case) > ACTED]
    assert not idle, f"these change nothing: {idle}"
    assert distance(found["run generated"], found["run nothing"]) == 0, "there is no answer yet"
    told = {found[f"generate {case}"].tokens for case in cases if f"generate {case}" in found}
    assert len(told) > 1, "some answers should not be the clean one"
    assert len({row.start for row in side.rows.rows}) > 1, "rows should be padded"


@pytest.mark.parametrize("name", SUBJECTS)
def test_every_recipe_is_the_same(name, here, there, expected, ledger, trust):
    side, (_, facts) = there(name), here(name)
    with ledger.line(f"recipes of {name}", place(trust)) as line:
        found = side.every_answer(sides.every_recipe(side, facts))
    line.difference, differ = compared(found, expected(sides.every_recipe, name))
    assert not differ, differ
    assert all(len(frame) for frame in found.values())


def summed_up(side, facts):
    return sides.every_recipe(side, facts, count=3, per_image=False)


def test_means_and_intervals_of_recipes_are_the_same(here, there, expected, trust):
    side, (_, facts) = there("llava"), here("llava")
    found = side.every_answer(summed_up(side, facts))
    differ = far_apart(found, expected(summed_up, "llava"))
    assert not differ, differ
    assert all({"mean", "low", "high"} <= set(frame) for name, frame in found.items() if name != "patch_knockout")
    assert (found["knockout_windows of answers"]["high"] > found["knockout_windows of answers"]["low"]).any()


# a copy of the model --------------------------------------------------------------------------


def traced(side):
    """An installed copy in the user's own trace: states and logits."""
    edited, inputs, where = installed(side, "everything")
    path = layer_paths(side.model, 4)[-1]
    with torch.no_grad(), edited.trace(**inputs, **where):
        found = save([edited.get(path).output, edited.output.logits])
    return found


def written(side, case):
    """An installed copy in the user's own generation: tokens."""
    edited, inputs, where = installed(side, case)
    with torch.no_grad(), edited.generate(**inputs, max_new_tokens=4, do_sample=False, **where) as tracer:
        tokens = save(tracer.result.cpu())
    return tokens


def installed(side, name):
    """The copy, what to run it on, and where."""
    prompt, twin = side.prompts[:2]
    case = sides.interventions(side.model, prompt, twin)[name]
    edited = nv.install(side.model, prompt, case, remote=side.remote)
    return edited, prompt.inputs, {} if side.remote is False else {"remote": side.remote}


@pytest.mark.parametrize("name", SUBJECTS)
def test_an_installed_copy_is_the_same(name, here, there, trust):
    side, _ = here(name)
    found = traced(there(name))
    assert distance(found, traced(side)) <= EXACT
    clean = nv.run(side.model, side.prompts[0]).logits
    assert distance(found[1][0, -1], clean) > ACTED


def test_an_installed_copy_writes_the_same(here, there, trust):
    for case in ("everything",) if trust else ("features", "zero"):
        assert distance(written(there("llava"), case), written(here("llava")[0], case)) == 0
    if not trust:  # the copy cannot know how it will be generated with
        with pytest.raises(RemoteError, match="in the sandbox of this server an attention that is cut loses its cache"):
            written(there("llava"), "everything")


# where it runs --------------------------------------------------------------------------------


def some_questions(side, facts):
    """A run, an answer and a sweep."""
    chosen = ("run everything", "generate patch", "sweep auto")
    return {name: ask for name, ask in every_question(side, facts).items() if name in chosen}


def test_a_model_with_weights_here_can_run_on_the_server_too(subject, here, expected, trust, server):
    side, facts = subject("llava").side(remote=True, weights=True), here("llava")[1]
    assert has_weights(side.model)
    with counting() as traffic:
        found = side.every_answer(some_questions(side, facts))
    assert traffic.jobs == 1 and not far_apart(found, expected(some_questions, "llava"))


def test_an_address_is_as_good_as_true(subject, here, expected, trust, server, monkeypatch):
    side, facts = subject("llava").side(remote=server.url, weights=False), here("llava")[1]
    monkeypatch.setattr(nnsight.CONFIG.API, "HOST", "http://127.0.0.1:9")
    with counting() as traffic:
        found = side.every_answer(some_questions(side, facts))
    assert traffic.jobs == 1 and not far_apart(found, expected(some_questions, "llava"))


@pytest.mark.parametrize("name", ["llava", "internvl"])
def test_the_simulation_is_the_same_and_sends_nothing(name, subject, here, expected):
    side, facts = subject(name).side(remote="local", weights=True), here(name)[1]
    with counting() as traffic:
        found = side.every_answer({**every_question(side, facts), **sides.every_recipe(side, facts)})
    assert traffic.jobs == traffic.payload == 0
    assert not far_apart(found, {**expected(every_question, name), **expected(sides.every_recipe, name)})


def test_each_request_runs_with_its_own_attention(there, trust):
    for attention in ("eager", "sdpa"):
        model, inputs = there("llava", attention).model, there("llava", attention).prompts[0].inputs
        with torch.no_grad(), model.trace(**inputs, remote=True):
            found = save(model.model.language_model.layers[0].self_attn.output)
        assert (found[1] is not None) == (attention == "eager")  # only eager attention returns its probabilities


# what it costs --------------------------------------------------------------------------------


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
        "sweep": partial(nv.sweep, model, prompts[0], every, answer=facts.answers[0], remote=remote),
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
    "install": 1,  # what a patch takes from another run; the user's own traces are not ours to count
    "knockout_windows": 1,
    "knockout_windows of answers": 1,
    "attention_share": 2,
    "query_patching": 1,
    "patch_grounding": 2,
    "prompt_ablation": 1,
    "patch_knockout": 1,
}


@pytest.fixture(scope="module")
def measured_here(here, ledger):
    """What an analysis gives here, measured once."""

    @functools.cache
    def computed(analysis):
        ask = analyses(*here("shapes"))[analysis]
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
    analysis, here, there, measured_here, ledger, trust
):
    wanted, ask = measured_here(analysis), analyses(there("shapes"), here("shapes")[1])[analysis]
    with ledger.line(analysis, place(trust)) as line:
        found = ask()
    line.difference = distance(found, wanted, analysis)
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
            found = windows_of(remote, given, forms=["block"])
        assert traffic.jobs == 1
        assert found["image"].nunique() == 4 and found["window"].nunique() > 12
        assert distance(found, windows_of(local, given, forms=["block"])) <= EXACT


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
