"""A server that sets limits: what takes too long, and who is too old, is told so. It runs beside the other one."""

from __future__ import annotations

import client
import nnsight.intervention.backends.remote as line
import pytest
import tiny
from lock import Lock
from server import Server

import nnsight_vlm as nv
from nnsight_vlm.remote.background import counting

SECONDS = 2


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    """Two seconds a job, and nothing for clients of long ago."""
    strict = Server(execution_seconds=SECONDS, environment={"NDIF_MIN_NNSIGHT_VERSION": "0.8"})
    strict.lock = Lock(tmp_path_factory.mktemp("lock") / "server.lock")
    with strict, client.connected(strict.url):
        yield strict


@pytest.fixture(scope="module")
def far(strict, checkpoint):
    return nv.load(checkpoint, dispatch=False)


def asked(model):
    return [nv.encode(model, "describe the image .", tiny.picture(seed)) for seed in range(2)]


def test_a_job_that_takes_too_long_is_told_what_to_do_and_not_sent_again(far):
    work = nv.recipes.Work(progress=False)
    with (
        counting() as traffic,
        pytest.raises(nv.RemoteError, match=r"longer than the server allows[\s\S]*Work\(chunk=1\)"),
    ):
        nv.recipes.knockout_windows(far, asked(far), windows=4, max_new_tokens=400, remote=True, work=work)
    assert traffic.jobs == 1
    assert nv.run(far, asked(far)[0], remote=True).logits.dim() == 1  # the next one is served


def test_a_client_that_is_too_old_is_told_so(far, monkeypatch):
    monkeypatch.setattr(line, "_NNSIGHT_VERSION", "0.7.0")
    with pytest.raises(nv.RemoteError, match=r"does not take requests from this version[\s\S]*ndif.compare\(\)"):
        nv.run(far, asked(far)[0], remote=True)
