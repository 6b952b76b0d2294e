"""Answers of any length, several at once, and reads in a sweep: what runs one by one give."""

from __future__ import annotations

import pytest
import tiny
import torch
import zoo
from float64 import LIMIT, float64
from test_sweep import late

import nnsight_vlm as nv
from nnsight_vlm.families import view_of
from nnsight_vlm.lowering.answer_trees import AnswerTree, one_by_one, tree_of
from nnsight_vlm.sweeping import arrangement
from nnsight_vlm.sweeping.schedule import EXECUTIONS

ANSWERS = [(20, 21, 22), (20, 23), 24, (25, 21, 22, 26)]
OTHER = (27, 21)
LONG = ("logprob_mean", "logit_diff", "logprob_diff")
"""Columns of an answer that may be long and of one that it is compared with."""


def tokens_of(answer):
    return answer if isinstance(answer, tuple) else (answer,)


def forced(model, prompt, case, answer):
    """The logits that predict an answer's tokens, `[token, word]`, of the prompt grown by all of them but the last."""
    grown = prompt.grown(answer[:-1]) if len(answer) > 1 else prompt
    places = range(prompt.width - 1, prompt.width - 1 + len(answer))
    return nv.run(model, grown, case, positions=list(places), empty="ignore").logits


def scores(logits, answer):
    logprobs = logits.double().log_softmax(-1)[range(len(answer)), list(answer)]
    return {"logit": logits[0, answer[0]], "logprob": logprobs.sum(), "logprob_mean": logprobs.mean()}


def expect_forced(model, prompt, variants, answers, *frames):
    """Every line of all frames against a run of its variant on the prompt and its answer."""
    cases = {"": variants.values(), "clean_": [None] * len(variants)}
    found, clean = [], {answer: forced(model, prompt, None, tokens_of(answer)) for answer in answers}
    for case in cases[""]:
        for answer in answers:
            tokens = tokens_of(answer)
            logits = forced(model, prompt, case, tokens)
            known = {f"clean_{name}": value for name, value in scores(clean[answer], tokens).items()}
            found.append({**scores(logits, tokens), **known, "rank": (logits[0] > logits[0, tokens[0]]).sum()})
    for frame in frames:
        assert frame["variant"].tolist() == [name for name in variants for _ in answers]
        for name in found[0]:
            expected = torch.tensor([float(line[name]) for line in found], dtype=torch.float64)
            gap = (torch.tensor(frame[name].tolist(), dtype=torch.float64) - expected).abs().max()
            assert gap < LIMIT * expected.abs().max().clamp(min=1), name


def test_answers_that_begin_alike_share_tokens():
    tree = tree_of([(5, 7, 9), (5, 8, 9), (5,), (6, 1)])
    assert tree == AnswerTree(tokens=(5, 7, 8, 6), parents=(-1, 0, 0, -1))
    assert tree.depths == (0, 1, 1, 0) and tree.longest == (5, 7) and not tree.is_chain
    assert tree.predicting((5, 8, 9)) == (-1, 0, 2) and tree.predicting((3,)) == (-1,)
    branches = one_by_one([(5,), (5, 7, 9), (5, 8, 9), (5, 8, 1, 2)])
    assert [each.answers for each in branches] == [(0, 2, 3), (1,)] and all(each.tree.is_chain for each in branches)


