"""Greedy is greedy whatever the checkpoint says, and what a plan cannot follow is refused wherever it is said."""

from __future__ import annotations

import copy
from contextlib import contextmanager

import pytest
import tiny
import torch
import zoo
from transformers import GenerationConfig
from transformers.generation import CompileConfig, LogitsProcessorList, StoppingCriteriaList

import nnsight_vlm as nv
from nnsight_vlm.execution import generation_options
from nnsight_vlm.execution.generation_table import (
    ARGUMENTS,
    OBEYED,
    OBEYED_IN_THE_CALL,
    OTHER_WAYS,
    PRIVATE,
    REFUSED,
    SAMPLING,
)
from nnsight_vlm.families import view_of

STEPS = 5
QUESTION = "what is the red square ?"
CUT = nv.Knockout("image", "last", layers=[1, 2])
FEATURES = nv.Ablate("image", how="mean", site="features")

OTHERWISE = {
    "num_beams": 3,
    "num_beam_groups": 2,
    "num_return_sequences": 2,
    "constraints": [1],
    "force_words_ids": [[9]],
    "early_stopping": True,
    "length_penalty": 2.0,
    "diversity_penalty": 1.0,
    "low_memory": True,
    "penalty_alpha": 0.6,
    "dola_layers": "low",
    "use_mtp": True,
    "prompt_lookup_num_tokens": 3,
    "assistant_early_exit": 1,
    "speculation_type": "dflash",
    "is_assistant": True,
    "num_assistant_tokens": 3,
    "num_assistant_tokens_schedule": "heuristic",
    "assistant_confidence_threshold": 0.1,
    "max_matching_ngram_size": 3,
    "assistant_lookbehind": 2,
    "target_lookbehind": 2,
    "assistant_ensemble_weight": 0.5,
    "output_attentions": True,
    "output_hidden_states": True,
    "output_scores": True,
    "output_logits": True,
    "return_dict_in_generate": True,
    "max_length": 3,
    "max_time": 1e-9,
    "prefill_chunk_size": 7,
    "compile_config": CompileConfig(),
    "disable_compile": False,
    "continuous_batching_config": {"max_queue_size": 1},
    "cache_config": {"backend": "quanto"},
    "max_cache_len": 9,
}
"""For every other way of generating a value that asks for it."""
LOUD = {"guidance_scale": 3.0, "token_healing": True, "stop_strings": ["red"]}
PROCESSING = {
    "repetition_penalty": 1e-3,
    "no_repeat_ngram_size": 1,
    "encoder_repetition_penalty": 1e3,
    "bad_words_ids": [[26], [52], [18]],
    "suppress_tokens": [*range(10, 30)],
    "begin_suppress_tokens": [*range(10, 30)],
    "forced_bos_token_id": 12,
    "forced_eos_token_id": 13,
    "exponential_decay_length_penalty": (1, 2.0),
    "eos_token_id": [*range(10, 40)],
    "min_length": 43,
}


@contextmanager
def checkpoint(model, **fields):
    """The model as its checkpoint's generation_config.json would make it."""
    module = view_of(model)._generator
    own, module.generation_config = module.generation_config, copy.deepcopy(module.generation_config)
    try:
        for name, value in fields.items():
            setattr(module.generation_config, name, value)
        yield
    finally:
        module.generation_config = own


def answers(model, prompt, **options):
    """Tokens of every way to generate, clean and under interventions."""
    cases, options = [None, CUT, FEATURES], {"max_new_tokens": STEPS, **options}
    alone = [nv.generate(model, prompt, case, **options).tokens for case in cases]
    assert [out.tokens for out in nv.generations(model, [(prompt, case) for case in cases], **options)] == alone
    return alone


@pytest.fixture
def sdpa_prompt(sdpa):
    return nv.encode(sdpa, QUESTION, tiny.picture(0))


def test_every_field_of_transformers_generation_config_has_one_kind():
    kinds = [*OBEYED, *SAMPLING, *OTHER_WAYS, *REFUSED, *OBEYED_IN_THE_CALL, *ARGUMENTS, *PRIVATE]
    assert len(set(kinds)) == len(kinds)
    fields = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    assert fields <= set(kinds) and generation_options.later_fields() == ()
    assert set(OTHERWISE) == set(OTHER_WAYS) and set(LOUD) == set(REFUSED)


