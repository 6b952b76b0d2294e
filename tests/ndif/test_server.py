"""The tests' server is a real one: it runs what it is sent, without our package, and ends when it is told to."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import urllib.error
from pathlib import Path

import nnsight
import parts
import psutil
import pytest
import tiny
import torch
from lock import ServerBusy, wait_until
from nnsight import TransformersModel, save
from nnsight.intervention.backends.remote import RemoteError
from server import LEASH, Server

EXACT = 1e-5
TEXT = "<s>system : user : <image> what is the red square ? assistant :"


@pytest.fixture(scope="module")
def models(checkpoint):
    """The same checkpoint twice: for the server, without weights here, and for this process."""
    options = {"task": "image-text-to-text", "processor": tiny.build_processor()}
    local = TransformersModel(checkpoint, dispatch=True, dtype=torch.float32, **options)
    return TransformersModel(checkpoint, **options), local


def trace(model, **options):
    """A hidden state and the logits of one prompt with a picture."""
    with torch.no_grad(), model.trace(text=TEXT, images=[tiny.picture()], **options):
        found = save([model.model.language_model.layers[2].output, model.lm_head.output])
    return found


def agrees(models):
    """Whether the server gives what this process gives."""
    remote, local = models
    pairs = zip(trace(remote, remote=True), trace(local), strict=True)
    return all(tiny.gap(found, expected) < EXACT for found, expected in pairs)


def serves(models):
    """Whether requests are taken; what they give is right then."""
    with contextlib.suppress(RemoteError):
        return agrees(models)
    return False


def run_in_server(server, *arguments):
    """Runs its interpreter as its parts run."""
    command, plan = [server.python, *arguments], server.running
    return subprocess.run(command, cwd=plan.code, env=plan.environment(), capture_output=True, text=True, check=False)


def test_it_is_up_and_tells_so(server):
    status = server.status()
    assert status["up"] and status["url"] == server.url == nnsight.CONFIG.API.HOST
    assert status["parts"] == dict.fromkeys(["redis", "store", "ray", "api"], True)
    assert set(server.pids()) == set(status["parts"]) and all(len(pids) > 1 for pids in server.pids().values())
    assert "=== api.log" in server.logs() and "=== redis.log" not in server.logs("api")


def test_nothing_but_loopback_can_reach_it(server):
    listening = [
        connection.laddr.ip
        for process in server.processes()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening and set(listening) <= {parts.LOOPBACK, f"::ffff:{parts.LOOPBACK}"}


def test_our_package_is_not_there(server):
    found = run_in_server(server, "-c", "import nnsight_vlm")
    assert "No module named 'nnsight_vlm'" in found.stderr
    packages = run_in_server(server, "-m", "pip", "list").stdout
    assert "ndif" in packages and "nnsight-vlm" not in packages
    assert sorted(path.name for path in server.running.code.iterdir()) == sorted(parts.SERVED)


def test_the_parts_run_with_the_environment_that_was_looked_at(server):
    ours = server.running.environment()["PYTHONPATH"]
    for name in ("api", "ray", "store"):
        python = [one.environ() for one in server.processes(name)[1:] if "PYTHONPATH" in one.environ()]
        assert any(ours in one["PYTHONPATH"].split(":") for one in python), (
            name
        )  # runners of a sandbox choose their own
        assert not any(str(Path(tiny.__file__).parents[1]) in one["PYTHONPATH"] for one in python), name


def test_a_remote_trace_gives_what_a_local_one_gives(server, models, trust):
    assert agrees(models)


def test_it_serves_again_after_the_models_actor_was_killed(server, models):
    assert agrees(models)
    killed = server.kill_model_actor()
    assert killed and not any(psutil.pid_exists(pid) for pid in killed)
    with pytest.raises(RemoteError, match="Please try again later"):
        trace(models[0], remote=True)
    wait_until(lambda: serves(models), 60, pause=1)


def test_the_api_can_be_killed_and_started_again(server, models):
    server.kill("api")
    assert not server.status()["up"]
    server.start_api()
    assert server.status()["up"] and agrees(models)


def test_the_store_refuses_as_often_as_it_is_told(server):
    def fetched():
        try:
            return parts.fetch(f"{server.running.url('store')}/moto-api/data.json", seconds=10).status
        except urllib.error.HTTPError as error:
            return error.code

    server.refuse_store(2)
    assert [fetched() for _ in range(3)] == [503, 503, 200] and server.refusals_left() == 0
    server.refuse_store(1, "PUT")
    assert fetched() == 200 and server.refusals_left() == 1
    server.refuse_store(0)


def test_a_large_result_comes_by_way_of_the_store(server, models):
    with models[0].trace(text=TEXT, images=[tiny.picture()], remote=True):
        noise = torch.rand(4_000_000, generator=torch.Generator().manual_seed(0))
        large = save(noise + 0 * models[0].lm_head.output.sum())
    assert torch.equal(large, torch.rand(4_000_000, generator=torch.Generator().manual_seed(0)))
    assert '"GET /ndif-results/' in server.logs("store")


def test_a_large_request_is_taken(server, models):
    sent = torch.arange(1_000_000)
    with models[0].trace(text=TEXT, images=[tiny.picture()], remote=True):
        total = save(sent.sum() + 0 * models[0].lm_head.output.shape[0])
    assert int(total) == int(sent.sum())


def test_a_second_server_is_refused_in_words(server):
    with pytest.raises(ServerBusy, match=rf"a server runs already, held by process {server.lock.read()['pid']} \(.+"):
        Server(patience=0.5).start()


ORPHANS = f"""
import os, subprocess, sys
child = "import os, time; os.fork() or os.setsid(); time.sleep(600)"
print(subprocess.Popen([sys.executable, {str(LEASH)!r}, str(os.getpid()), sys.executable, "-c", child]).pid, flush=True)
input()
"""
"""Starts a leash whose command has a child with a session of its own, and waits."""


def test_what_a_dead_process_started_does_not_outlive_it():
    command = [sys.executable, "-c", ORPHANS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        leash = psutil.Process(int(parent.stdout.readline()))
        wait_until(lambda: len(leash.children(recursive=True)) == 2, 10)
        family = [leash, *leash.children(recursive=True)]
        parent.kill()
    assert psutil.wait_procs(family, timeout=10)[1] == []
