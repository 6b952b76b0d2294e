"""What goes to a server and back: one job for many questions, each picture once, and nothing lost on a bad line."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path

import answering
import numpy as np
import pandas as pd
import pytest
import tiny
import torch
import zstandard

import nnsight_vlm as nv
from nnsight_vlm import identity
from nnsight_vlm.remote import job as jobs
from nnsight_vlm.remote import packing, server_errors
from nnsight_vlm.remote.background import counting
from nnsight_vlm.remote.model_call import ModelCall

EXACT = 1e-5
QUIET = nv.recipes.Work(progress=False)


@pytest.fixture(scope="module")
def model(folder):
    return nv.load(str(folder), dtype=torch.float32)


@pytest.fixture(scope="module")
def far(folder):
    """The same without weights, as a client has it."""
    return nv.load(str(folder), dispatch=False)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Nobody waits in a test."""
    monkeypatch.setattr(jobs, "PAUSE", 0.01)
    monkeypatch.setattr(jobs, "LOST", 0.2)
    monkeypatch.setattr(jobs, "AWAY", 1.0)


@pytest.fixture
def server(model):
    with answering.served(model) as held:
        yield held


def ask(model, seed=0, text="what is the red square ?"):
    return nv.encode(model, text, tiny.picture(seed))


@pytest.fixture(scope="module")
def prompt(far):
    return ask(far)


@pytest.fixture(scope="module")
def prompts(far):
    return [ask(far, seed) for seed in range(4)]


CUT = nv.Knockout("image", "last", layers=1)


def clean(model, prompt):
    return nv.run(model, prompt, CUT).logits


def same(one, two):
    return torch.allclose(one, two, rtol=0, atol=EXACT)


def test_a_run_is_one_job_and_gives_what_it_gives_here(server, model, far, prompt):
    with counting() as traffic:
        found = nv.run(far, prompt, CUT, reads=[nv.Attention("last", "all", reduce="mass")], remote=True)
    assert same(found.logits, clean(model, ask(model))) and same(found.reads[0], torch.ones_like(found.reads[0]))
    assert (traffic.jobs, len(server.jobs)) == (1, 1)
    assert traffic.payload == len(server.jobs["job-0"]) and traffic.answers > 0


def test_computations_side_by_side_ask_together_in_rounds(server, far, prompts):
    def two_rounds(prompt):
        first = int(nv.run(far, prompt, remote=True).logits.argmax())
        return nv.run(far, prompt.grown((first,)), remote=True).logits

    found = nv.remote.together([partial(two_rounds, prompt) for prompt in prompts], True)
    assert len(found) == 4 and len(server.jobs) == 2


def test_computations_may_have_computations_of_their_own(server, far, prompt):
    def ask_of(layer):
        return nv.run(far, prompt, nv.Knockout("image", "last", layers=layer), remote=True).logits

    def two(first):
        return nv.remote.together([partial(ask_of, first), partial(ask_of, first + 1)], True)

    found = nv.remote.together([partial(two, 0), partial(ask_of, 3), partial(two, 1)], True)
    assert len(server.jobs) == 1
    assert torch.equal(found[0][1], found[2][0]) and not torch.equal(found[0][0], found[2][0])


def test_an_error_of_one_computation_is_raised(server, far, prompt):
    def fails():
        nv.run(far, prompt, remote=True)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        nv.remote.together([fails, partial(nv.run, far, prompt, remote=True)], True)


def windows(model, prompts, count, **options):
    answers = [20 + number for number, _ in enumerate(prompts)]
    return nv.recipes.knockout_windows(
        model, prompts, answers=answers, windows=count, routes=["image->last"], per_image=True, work=QUIET, **options
    )


def test_a_recipe_is_one_job_whose_payload_grows_with_pictures_and_not_with_variants(server, model, far, prompts):
    def payload(some, count):
        with counting() as traffic:
            found = windows(far, some, count, remote=True)
        assert traffic.jobs == 1
        return traffic.payload, found

    (three, _), (four, found), (double, _) = payload(prompts[:3], 2), payload(prompts, 2), payload(prompts, 4)
    pixels = prompts[0].inputs["pixel_values"]
    assert 0.25 * pixels.nbytes < four - three < pixels.nbytes + 3000
    assert double - four < 300 * (len(windows(model, [ask(model)], 4)) - len(windows(model, [ask(model)], 2))) * 4
    here = windows(model, [ask(model, seed) for seed in range(4)], 2)
    pd.testing.assert_frame_equal(found, here, check_exact=False, rtol=0, atol=EXACT)


