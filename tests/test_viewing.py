"""The page of an answer: its numbers are what the model read, and both columns are runs of the model."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from float64 import LIMIT

import nnsight_vlm as nv
from nnsight_vlm.families import view_of
from nnsight_vlm.prompts.ungrown import without_answer
from nnsight_vlm.remote import batching
from nnsight_vlm.remote.simulate import SimulatedJob
from nnsight_vlm.viewing.packing import SIGNED_STEPS, STEPS, unpacked, values_of

QUESTION = "what is the red square ?"
LENGTH = 5
"""How many tokens the model answers."""


def column(page, number=0):
    return page.payload["columns"][number]


def values(page, quantity, number=0):
    found = column(page, number)["quantities"][quantity]
    return values_of(found["data"], signed=found["signed"])


def within_a_step(found, expected, *, signed=False):
    """Whether values are those expected, to within half a step of each row's own scale."""
    scale = np.abs(expected).max(-1, keepdims=True)
    step = scale / (SIGNED_STEPS if signed else STEPS)
    return found.shape == expected.shape and bool((np.abs(found - expected) <= 0.5001 * step + 1e-7 * scale).all())


def row_of(page, text, number=0, part="generated"):
    words = [word for word in column(page, number)["words"] if word["text"] == text and word["part"] == part]
    return words[0]["row"]


@pytest.fixture(scope="module")
def tiny_model():
    return tiny.load("sdpa")


@pytest.fixture(scope="module")
def asked(tiny_model):
    return nv.encode(tiny_model, QUESTION, tiny.picture(0))


@pytest.fixture(scope="module")
def answer(tiny_model, asked):
    return nv.generate(tiny_model, asked, max_new_tokens=LENGTH)


def spans_of(model, tokens, words):
    """For each generated word the numbers of its tokens: as many of the next ones as spell it."""
    spans, first = [], 0
    for word in words:
        sizes = range(1, len(tokens) - first + 1)
        text = word["text"]
        size = next(n for n in sizes if read(model, tokens[first : first + n]) == text)
        spans.append(range(first, first + size))
        first += size
    assert first == len(tokens)
    return spans


def read(model, tokens):
    return model.tokenizer.decode(tokens).replace("##", "").strip()


def generated(page, number=0):
    return [word for word in column(page, number)["words"] if word["part"] == "generated"]


# what rows hold -------------------------------------------------------------------------------------


def test_rows_are_the_attention_of_a_plain_eager_forward():
    """Read from transformers' own `output_attentions`: a generated word at the position before, others at their own."""
    model = tiny.load("eager")
    out = nv.generate(model, nv.encode(model, QUESTION, tiny.picture(0)), max_new_tokens=LENGTH)
    page = nv.view(model, out, heads="all")
    with torch.no_grad():
        told = view_of(model).module(**out.prompt.inputs, output_attentions=True)
    maps = torch.stack(told.attentions)[:, 0].double().numpy()  # [layer, head, query, key]
    image, answer = list(out.prompt["image"]), out.prompt.rows[0].answer
    found, measured = values(page, "weight"), 0
    for word in out.prompt.words():
        places = [place - 1 if place >= answer else place for place in word.positions]
        if min(word.positions) < image[0]:
            continue
        shown = [each for each in column(page)["words"] if each["text"] == word.text and each["row"] >= 0]
        rows = maps[:, :, places][..., image].mean(2)
        expected = np.concatenate([rows.mean(1, keepdims=True), rows], axis=1)
        assert any(within_a_step(found[:, :, each["row"]], expected) for each in shown)
        measured += 1
    assert measured >= LENGTH + 5 and column(page)["quantities"]["weight"]["heads"] == ["mean", "0", "1", "2", "3"]


def test_a_page_of_a_given_answer_is_the_page_that_writes_it(tiny_model, asked, answer):
    written = nv.view(tiny_model, asked, max_new_tokens=LENGTH).payload
    for given in (answer, answer.prompt):
        page = nv.view(tiny_model, given).payload
        assert page["columns"] == written["columns"] and column_answer(page) == answer.text


def column_answer(payload):
    return payload["columns"][0]["answer"]


