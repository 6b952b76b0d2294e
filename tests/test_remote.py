"""Background jobs: they are kept in a folder, and any process can resume them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import answering
import nnsight
import pandas as pd
import pytest
import tiny
import torch
from float64 import LIMIT

import nnsight_vlm as nv
from nnsight_vlm.remote import counting
from nnsight_vlm.remote import job as server_jobs
from nnsight_vlm.remote.background import DEFAULT_FOLDER

pytestmark = pytest.mark.float64
QUIET = nv.recipes.Work(progress=False)
WAITING = {"status": "QUEUED", "description": "Added to Queue at position 1."}


@pytest.fixture(scope="module")
def model(folder):
    return nv.load(str(folder), dtype=torch.float64)


@pytest.fixture(scope="module")
def client(folder):
    """The same model without weights, as a client has it."""
    return nv.load(str(folder), dispatch=False)


@pytest.fixture
def server(model, monkeypatch, tmp_path):
    monkeypatch.setattr(server_jobs, "RETRY_PAUSE", 0.01)
    monkeypatch.setattr(server_jobs, "LOST_AFTER", 0.2)
    monkeypatch.chdir(tmp_path)
    with answering.served(model) as stub:
        yield stub


def arguments(model, count=2):
    """Prompts for a recipe, and its options."""
    prompts = [nv.encode(model, "describe the image .", tiny.picture(seed)) for seed in range(count)]
    return prompts, {"work": QUIET, "per_image": True}


def same(one, other):
    pd.testing.assert_frame_equal(one, other, check_exact=False, rtol=0, atol=LIMIT)


def test_a_job_of_several_rounds_advances_when_it_is_polled(server, model, client):
    server.states = [WAITING, answering.COMPLETED]
    prompts, options = arguments(client)
    job = nv.recipes.attention_share(client, prompts, remote=True, blocking=False, max_new_tokens=5, **options)
    assert len(server.jobs) == 1 and job.path.parent == DEFAULT_FOLDER and "received" in job.status
    assert not job.done() and "position 1" in job.status
    assert not job.done() and len(server.jobs) == 2  # the answers came, and the second round is sent
    same(job.result(), nv.recipes.attention_share(model, arguments(model)[0], max_new_tokens=5, **options))
    assert job.done() and job.status == "done" and len(server.jobs) == 2


def test_a_result_that_did_not_come_in_time_can_be_waited_for_again(server, client):
    server.states = [WAITING] * 3 + [answering.COMPLETED]
    prompts, _ = arguments(client)
    job = nv.remote.submit(nv.sweep, client, prompts[0], [nv.Knockout("image", "last")], answer=20)
    with pytest.raises(TimeoutError, match="ask again later"):
        job.result(timeout=0)
    assert len(job.result(timeout=20)) == 1


def test_a_job_that_cannot_be_asked_leaves_no_folder_behind(server, client, tmp_path):
    prompts, _ = arguments(client)
    with pytest.raises(nv.SpecError, match="99"):
        nv.sweep(
            client,
            prompts[0],
            [nv.Knockout("image", "last", layers=[99])],
            answer=20,
            remote=True,
            blocking=False,
            path=tmp_path / "job",
        )
    assert not (tmp_path / "job").exists() and not server.jobs


def test_steering_and_changed_weights_are_the_same_on_a_server(server, model, client):
    """Vectors that are made there, added there, and weights that are changed there."""
    (one, other), (here, there) = (
        [nv.encode(each, "what is the red square ?", tiny.picture(seed)) for seed in range(2)]
        for each in (model, client)
    )
    towards = nv.direction(model, [one], [other], "query", [1, 2])
    job = nv.direction(client, [here], [there], "query", [1, 2], remote=True, blocking=False)
    assert tiny.gap(nv.remote.resume(job.path).result(), towards) < LIMIT and len(server.jobs) == 1
    cases = [
        nv.Add(["last", "generated"], towards, layers=[1, 2], scale=2.0) | nv.Scale("image", 0.5, layers=1, site="mlp"),
        nv.Knockout("image", ["query", "generated"], layers=[1], how="zero"),
        nv.Limit("image", ["last", "generated"], top=3, layers=2) | nv.Patch("generated", source=towards[0], layers=3),
    ]
    read = [nv.Attention("last", "all"), nv.Residual("last")]
    for case in cases:
        local = nv.run(model, one, case, reads=read, empty="ignore")
        sent = nv.run(client, here, case, reads=read, empty="ignore", remote=True)
        assert tiny.gap(sent.logits, local.logits) < LIMIT
        assert all(tiny.gap(*pair) < LIMIT for pair in zip(sent.reads, local.reads, strict=True))
        answers = [nv.generate(each, given, case, max_new_tokens=3, remote=there_too).tokens
                   for each, given, there_too in ((model, one, False), (client, here, True))]  # fmt: skip
        assert answers[0] == answers[1]
        assert nv.verify(client, here, case, remote=True).tokens == 4


def test_a_resumed_job_asks_only_for_what_did_not_come_back(server, model, client):
    prompts, options = arguments(client)
    first = nv.recipes.attention_share(client, prompts, remote=True, blocking=False, max_new_tokens=5, **options)
    first.done()
    again = nv.remote.resume(first.path)
    local = nv.recipes.attention_share(model, arguments(model)[0], max_new_tokens=5, **options)
    same(again.result(), local)
    assert len(server.jobs) == 2
    with counting() as traffic:
        same(nv.remote.resume(first.path, model=client).result(), local)  # everything is on disk
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


def start_sender(code, folder, host):
    """A client in a process of its own, which has sent its job and waits for the result."""
    command = [sys.executable, "-c", code, str(folder), host, answering.KEY]
    folders = [str(Path(tiny.__file__).parent), str(Path(nv.__file__).parents[1])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "sent"
    return process


def test_a_client_that_is_killed_after_sending_loses_nothing(server, model, client, folder):
    server.states = [WAITING] * 10**6
    with start_sender(SENDER, folder, nnsight.CONFIG.API.HOST) as process:
        process.send_signal(signal.SIGKILL)
    server.states = [answering.COMPLETED]
    frame = nv.remote.resume("mine").result()
    prompts, _ = arguments(model)
    local = nv.recipes.knockout_windows(model, prompts, windows=2, max_new_tokens=4, per_image=True, work=QUIET)
    same(frame, local)
    assert len(server.jobs) == 1
    on_disk = b"".join(path.read_bytes() for path in Path("mine").rglob("*") if path.is_file())
    assert answering.KEY.encode() not in on_disk


def test_a_recipe_with_a_journal_that_is_killed_fetches_what_it_had_sent(server, model, client, tmp_path):
    work = nv.recipes.Work(progress=False, journal=tmp_path / "journal", chunk=1)
    prompts, _ = arguments(client, 3)
    options = {"windows": 2, "answers": [20, 21, 22], "per_image": True, "routes": ["image->last"]}

    accept = server_jobs.ServerJob._accept
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            server_jobs.ServerJob,
            "_accept",
            lambda sent, content: accept(sent, content) if len(server.jobs) < 2 else stop(),
        )
        with pytest.raises(KeyboardInterrupt):
            nv.recipes.knockout_windows(client, prompts, remote=True, work=work, **options)
    assert len(server.jobs) == 2
    frame = nv.recipes.knockout_windows(client, prompts, remote=True, work=work, **options)
    assert len(server.jobs) == 3  # the second was sent before, and is not sent again
    same(frame, nv.recipes.knockout_windows(model, arguments(model, 3)[0], work=QUIET, **options))
    assert {path.suffix for path in (tmp_path / "journal").iterdir()} == {".parquet"}


def stop():
    raise KeyboardInterrupt


def test_chunks_are_jobs_of_their_own_and_wait_in_the_queue_together(server, model, client):
    prompts, options = arguments(client, 4)
    methods = []
    server.intercept = lambda _, method, __: methods.append(method)
    work = nv.recipes.Work(progress=False, chunk=1, ahead=3)
    options = {**options, "max_new_tokens": 5}
    frame = nv.recipes.attention_share(client, prompts, remote=True, **options | {"work": work})
    same(frame, nv.recipes.attention_share(model, arguments(model, 4)[0], **options))
    assert len(server.jobs) == 8  # two rounds: of three chunks, and of the last one
    assert methods[:3] == ["POST"] * 3
    with pytest.raises(nv.SpecError, match="chunk=0 and ahead=1 must be 1 or more"):
        nv.recipes.Work(chunk=0)


def test_a_job_that_failed_continues_with_what_came_back(server, model, client):
    prompts, options = arguments(client)
    original = server.state

    def state(job_id, host):
        if job_id == "job-1":
            return 200, {
                "id": job_id,
                "status": "ERROR",
                "description": "Your job exceeded the execution timeout of 60s.",
            }
        return original(job_id, host)

    server.state = state
    job = nv.recipes.attention_share(client, prompts, remote=True, blocking=False, max_new_tokens=5, **options)
    with pytest.raises(nv.RemoteError, match=r"longer than the server allows[\s\S]*are kept in"):
        job.result()
    same(job.result(), nv.recipes.attention_share(model, arguments(model)[0], max_new_tokens=5, **options))
    assert len(server.jobs) == 3


def test_a_cancelled_job_is_not_polled(server, client):
    prompts, _ = arguments(client)
    job = nv.run(client, prompts[0], remote=True, blocking=False)
    assert job.cancel() is True and job.cancel() is True
    assert job.status == "cancelled; a server may still finish what was sent to it"
    for cancelled in (job, nv.remote.resume(job.path)):
        with pytest.raises(nv.RemoteError, match="was cancelled"):
            cancelled.result()
    assert len(server.jobs) == 1


def test_a_job_that_is_done_cannot_be_cancelled_and_keeps_its_result(server, client):
    prompts, _ = arguments(client)
    job = nv.run(client, prompts[0], remote=True, blocking=False)
    logits = job.result().logits
    assert job.cancel() is False and job.status == "done"
    assert torch.equal(nv.remote.resume(job.path).result().logits, logits)


def test_jobs_that_could_not_be_resumed_are_refused_before_anything_is_sent(server, model, client):
    prompts, _ = arguments(client)
    with pytest.raises(nv.SpecError, match="write remote=True as well"):
        nv.run(client, prompts[0], blocking=False)
    with pytest.raises(nv.SpecError, match="write blocking=False as well"):
        nv.run(client, prompts[0], remote=True, path="somewhere")
    with pytest.raises(nv.SpecError, match="a job on disk cannot hold the function"):
        nv.recipes.prompt_ablation(client, prompts, objects=lambda _: (), remote=True, blocking=False)
    edited = nv.install(model, arguments(model)[0][0], nv.Knockout("image", "last"))
    with pytest.raises(nv.SpecError, match="edits of its own"):
        nv.run(edited, arguments(model)[0][0], remote=True, blocking=False)
    assert not server.jobs and not Path(DEFAULT_FOLDER).exists()


def test_a_folder_holds_one_job(server, client):
    prompts, _ = arguments(client)
    nv.run(client, prompts[0], remote=True, blocking=False, path="one")
    with pytest.raises(nv.SpecError, match=r"holds a job already; write nv.remote.resume\('one'\)"):
        nv.run(client, prompts[0], remote=True, blocking=False, path="one")


def test_patches_from_prompts_and_tensors_can_be_resumed(server, client):
    prompts, _ = arguments(client)
    swap = nv.Patch("query", source=prompts[1], layers=2) | nv.Patch("last", source=torch.ones(1, tiny.WIDTH), layers=3)
    job = nv.run(client, prompts[0], swap, remote=True, blocking=False)
    [sent] = [json.loads(path.read_text()) for path in (job.path / "jobs").glob("*.json")]
    assert sent == {"job": "job-0", "host": nnsight.CONFIG.API.HOST}
    assert torch.equal(nv.remote.resume(job.path).result().logits, job.result().logits)
    assert len(server.jobs) == 1


def test_generations_in_the_background_are_sent_at_once_and_come_as_a_list(server, model, client):
    cut = nv.Knockout("image", "last")
    cases = [(prompt, case) for prompt in arguments(client)[0] for case in (None, cut)]
    job = nv.generations(client, cases, max_new_tokens=3, remote=True, blocking=False)
    assert len(server.jobs) == 1
    local = nv.generations(
        model, [(prompt, case) for prompt in arguments(model)[0] for case in (None, cut)], max_new_tokens=3
    )
    tokens = [answer.tokens for answer in local]
    assert [answer.tokens for answer in job.result()] == tokens
    assert [answer.tokens for answer in nv.remote.resume(job.path).result()] == tokens and len(server.jobs) == 1


def test_a_simulated_job_can_be_resumed_with_the_model_that_it_is_about(model, tmp_path):
    prompt = arguments(model)[0][0]
    job = nv.run(model, prompt, remote="local", blocking=False, path=tmp_path / "job")
    again = nv.remote.resume(tmp_path / "job", model=model)
    assert torch.equal(again.result().logits, job.result().logits)
    assert torch.equal(job.result().logits, nv.run(model, prompt).logits)