@pytest.mark.float64
def test_answers_equal_single_runs_however_they_are_run(model, prompt, twin, monkeypatch):
    variants = {name: case for name, case in late(prompt, twin).items() if name in ("heads", "patch", "mean", "both")}
    variants |= {
        "to come": nv.Knockout("image", "generated"),
        "said": nv.Knockout("generated", "generated", layers=2) | nv.Ablate("generated", layers=3, site="mlp"),
        "late": nv.Knockout("image", "last", layers=3),
        "text": nv.Knockout("image", "text", layers=1),
        "zero": nv.Knockout("generated", "generated", how="zero", layers=1),
    }
    frames = [nv.sweep(model, prompt, variants, answer=ANSWERS, empty="ignore", execution=how) for how in EXECUTIONS]
    monkeypatch.setattr(arrangement, "TOKENS_BEHIND_PREFIX", 2 * prompt.width)
    frames.append(nv.sweep(model, prompt, variants, answer=ANSWERS, empty="ignore"))  # over several forwards
    expect_forced(model, prompt, variants, ANSWERS, *frames)
    assert [frame.attrs["execution"] for frame in frames] == ["packed", "packed", "rows", "single", "packed"]
    assert frames[0]["answer"].tolist()[:4] == ["20,21,22", "20,23", "24", "25,21,22,26"]
    assert frames[0].attrs["answer"] == [(20, 21, 22), (20, 23), 24, (25, 21, 22, 26)]


@pytest.mark.float64
def test_answers_under_variants_of_the_image(sdpa):
    prompt, twin = (nv.encode(sdpa, "what is the red square ?", tiny.picture(seed)) for seed in (0, 1))
    variants = {
        "mean": nv.Ablate("image", how="mean", layers=2) | nv.Knockout("image", "generated"),
        "features": nv.Patch("image", source=twin, site="features"),
        "donor": nv.Patch(range(prompt["image"][-1] + 1), source=twin, layers=2),
    }
    frames = [
        nv.sweep(sdpa, prompt, variants, answer=ANSWERS[:3], execution=execution, empty="ignore")
        for execution in ("auto", "single")
    ]
    expect_forced(sdpa, prompt, variants, ANSWERS[:3], *frames)


@pytest.mark.parametrize(
    "name, attention, way",
    [
        ("llava-mistral", "eager", "packed"),  # windows
        ("qwen2_5_vl", "sdpa", "packed"),  # positions in three dimensions
        ("gemma3", "sdpa", "packed"),  # images as blocks, windows
        ("gemma3n", "eager", "packed"),  # several streams, shared keys
        ("paligemma", "sdpa", "rows"),  # a prompt that is one block
        ("mllama", "sdpa", "packed"),  # cross-attention
        ("florence2", "eager", "rows"),  # an encoder
        ("lfm2_vl", "sdpa", "rows"),  # recurrent layers
    ],
)
def test_families_score_answers_as_single_runs_do(name, attention, way):
    with float64():
        model, prompt = (make(name, attention, dtype=torch.float64) for make in (zoo.load, zoo.prompt))
        variants = {"cut": nv.Knockout("image", "last", layers="attention"), "said": nv.Ablate("generated", layers=1)}
        answers = [(20, 21, 22), (23, 24)]
        reads = nv.Residual("last", layers=1)
        frames = [nv.sweep(model, prompt, variants, answer=answers, execution=how) for how in ("auto", "rows")]
        read = nv.sweep(model, prompt, variants, answer=answers, reads=reads, execution="auto")
        expect_forced(model, prompt, variants, answers, *frames, read)
        assert frames[0].attrs["execution"] == way
        states = nv.run(model, prompt, variants["cut"], reads=reads).reads[0]
        assert (read["read"][0] - states).abs().max() < LIMIT * states.abs().max()


@pytest.mark.float64
def test_the_logprob_of_an_answer_is_the_sum_of_its_tokens_each_behind_those_before(sdpa):
    prompt = nv.encode(sdpa, "what is the red square ?", tiny.picture(0))
    cuts = [nv.Knockout("image", "last", layers=1), nv.Knockout("image", "generated")]
    whole = nv.sweep(sdpa, prompt, cuts, answer=ANSWERS[0])
    steps = [
        nv.sweep(sdpa, prompt.grown(ANSWERS[0][:number]), cuts, answer=token, empty="ignore")
        for number, token in enumerate(ANSWERS[0])
    ]
    for name in ("logprob", "clean_logprob"):
        assert (sum(step[name] for step in steps) - whole[name]).abs().max() < 1e-11
    assert "answer" not in whole and whole.attrs["answer"] == ANSWERS[0]
    assert whole["logprob_mean"].sub(whole["logprob"] / 3).abs().max() < 1e-12


