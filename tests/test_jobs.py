"""Jobs on a server: one job for many calls, each picture sent once, and nothing lost on a bad connection."""

from __future__ import annotations

import io
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import answering
import nnsight
import numpy as np
import pandas as pd
import pytest
import tiny
import torch
import zstandard
from float64 import LIMIT

import nnsight_vlm as nv
from nnsight_vlm import identity
from nnsight_vlm.device import runner
from nnsight_vlm.remote import batching, counting, packing, server_errors, unpacking
from nnsight_vlm.remote import job as server_jobs
from nnsight_vlm.remote.events import current_patience, listening
from nnsight_vlm.remote.job_store import storing_jobs
from nnsight_vlm.remote.model_call import ModelCall

pytestmark = pytest.mark.float64
QUIET = nv.recipes.Work(progress=False)


@pytest.fixture(scope="module")
def model(folder):
    return nv.load(str(folder), dtype=torch.float64)


@pytest.fixture(scope="module")
def client(folder):
    """The same model without weights, as a client has it."""
    return nv.load(str(folder), dispatch=False)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """Retries and time limits of fractions of a second."""
    monkeypatch.setattr(server_jobs, "RETRY_PAUSE", 0.01)
    monkeypatch.setattr(server_jobs, "LOST_AFTER", 0.2)
    monkeypatch.setattr(server_jobs, "AWAY_AFTER", 1.0)


@pytest.fixture
def server(model):
    with answering.served(model) as stub:
        yield stub


def encoded(model, seed=0, text="what is the red square ?"):
    return nv.encode(model, text, tiny.picture(seed))


@pytest.fixture(scope="module")
def prompt(client):
    return encoded(client)


@pytest.fixture(scope="module")
def prompts(client):
    return [encoded(client, seed) for seed in range(4)]


CUT = nv.Knockout("image", "last", layers=1)


def local_logits(model, prompt):
    return nv.run(model, prompt, CUT).logits


def same(one, other):
    return torch.allclose(one, other, rtol=0, atol=LIMIT)


def test_a_run_is_one_job_and_gives_what_a_local_run_gives(server, model, client, prompt):
    with counting() as traffic:
        run = nv.run(client, prompt, CUT, reads=[nv.Attention("last", "all", reduce="mass")], remote=True)
    assert same(run.logits, local_logits(model, encoded(model)))
    assert same(run.reads[0], torch.ones_like(run.reads[0]))
    assert (traffic.jobs, len(server.jobs)) == (1, 1)
    assert traffic.payload == len(server.jobs["job-0"]) and traffic.answers > 0


def test_computations_side_by_side_share_one_job_a_round(server, client, prompts):
    def two_rounds(prompt):
        first = int(nv.run(client, prompt, remote=True).logits.argmax())
        return nv.run(client, prompt.grown((first,)), remote=True).logits

    results = nv.remote.together([partial(two_rounds, prompt) for prompt in prompts], True)
    assert len(results) == 4 and len(server.jobs) == 2


def test_computations_may_call_together_themselves(server, client, prompt):
    def cut_at(layer):
        return nv.run(client, prompt, nv.Knockout("image", "last", layers=layer), remote=True).logits

    def two(first):
        return nv.remote.together([partial(cut_at, first), partial(cut_at, first + 1)], True)

    results = nv.remote.together([partial(two, 0), partial(cut_at, 3), partial(two, 1)], True)
    assert len(server.jobs) == 1
    assert torch.equal(results[0][1], results[2][0]) and not torch.equal(results[0][0], results[2][0])


def test_an_error_of_one_computation_is_raised(server, client, prompt):
    def fails():
        nv.run(client, prompt, remote=True)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        nv.remote.together([fails, partial(nv.run, client, prompt, remote=True)], True)


def windows(model, prompts, count, **options):
    answers = [20 + number for number, _ in enumerate(prompts)]
    return nv.recipes.knockout_windows(
        model, prompts, answers=answers, windows=count, routes=["image->last"], per_image=True, work=QUIET, **options
    )