@pytest.fixture(scope="module")
def greedy():
    """What the tiny model answers where its checkpoint asks for nothing."""
    model = tiny.load("sdpa")
    return answers(model, nv.encode(model, QUESTION, tiny.picture(0)))


@pytest.mark.parametrize("name", [*OTHERWISE, "do_sample", "use_cache", "cache_implementation", *SAMPLING])
def test_a_checkpoint_cannot_make_generation_anything_but_greedy(sdpa, sdpa_prompt, greedy, name):
    drawn = {"do_sample": True, "use_cache": False, "cache_implementation": "quantized", **dict.fromkeys(SAMPLING, 0.5)}
    with checkpoint(sdpa, **{name: {**OTHERWISE, **drawn, "top_k": 3}[name]}):
        assert answers(sdpa, sdpa_prompt) == greedy
        assert nv.verify(sdpa, sdpa_prompt, nv.Knockout("image", ["last", "generated"])).tokens > 0


def test_a_checkpoint_that_says_everything_at_once_is_greedy_too(sdpa, sdpa_prompt, greedy):
    some = {name: value for name, value in OTHERWISE.items() if name not in ("constraints", "force_words_ids")}
    with checkpoint(sdpa, **some, do_sample=True, temperature=9.0):
        assert answers(sdpa, sdpa_prompt) == greedy


@pytest.mark.parametrize("name", OTHERWISE)
def test_another_way_of_generating_is_refused_in_the_call(model, prompt, forwards, name):
    value = OTHERWISE[name]
    for call in (nv.generate, lambda model, prompt, **options: nv.generations(model, [(prompt, None)], **options)):
        with pytest.raises(nv.SpecError, match=f"^{name}="):
            call(model, prompt, **{name: value})
    config = GenerationConfig()
    setattr(config, name, value)
    with pytest.raises(nv.SpecError, match=f"^generation_config says {name}="):
        nv.generate(model, prompt, CUT, generation_config=config)
    assert not forwards
    nv.generate(model, prompt, max_new_tokens=1, **{name: OTHER_WAYS[name].plain})  # said in vain


@pytest.mark.parametrize("name", LOUD)
def test_what_changes_greedy_answers_and_cannot_be_followed_is_refused_wherever_it_is_said(
    model, prompt, forwards, name
):
    with pytest.raises(nv.SpecError, match=f"^{name}="):
        nv.generate(model, prompt, **{name: LOUD[name]})
    with pytest.raises(nv.SpecError, match=f"^generation_config says {name}="):
        nv.generate(model, prompt, generation_config=GenerationConfig(**{name: LOUD[name]}))
    with checkpoint(model, **LOUD if name == "stop_strings" else {name: LOUD[name]}):
        for call in (lambda: nv.generate(model, prompt, CUT), lambda: nv.generations(model, [(prompt, None)])):
            with pytest.raises(nv.SpecError, match="the checkpoint's generation_config says"):
                call()
        assert not forwards
        plain = nv.generate(model, prompt, CUT, max_new_tokens=STEPS, **dict.fromkeys(LOUD)).tokens
    assert plain == nv.generate(model, prompt, CUT, max_new_tokens=STEPS).tokens


@pytest.mark.parametrize(
    "given",
    [
        {"negative_prompt_ids": torch.tensor([[5, 6]])},
        {"guidance_scale": 2.0, "negative_prompt_ids": torch.tensor([[5, 6]])},
        {"negative_prompt_attention_mask": torch.tensor([[1, 1]])},
        {"assistant_model": object()},
        {"logits_processor": LogitsProcessorList()},
        {"stopping_criteria": StoppingCriteriaList()},
        {"prefix_allowed_tokens_fn": lambda *_: [5]},
        {"streamer": object()},
        {"custom_generate": "somewhere/else"},
        {"past_key_values": object()},
        {"decoder_start_token_id": 3},
        {"cache_implementation": "paged"},
        {"inputs_embeds": torch.zeros(1, 2, 3)},
        {"decoder_input_ids": torch.zeros(1, 2)},
        {"pixel_values": None},
        {"repetition_penalti": 2.0},
        {"max_new_token": 3},
        {"temperature": 0.5},
        {"top_k": 3},
        {"generation_config": {"num_beams": 2}},
        {"max_new_tokens": 0},
        {"max_new_tokens": 2.5},
        {"max_new_tokens": True},
        {"max_new_tokens": 9, "generation_config": GenerationConfig(max_new_tokens=3)},
    ],
    ids=", ".join,
)
def test_everything_else_that_generate_takes_is_refused_before_the_model_runs(model, prompt, forwards, given):
    name = next(iter(given))
    for call in (nv.generate, lambda model, prompt, **options: nv.generations(model, [(prompt, None)], **options)):
        with pytest.raises(nv.SpecError, match=name):
            call(model, prompt, **given)
    assert not forwards