def test_answers_of_one_token_are_the_same_to_the_last_bit(model, prompt, twin, forwards):
    variants = late(prompt, twin)
    alone = [nv.sweep(model, prompt, variants, answer=token, empty="ignore") for token in (20, 24)]
    before = len(forwards)
    both = nv.sweep(model, prompt, variants, answer=["red", 24], against=20, empty="ignore")
    assert len(forwards) - before == before // 2  # a second answer costs no forward
    for number, frame in enumerate(alone[1:], start=1):
        lines = both.iloc[number::2].reset_index(drop=True)
        for name in frame.columns:
            assert lines[name].equals(frame[name]), name
    assert set(both) - set(alone[0]) == {"answer", *(f"{clean}{name}" for clean in ("", "clean_") for name in LONG)}
    gap = both.iloc[1::2].reset_index(drop=True)
    for name in ("logit", "logprob", "clean_logit", "clean_logprob"):
        assert gap[f"{name}_diff"].equals(gap[name] - alone[0][name])


def gap_of_two(logits):
    return (logits[-1, 20] - logits[-1, 24]) * len(logits)


def test_a_metric_is_called_with_the_logits_that_predict_the_answer(sdpa):
    prompt = nv.encode(sdpa, "what is the red square ?", tiny.picture(0))
    variants = {"cut": nv.Knockout("image", "last", layers=1), "image": nv.Ablate("image", layers=1)}
    plain = nv.sweep(sdpa, prompt, variants, metric=gap_of_two)
    frame = nv.sweep(sdpa, prompt, variants, answer=[OTHER, 20], metric=gap_of_two)
    local = nv.sweep(sdpa, prompt, variants, answer=[OTHER, 20], metric=gap_of_two, remote="local")
    assert "logit" not in plain and {"top_token", "metric", "clean_metric"} <= set(plain)
    for number, case in enumerate(variants.values()):
        expected = [float(gap_of_two(forced(sdpa, prompt, case, answer))) for answer in (OTHER, (20,))]
        assert frame["metric"][2 * number :][:2].tolist() == pytest.approx(expected, abs=1e-4)
        assert local["metric"][2 * number :][:2].tolist() == pytest.approx(expected, abs=1e-4)
        assert plain["metric"][number] == pytest.approx(expected[1], abs=1e-4)
    assert plain["clean_metric"][0] == pytest.approx(float(gap_of_two(forced(sdpa, prompt, None, (20,)))), abs=1e-4)
    with pytest.raises(nv.SpecError, match="one number"):
        nv.sweep(sdpa, prompt, variants, metric=torch.Tensor.sort)


READS = {
    "late": {
        "share": nv.Attention("last", "image", reduce="mass", heads=[0], layers=2),
        "rows": nv.Attention("query", "all"),
        "greatest": nv.Attention("last", "all", reduce="top", top=5),
        "state": nv.Residual("query", layers=[0, 3]),
        "key": nv.Residual("last", site="key", layers=1),
    },
    "early": {
        "image": nv.Residual("image", layers=0),
        "text": nv.Residual("text"),
        "features": nv.Residual("image", site="features"),
    },
}


@pytest.mark.float64
@pytest.mark.parametrize("where", READS)
def test_reads_in_a_sweep_are_those_of_runs(model, prompt, twin, where):
    variants = {
        "clean": None,
        "cut": nv.Knockout("image", "last", layers=3),
        "to come": nv.Knockout("image", "text", how="zero", layers=1),
        "donor": nv.Patch(range(prompt["image"][-1] + 1), source=twin, layers=2),
        "image": nv.Ablate("image", how="mean", layers=1),
    }
    late_ones = dict(list(variants.items())[:3])
    reads = READS[where]
    found = [nv.run(model, prompt, case, reads=list(reads.values())).reads for case in variants.values()]
    for cases, execution in ((variants, "auto"), (variants, "rows"), (late_ones, "packed"), (late_ones, "single")):
        if (where, execution) == ("early", "packed"):
            with pytest.raises(nv.SpecError, match="a read looks at"):
                nv.sweep(model, prompt, cases, answer=ANSWERS[0], reads=reads, execution=execution)
            continue
        frame = nv.sweep(model, prompt, cases, answer=ANSWERS[:2], reads=reads, execution=execution)
        for line, number in zip(
            frame.to_dict("records"), [n for n in range(len(cases)) for _ in range(2)], strict=True
        ):
            for name, expected in zip(reads, found[number], strict=True):
                got = torch.as_tensor(line[name], dtype=expected.dtype)
                gap = (got.reshape(expected.shape) - expected).abs().max()
                assert gap < LIMIT * expected.abs().max().clamp(min=1), (name, line["variant"], execution)