def test_a_recipe_is_one_job_whose_payload_grows_with_pictures_and_not_with_variants(server, model, client, prompts):
    def payload(prompts, count):
        with counting() as traffic:
            frame = windows(client, prompts, count, remote=True)
        assert traffic.jobs == 1
        return traffic.payload, frame

    (three, _), (four, few), (more_variants, many) = payload(prompts[:3], 2), payload(prompts, 2), payload(prompts, 4)
    pixels = prompts[0].inputs["pixel_values"]
    assert 0.25 * pixels.nbytes < four - three < pixels.nbytes + 3000
    assert more_variants - four < 300 * (len(many) - len(few))
    local = windows(model, [encoded(model, seed) for seed in range(4)], 2)
    pd.testing.assert_frame_equal(few, local, check_exact=False, rtol=0, atol=LIMIT)


def test_rows_of_inputs_are_sent_once_and_restored():
    pool = packing.RowPool()
    rows = torch.arange(60.0).reshape(3, 20)
    first, second = pool.pack(rows[[0, 1, 0, 2]]), pool.pack(rows[[2, 2]])
    assert [len(rows) for rows in pool.tensors()] == [3]
    for (number, places), expected in ((first, [0, 1, 0, 2]), (second, [2, 2])):
        assert torch.equal(pool.tensors()[number][places], rows[expected])
    assert pool.pack(True) is True and torch.equal(pool.pack(torch.arange(3)), torch.arange(3))


def test_rows_that_differ_in_sign_of_zero_dtype_or_shape_are_kept_apart():
    pool = packing.RowPool()
    zero = torch.zeros(1, 20)
    pool.pack(zero), pool.pack(-zero), pool.pack(zero.double()), pool.pack(zero.reshape(1, 2, 10))
    assert [len(rows) for rows in pool.tensors()] == [2, 1, 1]  # minus zero has other bits than zero


def test_a_digest_depends_on_what_is_asked_and_on_nothing_else(client, prompt):
    def digest_of(**changed):
        slot = []
        call = {"task": nv.run, "inputs": prompt.inputs, "rest": ((1, None), slot, (slot, [])), **changed}
        return identity.digest(*packing.pack([ModelCall(**call)]))

    assert digest_of() == digest_of() != digest_of(rest=((1, None), [], ([], [])))
    assert digest_of(rest=(1,)) != digest_of(rest=(1.0,)) and digest_of(rest=("a", "b")) != digest_of(rest=("ab",))
    assert digest_of() != digest_of(inputs={**prompt.inputs, "pixel_values": prompt.inputs["pixel_values"] + 1e-6})
    assert digest_of() != digest_of(task=nv.generate)


def test_a_job_is_split_where_it_would_be_too_large(server, model, client, prompts, monkeypatch):
    monkeypatch.setattr(batching, "MAX_PAYLOAD_BYTES", 2.5 * prompts[0].inputs["pixel_values"].nbytes)
    runs = nv.remote.together([partial(nv.run, client, prompt, CUT, remote=True) for prompt in prompts], True)
    assert len(server.jobs) == 2
    assert all(same(run.logits, local_logits(model, encoded(model, seed))) for seed, run in enumerate(runs))


def test_rows_that_are_sent_once_count_once(server, client, prompts, monkeypatch):
    monkeypatch.setattr(batching, "MAX_PAYLOAD_BYTES", 2.5 * prompts[0].inputs["pixel_values"].nbytes)
    cases = [(prompts[0], nv.Knockout("image", "generated", layers=layer)) for layer in (0, 1, 2)] * 3
    assert len(list(nv.generations(client, cases, max_new_tokens=2, rows=3, remote=True))) == 9
    assert len(server.jobs) == 1


def test_every_job_that_patches_computes_the_states_that_it_needs(server, model, client, prompts, monkeypatch):
    swap = nv.Patch("query", source=prompts[3], layers=[1, 2])
    monkeypatch.setattr(batching, "MAX_PAYLOAD_BYTES", 1)
    runs = nv.remote.together([partial(nv.run, client, prompt, swap, remote=True) for prompt in prompts[:2]], True)
    assert len(server.jobs) == 2
    local_swap = nv.Patch("query", source=encoded(model, 3), layers=[1, 2])
    local = [nv.run(model, encoded(model, seed), local_swap) for seed in range(2)]
    assert all(same(run.logits, expected.logits) for run, expected in zip(runs, local, strict=True))


