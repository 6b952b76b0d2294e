"""Threads that share a model get what they get one by one."""

from __future__ import annotations

import contextvars
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import tiny
import torch

import nnsight_vlm as nv
from nnsight_vlm.families import view_of
from nnsight_vlm.families.locks import lock_of, one_thread

ANSWER = 20
CUT = nv.Knockout("image", "query", layers=[1, 2])
THREADS, ROUNDS = 4, 2
LONG = 60
"""Seconds after which a thread that does not end counts as one that never will."""


def question(model, seed):
    return nv.encode(model, "what is the red square ?", tiny.picture(seed))


def ran(model, seed):
    return nv.run(model, question(model, seed), CUT).logits.tolist()


def read(model, seed):
    looked = nv.run(model, question(model, seed), reads=[nv.Attention("last", "image"), nv.Residual("last")])
    return [each.tolist() for each in looked.reads]


def swept(model, seed):
    variants = [nv.Knockout("image", "query", layers=layer) for layer in range(tiny.LAYERS)]
    return nv.sweep(model, question(model, seed), variants, answer=ANSWER)["logit"].tolist()


def generated(model, seed):
    return nv.generate(model, question(model, seed), CUT, max_new_tokens=6).tokens


def answered(model, seed):
    prompt = question(model, seed)
    return [each.tokens for each in nv.generations(model, [(prompt, None), (prompt, CUT)] * 2, max_new_tokens=4)]


def verified(model, seed):
    proof = nv.verify(model, question(model, seed), CUT)
    return proof.edges, proof.moved


WORK = [ran, read, swept, generated, answered, verified]


@pytest.fixture
def switching():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def in_threads(jobs):
    """What each job gives, all of them begun at once, each in a thread."""
    start = threading.Barrier(len(jobs))

    def work(job):
        start.wait(LONG)
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        futures = [pool.submit(work, job) for job in jobs]
        return [future.result(LONG) for future in futures]


def test_threads_get_what_they_get_one_by_one(model, switching):
    expected = {(work, seed): work(model, seed) for work in WORK for seed in range(THREADS)}

    def everything(seed):
        turn = WORK[seed:] + WORK[:seed]  # each thread begins with another
        return [((work, seed), work(model, seed)) for _ in range(ROUNDS) for work in turn]

    for found in in_threads([lambda seed=seed: everything(seed) for seed in range(THREADS)]):
        assert len(found) == ROUNDS * len(WORK)
        for asked, answer in found:
            assert answer == expected[asked], asked[0].__name__


def test_edited_copies_and_second_wrappings_share_the_lock_of_their_module(sdpa, switching):
    prompt = question(sdpa, 0)
    edited, again = nv.install(sdpa, prompt, CUT), nv.load(view_of(sdpa).module, processor=sdpa.processor)
    asked = nv.encode(again, "what is the red square ?", tiny.picture(0))
    jobs = [
        lambda: [nv.run(sdpa, prompt).logits.tolist() for _ in range(8)],
        lambda: [nv.run(edited, prompt).logits.tolist() for _ in range(8)],
        lambda: [nv.run(again, asked).logits.tolist() for _ in range(8)],
    ]
    expected = [job() for job in jobs]
    assert expected[0] == expected[2] != expected[1]
    assert in_threads(jobs) == expected


def test_threads_may_share_what_a_block_of_reuse_keeps(sdpa, switching):
    """A context that is copied takes the block along; what one sweep writes behind kept keys is not another's."""
    prompt = question(sdpa, 0)
    early, late = [nv.Knockout("image", "query", layers=n) for n in range(4)], [nv.Knockout("image", "last", layers=0)]

    def logits(variants):
        return nv.sweep(sdpa, prompt, [*variants, nv.Allow("image", "last", layers=1)], answer=ANSWER)["logit"].tolist()

    expected = [logits(early), logits(late)] * 2
    with nv.reuse(sdpa):
        contexts = [contextvars.copy_context() for _ in expected]
        for _ in range(ROUNDS):
            jobs = [
                lambda context=context, variants=variants: context.run(logits, variants)
                for context, variants in zip(contexts, [early, late] * 2, strict=True)
            ]
            for found, wanted in zip(in_threads(jobs), expected, strict=True):
                assert found == pytest.approx(wanted, rel=1e-5, abs=1e-5)


def test_answers_that_are_not_fetched_yet_keep_no_thread_waiting(sdpa):
    cases = [(question(sdpa, seed), None) for seed in range(3)]
    answers = nv.generations(sdpa, cases, max_new_tokens=3, rows=1)
    first = next(answers)
    assert in_threads([lambda: ran(sdpa, 0)]) == [ran(sdpa, 0)]
    one_by_one = [nv.generate(sdpa, prompt, max_new_tokens=3).tokens for prompt, _ in cases]
    assert [first.tokens, *(each.tokens for each in answers)] == one_by_one


def test_weights_that_the_first_run_loads_are_loaded_once(folder, switching):
    expected = ran(nv.load(str(folder)), 0)
    for _ in range(2):
        model = nv.load(str(folder), dispatch=False)
        loads, load = [], model._load
        model._load = lambda *args, **kwargs: loads.append(1) or load(*args, **kwargs)  # noqa: B023
        prompt = question(model, 0)
        found = in_threads([partial(nv.run, model, prompt, CUT)] * THREADS)
        assert [run.logits.tolist() for run in found] == [expected] * THREADS and len(loads) == 1


def test_a_thread_that_holds_a_model_may_take_it_again_and_others_wait(sdpa):
    module, order = view_of(sdpa).module, []

    def late():
        with one_thread(sdpa):
            order.append("other")

    with one_thread(sdpa), one_thread(sdpa):
        thread = threading.Thread(target=late)
        thread.start()
        thread.join(0.1)
        order.append("this")
    thread.join(LONG)
    assert order == ["this", "other"]
    assert lock_of(module) is lock_of(module)


def test_a_job_is_asked_in_its_own_thread_only(folder, tmp_path):
    model = nv.load(str(folder))
    prompt = question(model, 0)
    job = nv.run(model, prompt, CUT, remote="local", blocking=False, path=tmp_path / "job")
    assert torch.equal(job.result().logits, nv.run(model, prompt, CUT).logits)
    other = nv.remote.resume(job.path, model=model)
    with pytest.raises(nv.SpecError, match=r"made in another thread.*nv\.remote\.resume"):
        in_threads([other.done])
