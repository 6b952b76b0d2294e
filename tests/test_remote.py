"""Jobs that nobody waits for: they live in a folder, and any process picks them up."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import answering
import nnsight
import pandas as pd
import pytest
import tiny
import torch

import nnsight_vlm as nv
from nnsight_vlm.remote import job as jobs
from nnsight_vlm.remote.background import FOLDER, counting

EXACT = 1e-5
QUIET = nv.recipes.Work(progress=False)
WAITING = {"status": "QUEUED", "description": "Added to Queue at position 1."}


@pytest.fixture(scope="module")
def model(folder):
    return nv.load(str(folder), dtype=torch.float32)


@pytest.fixture(scope="module")
def far(folder):
    return nv.load(str(folder), dispatch=False)


@pytest.fixture
def server(model, monkeypatch, tmp_path):
    monkeypatch.setattr(jobs, "PAUSE", 0.01)
    monkeypatch.setattr(jobs, "LOST", 0.2)
    monkeypatch.chdir(tmp_path)
    with answering.served(model) as held:
        yield held


def asked(model, count=2):
    prompts = [nv.encode(model, "describe the image .", tiny.picture(seed)) for seed in range(count)]
    return prompts, {"work": QUIET, "per_image": True}


def same(one, two):
    pd.testing.assert_frame_equal(one, two, check_exact=False, rtol=0, atol=EXACT)


def test_a_job_of_several_rounds_goes_on_whenever_it_is_asked_after(server, model, far):
    server.states = [WAITING, answering.COMPLETED]
    prompts, options = asked(far)
    job = nv.recipes.attention_share(far, prompts, remote=True, blocking=False, max_new_tokens=5, **options)
    assert len(server.jobs) == 1 and job.path.parent == FOLDER and "received" in job.status
    assert not job.done() and "position 1" in job.status
    assert not job.done() and len(server.jobs) == 2  # the answers are there, and where they look is asked
    same(job.result(), nv.recipes.attention_share(model, asked(model)[0], max_new_tokens=5, **options))
    assert job.done() and job.status == "done" and len(server.jobs) == 2


def test_a_result_that_is_not_there_in_time_can_be_waited_for_again(server, far):
    server.states = [WAITING] * 3 + [answering.COMPLETED]
    prompts, _ = asked(far)
    job = nv.remote.submit(nv.sweep, far, prompts[0], [nv.Knockout("image", "last")], answer=20)
    with pytest.raises(TimeoutError, match="ask again later"):
        job.result(timeout=0)
    assert len(job.result(timeout=20)) == 1


def test_a_job_is_the_same_after_this_process_has_forgotten_it(server, model, far):
    prompts, options = asked(far)
    first = nv.recipes.attention_share(far, prompts, remote=True, blocking=False, max_new_tokens=5, **options)
    first.done()
    again = nv.remote.resume(first.path)
    here = nv.recipes.attention_share(model, asked(model)[0], max_new_tokens=5, **options)
    same(again.result(), here)
    assert len(server.jobs) == 2
    with counting() as traffic:
        same(nv.remote.resume(first.path, model=far).result(), here)  # all of it from the disk
    assert traffic.jobs == traffic.answers == 0


SENDER = """
import sys
import nnsight, torch
import nnsight_vlm as nv
import tiny
torch.set_num_threads(1)
nnsight.CONFIG.API.HOST, nnsight.CONFIG.API.APIKEY, nnsight.CONFIG.APP.REMOTE_LOGGING = sys.argv[2], sys.argv[3], False
model = nv.load(sys.argv[1], dispatch=False)
prompts = [nv.encode(model, "describe the image .", tiny.picture(seed)) for seed in range(2)]
job = nv.recipes.knockout_windows(model, prompts, windows=2, max_new_tokens=4, per_image=True,
                                  work=nv.recipes.Work(progress=False), remote=True, blocking=False, path="mine")