def test_an_answer_that_would_be_too_large_is_refused_before_anything_is_sent(server, client, prompt, monkeypatch):
    monkeypatch.setattr(unpacking, "MAX_ANSWER_BYTES", 1000)
    with pytest.raises(nv.SpecError, match=r"would bring 0 MiB back .* reduce on the server"):
        nv.run(client, prompt, reads=[nv.Residual("all")], remote=True)
    assert not server.jobs


def test_the_answer_of_one_server_is_never_taken_for_that_of_another(server, client, prompt, dtype, tmp_path):
    first_host = nnsight.CONFIG.API.HOST
    with storing_jobs(tmp_path):
        first = nv.run(client, prompt, CUT, remote=True).logits
        with answering.served(tiny.build("sdpa", seed=1, dtype=dtype)) as second:
            other = nv.run(client, prompt, CUT, remote=True).logits
            assert (len(server.jobs), len(second.jobs)) == (1, 1) and not same(first, other)
            assert torch.equal(nv.run(client, prompt, CUT, remote=first_host + "/").logits, first)
        assert torch.equal(nv.run(client, prompt, CUT, remote=True).logits, first)
    assert (len(server.jobs), len(second.jobs)) == (1, 1)


def test_a_job_that_one_server_has_is_not_fetched_from_another(server, model, client, prompt, tmp_path):
    server.states = [{"status": "QUEUED", "description": "Added to Queue at position 1."}]
    asked = [ModelCall(task=runner.forward, inputs={}, rest=())]
    with storing_jobs(tmp_path):
        server_jobs.ServerJob(client, asked, True).poll()
        assert server_jobs.ServerJob(client, asked, True)._client.job_id == "job-0"
        with answering.served(model) as second:
            assert server_jobs.ServerJob(client, asked, True)._client.job_id is None
    assert (len(server.jobs), len(second.jobs)) == (1, 0)


# a bad connection -------------------------------------------------------------------------------


def failing(times, answer, method="", path=""):
    """An `intercept` that gives `answer` instead, or raises it, to the first `times` requests of a method and path."""
    left = [times]

    def intercept(_, request_method, request_path):
        if left[0] and method in request_method and path in request_path:
            left[0] -= 1
            if isinstance(answer, Exception):
                raise answer
            return answer
        return None

    return intercept


REFUSED = (503, {"detail": "Service temporarily unavailable: compute backend is reconnecting."})