def test_contributions_are_those_of_a_run(tiny_model, answer):
    page = nv.view(tiny_model, answer, quantities="contribution", layers=[1, 3], heads=[2])
    first = answer.prompt["generated"][0]
    reads = [
        nv.Attention(first - 1, "image", layers=[1, 3], reduce="contribution", **more)
        for more in ({"over": "heads"}, {"heads": [2]})
    ]
    summed, single = (read.double().numpy() for read in nv.run(tiny_model, answer.prompt, reads=reads).reads)
    shown = generated(page)[0]
    assert list(spans_of(tiny_model, answer.tokens, generated(page))[0]) == [0]
    expected = np.stack([summed[:, 0], single[:, 0, 0]], axis=1)
    assert within_a_step(values(page, "contribution")[:, :, shown["row"]], expected)
    assert column(page)["quantities"]["contribution"]["layers"] == [1, 3]


def test_words_before_the_picture_have_no_row_and_say_so(tiny_model, answer):
    words = column(nv.view(tiny_model, answer))["words"]
    before = [word for word in words if word["part"] == "system"]
    assert before and all(word["row"] == -1 and "before the picture" in word["why"] for word in before)
    rows = [word["row"] for word in words if word["row"] >= 0]
    assert rows == list(range(len(rows))) and [word["picture"] for word in words if "picture" in word] == [0]
    said = [word for word in words if word["part"] == "generated"]
    assert "".join(word["text"] for word in said) == answer.text.replace(" ", "")


def test_log_probabilities_are_those_of_the_tokens(tiny_model, answer):
    page, places = nv.view(tiny_model, answer), answer.prompt["generated"]
    logits = nv.run(tiny_model, answer.prompt, positions=[place - 1 for place in places]).logits.double()
    expected = logits.log_softmax(-1)[range(len(places)), list(answer.tokens)].sum()
    found = [word["logprob"] for word in column(page)["words"] if word["part"] == "generated"]
    assert sum(found) == pytest.approx(float(expected))
    assert all(word["logprob"] is None for word in column(page)["words"] if word["part"] != "generated")


# two columns ----------------------------------------------------------------------------------------


def test_the_second_column_is_the_run_under_the_intervention(tiny_model, asked):
    cut = nv.Knockout("image", ["last", "generated"], layers=[0, 1, 2])
    page = nv.view(tiny_model, asked, cut, max_new_tokens=LENGTH)
    clean, changed = (nv.generate(tiny_model, asked, case, max_new_tokens=LENGTH) for case in (None, cut))
    assert clean.text != changed.text and [each["answer"] for each in page.payload["columns"]] == [
        clean.text,
        changed.text,
    ]
    assert column(page, 1)["title"] == "Knockout('image', ('last', 'generated'), layers=(0, 1, 2))"
    said = [word["row"] for word in generated(page, 1)]
    maps = values(page, "weight", 1)
    assert (maps[:3, :, said] == 0).all() and (maps[3, :, said].max(-1) > 0).all()
    places = changed.prompt["generated"]
    read = nv.Attention([place - 1 for place in places], "image", reduce="mean")
    expected = nv.run(tiny_model, changed.prompt, cut, reads=read).reads[0].double().numpy()
    for row, span in zip(said, spans_of(tiny_model, changed.tokens, generated(page, 1)), strict=True):
        assert within_a_step(maps[:, 0, row], expected[:, list(span)].mean(1))


def test_words_that_only_one_answer_has_are_marked(tiny_model, asked):
    cut = nv.Knockout("image", ["last", "generated"], layers=[0, 1, 2])
    both = nv.view(tiny_model, asked, cut, max_new_tokens=LENGTH)
    kept = [
        [word["text"] for word in column(both, number)["words"] if word["part"] == "generated" and not word["changed"]]
        for number in (0, 1)
    ]
    assert kept[0] == kept[1]
    assert any(word["changed"] for word in column(both)["words"])
    same = nv.view(tiny_model, asked, nv.Scale("last", 1.0, layers=0), max_new_tokens=2)
    assert not any(word["changed"] for number in (0, 1) for word in column(same, number)["words"])


def test_an_intervention_that_can_change_nothing_is_refused_before_the_model_runs(tiny_model, asked):
    ran = []
    hook = view_of(tiny_model).module.register_forward_pre_hook(lambda *_: ran.append(1))
    with pytest.raises(nv.SpecError, match="changes nothing in this call"):
        nv.view(tiny_model, asked, nv.Knockout("query", "image"))
    nothing = nv.Knockout("image", "generated")
    with pytest.raises(nv.SpecError, match="max_new_tokens=2 or more"):
        nv.view(tiny_model, asked, nothing, max_new_tokens=1)
    hook.remove()
    assert not ran
    page = nv.view(tiny_model, asked, nothing, max_new_tokens=1, empty="ignore")
    assert column(page)["answer"] == column(page, 1)["answer"]