def test_reads_come_from_a_server_and_within_a_budget(sdpa):
    prompt = nv.encode(sdpa, "what is the red square ?", tiny.picture(0))
    cuts = [nv.Knockout("image", "last", layers=layer) for layer in range(4)]
    asked = {"answer": [ANSWERS[0], OTHER], "against": 24, "reads": nv.Attention("last", "image", reduce="mass")}
    here = nv.sweep(sdpa, prompt, cuts, **asked)
    there = nv.sweep(sdpa, prompt, cuts, **asked, remote="local")
    small = nv.sweep(sdpa, prompt, cuts, **asked, memory=325_000)
    assert sum(small.attrs["passes"].values()) > sum(here.attrs["passes"].values())
    for frame in (there, small):
        assert (frame["logprob_diff"] - here["logprob_diff"]).abs().max() < 1e-4
        for one, other in zip(frame["read"], here["read"], strict=True):
            assert (one - other).abs().max() < 1e-5


def test_a_job_on_disk_holds_answers_and_reads_and_no_function_of_the_users(folder, tmp_path):
    model = nv.load(str(folder))
    prompt = nv.encode(model, "what is the red square ?", tiny.picture(0))
    cuts = [nv.Knockout("image", "last", layers=layer) for layer in range(2)]
    asked = {"answer": [ANSWERS[0], "red"], "against": OTHER, "reads": {"share": nv.Attention("last", "image")}}
    nv.sweep(model, prompt, cuts, **asked, remote="local", blocking=False, path=tmp_path / "job")
    found, here = nv.remote.resume(tmp_path / "job").result(), nv.sweep(model, prompt, cuts, **asked)
    assert (found["logprob_diff"] - here["logprob_diff"]).abs().max() < 1e-4
    assert (found["share"][3] - here["share"][3]).abs().max() < 1e-5
    for metric in (gap_of_two, lambda logits: logits[0, 0]):
        with pytest.raises(nv.SpecError, match=r"cannot hold the function .*blocking=True"):
            nv.sweep(model, prompt, cuts, metric=metric, remote="local", blocking=False, path=tmp_path / "other")


def test_variants_without_numbers_are_run_apart_with_their_answers(sdpa):
    prompt = nv.encode(sdpa, "what is the red square ?", tiny.picture(0))
    width = view_of(sdpa).stage().width
    bad = nv.Patch("generated", source=torch.full((width,), float("inf")), layers=1)
    good = nv.Knockout("image", "last", layers=1)
    with pytest.warns(nv.NonFiniteWarning, match="1 of 2 variants"):
        frame = nv.sweep(sdpa, prompt, [bad, good], answer=ANSWERS[:2])
    expected = nv.sweep(sdpa, prompt, [good], answer=ANSWERS[:2])
    assert frame["logprob"][:2].isna().all()
    assert frame["logprob"][2:].tolist() == pytest.approx(expected["logprob"].tolist(), abs=1e-5)