def test_rows_of_inputs_are_sent_once_and_are_there_again():
    pools = packing.RowPool()
    rows = torch.arange(60.0).reshape(3, 20)
    first, second = pools.packed(rows[[0, 1, 0, 2]]), pools.packed(rows[[2, 2]])
    assert [len(pool) for pool in pools.tensors()] == [3]
    for (number, places), wanted in ((first, [0, 1, 0, 2]), (second, [2, 2])):
        assert torch.equal(pools.tensors()[number][places], rows[wanted])
    assert pools.packed(True) is True and torch.equal(pools.packed(torch.arange(3)), torch.arange(3))


def test_rows_that_only_look_alike_are_kept_apart():
    pools = packing.RowPool()
    zero = torch.zeros(1, 20)
    pools.packed(zero), pools.packed(-zero), pools.packed(zero.double()), pools.packed(zero.reshape(1, 2, 10))
    assert [len(pool) for pool in pools.tensors()] == [2, 1, 1]  # minus zero is another number to the bit


def test_marks_are_those_of_what_is_asked_and_of_nothing_else(far, prompt):
    def request(**other):
        box = []
        asked = {"task": nv.run, "inputs": prompt.inputs, "rest": ((1, None), box, (box, [])), **other}
        return identity.digest(*packing.packed([ModelCall(**asked)]))

    assert request() == request() != request(rest=((1, None), [], ([], [])))
    assert request(rest=(1,)) != request(rest=(1.0,)) and request(rest=("a", "b")) != request(rest=("ab",))
    assert request() != request(inputs={**prompt.inputs, "pixel_values": prompt.inputs["pixel_values"] + 1e-6})
    assert request() != request(task=nv.generate)


def test_a_job_is_split_where_it_would_be_too_large(server, model, far, prompts, monkeypatch):
    monkeypatch.setattr(jobs, "PAYLOAD", 2.5 * prompts[0].inputs["pixel_values"].nbytes)
    found = nv.remote.together([partial(nv.run, far, prompt, CUT, remote=True) for prompt in prompts], True)
    assert len(server.jobs) == 2
    assert all(same(each.logits, clean(model, ask(model, seed))) for seed, each in enumerate(found))


def test_rows_that_are_sent_once_weigh_once(server, far, prompts, monkeypatch):
    monkeypatch.setattr(jobs, "PAYLOAD", 2.5 * prompts[0].inputs["pixel_values"].nbytes)
    cases = [(prompts[0], nv.Knockout("image", "generated", layers=layer)) for layer in (0, 1, 2)] * 3
    assert len(list(nv.generations(far, cases, max_new_tokens=2, rows=3, remote=True))) == 9
    assert len(server.jobs) == 1


def test_states_that_patches_take_are_asked_for_in_every_job_that_writes_them(server, model, far, prompts, monkeypatch):
    swap = nv.Patch("query", source=prompts[3], layers=[1, 2])
    monkeypatch.setattr(jobs, "PAYLOAD", 1)
    found = nv.remote.together([partial(nv.run, far, prompt, swap, remote=True) for prompt in prompts[:2]], True)
    assert len(server.jobs) == 2
    here = nv.Patch("query", source=ask(model, 3), layers=[1, 2])
    assert all(same(each.logits, nv.run(model, ask(model, seed), here).logits) for seed, each in enumerate(found))


def test_an_answer_that_would_be_too_large_is_refused_before_anything_is_sent(server, far, prompt, monkeypatch):
    monkeypatch.setattr(jobs, "ANSWER", 1000)
    with pytest.raises(nv.SpecError, match=r"would bring 0 MiB home .* reduce on the server"):
        nv.run(far, prompt, reads=[nv.Residual("all")], remote=True)
    assert not server.jobs