# causes ---------------------------------------------------------------------------------------------


@pytest.mark.float64
@pytest.mark.parametrize("under", [None, nv.Scale("query", 0.5, layers=1)])
def test_the_causal_map_is_that_of_knockouts_one_by_one(sdpa, under):
    """Each word with the answer up to it before it, each patch by itself, by plain runs."""
    prompt = nv.encode(sdpa, QUESTION, tiny.picture(0))
    page = nv.view(sdpa, prompt, under, quantities="causal", max_new_tokens=3)
    number = 0 if under is None else 1
    quantity = column(page, number)["quantities"]["causal"]
    tokens = nv.generate(sdpa, prompt, under, max_new_tokens=3).tokens
    words = generated(page, number)
    assert quantity["has"] == [word["row"] for word in words] and quantity["layers"] == ["all"]
    for at, span in enumerate(spans_of(sdpa, tokens, words)):
        grown = prompt.grown(tokens[: span.stop])
        base = scored(sdpa, grown, span, under)
        for patch in (0, 7, 24):
            cut = nv.Knockout(prompt["image"][patch], ["last", "generated"])
            lost = base - scored(sdpa, grown, span, cut if under is None else under | cut)
            step = float(unpacked(quantity["data"]["scale"], "f4")[at]) / SIGNED_STEPS
            assert values(page, "causal", number)[0, 0, at, patch] == pytest.approx(
                lost, abs=0.501 * step + 1e-7 * abs(lost) + LIMIT
            )


def scored(model, prompt, span, case):
    """The log-probability of some of an answer's tokens, from a plain run."""
    start = prompt.rows[0].answer
    logits = nv.run(model, prompt, case, positions=[start + number - 1 for number in span], empty="ignore").logits
    said = [prompt.rows[0].tokens[start + number] for number in span]
    return float(logits.log_softmax(-1)[range(len(said)), said].sum())


def test_only_words_that_are_named_have_a_causal_map(tiny_model, asked, answer):
    text = answer.text.split()[1]
    page = nv.view(tiny_model, answer, quantities=["weight", "causal"], words=[text.upper()])
    quantity = column(page)["quantities"]["causal"]
    named = [word["row"] for word in column(page)["words"] if word["part"] == "generated" and word["text"] == text]
    assert quantity["has"] == named and quantity["data"]["shape"] == [1, 1, len(named), 25]
    assert quantity["least"] == 0.001 and column(page)["quantities"]["weight"]["least"] == 0
    whole = nv.view(tiny_model, answer, quantities="causal")
    at = column(whole)["quantities"]["causal"]["has"].index(named[0])
    assert values(page, "causal")[0, 0, 0] == pytest.approx(values(whole, "causal")[0, 0, at], abs=1e-4)
    with pytest.raises(nv.SpecError, match=r"\['zebra'\]: none of them is in the answer"):
        nv.view(tiny_model, answer, quantities="causal", words=["zebra"])


def test_the_gradient_is_that_of_the_words_log_probability(tiny_model, answer):
    page = nv.view(tiny_model, answer, quantities="gradient", words=[answer.text.split()[0]])
    first, token = answer.prompt["generated"][0], answer.tokens[0]
    run = nv.run(
        tiny_model, answer.prompt, positions=[first - 1], reads=nv.Residual("image", site="features"), grad=True
    )
    with torch.enable_grad():
        [slope] = torch.autograd.grad(run.logits.log_softmax(-1)[0, token], run.reads[0])
    assert within_a_step(values(page, "gradient")[0, 0, 0], slope.norm(dim=-1).double().numpy())


# beside the maps ------------------------------------------------------------------------------------


