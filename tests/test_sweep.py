"""A sweep gives what running its variants one by one gives, however it is carried out."""

from __future__ import annotations

import pytest
import tiny
import torch
from float64 import FACTOR, LIMIT, float64
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import nnsight_vlm as nv
from nnsight_vlm.sweeping import arrangement
from nnsight_vlm.sweeping.schedule import EXECUTIONS

ANSWER = 20
COLUMNS = ["logit", "logprob", "rank", "top_token", "clean_logit", "clean_logprob"]


def late(prompt, twin):
    """Variants that change nothing before the query, so that packing is exact."""
    return {
        "cut": nv.Knockout("image", "query", layers=nv.window(1, 3)),
        "heads": nv.Knockout("image", "last", heads=[(1, 0), (2, 3)]),
        "one head": nv.Knockout("system", "query", layers=0, heads=[2]),
        "allow": nv.Allow("image", "last", layers=nv.depth(0.25, 0.5)),
        "patch": nv.Patch("query", source=twin, layers=1),
        "word": nv.Patch(prompt.find("red square"), source=twin, source_where=twin.find("blue circle"), layers=[0, 2]),
        "zero": nv.Ablate("last", layers=2, site="mlp"),
        "mean": nv.Ablate("query", how="mean", layers=1, site="attention"),
        "resample": nv.Ablate("query", how="resample", source=twin, layers=3),
        "embedding": nv.Ablate(prompt.find("square"), site="embedding"),
        "itself": nv.Knockout("query", "last", layers=2) | nv.Knockout("first", "query", layers=3),
        "both": nv.Knockout("image", "query", layers=0)
        | nv.Ablate("last", layers=1)
        | nv.Patch("last", source=twin, layers=2),
        "to come": nv.Knockout("image", "generated"),
    }


def early(prompt, twin):
    """Variants that change image tokens or what comes before them."""
    return {
        "cut": nv.Knockout("system", "image", layers=1),
        "features": nv.Patch("image", source=twin, site="features"),
        "none": nv.Ablate("image", site="features"),
        "embedding": nv.Ablate("image", how="mean", site="embedding"),
        "system": nv.Ablate("system", layers=2),
        "mixed": nv.Ablate("image", how="mean", layers=2) | nv.Knockout("image", "last", layers=3),
        "late": nv.Knockout("image", "last"),
    }


def expect_one_by_one(model, prompt, variants, frame):
    """Every line of the frame against a run of its variant alone."""
    clean = nv.run(model, prompt).logits
    assert list(frame["variant"]) == list(variants)
    for line, case in zip(frame.to_dict("records"), variants.values(), strict=True):
        logits = nv.run(model, prompt, case, empty="ignore").logits
        for name, scores in (("", logits), ("clean_", clean)):
            allowed = LIMIT * max(1.0, float(scores.abs().max()))
            assert abs(line[f"{name}logit"] - float(scores[ANSWER])) < allowed
            assert abs(line[f"{name}logprob"] - float(scores.double().log_softmax(-1)[ANSWER])) < allowed
        assert line["rank"] == int((logits > logits[ANSWER]).sum())
        assert line["top_token"] == model.tokenizer.decode([int(logits.argmax())])


@pytest.mark.float64
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_variants_of_the_question_equal_one_by_one(model, prompt, twin, execution):
    variants = late(prompt, twin)
    frame = nv.sweep(model, prompt, variants, answer=ANSWER, empty="ignore", execution=execution)
    expect_one_by_one(model, prompt, variants, frame)
    way = "packed" if execution == "auto" else execution
    passes = len(variants) + 1 if execution == "single" else 1
    assert frame.attrs == {"execution": way, "passes": {way: passes}, "answer": ANSWER}


@pytest.mark.float64
@pytest.mark.parametrize("execution", ["auto", "rows", "single"])
def test_variants_of_the_image_equal_one_by_one(model, prompt, twin, execution):
    variants = early(prompt, twin)
    frame = nv.sweep(model, prompt, variants, answer=ANSWER, empty="ignore", execution=execution)
    expect_one_by_one(model, prompt, variants, frame)
    assert frame.attrs["execution"] == ("rows" if execution == "auto" else execution)


@pytest.mark.float64
@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize(
    "question", ["<s> what is red ?", "<image> what is red ?", "<s> one <image> two <image> three ?"]
)
def test_prompts_of_other_shapes_equal_one_by_one(model, execution, question):
    pictures = [tiny.picture(seed) for seed in range(question.count("<image>"))]
    prompt = nv.encode(model, question, pictures, chat=False)
    variants = {
        "cut": nv.Knockout("first", "last"),
        "wipe": nv.Ablate("last", layers=1),
        "head": nv.Knockout("first", "last", heads=[2]),
    }
    expect_one_by_one(
        model, prompt, variants, nv.sweep(model, prompt, variants, answer=ANSWER, empty="ignore", execution=execution)
    )