@pytest.mark.parametrize("method, path", [("POST", "/request"), ("GET", "/response"), ("GET", "/results")])
@pytest.mark.parametrize("answer", [REFUSED, ConnectionError("gone")], ids=["refused", "cut off"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_server_that_fails_for_a_moment_is_asked_again(server, model, client, prompt, method, path, answer, capsys):
    server.intercept = failing(2, answer, method, path)
    assert same(nv.run(client, prompt, CUT, remote=True).logits, local_logits(model, encoded(model)))
    assert len(server.jobs) == 1  # none was sent twice


@pytest.mark.parametrize(
    "message",
    [
        "Error submitting request to model deployment. Please try again later. Sorry for the inconvenience.",
        "Replica was evicted while processing your request.",
        "Your job was cancelled or preempted by the server.",
        "Traceback ...\nbotocore.exceptions.ClientError: An error occurred (503)",
    ],
)
def test_a_job_that_the_server_lost_is_sent_again(server, model, client, prompt, message):
    states, original = iter([{"status": "ERROR", "description": message}]), server.state
    server.state = lambda job, host: (
        (200, {"id": job, **state}) if (state := next(states, None)) else original(job, host)
    )
    assert same(nv.run(client, prompt, CUT, remote=True).logits, local_logits(model, encoded(model)))
    assert len(server.jobs) == 2


def test_a_job_that_the_server_does_not_know_is_sent_again(server, model, client, prompt):
    original = server.state
    server.state = lambda job, host: (404, {"detail": "No response"}) if job == "job-0" else original(job, host)
    server.intercept = failing(1, REFUSED, "GET")
    assert same(nv.run(client, prompt, CUT, remote=True).logits, local_logits(model, encoded(model)))
    assert len(server.jobs) == 2


def test_a_job_is_sent_a_limited_number_of_times(server, client, prompt):
    server.states = [{"status": "ERROR", "description": "Replica was evicted while processing your request."}]
    with pytest.raises(nv.RemoteError, match="sent 5 times; the last time: the server, or the connection"):
        nv.run(client, prompt, remote=True)
    assert len(server.jobs) == 5


def test_a_server_that_is_away_is_given_up_in_the_end(server, client, prompt):
    server.intercept = failing(10**6, REFUSED, "GET")
    with pytest.raises(nv.RemoteError, match=r"no answer for 1 seconds"):
        nv.run(client, prompt, remote=True)


# a server that says nothing new -----------------------------------------------------------------


class Clock:
    """Time that passes only where the package sleeps, long enough for few polls."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += max(seconds, 40)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(server_jobs, "time", clock)
    monkeypatch.setattr(server_jobs, "STARTED_AFTER", 120)
    monkeypatch.setattr(server_jobs, "SILENT_AFTER", 400)
    return clock


SILENT = {
    "handed to the model": ("DISPATCHED", 120),
    "received": ("RECEIVED", 120),
    "queued": ("QUEUED", 400),
    "deploying": ("DEPLOYING", 400),
    "running": ("RUNNING", 400),
}


@pytest.mark.parametrize("stage", SILENT)
def test_a_job_that_a_server_forgot_is_sent_again_and_answered(server, model, client, prompt, clock, stage):
    status, limit = SILENT[stage]
    original = server.state
    server.state = lambda job, host: (
        (200, {"id": job, "status": status, "description": "on its way"}) if job == "job-0" else original(job, host)
    )
    assert same(nv.run(client, prompt, CUT, remote=True).logits, local_logits(model, encoded(model)))
    assert len(server.jobs) == 2 and limit < clock.now < limit + 200


@pytest.mark.parametrize("stage", SILENT)
def test_a_server_that_never_runs_a_job_is_given_up_in_words(server, client, prompt, clock, stage, tmp_path):
    status, limit = SILENT[stage]
    server.states = [{"status": status, "description": "on its way"}]
    words = rf"no news of job job-1 for {limit:.0f} seconds; its last status was '{status.lower()}: on its way'"
    with storing_jobs(tmp_path), pytest.raises(nv.RemoteError, match=words + r".*nv\.remote\.resume.*patience"):
        nv.run(client, prompt, CUT, remote=True)
    assert len(server.jobs) == 2 and 2 * limit < clock.now < 2 * limit + 400
    server.states = [answering.COMPLETED]
    with storing_jobs(tmp_path):  # nothing is lost: the same call asks for what was sent
        nv.run(client, prompt, CUT, remote=True)
    assert len(server.jobs) == 2


def test_a_job_of_which_a_server_has_no_record_is_sent_again(server, model, client, prompt, clock):
    original = server.state
    server.state = lambda job, host: (404, {"detail": "No response"}) if job == "job-0" else original(job, host)
    assert same(nv.run(client, prompt, CUT, remote=True).logits, local_logits(model, encoded(model)))
    assert len(server.jobs) == 2 and clock.now < server_jobs.STARTED_AFTER + 200


def test_an_id_on_disk_that_a_server_no_longer_knows_is_given_up_soon(server, client, prompt, clock, tmp_path):
    server.states = [{"status": "QUEUED", "description": "Added to Queue at position 1."}]
    with storing_jobs(tmp_path):
        asked = [ModelCall(task=runner.forward, inputs={}, rest=())]
        server_jobs.ServerJob(client, asked, True).poll()
        server.state = lambda *_: (404, {"detail": "No response"})
        resumed = server_jobs.ServerJob(client, asked, True)
        while len(server.jobs) < 2 and clock.now < 100:
            resumed.poll()
            clock.now += 0.05
    assert len(server.jobs) == 2 and clock.now < 1


def test_news_begin_the_wait_anew(server, client, prompt, clock):
    moving = [{"status": "QUEUED", "description": f"position {place}"} for place in range(15, 0, -1)]
    server.states = [*moving, *([{"status": "RUNNING", "description": "runs"}] * 8), answering.COMPLETED]
    nv.run(client, prompt, CUT, remote=True)
    assert len(server.jobs) == 1 and clock.now > 2 * server_jobs.SILENT_AFTER


def test_a_user_can_wait_longer(server, client, prompt, clock):
    server.states = [*[{"status": "RUNNING", "description": "runs"}] * 20, answering.COMPLETED]
    with nv.remote.patience(10 * server_jobs.SILENT_AFTER):
        nv.run(client, prompt, CUT, remote=True)
    assert len(server.jobs) == 1 and clock.now > 1.5 * server_jobs.SILENT_AFTER
    for wrong in (0, -1, float("nan")):
        with pytest.raises(nv.SpecError, match="write seconds"), nv.remote.patience(wrong):
            pass


def test_time_in_which_nobody_asked_is_no_silence(server, client, prompt, clock):
    server.states = [{"status": "RUNNING", "description": "runs"}]
    job = server_jobs.ServerJob(client, [ModelCall(task=runner.forward, inputs={}, rest=())], True)
    for _ in range(6):
        job.poll()
        clock.now += 24 * 3600
    assert len(server.jobs) == 1


# two threads -------------------------------------------------------------------------------------


def in_two_threads(function):
    """What a function of 0 and of 1 gives in two threads, which are both in it before either goes on."""
    both = threading.Barrier(2, timeout=20)
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(partial(function, both), range(2)))


def test_each_thread_stores_its_jobs_in_its_own_folder(server, client, prompts, tmp_path):
    def ask(both, number):
        with storing_jobs(tmp_path / str(number)):
            both.wait()
            job = server_jobs.ServerJob(client, [ModelCall(task=runner.forward, inputs={}, rest=(number,))], True)
            job.poll()
            both.wait()
            return job.digest

    digests = in_two_threads(ask)
    for number, digest in enumerate(digests):
        assert [path.stem for path in (tmp_path / str(number)).iterdir()] == [digest]


def test_a_thread_without_a_folder_stores_nothing(server, client, tmp_path):
    def ask(both, number):
        with storing_jobs(tmp_path if number else None):
            both.wait()
            server_jobs.ServerJob(client, [ModelCall(task=runner.forward, inputs={}, rest=(number,))], True).poll()
            both.wait()

    in_two_threads(ask)
    assert len(list(tmp_path.iterdir())) == 1


def test_each_thread_counts_and_hears_of_its_own_jobs(server, client):
    def ask(both, number):
        heard = []
        with counting() as traffic, listening(heard.append), nv.remote.patience(1 + number):
            both.wait()
            for sent in range(1 + number):
                call = ModelCall(task=runner.forward, inputs={}, rest=(number, sent))
                server_jobs.ServerJob(client, [call], True).poll()
            both.wait()
            return traffic.jobs, len(heard), current_patience()

    assert in_two_threads(ask) == [(1, 1, 1.0), (2, 2, 2.0)]
    assert current_patience() is None


def test_computations_that_take_turns_share_the_folder_around_them(server, client, prompts, tmp_path):
    with storing_jobs(tmp_path), counting() as traffic:
        nv.remote.together([partial(nv.run, client, prompt, CUT, remote=True) for prompt in prompts], True)
    assert traffic.jobs == 1 and len(list(tmp_path.iterdir())) == 2  # the job's id and its answer


def test_counters_inside_each_other_count_on_by_themselves(server, client, prompt):
    with counting() as outer:
        with counting():
            pass
        nv.run(client, prompt, CUT, remote=True)
    assert outer.jobs == 1


# broken answers ---------------------------------------------------------------------------------


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("evil"),)


def compressed(value):
    file = io.BytesIO()
    torch.save(value, file)
    return zstandard.ZstdCompressor().compress(file.getvalue())


BROKEN = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
    "no archive": lambda _: zstandard.ZstdCompressor().compress(b"hello"),
    "foreign pickle": lambda _: compressed({"answer": Evil()}),
    "plain pickle": lambda _: zstandard.ZstdCompressor().compress(pickle.dumps({"answer": Evil()})),
    "another job's": lambda _: compressed({"answer": ["another digest", []]}),
    "another format": lambda _: compressed([1, 2]),
    "larger than it says": lambda _: zstandard.ZstdCompressor().compress(bytes(10**9)),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_answer_is_an_error_and_no_code_in_it_is_run(server, client, prompt, how, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    server.corrupt = BROKEN[how]
    with pytest.raises(nv.RemoteError, match="the answer is broken"):
        nv.run(client, prompt, remote=True)
    assert not list(tmp_path.iterdir())


def test_an_answer_to_fewer_calls_is_refused():
    content = compressed({"answer": ["digest", [1]]})
    assert unpacking.read_answer(content, "digest", 1, True) == [1]
    with pytest.raises(ValueError, match="1 answers to 2 calls"):
        unpacking.read_answer(content, "digest", 2, True)


def test_a_broken_answer_is_asked_for_again(server, model, client, prompt):
    left = [2]

    def truncate(content):
        left[0] -= 1
        return content[:-9] if left[0] >= 0 else content

    server.corrupt = truncate
    assert same(nv.run(client, prompt, CUT, remote=True).logits, local_logits(model, encoded(model)))


# error messages ---------------------------------------------------------------------------------

TRACEBACK = """Traceback (most recent call last):
  File "/home/someone/site-packages/nnsight_vlm/device/runner.py", line 123, in on_every_token
    raise ValueError(
ValueError: the intervention was made for 3 row(s) and the model runs 1
"""
ADVICE = {
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
    TRACEBACK: r"runner.py line 123: ValueError: the intervention was made for 3",
    "Something that nobody has thought of.": "the server said: Something that nobody",
}


@pytest.mark.parametrize("message", ADVICE, ids=lambda text: text[:30])
def test_errors_say_what_to_do_and_the_job_is_not_sent_again(server, client, prompt, message):
    server.states = [{"status": "ERROR", "description": message}]
    with pytest.raises(nv.RemoteError, match=ADVICE[message]) as caught:
        nv.run(client, prompt, remote=True)
    assert len(server.jobs) == 1
    assert answering.KEY not in str(caught.value) and "http://127.0.0.1" in str(caught.value)


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_key_that_the_server_repeats_is_not_shown(server, client, prompt, status, caplog, capsys):
    server.intercept = failing(10**6, (status, {"detail": f"Invalid API key format: '{answering.KEY}'."}), "POST")
    with pytest.raises(nv.RemoteError, match="<your API key>") as caught:
        nv.run(client, prompt, remote=True)
    chain, shown = caught.value, []
    while chain is not None:
        shown.append(f"{chain!r} {chain}")
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    assert answering.KEY not in "".join([*shown, caplog.text, *capsys.readouterr()])
    assert {headers["ndif-api-key"] for headers in server.headers} == {answering.KEY}


def test_a_tower_that_a_sandbox_cannot_hand_over_is_told_in_words():
    said = "AttributeError: Can't pickle local object 'install_output_capuring_hook.<locals>.output_capturing_hook'"
    failure = server_errors.explain(said, "")
    assert not failure.retry and "vision tower cannot be handed over" in failure.message


def test_a_job_is_sent_again_after_trouble_with_the_connection():
    for message in ("ConnectError: [Errno 111] Connection refused", "ReadTimeout: timed out", "Server error '502 Bad"):
        assert server_errors.explain(message, "").retry


@pytest.mark.parametrize(
    "reason",
    [
        "[Errno -2] Name or service not known",
        "[Errno 8] nodename nor servname provided, or not known",
        "[Errno 11001] getaddrinfo failed",
        "[Errno 101] Network is unreachable",
    ],
)
def test_where_no_server_was_reached_none_is_quoted(reason):
    failure = server_errors.explain(f"Failed to send request: {reason}", "")
    assert not failure.retry and failure.message.startswith("the server was not reached")
    assert "nnsight-vlm doctor --remote" in failure.message and reason in failure.message
    assert "server said" not in failure.message


def test_a_model_that_was_made_in_memory_has_no_name_for_a_server(server):
    model = tiny.load()
    with pytest.raises(nv.SpecError, match="no name that a server could know it by"):
        nv.run(model, encoded(model), remote=True)


def test_remote_local_gives_what_a_local_run_gives_and_sends_nothing(model, prompt):
    with counting() as traffic:
        found = nv.run(model, encoded(model), CUT, remote="local")
    assert same(found.logits, local_logits(model, encoded(model))) and traffic.jobs == 0


def test_the_mean_of_attention_rows_over_heads_is_taken_on_the_server(model):
    prompt = encoded(model)
    rows, mean = nv.run(
        model, prompt, reads=[nv.Attention("query", "image"), nv.Attention("query", "image", reduce="mean")]
    ).reads
    assert np.allclose(rows.mean(1).numpy(), mean.numpy(), rtol=0, atol=LIMIT) and mean.shape == rows.mean(1).shape