def test_a_misspelt_option_is_told_its_name(model, prompt):
    with pytest.raises(nv.SpecError, match="did you mean 'repetition_penalty'"):
        nv.generate(model, prompt, repetition_penalti=2.0)


def test_options_in_the_models_config_are_refused_in_words(forwards, model):
    fresh = nv.load(tiny.build_module(), processor=tiny.build_processor())
    prompt = nv.encode(fresh, "what is the red square ?", tiny.picture(0))
    fresh._module.config.num_beams = 4
    with pytest.raises(nv.SpecError, match=r"config says num_beams=4.*del model._module.config.num_beams"):
        nv.generate(fresh, prompt)
    del fresh._module.config.num_beams
    assert nv.generate(fresh, prompt, max_new_tokens=2).tokens


def test_a_field_that_a_later_transformers_adds_is_neither_obeyed_nor_taken(sdpa, sdpa_prompt, greedy, monkeypatch):
    fewer = {name: row for name, row in OTHER_WAYS.items() if name != "penalty_alpha"}
    monkeypatch.setattr(generation_options, "OTHER_WAYS", fewer)
    assert generation_options.later_fields() == ("penalty_alpha",)
    with checkpoint(sdpa, penalty_alpha=0.6):
        assert answers(sdpa, sdpa_prompt) == greedy
    with pytest.raises(nv.SpecError, match=r"penalty_alpha=0.6 is an option that this package does not know"):
        nv.generate(sdpa, sdpa_prompt, penalty_alpha=0.6)


@pytest.mark.parametrize("name", PROCESSING)
def test_what_plain_greedy_search_heeds_is_heeded_wherever_it_is_said(sdpa, sdpa_prompt, name):
    said = {name: PROCESSING[name]}
    silent = ("forced_bos_token_id", "no_repeat_ngram_size")  # nothing to force behind a prompt, nothing repeated
    if name in ("min_length", "exponential_decay_length_penalty"):
        said |= {"eos_token_id": [*range(10, 40)]}

    def plain(**options):
        line = sdpa._module.generate(**sdpa_prompt.inputs, max_new_tokens=STEPS, do_sample=False, **options)
        return tuple(line[0, sdpa_prompt.width :].tolist())

    expected = plain(**said)
    assert nv.generate(sdpa, sdpa_prompt, max_new_tokens=STEPS, **said).tokens == expected
    config = GenerationConfig(**said)
    assert nv.generate(sdpa, sdpa_prompt, max_new_tokens=STEPS, generation_config=config).tokens == expected
    with checkpoint(sdpa, **said):
        assert plain() == expected == nv.generate(sdpa, sdpa_prompt, max_new_tokens=STEPS).tokens
    assert (expected == plain()) == (name in silent)


def test_drawing_is_for_the_call_to_ask(sdpa, sdpa_prompt):
    def drawn(**options):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return [nv.generate(sdpa, sdpa_prompt, max_new_tokens=4, **options).tokens for _ in range(3)]

    expected = drawn(do_sample=True, temperature=4.0, top_k=0)
    assert len(set(expected)) > 1
    assert drawn(generation_config=GenerationConfig(do_sample=True, temperature=4.0, top_k=0)) == expected
    with checkpoint(sdpa, temperature=4.0, top_k=0):
        assert drawn(do_sample=True) == expected
        assert len(set(drawn())) == 1


