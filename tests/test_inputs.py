"""What a prompt gives to the model: it cannot be written to, and no layout drops any of it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import zoo
from float64 import LIMIT

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
    assert torch.equal(view_of(prompt.model).module(**inputs).logits, view_of(prompt.model).module(**dict(inputs)).logits)


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
    model, one = zoo.load("llava"), zoo.prompt("llava")
    batch = nv.stack([one, nv.encode(model, one.text.replace("\n", " "), chat=False)])
    for prompt in (batch, batch.row(0), batch.row(1), one.grown([3]), nv.generate(model, one, max_new_tokens=1).prompt):
        assert type(prompt.inputs) is Inputs


# position ids of the caller's own --------------------------------------------------------------------

PLAIN = ("llava", "llava-mistral", "blip-2-opt", "mllama", "idefics3", "qwen3_5", "gemma3", "lfm2_vl", "paligemma")
ROTATED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v")
CUTS = [nv.Knockout("image", "last", layers=0), nv.Knockout("image", "query", layers=1), nv.Knockout(2, "last", layers=0)]


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
        token = plain_logits(prompt.model, inputs)[0, -1].argmax().reshape(1, 1)
        answer.append(int(token))
        for name, value in inputs.items():
            if name == "input_ids":
                inputs[name] = torch.cat([value, token], dim=1)
            elif name == "position_ids":
                inputs[name] = torch.cat([value, value[..., -1:] + 1], dim=-1)
            elif value.shape[:2] == (1, width):
                last = value[:, -1:] if name in ("attention_mask", "cross_attention_mask") else torch.zeros_like(value[:, -1:])
                inputs[name] = torch.cat([value, torch.ones_like(last) if "paligemma" in name else last], dim=1)
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
    grown = prompts[0].grown([5, 6])
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
    steps = {"max_new_tokens": 4, "eos_token_id": -1}
    expected = [plain_answer(prompt, 4) for prompt in prompts]
    assert [list(nv.generate(model, prompt, **steps).tokens) for prompt in prompts] == expected
    assert [list(tokens) for tokens in nv.generate(model, nv.stack(prompts), **steps).tokens] == expected
    cases = [(prompt, None) for prompt in prompts for _ in range(3)]
    assert [list(each.tokens) for each in nv.generations(model, cases, **steps)] == [e for e in expected for _ in range(3)]
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
    steps = {"max_new_tokens": 3, "eos_token_id": -1}
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