def test_a_part_that_knows_positions_sends_answers_into_runs_of_their_own():
    model = tiny.build()
    prompt, cut = nv.encode(model, "what is the red square ?", tiny.picture(0)), nv.Knockout("image", "last", layers=1)

    def write(module, given, states):
        return torch.cat([states[:, : prompt.width], states[:, prompt.width :] + 1], 1)

    view_of(model).module.model.language_model.layers[0].mlp.register_forward_hook(write)
    with pytest.warns(nv.PassesDifferWarning):
        frame = nv.sweep(model, prompt, [cut, cut], answer=ANSWERS[:2])
    assert frame.attrs["execution"] == "single"
    expected = [float(scores(forced(model, prompt, cut, answer), answer)["logprob"]) for answer in ANSWERS[:2]]
    assert frame["logprob"].tolist() == pytest.approx(2 * expected, abs=1e-4)


def test_text_is_one_token_where_one_spells_it_and_else_its_tokens(sdpa):
    prompt, cut = nv.encode(sdpa, "what is the red square ?", tiny.picture(0)), nv.Knockout("image", "last")
    red, square = (sdpa.tokenizer.convert_tokens_to_ids(word) for word in ("red", "square"))
    frame = nv.sweep(sdpa, prompt, [cut], answer=["red square", " red", red, (red, square)])
    assert frame.attrs["answer"] == [(red, square), red, red, (red, square)]
    assert frame["answer"].tolist() == ["red square", " red", str(red), f"{red},{square}"]
    assert frame["logprob"][0] == frame["logprob"][3] and frame["logprob"][1] == frame["logprob"][2]


def test_where_one_token_is_scored_an_answer_of_several_is_told_what_scores_them(sdpa):
    prompt = nv.encode(sdpa, "what is the red square ?", tiny.picture(0))
    red = sdpa.tokenizer.convert_tokens_to_ids("red")
    with pytest.raises(nv.SpecError) as refused:
        nv.recipes.information_flow(sdpa, [prompt], answers=["red square"])
    assert str(refused.value) == (
        "the answer 'red square' is not one token but ['red', 'square'], and one is scored here; write the id of one "
        f"of them, such as {red}. nv.sweep scores all tokens of an answer together"
    )
    with pytest.raises(nv.SpecError, match="the answer '' has no token"):
        nv.recipes.information_flow(sdpa, [prompt], answers=[""])
    with pytest.raises(nv.SpecError, match=r"answer=\(3, 4\) is no answer.*nv.sweep scores all tokens"):
        nv.attribute(sdpa, prompt, prompt, answer=(3, 4))


def test_an_answer_that_cannot_be_given_to_the_model_is_refused(sdpa):
    prompt, cut = nv.encode(sdpa, "what is the red square ?", tiny.picture(0)), nv.Knockout("image", "last")
    pixels = view_of(sdpa).pixel_tokens
    with pytest.raises(nv.SpecError, match="stands for pixels"):
        nv.sweep(sdpa, prompt, [cut], answer=(20, *pixels, 21))
    for said in (24, [24], "red"):
        with pytest.raises(nv.SpecError, match="no token is generated yet"):
            nv.sweep(sdpa, prompt, [nv.Knockout("image", "generated")], answer=said)
    with pytest.raises(nv.SpecError, match="same tokens"):
        nv.sweep(sdpa, prompt, [cut], answer="red", against=" red")
    with pytest.raises(nv.SpecError, match="nothing is asked"):
        nv.sweep(sdpa, prompt, [cut])
    with pytest.raises(nv.SpecError, match="answer= as well"):
        nv.sweep(sdpa, prompt, [cut], metric=gap_of_two, against=20)
    with pytest.raises(nv.SpecError, match="nothing to read"):
        nv.sweep(sdpa, prompt, [cut], answer=ANSWERS[0], reads=nv.Residual("generated"))


@pytest.mark.parametrize("name", ["logprob", "variant", "clean_logit", "layers", "metric"])
def test_a_read_is_not_called_as_a_column_is(sdpa, name):
    prompt = nv.encode(sdpa, "what is the red square ?", tiny.picture(0))
    with pytest.raises(nv.SpecError, match="the table has a column of that name"):
        nv.sweep(sdpa, prompt, [None], answer=20, reads={name: nv.Attention("last", "image", layers=1)})