# a bad line ------------------------------------------------------------------------------------


def failing(times, answer, method="", path=""):
    """A server that gives this instead, so many times."""
    left = [times]

    def before(_, how, where):
        if left[0] and method in how and path in where:
            left[0] -= 1
            if isinstance(answer, Exception):
                raise answer
            return answer
        return None

    return before


REFUSED = (503, {"detail": "Service temporarily unavailable: compute backend is reconnecting."})


@pytest.mark.parametrize("method, path", [("POST", "/request"), ("GET", "/response"), ("GET", "/results")])
@pytest.mark.parametrize("answer", [REFUSED, ConnectionError("gone")], ids=["refused", "cut off"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_server_that_fails_for_a_moment_is_asked_again(server, model, far, prompt, method, path, answer, capsys):
    server.before = failing(2, answer, method, path)
    assert same(nv.run(far, prompt, CUT, remote=True).logits, clean(model, ask(model)))
    assert len(server.jobs) == 1  # none was sent twice


@pytest.mark.parametrize(
    "words",
    [
        "Error submitting request to model deployment. Please try again later. Sorry for the inconvenience.",
        "Replica was evicted while processing your request.",
        "Your job was cancelled or preempted by the server.",
        "Traceback ...\nbotocore.exceptions.ClientError: An error occurred (503)",
    ],
)
def test_a_job_that_the_server_lost_is_sent_again(server, model, far, prompt, words):
    lost = iter([{"status": "ERROR", "description": words}])
    stock = server.state
    server.state = lambda name, host: (200, {"id": name, **told}) if (told := next(lost, None)) else stock(name, host)
    assert same(nv.run(far, prompt, CUT, remote=True).logits, clean(model, ask(model)))
    assert len(server.jobs) == 2


def test_a_job_that_nobody_remembers_is_sent_again(server, model, far, prompt):
    stock = server.state
    server.state = lambda name, host: (404, {"detail": "No response"}) if name == "job-0" else stock(name, host)
    server.before = failing(1, REFUSED, "GET")
    assert same(nv.run(far, prompt, CUT, remote=True).logits, clean(model, ask(model)))
    assert len(server.jobs) == 2


def test_there_is_an_end_to_sending_again(server, far, prompt):
    server.states = [{"status": "ERROR", "description": "Replica was evicted while processing your request."}]
    with pytest.raises(nv.RemoteError, match=r"sent 5 times; the last time: the server, or the line to it, failed"):
        nv.run(far, prompt, remote=True)
    assert len(server.jobs) == 5


def test_there_is_an_end_to_waiting_for_a_server_that_is_away(server, far, prompt):
    server.before = failing(10**6, REFUSED, "GET")
    with pytest.raises(nv.RemoteError, match=r"no answer for 1 seconds"):
        nv.run(far, prompt, remote=True)


# an answer that is none ------------------------------------------------------------------------


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("evil"),)


def zipped(value):
    import io

    file = io.BytesIO()
    torch.save(value, file)
    return zstandard.ZstdCompressor().compress(file.getvalue())


BROKEN = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
    "no archive": lambda _: zstandard.ZstdCompressor().compress(b"hello"),
    "foreign pickle": lambda _: zipped({"answer": Evil()}),
    "plain pickle": lambda _: zstandard.ZstdCompressor().compress(pickle.dumps({"answer": Evil()})),
    "another's": lambda _: zipped({"answer": ["another's mark", []]}),
    "another format": lambda _: zipped([1, 2]),
    "larger than it says": lambda _: zstandard.ZstdCompressor().compress(bytes(10**9)),
}


