"""Faults of a real server while a job runs: the frame is the same as without them, or the error says what to do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nnsight
import pandas as pd
import pytest
import tiny
import torch
from lock import wait_until
from transformers import AutoConfig

import nnsight_vlm as nv
from nnsight_vlm.device import readouts, runner
from nnsight_vlm.remote import client as server_client
from nnsight_vlm.remote import counting
from nnsight_vlm.remote import job as server_jobs
from nnsight_vlm.remote.batching import ask
from nnsight_vlm.remote.model_call import ModelCall

EXACT = 1e-5
QUIET = nv.recipes.Work(progress=False)
OPTIONS = {"windows": 4, "max_new_tokens": 16, "per_image": True}
"""Of a job that runs long enough for a poll to see it running, also on a busy machine."""


@pytest.fixture(scope="module")
def model(checkpoint):
    return nv.load(checkpoint, dtype=torch.float32)


@pytest.fixture(scope="module")
def remote_model(checkpoint):
    return nv.load(checkpoint, dispatch=False)


def encoded(model, count=2):
    return [nv.encode(model, "describe the image .", tiny.picture(seed)) for seed in range(count)]


@pytest.fixture(scope="module")
def expected(model):
    return nv.recipes.knockout_windows(model, encoded(model), work=QUIET, **OPTIONS)


@pytest.fixture(autouse=True)
def served(server, remote_model):
    """The server, with every part running and the model loaded."""
    wait_until(lambda: nv.run(remote_model, encoded(remote_model)[0], remote=True) is not None, 120)
    return server


def send(remote_model, path):
    return nv.recipes.knockout_windows(
        remote_model, encoded(remote_model), work=QUIET, remote=True, blocking=False, path=path, **OPTIONS
    )


def same(frame, expected):
    pd.testing.assert_frame_equal(frame, expected, check_exact=False, rtol=0, atol=EXACT)


def until_it_runs(job):
    """Poll a job until the server runs it."""

    def runs():
        assert not job.done(), "the job was done before anything could break"
        return "running" in job.status

    wait_until(runs, 60, pause=0.01)


def test_the_models_actor_is_killed_in_the_middle_of_a_job(served, remote_model, expected, tmp_path):
    job = send(remote_model, tmp_path / "job")
    until_it_runs(job)
    served.kill_model_actor()
    same(job.result(timeout=120), expected)


def test_the_api_is_killed_while_a_job_runs(served, remote_model, expected, tmp_path):
    job = send(remote_model, tmp_path / "job")
    until_it_runs(job)
    served.kill("api")
    assert not job.done()
    served.start_api()
    same(job.result(timeout=120), expected)


def test_the_api_is_killed_between_two_chunks(served, remote_model, expected, tmp_path):
    journal = tmp_path / "journal"

    def break_it():
        wait_until(lambda: len(list(journal.glob("*.parquet"))) == 1, 120, pause=0.005)
        served.kill("api")
        time.sleep(2)
        served.start_api()

    breaker = threading.Thread(target=break_it)
    breaker.start()
    work = nv.recipes.Work(progress=False, journal=journal, chunk=1)
    frame = nv.recipes.knockout_windows(remote_model, encoded(remote_model), work=work, remote=True, **OPTIONS)
    breaker.join()
    same(frame, expected)


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_the_object_store_refuses_once(served, remote_model, expected, tmp_path, method):
    job = send(remote_model, tmp_path / "job")
    until_it_runs(job)
    served.refuse_store(1, method)
    same(job.result(timeout=120), expected)
    served.refuse_store(0)


SENDER = """
import json, sys
import nnsight, torch
import nnsight_vlm as nv
import tiny
torch.set_num_threads(1)
nnsight.CONFIG.API.HOST, nnsight.CONFIG.APP.REMOTE_LOGGING = sys.argv[2], False
model = nv.load(sys.argv[1], dispatch=False)
prompts = [nv.encode(model, "describe the image .", tiny.picture(seed)) for seed in range(2)]
job = nv.recipes.knockout_windows(model, prompts, remote=True, blocking=False, path=sys.argv[3],
                                  work=nv.recipes.Work(progress=False), **json.loads(sys.argv[4]))
print("sent", flush=True)
job.result()
"""


def test_the_client_is_killed_between_sending_and_fetching(served, checkpoint, expected, tmp_path):
    command = [sys.executable, "-c", SENDER, checkpoint, nnsight.CONFIG.API.HOST, str(tmp_path / "job")]
    command.append(json.dumps(OPTIONS))
    folders = [str(Path(tiny.__file__).parent), str(Path(nv.__file__).parents[1])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders), "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout.readline() == "sent\n"
        client.send_signal(signal.SIGKILL)
    with counting() as traffic:
        same(nv.remote.resume(tmp_path / "job").result(timeout=60), expected)
    assert traffic.jobs == 0 and traffic.answers > 0  # fetched, not sent again


# errors ----------------------------------------------------------------------------------------


def test_a_model_that_the_server_does_not_have(remote_model, monkeypatch):
    monkeypatch.setattr(
        server_client,
        "model_key",
        lambda _: remote_model.to_model_key().replace(remote_model.repo_id, "/nowhere/to/be/found"),
    )
    with pytest.raises(nv.RemoteError, match=r"nnsight.status\(\) lists those that are"):
        nv.run(remote_model, encoded(remote_model)[0], remote=True)


def test_a_server_that_builds_the_model_from_other_modules(remote_model, checkpoint, tmp_path, monkeypatch):
    config = AutoConfig.from_pretrained(checkpoint)
    config.text_config.num_hidden_layers += 1
    tiny.build_module().__class__(config).save_pretrained(tmp_path / "deeper")
    tiny.build_processor().save_pretrained(tmp_path / "deeper")
    deeper = nv.load(str(tmp_path / "deeper"), dispatch=False)
    monkeypatch.setattr(server_client, "model_key", lambda _: remote_model.to_model_key())
    with pytest.raises(nv.RemoteError, match=r"its transformers is another version[\s\S]*layers.4"):
        nv.run(deeper, encoded(deeper)[0], remote=True)


def test_a_server_that_lacks_the_attention(remote_model, monkeypatch, trust):
    monkeypatch.setattr(
        remote_model, "_remoteable_get_env", lambda: {"attn_implementation": "flash_attention_2"}, raising=False
    )
    with pytest.raises(nv.RemoteError, match='attn_implementation="sdpa"'):
        nv.run(remote_model, encoded(remote_model)[0], remote=True)


def test_an_error_in_our_code_on_the_server_names_our_file_and_line(remote_model, trust):
    reads = ((0, 0, "no.such.module", "output", readouts.hidden_rows, (), None),)
    rest = (((), None), [("", 1, True, ())], reads, ())
    call = ModelCall(task=runner.forward, inputs=encoded(remote_model)[0].inputs, rest=rest)
    with pytest.raises(nv.RemoteError, match=r"ran on the server, (runner|kernels|readouts)\.py line \d+: "):
        ask(remote_model, call, True)


def odd(model, inputs):
    """An answer that is neither a tensor nor plain data."""
    import pathlib

    return pathlib.PurePosixPath("odd")


def test_an_answer_that_holds_more_than_tensors_and_plain_data_is_refused(remote_model, monkeypatch):
    monkeypatch.setattr(server_jobs, "RETRY_PAUSE", 0.01)
    with pytest.raises(nv.RemoteError, match="the answer is broken"):
        ask(remote_model, ModelCall(task=odd, inputs=encoded(remote_model)[0].inputs, rest=()), True)