@pytest.mark.float64
def test_a_penalty_does_not_see_a_rows_padding():
    fresh = nv.load(tiny.build_module().double(), processor=tiny.build_processor())
    rows = tiny.several(fresh)
    ends = {nv.generate(fresh, rows.row(number), max_new_tokens=1).tokens[0] for number in range(3)}
    for option in ({"repetition_penalty": 5.0}, {"no_repeat_ngram_size": 1}):
        for pad in ends:  # the padding token is what a row says
            padded = nv.encode(fresh, inputs={**rows.inputs})
            tokens = padded.inputs["input_ids"].clone()
            for number, row in enumerate(padded.rows):
                tokens[number, : row.start] = pad
            padded = nv.encode(fresh, inputs={**padded.inputs, "input_ids": tokens})
            together = nv.generate(fresh, padded, max_new_tokens=STEPS, **option).tokens
            alone = [nv.generate(fresh, rows.row(n), max_new_tokens=STEPS, **option).tokens for n in range(3)]
            assert list(together) == alone


def test_a_least_length_that_counts_padding_is_refused_for_rows_of_a_batch(model, forwards):
    rows = tiny.several(model)
    shortest = min(row.stop - row.start for row in rows.rows)
    with pytest.raises(nv.SpecError, match="min_new_tokens"):
        nv.generate(model, rows, min_length=shortest + 1)
    with checkpoint(model, min_length=shortest + 1), pytest.raises(nv.SpecError, match="min_new_tokens"):
        nv.generations(model, [(rows.row(number), None) for number in range(3)])
    assert not forwards


@pytest.mark.float64
@pytest.mark.parametrize("case", [CUT, FEATURES, nv.Knockout("image", "generated"), nv.Ablate("generated", layers=1)])
def test_without_a_cache_every_token_is_what_it_is_with_one(model, prompt, case):
    cached = nv.generate(model, prompt, case, max_new_tokens=STEPS).tokens
    assert nv.generate(model, prompt, case, max_new_tokens=STEPS, use_cache=False).tokens == cached


def test_without_a_cache_is_refused_where_transformers_does_not_continue_an_input():
    model, prompt = zoo.load("ernie4_5_vl_moe"), zoo.prompt("ernie4_5_vl_moe")
    with pytest.raises(IndexError, match="shape of the mask"):
        view_of(model).module.generate(**prompt.inputs, max_new_tokens=2, use_cache=False)
    for ask in (nv.generate, lambda *asked, **options: nv.generations(asked[0], [(asked[1], None)], **options)):
        with pytest.raises(nv.SpecError, match=r"generate with a cache only.*moe_mm_tok.*Leave use_cache"):
            ask(model, prompt, max_new_tokens=2, use_cache=False)


@pytest.mark.parametrize("name", ["blip-2-opt", "blip-2-t5", "instructblip-llama", "kosmos-2", "florence2", "janus"])
def test_models_that_leave_generation_to_a_part_or_override_it_are_greedy(name):
    model, prompt = zoo.load(name), zoo.prompt(name)
    cut = nv.Knockout("image", ["last", "generated"], layers="attention")

    def both():
        return [nv.generate(model, prompt, case, max_new_tokens=3).tokens for case in (None, cut)]

    greedy = both()
    for fields in ({"num_beams": 3}, {"num_return_sequences": 2}, {"penalty_alpha": 0.6}, {"do_sample": True}):
        with checkpoint(model, **fields, return_dict_in_generate=True, decoder_start_token_id=7, output_scores=True):
            assert both() == greedy
    said = {"prompt_lookup_num_tokens": 2}
    if view_of(model).has_own_generate:
        with (
            checkpoint(model, **said),
            pytest.raises(nv.SpecError, match=r"generation_config\.prompt_lookup_num_tokens"),
        ):
            nv.generate(model, prompt, cut)
    else:
        with checkpoint(model, **said):
            assert both() == greedy
    assert view_of(model).has_own_generate == (name == "janus")
    with checkpoint(model, guidance_scale=2.0), pytest.raises(nv.SpecError, match=r"guidance_scale=2\.0"):
        nv.generate(model, prompt, cut)
    with checkpoint(model, eos_token_id=greedy[0][0]):  # the part's own defaults end its answers
        assert nv.generate(model, prompt, max_new_tokens=3).tokens == greedy[0][:1]