@pytest.mark.float64
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_other_decoders_equal_one_by_one(other, execution):
    prompt = nv.encode(other, "what is the red square ?", tiny.picture(0))
    twin = nv.encode(other, "where is a blue circle ?", tiny.picture(1))
    variants = {name: case for name, case in late(prompt, twin).items() if name in ("cut", "heads", "patch", "mean")}
    expect_one_by_one(
        other, prompt, variants, nv.sweep(other, prompt, variants, answer=ANSWER, empty="ignore", execution=execution)
    )


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_in_float32_a_sweep_is_as_far_from_float64_as_the_clean_run_is(attention, execution):
    def swept(model):
        prompt = nv.encode(model, "what is the red square ?", tiny.picture(0))
        variants = late(prompt, nv.encode(model, "where is a blue circle ?", tiny.picture(1)))
        return nv.run(model, prompt).logits, nv.sweep(
            model, prompt, variants, answer=ANSWER, empty="ignore", execution=execution
        )

    clean, found = swept(tiny.load(attention))
    with float64():
        exact, expected = swept(tiny.load(attention, dtype=torch.float64))
    allowed = FACTOR * float((clean - exact).abs().max())
    for column in ("logit", "logprob", "clean_logit", "clean_logprob"):
        assert (found[column] - expected[column]).abs().max() < allowed, column
    assert found["rank"].equals(expected["rank"]) and found["top_token"].equals(expected["top_token"])


windows = st.tuples(st.integers(0, 3), st.integers(1, 4)).filter(lambda pair: pair[0] < pair[1])


@pytest.mark.float64
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_random_variants_packed_equal_rows(data):
    model = tiny.load("sdpa", dtype=torch.float64)
    prompt = nv.encode(model, "what is the red square ?", tiny.picture(0))
    variants = {}
    for number in range(data.draw(st.integers(1, 6))):
        a, b = data.draw(windows)
        source = data.draw(st.sampled_from(["image", "system", "image.0", (1, 2, 9, 30)]))
        target = data.draw(st.lists(st.sampled_from(prompt["query"]), min_size=1, max_size=4, unique=True))
        heads = data.draw(st.one_of(st.none(), st.lists(st.integers(0, 3), min_size=1, max_size=2, unique=True)))
        case = nv.Knockout(source, target, layers=nv.window(a, b), heads=heads)
        variants[number] = case | nv.Ablate(target[0], layers=a) if data.draw(st.booleans()) else case
    frames = [
        nv.sweep(model, prompt, variants, answer=ANSWER, empty="ignore", execution=how) for how in ("packed", "rows")
    ]
    expect_one_by_one(model, prompt, variants, frames[0])
    for column in ("logit", "logprob"):
        assert (frames[0][column] - frames[1][column]).abs().max() < LIMIT * frames[1][column].abs().max()


@pytest.mark.float64
@pytest.mark.parametrize("execution", ["packed", "rows"])
def test_more_variants_than_a_forward_holds_are_split_over_several(
    model, prompt, twin, forwards, monkeypatch, execution
):
    variants = late(prompt, twin)
    monkeypatch.setattr(arrangement, "TOKENS_BEHIND_PREFIX", 2 * prompt.width)
    captures = 1  # every patch takes its values from one and the same run
    frame = nv.sweep(model, prompt, variants, answer=ANSWER, empty="ignore", execution=execution)
    ran = len(forwards) - captures
    assert 1 < ran < len(variants)
    expect_one_by_one(model, prompt, variants, frame)


def test_a_line_of_the_table_holds_the_fields_of_its_variant(model, prompt, twin):
    variants = [
        nv.Knockout("image", "last", layers=nv.window(1, 3)),
        nv.Ablate([35, 36], how="mean", layers=[0, 2], site="mlp"),
        nv.Knockout("image", "last", heads=[(1, 3)]) | nv.Patch("last", source=twin, layers=nv.depth(0, 0.5)),
    ]
    frame = nv.sweep(model, prompt, variants, answer="red")
    assert frame["variant"].tolist() == [0, 1, 2]
    assert frame["kind"].tolist() == ["knockout", "ablate", "knockout | patch"]
    assert frame.loc[0, ["source", "target", "layers"]].tolist() == ["image", "last", "1:3"]
    assert frame.loc[1, ["where", "layers", "site", "how"]].tolist() == ["35,36", "0,2", "mlp", "mean"]
    assert "0.0:0.5" in frame.loc[2, "layers"]
    assert list(frame.columns[-len(COLUMNS) :]) == COLUMNS or set(COLUMNS) <= set(frame.columns)
    assert frame.attrs["answer"] == model.tokenizer.convert_tokens_to_ids("red")


@pytest.mark.parametrize("answer", ["red", " red"])
def test_an_answer_may_be_text_or_token(model, prompt, answer):
    token = model.tokenizer.convert_tokens_to_ids("red")
    one, two = (nv.sweep(model, prompt, [nv.Knockout("image", "last")], answer=given) for given in (answer, token))
    assert one.equals(two)


@pytest.mark.float64
def test_the_prompt_may_have_grown(model, prompt):
    grown = nv.generate(model, prompt, max_new_tokens=3).prompt
    variants = {
        "cut": nv.Knockout("image", "generated"),
        "last": nv.Knockout("image", "last"),
        "text": nv.Ablate("generated", layers=1),
    }
    for execution in EXECUTIONS:
        expect_one_by_one(
            model, grown, variants, nv.sweep(model, grown, variants, answer=ANSWER, empty="ignore", execution=execution)
        )


def test_variants_that_move_the_answer_are_told_apart(model, prompt, twin):
    frame = nv.sweep(model, prompt, late(prompt, twin), answer=ANSWER, empty="ignore")
    assert frame["logit"].nunique() == len(frame)
    assert torch.tensor(frame["clean_logit"].to_numpy()).unique().numel() == 1