def test_sinks_are_those_of_the_recipe_and_lens_words_those_of_the_lens(tiny_model, answer):
    page = nv.view(tiny_model, answer, sinks=1.5, lens=[1, 3], layers=[1, 2])
    read = nv.Residual(["first", "image"], layers=[0, 1])
    states = nv.run(tiny_model, answer.prompt, reads=read).reads[0].double()
    sizes = states.abs() / states.square().mean(-1, keepdim=True).sqrt()
    large = (sizes[:, 0] >= 1.5).any(0)  # of the first token, in any layer
    sinks = [(layer[1:, large] >= 1.5).any(-1).nonzero().flatten().tolist() for layer in sizes]
    assert column(page)["sinks"] == {"layers": [1, 2], "tokens": sinks} and any(sinks)
    frame = nv.lens(tiny_model, answer.prompt, where="image", layers=[1, 3], top=1)
    lens = column(page)["lens"]
    words = unpacked(lens["words"]["bytes"], "u2").reshape(lens["words"]["shape"])
    shares = unpacked(lens["probability"]["bytes"], "u1").reshape(2, 25) / 255
    for at, layer in enumerate((1, 3)):
        rows = frame[frame["layer"] == layer]
        assert [lens["vocabulary"][word] for word in words[at]] == rows["text"].tolist()
        assert np.abs(shares[at] - np.exp(rows["logprob"].to_numpy())).max() <= 0.501 / 255


def test_a_prompt_without_its_answer_is_the_prompt(tiny_model, asked, answer):
    again = without_answer(answer.prompt)
    assert again.rows == asked.rows and set(again.inputs) == set(asked.inputs)
    assert all(torch.equal(again.inputs[name], asked.inputs[name]) for name in asked.inputs)
    assert without_answer(asked) is asked


def test_what_is_not_in_the_page_says_how_to_get_it(tiny_model, answer):
    payload = nv.view(tiny_model, answer).payload
    assert set(payload["missing"]) == {"contribution", "gradient", "causal"}
    assert (
        "causal" in payload["missing"]["causal"]
        and 'heads="all"' in payload["columns"][0]["quantities"]["weight"]["missing"]
    )
    facts = dict(payload["facts"])
    assert payload["title"] == "LlavaForConditionalGeneration: what is the red square ?"
    assert facts["architecture"] == "LlavaForConditionalGeneration" and "position before" in facts["a row"]


def test_another_place_gives_the_same_columns_and_is_asked_three_times(tiny_model, asked, monkeypatch):
    """Of both columns together: the answers, what their words read, what these lose without each patch."""
    cut, rounds = nv.Knockout("image", ["last", "generated"], layers=[1, 2]), []
    monkeypatch.setattr(batching, "make_job", lambda content: rounds.append(1) or SimulatedJob(*content))
    named = {"quantities": ["weight", "causal"], "max_new_tokens": 2, "lens": [2], "sinks": 1.5}
    there, here = (nv.view(tiny_model, asked, cut, remote=remote, **named) for remote in ("local", False))
    assert len(rounds) == 3
    for number in (0, 1):
        found, expected = column(there, number), column(here, number)
        assert all(found[name] == expected[name] for name in ("answer", "words", "sinks", "lens"))
        assert found["quantities"]["weight"] == expected["quantities"]["weight"]
        assert values(there, "causal", number) == pytest.approx(values(here, "causal", number), abs=1e-4)


# what cannot be asked -------------------------------------------------------------------------------


def test_what_cannot_be_shown_is_refused_in_words(tiny_model, asked, answer):
    for given, message in (
        ({"prompt": nv.encode(tiny_model, QUESTION)}, "no picture and no video"),
        ({"prompt": answer, "max_new_tokens": 3}, "the answer is there already"),
        ({"words": ["red"]}, "quantities= asks for neither"),
        ({"layers": [0, 9]}, "layer 9 is out of range"),
        ({"heads": [9]}, "heads=9 is no head"),
        ({"objects": {"a": (0, 0, 0, 5)}}, "is empty"),
        ({"objects": {"a": (90, 90, 99, 99)}}, "outside the picture"),
        ({"objects": {"a": np.zeros((20, 20), bool)}}, "without a pixel"),
        ({"objects": {"a": np.ones((2, 2), bool)}}, r"shape \(2, 2\); it must be"),
        ({"objects": [nv.recipes.Thing(name="dog")]}, "'dog' without a mask"),
        ({"limit": 5}, "limit=5 is no number of bytes"),
        ({"remote": True, "quantities": "gradient"}, "on this machine only"),
    ):
        with pytest.raises(nv.SpecError, match=message):
            nv.view(tiny_model, **{"prompt": asked, **given})
