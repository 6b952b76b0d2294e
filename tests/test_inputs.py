"""What a prompt gives to the model: it cannot be written to, and no layout drops any of it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from typing import Any

import pytest
import tiny
import torch
import zoo
from float64 import LIMIT
from transformers import DynamicCache, LlavaForConditionalGeneration
from zoo.parts import picture

import nnsight_vlm as nv
from nnsight_vlm.families import view_of
from nnsight_vlm.prompts.carried import foreign
from nnsight_vlm.prompts.inputs import Inputs
from nnsight_vlm.prompts.position_ids import position_ids

# a mapping that cannot be written to -----------------------------------------------------------------


def test_the_inputs_of_a_prompt_are_read_as_any_mapping():
    prompt = zoo.prompt("llava")
    inputs = prompt.inputs
    assert isinstance(inputs, Inputs) and isinstance(inputs, Mapping)
    assert dict(inputs) == {**inputs} == {name: inputs[name] for name in inputs}
    assert inputs | {"more": 1} == {**inputs, "more": 1} and {"more": 1} | inputs == {"more": 1, **inputs}
    assert torch.equal(
        view_of(prompt.model).module(**inputs).logits, view_of(prompt.model).module(**dict(inputs)).logits
    )


WRITES = {
    "set": lambda inputs: inputs.__setitem__("input_ids", 1),
    "delete": lambda inputs: inputs.__delitem__("input_ids"),
    "update": lambda inputs: inputs.update(input_ids=1),
    "pop": lambda inputs: inputs.pop("input_ids"),
    "popitem": lambda inputs: inputs.popitem(),
    "setdefault": lambda inputs: inputs.setdefault("input_ids", 1),
    "clear": lambda inputs: inputs.clear(),
    "merge": lambda inputs: inputs.__ior__({"input_ids": 1}),
}


@pytest.mark.parametrize("write", WRITES)
def test_the_inputs_of_a_prompt_cannot_be_replaced(write):
    inputs = zoo.prompt("llava").inputs
    before = dict(inputs)
    with pytest.raises(nv.SpecError, match=r"encode again, nv\.encode\(model, inputs="):
        WRITES[write](inputs)
    assert dict(inputs) == before


def test_a_dictionary_that_a_prompt_was_made_of_is_the_callers_own():
    model, given = zoo.load("llava"), dict(zoo.prompt("llava").inputs)
    prompts = nv.encode(model, inputs=given), nv.Prompt(inputs=given, rows=zoo.prompt("llava").rows, model=model)
    del given["pixel_values"]
    assert all("pixel_values" in prompt.inputs for prompt in prompts)


def test_inputs_are_pickled_and_copied():
    prompt = zoo.prompt("qwen2_vl")
    for other in (pickle.loads(pickle.dumps(prompt.inputs)), copy.deepcopy(prompt.inputs), copy.copy(prompt.inputs)):
        assert type(other) is Inputs and list(other) == list(prompt.inputs)
        assert all(torch.equal(other[name], value) for name, value in prompt.inputs.items())
        again = nv.encode(prompt.model, inputs=other)
        assert torch.equal(nv.run(prompt.model, again).logits, nv.run(prompt.model, prompt).logits)
    assert copy.deepcopy(prompt.inputs)["input_ids"].data_ptr() != prompt.inputs["input_ids"].data_ptr()


def test_every_way_to_make_a_prompt_gives_inputs_that_cannot_be_written_to():
    one = zoo.prompt("llava")
    model = one.model
    batch = nv.stack([one, nv.encode(model, one.text.replace("\n", " "), chat=False)])
    for prompt in (batch, batch.row(0), batch.row(1), one.grown([3]), nv.generate(model, one, max_new_tokens=1).prompt):
        assert type(prompt.inputs) is Inputs


OVERWRITES = {
    "ids": ("input_ids", lambda ids: ids.__setitem__((0, 2), 7)),
    "ids through numpy": ("input_ids", lambda ids: ids.numpy().__setitem__((0, 2), 7)),
    "ids through data": ("input_ids", lambda ids: ids.data.__setitem__((0, 2), 7)),
    "mask": ("attention_mask", lambda mask: mask.__setitem__((0, 0), 0)),
}


@pytest.mark.parametrize("how", OVERWRITES)
def test_tokens_that_were_written_to_are_not_taken_for_those_that_the_groups_name(how):
    one, (name, write) = zoo.prompt("llava"), OVERWRITES[how]
    inputs = {key: value.clone() for key, value in one.inputs.items()}
    prompt, source = (nv.encode(one.model, inputs=inputs) for _ in range(2))
    calls = [
        lambda: nv.run(one.model, prompt),
        lambda: nv.generate(one.model, prompt, nv.Knockout("image", "last"), max_new_tokens=2),
        lambda: nv.sweep(one.model, prompt, [nv.Knockout("image", "last", layers=0)], answer=7),
        lambda: nv.verify(one.model, prompt, nv.Knockout("image", "last")),
        lambda: nv.install(one.model, prompt, nv.Knockout("image", "last")),
        lambda: nv.run(one.model, one, nv.Patch("last", source=source)),
        lambda: list(nv.generations(one.model, [(prompt, None)], max_new_tokens=2)),
    ]
    for call in calls:
        call()
    write(inputs[name])
    for call in calls:
        with pytest.raises(nv.SpecError, match=f"{name} was written to after the prompt was made"):
            call()


def test_pixels_that_are_written_to_are_read_anew():
    one = zoo.prompt("llava")
    prompt = nv.encode(one.model, inputs={key: value.clone() for key, value in one.inputs.items()})
    prompt.inputs["pixel_values"].zero_()
    again = nv.encode(one.model, inputs=dict(prompt.inputs))
    assert torch.equal(nv.run(one.model, prompt).logits, nv.run(one.model, again).logits)
    assert not torch.equal(nv.run(one.model, prompt).logits, nv.run(one.model, one).logits)


# position ids of the caller's own --------------------------------------------------------------------

PLAIN = ("llava", "llava-mistral", "blip-2-opt", "mllama", "idefics3", "qwen3_5", "gemma3", "lfm2_vl", "paligemma")
ROTATED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v", "ernie4_5_vl_moe")
CUTS = [
    nv.Knockout("image", "last", layers=0),
    nv.Knockout("image", "query", layers=1),
    nv.Knockout(2, "last", layers=0),
]


def own(prompt: nv.Prompt, seed: int = 0) -> nv.Prompt:
    """The prompt with position ids that no model would compute: ascending, with gaps that depend on the seed."""
    usual = position_ids(prompt)
    draw = torch.Generator().manual_seed(seed)
    gaps = torch.randint(0, 3, usual.shape, generator=draw).cumsum(-1)
    return nv.encode(prompt.model, inputs={**prompt.inputs, "position_ids": usual + gaps}, images=prompt.images)


def load(name: str, dtype: torch.dtype = torch.float32) -> Any:
    return zoo.load(name, zoo.ZOO[name].implementations[0], dtype)


def prompts_of(name: str, dtype: torch.dtype) -> list[nv.Prompt]:
    """Two prompts of different length with position ids of their own."""
    model, text = load(name, dtype), zoo.ZOO[name].text
    texts = [text, text.replace("what is red ?", "what is the red dog on the left ?")]
    return [own(nv.encode(model, line, zoo.picture(1)), seed) for seed, line in enumerate(texts)]


def plain_logits(model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(view_of(model).module(**inputs).logits)


def plain_answer(prompt: nv.Prompt, steps: int) -> list[int]:
    """Greedy decoding by whole forwards of the plain model, whose new tokens continue each row of position ids."""
    inputs, answer = dict(prompt.inputs), []
    width = inputs["input_ids"].shape[1]
    for _ in range(steps):
        logits = plain_logits(prompt.model, inputs)[0, -1].clone()
        logits[list(view_of(prompt.model).generation_config.suppress_tokens or ())] = -torch.inf
        token = logits.argmax().reshape(1, 1)
        answer.append(int(token))
        for name, value in inputs.items():
            if name == "input_ids":
                inputs[name] = torch.cat([value, token], dim=1)
            elif name == "position_ids":
                inputs[name] = torch.cat([value, value[..., -1:] + 1], dim=-1)
            elif value.shape[:2] == (1, width):
                last = value[:, -1:]
                is_mask = name in ("attention_mask", "cross_attention_mask")
                inputs[name] = torch.cat([value, last if is_mask else torch.zeros_like(last)], dim=1)
        width += 1
    return answer


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((found.double() - expected.double()).abs().max() <= LIMIT * expected.abs().max())


@pytest.fixture(params=PLAIN + ROTATED)
def name(request):
    return request.param


@pytest.mark.float64
def test_own_position_ids_are_used_in_runs_rows_stacks_and_grown_prompts(name, dtype):
    model, prompts = load(name, dtype), prompts_of(name, dtype)
    for prompt in prompts:
        expected = plain_logits(model, prompt.inputs)[0, -1]
        usual = plain_logits(model, {k: v for k, v in prompt.inputs.items() if k != "position_ids"})[0, -1]
        assert not close(usual, expected)
        assert close(nv.run(model, prompt).logits, expected)
    batch = nv.stack(prompts)
    together = nv.run(model, batch).logits
    for number, prompt in enumerate(prompts):
        assert torch.equal(batch.row(number).inputs["position_ids"], prompt.inputs["position_ids"])
        assert close(together[number], plain_logits(model, prompt.inputs)[0, -1])
    grown = prompts[0].grown(prompts[0].rows[0].tokens[-2:])
    continued = prompts[0].inputs["position_ids"][..., -1:] + torch.tensor([1, 2])
    assert torch.equal(grown.inputs["position_ids"][..., -2:], continued)
    assert close(nv.run(model, grown).logits, plain_logits(model, grown.inputs)[0, -1])


@pytest.mark.float64
def test_a_prompt_with_own_position_ids_shares_a_batch_with_one_without(name, dtype):
    model, (with_own, other) = load(name, dtype), prompts_of(name, dtype)
    without = nv.encode(model, inputs={k: v for k, v in other.inputs.items() if k != "position_ids"})
    for prompts in ([with_own, without], [without, with_own]):
        together = nv.run(model, nv.stack(prompts)).logits
        for row, prompt in zip(together, prompts, strict=True):
            assert close(row, nv.run(model, prompt).logits)


@pytest.mark.float64
def test_own_position_ids_are_used_in_every_execution_of_a_sweep(name, dtype):
    model, prompt = load(name, dtype), prompts_of(name, dtype)[0]
    cuts = [cut for cut in CUTS if possible(prompt, cut)]
    singles = torch.stack([nv.run(model, prompt, cut).logits.log_softmax(-1)[7] for cut in cuts])
    usual = nv.encode(model, inputs={k: v for k, v in prompt.inputs.items() if k != "position_ids"})
    assert not close(torch.stack([nv.run(model, usual, cut).logits.log_softmax(-1)[7] for cut in cuts]), singles)
    for execution in ("single", "rows", "packed", "auto"):
        try:
            frame = nv.sweep(model, prompt, cuts, answer=7, execution=execution)
        except nv.SpecError as error:
            assert execution == "packed" and 'write execution="rows"' in str(error)
            continue
        assert close(torch.tensor(frame["logprob"].tolist(), dtype=torch.float64), singles), execution
        clean = float(nv.run(model, prompt).logits.log_softmax(-1)[7])
        assert abs(float(frame["clean_logprob"][0]) - clean) <= LIMIT * abs(clean)


def possible(prompt: nv.Prompt, cut: nv.Knockout) -> bool:
    try:
        nv.run(prompt.model, prompt, cut)
    except nv.SpecError:
        return False
    return True


@pytest.mark.float64
def test_own_position_ids_are_used_in_generation(name, dtype):
    model, prompts = load(name, dtype), prompts_of(name, dtype)
    if name == "paligemma":
        pytest.skip("its generated tokens are of another type")
    steps = {"max_new_tokens": 4, "eos_token_id": 10**6}
    expected = [plain_answer(prompt, 4) for prompt in prompts]
    assert [list(nv.generate(model, prompt, **steps).tokens) for prompt in prompts] == expected
    assert [list(tokens) for tokens in nv.generate(model, nv.stack(prompts), **steps).tokens] == expected
    cases = [(prompt, None) for prompt in prompts for _ in range(3)]
    assert [list(each.tokens) for each in nv.generations(model, cases, **steps)] == [
        e for e in expected for _ in range(3)
    ]
    cuts = [cut for cut in CUTS if possible(prompts[0], cut)]
    alone = [nv.generate(model, prompts[0], cut, **steps).tokens for cut in cuts]
    assert [each.tokens for each in nv.generations(model, [(prompts[0], cut) for cut in cuts], **steps)] == alone


@pytest.mark.parametrize("rows", [2, 3, 4])
def test_own_position_ids_of_text_alone_are_not_split_by_their_first_dimension(rows):
    """nnsight splits `[3, row, token]` by its first dimension where all inputs have rows."""
    model = load("qwen2_vl")
    texts = ["what is red ?", "what is the red dog ?", "what is the red dog on the left ?", "red ?"][:rows]
    alone = []
    for seed, text in enumerate(texts):
        ids = model.processor.tokenizer(text, return_tensors="pt")["input_ids"]
        places = torch.arange(ids.shape[1])[None, None].expand(3, 1, -1) * (2 + seed) + torch.arange(3)[:, None, None]
        alone.append(nv.encode(model, inputs={"input_ids": ids, "position_ids": places}))
    expected = [plain_answer(prompt, 3) for prompt in alone]
    steps = {"max_new_tokens": 3, "eos_token_id": 10**6}
    assert [list(nv.generate(model, prompt, **steps).tokens) for prompt in alone] == expected
    batch = nv.stack(alone)
    assert [list(tokens) for tokens in nv.generate(model, batch, **steps).tokens] == expected
    for row, prompt in zip(nv.run(model, batch).logits, alone, strict=True):
        torch.testing.assert_close(row, plain_logits(model, prompt.inputs)[0, -1])


@pytest.mark.parametrize("name_without", ["blip-2-t5", "instructblip-t5", "florence2", "kosmos-2"])
def test_position_ids_that_a_model_does_not_read_are_refused(name_without):
    prompt = zoo.prompt(name_without, zoo.ZOO[name_without].implementations[0])
    places = torch.arange(prompt.inputs["input_ids"].shape[1])[None]
    with pytest.raises(nv.SpecError, match="compute position ids themselves and do not read the inputs' position_ids"):
        nv.encode(prompt.model, inputs={**prompt.inputs, "position_ids": places})


def test_position_ids_of_another_shape_are_refused():
    prompt = zoo.prompt("llava")
    length = prompt.width
    for places in (torch.arange(length), torch.arange(length - 1)[None], torch.arange(length).tolist()):
        with pytest.raises(nv.SpecError, match=r"position_ids have shape .* give one for each row and token"):
            nv.encode(prompt.model, inputs={**prompt.inputs, "position_ids": places})


# other inputs of the caller's own --------------------------------------------------------------------


def test_the_package_knows_all_inputs_that_a_familys_processor_gives():
    for member in zoo.ZOO:
        assert not foreign(zoo.prompt(member, zoo.ZOO[member].implementations[0])), member


def with_own(prompt: nv.Prompt, **more: Any) -> nv.Prompt:
    return nv.encode(prompt.model, inputs={**prompt.inputs, **more}, images=prompt.images)


@pytest.fixture
def reading_model(monkeypatch):
    """A model whose forward reads two more inputs: `bias` moves the logits of each token, `table` those of all."""
    plain_forward = LlavaForConditionalGeneration.forward

    def forward(self: Any, *args: Any, bias: Any = None, table: Any = None, factor: float = 1.0, **kwargs: Any) -> Any:
        output = plain_forward(self, *args, **kwargs)
        if bias is not None:
            kept = kwargs.get("logits_to_keep")
            here = bias if kept is None or not isinstance(kept, torch.Tensor) else bias[:, kept]
            output.logits = output.logits * (1 + here[..., None])
        if table is not None:
            output.logits = output.logits + table.sum()
        output.logits = output.logits * factor
        return output

    monkeypatch.setattr(LlavaForConditionalGeneration, "forward", forward)
    return tiny.build("sdpa")


TEXT = "what is the big red dog ?"


def test_a_setting_holds_in_every_layout(reading_model):
    prompt = nv.encode(reading_model, TEXT, tiny.picture())
    doubled = with_own(prompt, factor=2.0)
    for execution in ("single", "rows", "packed", "auto"):
        plain, scaled = (
            nv.sweep(reading_model, each, CUTS, answer=7, execution=execution)["logit"] for each in (prompt, doubled)
        )
        torch.testing.assert_close(torch.tensor(list(scaled)), 2 * torch.tensor(list(plain)))
    batch = nv.stack([doubled, doubled])
    torch.testing.assert_close(
        nv.run(reading_model, batch).logits, 2 * nv.run(reading_model, nv.stack([prompt] * 2)).logits
    )
    assert batch.row(1).inputs["factor"] == 2.0 and doubled.grown([7]).inputs["factor"] == 2.0
    with pytest.raises(nv.SpecError, match="do not have the same input 'factor'"):
        nv.stack([doubled, prompt])
    with pytest.raises(nv.SpecError, match="do not have the same input 'factor'"):
        nv.stack([doubled, with_own(prompt, factor=3.0)])


def test_an_input_with_an_entry_for_each_token_follows_its_tokens(reading_model):
    prompt = nv.encode(reading_model, TEXT, tiny.picture())
    longer = nv.encode(reading_model, TEXT + " and the blue one ?", tiny.picture(1))
    own = [with_own(each, bias=torch.linspace(0, 1, each.width)[None]) for each in (prompt, longer)]
    singles = torch.tensor([float(nv.run(reading_model, own[0], cut).logits[7]) for cut in CUTS])
    for execution in ("single", "rows", "packed", "auto"):
        frame = nv.sweep(reading_model, own[0], CUTS, answer=7, execution=execution)
        torch.testing.assert_close(torch.tensor(list(frame["logit"])), singles, msg=execution)
    batch = nv.stack(own)
    for number, each in enumerate(own):
        assert torch.equal(batch.row(number).inputs["bias"], each.inputs["bias"])
        torch.testing.assert_close(nv.run(reading_model, batch).logits[number], nv.run(reading_model, each).logits)
    assert own[0].grown([7, 8]).inputs["bias"][0, -3:].tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(nv.SpecError, match="do not have the same input 'bias', or not all of them have it"):
        nv.stack([own[0], longer])


TABLES = {"a tensor": torch.ones(1, 4), "several": torch.ones(2, 4), "a matrix": torch.ones(3, 3)}


@pytest.mark.parametrize("table", TABLES)
def test_an_input_that_counts_what_nobody_knows_is_carried_alone_or_refused_by_its_name(reading_model, table):
    prompt = nv.encode(reading_model, TEXT, tiny.picture())
    own = with_own(prompt, table=TABLES[table])
    moved = float(TABLES[table].sum())
    torch.testing.assert_close(nv.run(reading_model, own).logits, nv.run(reading_model, prompt).logits + moved)
    singles = torch.tensor([float(nv.run(reading_model, prompt, cut).logits[7]) for cut in CUTS]) + moved
    for execution in ("single", "auto"):
        frame = nv.sweep(reading_model, own, CUTS, answer=7, execution=execution)
        torch.testing.assert_close(torch.tensor(list(frame["logit"])), singles)
        assert frame.attrs["execution"] == "single"
    for execution in ("rows", "packed"):
        with pytest.raises(nv.SpecError, match=r"'table'.* so its prompt runs by itself; write execution=.single"):
            nv.sweep(reading_model, own, CUTS, answer=7, execution=execution)
    with pytest.raises(nv.SpecError, match="'table' counts"):
        nv.stack([own, own])
    assert nv.stack([own]) is own and own.grown([7]).inputs["table"] is own.inputs["table"]


def test_a_row_of_an_input_that_counts_what_nobody_knows_is_refused(reading_model):
    prompt = nv.encode(reading_model, TEXT, tiny.picture())
    two = with_own(nv.stack([prompt, prompt]), table=torch.ones(2, 4))
    assert len(two) == 2 and nv.run(reading_model, two).logits.shape[0] == 2
    with pytest.raises(nv.SpecError, match=r"'table'.* part of row 1 cannot be told"):
        two.row(1)
    with pytest.raises(nv.SpecError, match="'table'"):
        nv.generate(reading_model, two, max_new_tokens=2)


def test_an_input_that_may_have_an_entry_for_each_token_does_not_grow(reading_model):
    prompt = nv.encode(reading_model, TEXT, tiny.picture())
    own = with_own(prompt, table=torch.ones(1, 1, prompt.width))
    for call in (lambda: own.grown([7]), lambda: nv.generate(reading_model, own, max_new_tokens=2)):
        with pytest.raises(nv.SpecError, match=r"'table'.* cannot be continued at generated tokens"):
            call()


def test_answers_to_prompts_whose_inputs_differ_in_kind_are_those_of_each_alone(monkeypatch):
    """Prompts of one batch have the same inputs; others are in batches of their own.

    `modality` and `idx` are names that parts of the model spell, and that no forward of it acts on.
    """
    model = zoo.load("qwen2_vl")
    first, second = prompts_of("qwen2_vl", torch.float32)
    types = first.inputs["mm_token_type_ids"].clone()
    prompts = [
        first,
        second,
        with_own(first, modality="image"),
        with_own(first, idx=types * 0 + 3),
    ]
    assert [foreign(prompt) for prompt in prompts] == [(), (), (), ("idx",)]
    steps = {"max_new_tokens": 3, "eos_token_id": 10**6}
    monkeypatch.setattr(type(view_of(model).module), "_validate_model_kwargs", lambda *_: None)
    alone = [nv.generate(model, prompt, **steps).tokens for prompt in prompts]
    assert [each.tokens for each in nv.generations(model, [(prompt, None) for prompt in prompts], **steps)] == alone


def test_a_patch_from_a_prompt_with_other_inputs_is_not_left_out(reading_model):
    """Equal tokens before the image are equal states only where nothing else says which run it is."""
    prompt = nv.encode(reading_model, TEXT, tiny.picture())
    sources = [prompt, with_own(prompt, bias=torch.ones(1, prompt.width)), with_own(prompt, factor=3.0)]
    for source in sources:
        patches = [nv.Patch("image", source=source, layers=layer) for layer in (0, 1)] + CUTS
        singles = [float(nv.run(reading_model, prompt, patch).logits[7]) for patch in patches]
        frame = nv.sweep(reading_model, prompt, patches, answer=7)
        torch.testing.assert_close(torch.tensor(list(frame["logit"])), torch.tensor(singles))


# what is no part of an encoding ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "past_key_values",
        "use_cache",
        "logits_to_keep",
        "inputs_embeds",
        "output_attentions",
        "encoder_outputs",
        "remote",
    ],
)
def test_options_of_a_run_are_no_inputs(name):
    prompt = zoo.prompt("llava")
    with pytest.raises(nv.SpecError, match=f"the inputs have {name}, which is not part of an encoding"):
        with_own(prompt, **{name: False})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_pixels_are_of_the_models_dtype_however_they_were_encoded(dtype):
    model, text = tiny.build("sdpa", dtype=dtype), "<s>see the <image> ."
    prompt = nv.encode(model, text, tiny.picture())
    processed = model.processor(text=[text], images=[tiny.picture()], return_tensors="pt", add_special_tokens=False)
    assert processed["pixel_values"].dtype == torch.float32
    other = nv.encode(model, inputs=processed)
    assert other.inputs["pixel_values"].dtype == prompt.inputs["pixel_values"].dtype == dtype
    assert other.inputs["input_ids"].dtype == torch.int64
    assert torch.equal(other.inputs["pixel_values"], prompt.inputs["pixel_values"])


# caches of generation --------------------------------------------------------------------------------

CACHES: dict[str, dict[str, Any]] = {
    "none": {"use_cache": False},
    "as it is": {"use_cache": True},
    "static": {"cache_implementation": "static"},
    "dynamic": {"cache_implementation": "dynamic"},
}


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("member", ["llava", "qwen2_vl", "llava-mistral", "gemma3"])
def test_answers_are_the_same_whatever_cache_is_asked_for(member, cache):
    prompt = zoo.prompt(member)
    cuts = [None, *(cut for cut in CUTS if possible(prompt, cut))]
    steps = {"max_new_tokens": 4, "eos_token_id": 10**6}
    alone = [nv.generate(prompt.model, prompt, cut, **steps).tokens for cut in cuts]
    options = CACHES[cache]
    if "static" in view_of(prompt.model).family.limitations:
        pytest.skip("no static cache")
    cases = [(prompt, cut) for cut in cuts]
    assert [each.tokens for each in nv.generations(prompt.model, cases, **steps, **options)] == alone


@pytest.mark.parametrize("said", [{"use_cache": False}, {"cache_implementation": "static"}])
def test_a_checkpoint_that_says_which_cache_is_used_is_heeded(said, monkeypatch):
    model = tiny.build("sdpa")
    prompt = nv.encode(model, TEXT, tiny.picture())
    cases = [(prompt, cut) for cut in (None, *CUTS)]
    expected = [each.tokens for each in nv.generations(model, cases, max_new_tokens=4)]
    for name, value in said.items():
        monkeypatch.setattr(view_of(model).generation_config, name, value)
    assert [each.tokens for each in nv.generations(model, cases, max_new_tokens=4)] == expected


def test_several_batches_do_not_share_a_cache():
    prompt = zoo.prompt("llava")
    with pytest.raises(nv.SpecError, match="past_key_values"):
        list(nv.generations(prompt.model, [(prompt, None)] * 3, past_key_values=DynamicCache()))


# names that no model reads ------------------------------------------------------------------------------


@pytest.mark.parametrize("name, close", [("attention_maks", "attention_mask"), ("position_idz", "position_ids")])
def test_a_misspelt_input_is_refused_by_name(name, close):
    model = tiny.load("sdpa")
    prompt = nv.encode(model, "what is red ?", tiny.picture(0))
    with pytest.raises(nv.SpecError, match=f"{name}.*did you mean '{close}'"):
        nv.encode(model, inputs={**prompt.inputs, name: torch.ones_like(prompt.inputs["input_ids"])})


@pytest.mark.parametrize("name", list(zoo.ZOO))
def test_what_a_processor_gives_is_known_by_name(name):
    member = zoo.ZOO[name]
    model = zoo.load(name, member.implementations[0])
    prompt = nv.encode(model, member.text, picture(1, (18, 12)))
    assert nv.encode(model, inputs=dict(prompt.inputs))["all"] == prompt["all"]


def test_a_patch_keeps_the_values_that_it_was_given():
    model = tiny.load("sdpa")
    prompt = nv.encode(model, "what is red ?", tiny.picture(0))
    values = torch.ones(1, view_of(model).stage().width)
    patch = nv.Patch("last", source=values, layers=1)
    before = nv.run(model, prompt, patch).logits
    values.fill_(5)
    assert torch.equal(nv.run(model, prompt, patch).logits, before)


@pytest.mark.parametrize("name", ["paligemma", "paligemma2"])
def test_a_text_alone_needs_the_types_that_say_which_tokens_see_each_other(name):
    """Without them a whole forward lets an answer's tokens see later ones, and cached decoding does not."""
    model, ids = zoo.prompt(name, zoo.ZOO[name].implementations[0]).model, torch.tensor([[2, 20, 21, 22]])
    with pytest.raises(nv.SpecError, match="the inputs have no token_type_ids"):
        nv.encode(model, inputs={"input_ids": ids})
    prompt = nv.encode(model, inputs={"input_ids": ids, "token_type_ids": ids * 0})
    grown = nv.generate(model, prompt, max_new_tokens=4)
    logits = nv.run(model, grown.prompt, positions=range(prompt.width - 1, grown.prompt.width - 1)).logits
    assert tuple(logits.argmax(-1).tolist()) == grown.tokens


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "glm4v"])
def test_a_ready_text_need_not_say_of_which_type_its_tokens_are(name):
    model = zoo.load(name)
    prompt = nv.encode(model, "what is red ?", chat=False)
    bare = nv.encode(model, inputs={"input_ids": prompt.inputs["input_ids"]})
    cuts = [nv.Knockout("first", "last", layers=layer) for layer in (0, 1)]
    for execution in ("packed", "rows"):
        scores = [list(nv.sweep(model, it, cuts, answer="red", execution=execution)["logit"]) for it in (prompt, bare)]
        assert scores[0] == scores[1]
    assert torch.equal(position_ids(prompt), position_ids(bare))