@pytest.mark.parametrize("how", BROKEN)
def test_an_answer_that_is_none_is_an_error_and_nothing_of_it_is_run(server, far, prompt, how, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    server.spoil = BROKEN[how]
    with pytest.raises(nv.RemoteError, match="the answer is broken"):
        nv.run(far, prompt, remote=True)
    assert not list(tmp_path.iterdir())


def test_an_answer_to_fewer_questions_is_no_answer(far, prompt):
    request = ModelCall(task=nv.run, inputs={}, rest=())
    whole = zipped({"answer": ["mark", [1]]})
    assert jobs.opened(whole, "mark", 1, True) == [1]
    with pytest.raises(ValueError, match="1 answers to 2 requests"):
        jobs.opened(whole, "mark", 2, True)
    assert request.numbers == 0


def test_a_broken_answer_is_asked_for_again(server, model, far, prompt):
    left = [2]

    def spoil(content):
        left[0] -= 1
        return content[:-9] if left[0] >= 0 else content

    server.spoil = spoil
    assert same(nv.run(far, prompt, CUT, remote=True).logits, clean(model, ask(model)))


# words -----------------------------------------------------------------------------------------

OURS = """Traceback (most recent call last):
  File "/home/someone/site-packages/nnsight_vlm/device/runner.py", line 123, in on_every_token
    raise ValueError(
ValueError: the intervention was made for 3 row(s) and the model runs 1
"""
SAID = {
    "Missing or invalid API key. Please visit ...": "set_default_api_key",
    f"Invalid API key format: '{answering.KEY}'. API keys must be": "set_default_api_key",
    "Could not deploy this model. It is too big.": r"nnsight.status\(\) lists",
    "Client nnsight version 0.8.1 is below the minimum supported 0.9.0.": r"ndif.compare\(\)",
    "Client python version 3.11 is below the minimum supported 3.12.": r"ndif.compare\(\)",
    "The model architecture here doesn't match the one your code was traced against": "transformers is another",
    "Your request payload could not be read (KeyError: 'x').": "nnsight is another version",
    "ValueError: Llava cannot switch its attention implementation to 'x'.": 'attn_implementation="sdpa"',
    "Your job exceeded the execution timeout of 60s.": r"Work\(chunk=1\)",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB": "memory=",
    OURS: r"runner.py line 123: ValueError: the intervention was made for 3",
    "Something that nobody has thought of.": "the server said: Something that nobody",
}


@pytest.mark.parametrize("said", SAID, ids=lambda text: text[:30])
def test_errors_say_what_to_do_and_are_not_asked_for_twice(server, far, prompt, said):
    server.states = [{"status": "ERROR", "description": said}]
    with pytest.raises(nv.RemoteError, match=SAID[said]) as caught:
        nv.run(far, prompt, remote=True)
    assert len(server.jobs) == 1
    assert answering.KEY not in str(caught.value) and "http://127.0.0.1" in str(caught.value)


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_key_that_the_server_repeats_is_not_repeated_by_us(server, far, prompt, status, caplog, capsys):
    server.before = failing(10**6, (status, {"detail": f"Invalid API key format: '{answering.KEY}'."}), "POST")
    with pytest.raises(nv.RemoteError, match="<your API key>") as caught:
        nv.run(far, prompt, remote=True)
    chain, shown = caught.value, []
    while chain is not None:
        shown.append(f"{chain!r} {chain}")
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    assert answering.KEY not in "".join([*shown, caplog.text, *capsys.readouterr()])
    assert {headers["ndif-api-key"] for headers in server.headers} == {answering.KEY}


def test_troubles_of_the_line_are_worth_another_try():
    for told in ("ConnectError: [Errno 111] Connection refused", "ReadTimeout: timed out", "Server error '502 Bad"):
        assert server_errors.explain(told, "").again


def test_a_model_that_was_made_in_memory_has_no_name_for_a_server(server):
    model = tiny.load()
    with pytest.raises(nv.SpecError, match="no name that a server could know it by"):
        nv.run(model, ask(model), remote=True)


def test_remote_local_packs_and_opens_as_a_server_does(model, prompt):
    with counting() as traffic:
        found = nv.run(model, ask(model), CUT, remote="local")
    assert same(found.logits, clean(model, ask(model))) and traffic.jobs == 0


def test_the_mean_of_attention_rows_over_heads_is_taken_on_the_server(model):
    prompt = ask(model)
    rows, mean = nv.run(
        model, prompt, reads=[nv.Attention("query", "image"), nv.Attention("query", "image", reduce="mean")]
    ).reads
    assert np.allclose(rows.mean(1).numpy(), mean.numpy(), atol=1e-7) and mean.shape == rows.mean(1).shape
