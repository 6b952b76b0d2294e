"""A second server with limits: jobs that take too long and clients that are too old get an error that says so."""

from __future__ import annotations

import client
import nnsight.intervention.backends.remote as nnsight_client
import pytest
import tiny
from lock import Lock
from server import Server

import nnsight_vlm as nv
from nnsight_vlm.remote import counting

SECONDS = 2


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    """A server that stops a job after two seconds, and refuses old versions of nnsight."""
    strict = Server(execution_seconds=SECONDS, environment={"NDIF_MIN_NNSIGHT_VERSION": "0.8"})
    strict.lock = Lock(tmp_path_factory.mktemp("lock") / "server.lock")
    with strict, client.connected(strict.url):
        yield strict


@pytest.fixture(scope="module")
def remote_model(strict, checkpoint):
    return nv.load(checkpoint, dispatch=False)


def encoded(model):
    return [nv.encode(model, "describe the image .", tiny.picture(seed)) for seed in range(2)]


def test_an_error_for_a_job_that_takes_too_long_says_what_to_do_and_it_is_not_sent_again(remote_model):
    work = nv.recipes.Work(progress=False)
    with (
        counting() as traffic,
        pytest.raises(nv.RemoteError, match=r"longer than the server allows[\s\S]*Work\(chunk=1\)"),
    ):
        nv.recipes.knockout_windows(
            remote_model, encoded(remote_model), windows=4, max_new_tokens=400, remote=True, work=work
        )
    assert traffic.jobs == 1
    assert nv.run(remote_model, encoded(remote_model)[0], remote=True).logits.dim() == 1  # the next job is served


def test_an_error_for_a_client_that_is_too_old_says_so(remote_model, monkeypatch):
    monkeypatch.setattr(nnsight_client, "_NNSIGHT_VERSION", "0.7.0")
    with pytest.raises(nv.RemoteError, match=r"does not accept requests from this version[\s\S]*ndif.compare\(\)"):
        nv.run(remote_model, encoded(remote_model)[0], remote=True)