print("sent", flush=True)
job.result()
"""


def sender(code, folder, host):
    """A client of its own process, which has sent its job and waits."""
    command = [sys.executable, "-c", code, str(folder), host, answering.KEY]
    clean = os.environ | {"PYTHONPATH": str(Path(tiny.__file__).parent), "HF_HUB_OFFLINE": "1"}
    client = subprocess.Popen(command, env=clean, stdout=subprocess.PIPE, text=True)
    assert client.stdout.readline().strip() == "sent"
    return client


def test_a_client_that_is_killed_after_sending_loses_nothing(server, model, far, folder):
    server.states = [WAITING] * 10**6
    with sender(SENDER, folder, nnsight.CONFIG.API.HOST) as client:
        client.send_signal(signal.SIGKILL)
    server.states = [answering.COMPLETED]
    found = nv.remote.resume("mine").result()
    prompts, _ = asked(model)
    here = nv.recipes.knockout_windows(model, prompts, windows=2, max_new_tokens=4, per_image=True, work=QUIET)
    same(found, here)
    assert len(server.jobs) == 1
    kept = b"".join(path.read_bytes() for path in Path("mine").rglob("*") if path.is_file())
    assert answering.KEY.encode() not in kept


def test_a_recipe_with_a_journal_that_is_killed_fetches_what_it_had_sent(server, model, far, tmp_path):
    work = nv.recipes.Work(progress=False, journal=tmp_path / "journal", chunk=1)
    prompts, _ = asked(far, 3)
    options = {"windows": 2, "answers": [20, 21, 22], "per_image": True, "routes": ["image->last"]}

    stock = jobs.Job._take
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs.Job, "_take", lambda job, content: stock(job, content) if len(server.jobs) < 2 else stop())
        with pytest.raises(KeyboardInterrupt):
            nv.recipes.knockout_windows(far, prompts, remote=True, work=work, **options)
    assert len(server.jobs) == 2
    found = nv.recipes.knockout_windows(far, prompts, remote=True, work=work, **options)
    assert len(server.jobs) == 3  # the second was sent, and is not sent again
    same(found, nv.recipes.knockout_windows(model, asked(model, 3)[0], work=QUIET, **options))
    assert {path.suffix for path in (tmp_path / "journal").iterdir()} == {".parquet"}


def stop():
    raise KeyboardInterrupt


def test_chunks_wait_in_the_queue_together_and_are_jobs_of_their_own(server, model, far):
    prompts, options = asked(far, 4)
    waiting = []
    server.before = lambda held, method, _: waiting.append((method, len(held.jobs)))
    work = nv.recipes.Work(progress=False, chunk=1, ahead=3)
    options = {**options, "max_new_tokens": 5}
    found = nv.recipes.attention_share(far, prompts, remote=True, **options | {"work": work})
    same(found, nv.recipes.attention_share(model, asked(model, 4)[0], **options))
    assert len(server.jobs) == 8  # two rounds, of three chunks, and of the one that is left
    assert [method for method, _ in waiting][:3] == ["POST"] * 3
    with pytest.raises(nv.SpecError, match="chunk=0 and ahead=1 must be 1 or more"):
        nv.recipes.Work(chunk=0)


def test_a_job_that_failed_goes_on_from_what_came_home(server, model, far):
    prompts, options = asked(far)
    stock = server.state

    def state(name, host):
        if name == "job-1":
            return 200, {
                "id": name,
                "status": "ERROR",
                "description": "Your job exceeded the execution timeout of 60s.",
            }
        return stock(name, host)

    server.state = state
    job = nv.recipes.attention_share(far, prompts, remote=True, blocking=False, max_new_tokens=5, **options)
    with pytest.raises(nv.RemoteError, match=r"longer than the server allows[\s\S]*is kept in"):
        job.result()
    same(job.result(), nv.recipes.attention_share(model, asked(model)[0], max_new_tokens=5, **options))
    assert len(server.jobs) == 3


def test_a_cancelled_job_is_not_asked_after(server, far):
    prompts, _ = asked(far)
    job = nv.run(far, prompts[0], remote=True, blocking=False)
    assert job.cancel() is False
    for one in (job, nv.remote.resume(job.path)):
        with pytest.raises(nv.RemoteError, match="was cancelled"):
            one.result()
    assert len(server.jobs) == 1


def test_what_cannot_be_kept_is_refused_before_anything_is_sent(server, model, far):
    prompts, _ = asked(far)
    with pytest.raises(nv.SpecError, match="cannot be kept on disk"):
        nv.recipes.prompt_ablation(far, prompts, objects=lambda _: (), remote=True, blocking=False)
    with pytest.raises(nv.SpecError, match=r"cannot hold (tests\.)?test_remote"):
        nv.recipes.prompt_ablation(far, prompts, objects=stop, remote=True, blocking=False)
    edited = nv.install(model, asked(model)[0][0], nv.Knockout("image", "last"))
    with pytest.raises(nv.SpecError, match="edits of its own"):
        nv.run(edited, asked(model)[0][0], remote=True, blocking=False)
    with pytest.raises(nv.SpecError, match="write remote=True as well"):
        nv.run(far, prompts[0], blocking=False)
    with pytest.raises(nv.SpecError, match="write blocking=False as well"):
        nv.run(far, prompts[0], remote=True, path="somewhere")
    assert not server.jobs and not Path(FOLDER).exists()


def test_a_folder_holds_one_job(server, far):
    prompts, _ = asked(far)
    nv.run(far, prompts[0], remote=True, blocking=False, path="one")
    with pytest.raises(nv.SpecError, match=r"holds a job already; write nv.remote.resume\('one'\)"):
        nv.run(far, prompts[0], remote=True, blocking=False, path="one")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


@pytest.mark.parametrize(
    "content, words",
    [(pickle.dumps(Evil()), r"cannot hold posix.mkdir"), (b"", "is broken"), (b"\x80\x04x", "is broken")],
    ids=["foreign", "empty", "truncated"],
)
def test_a_plan_that_is_none_is_an_error_and_nothing_of_it_is_run(server, far, content, words):
    job = nv.run(far, asked(far)[0][0], remote=True, blocking=False)
    (job.path / "plan.pickle").write_bytes(content)
    with pytest.raises(nv.SpecError, match=words):
        nv.remote.resume(job.path)
    with pytest.raises(nv.SpecError, match="there is no job in 'nowhere'"):
        nv.remote.resume("nowhere")
    assert not Path("evil").exists()


def test_what_lies_on_disk_is_what_was_asked(server, far):
    prompts, _ = asked(far)
    swap = nv.Patch("query", source=prompts[1], layers=2) | nv.Patch("last", source=torch.ones(1, tiny.WIDTH), layers=3)
    job = nv.run(far, prompts[0], swap, remote=True, blocking=False)
    [sent] = [json.loads(path.read_text()) for path in (job.path / "jobs").glob("*.json")]
    assert sent == {"job": "job-0", "host": nnsight.CONFIG.API.HOST}
    start = time.monotonic()
    assert torch.equal(nv.remote.resume(job.path).result().logits, job.result().logits)
    assert time.monotonic() - start < 60 and len(server.jobs) == 1
