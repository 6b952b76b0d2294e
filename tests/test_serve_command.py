"""`nnsight-vlm serve`: what it prints, what it refuses, and that a process that serves stops when it is told to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

import nnsight_vlm as nv
from nnsight_vlm.cli import app
from nnsight_vlm.commands import live
from nnsight_vlm.serving import running

ROOT = Path(nv.__file__).parent.parent
QUESTION = "what color is the ring?"


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    nv.shapes.scene(3).image.save(path)
    return path


@pytest.fixture
def served(monkeypatch):
    """What the command hands to the server, in place of a server; no model is loaded."""
    calls = []

    def serve(model, listening, *, started, **options):
        calls.append({"model": model, "listening": listening, **options})
        started()

    monkeypatch.setattr("nnsight_vlm.report.config.load_by_name", lambda name: f"the model {name}")
    monkeypatch.setattr(running, "serve_until_stopped", serve)
    return calls


def ask(*arguments, code=0):
    done = CliRunner().invoke(app, ["serve", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


def test_it_prints_the_address_with_the_token(served, picture):
    done = ask(picture, QUESTION, "--model", "shapes-gist", "--max-new-tokens", 7, "--no-open")
    [call] = served
    assert done.stdout.splitlines()[0] == f"Open {call['listening'].address}" and call["listening"].token in done.stdout
    assert done.stdout.splitlines()[-1] == "Stopped." and "warning" not in done.stderr
    assert (call["model"], call["question"], call["longest"]) == ("the model shapes-gist", QUESTION, 7)
    assert call["pictures"]["picture"].size == nv.shapes.scene(3).image.size


def test_without_a_picture_an_embedded_model_begins_with_two_scenes_and_another_with_none(served, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    ask("--no-open")
    ask("--no-open", "--model", tmp_path)
    own, other = nv.shapes.pair(live.SCENE)
    assert served[0]["pictures"] == {"picture": own.image, "other": other.image}
    assert served[0]["question"] == live.FIRST_QUESTION and served[0]["examples"]
    assert served[1]["pictures"] == {} and served[1]["question"] is None and served[1]["examples"] == ()


def test_json_holds_the_address_and_nothing_else_is_printed(served):
    facts = json.loads(ask("--no-open", "--json").stdout)
    listening = served[0]["listening"]
    assert facts == {"address": listening.address, "host": "127.0.0.1", "port": listening.port, "model": "shapes"}


@pytest.mark.parametrize(("variables", "opened"), [({}, False), ({"DISPLAY": ":0"}, True)])
def test_the_page_is_opened_where_there_is_a_screen(served, monkeypatch, variables, opened):
    addresses = []
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(live.sys, "platform", "linux")
    monkeypatch.setattr(live.webbrowser, "open", addresses.append)
    ask("--quiet")
    deadline = time.monotonic() + 5
    while opened and not addresses and time.monotonic() < deadline:
        time.sleep(0.01)
    assert addresses == ([served[0]["listening"].address] if opened else [])


def test_other_machines_are_let_in_with_a_warning_only(served):
    done = ask("--no-open", "--host", "0.0.0.0")
    assert "warning: other machines can reach this page" in done.stderr
    assert done.stdout.startswith("Open http://127.0.0.1:")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no.png"], "no.png"),
        (["PICTURE", " "], "question"),
        (["--model", "/no/such/folder"], "not a folder with a model"),
        (["--host", "no such host.invalid"], "cannot listen"),
        (["--quiet", "--no-open"], "prints no address"),
    ],
)
def test_what_cannot_be_served_is_said_before_a_model_is_loaded(monkeypatch, picture, arguments, words):
    monkeypatch.setattr("nnsight_vlm.report.config.load_by_name", lambda *_: pytest.fail("a model was loaded"))
    given = [picture if each == "PICTURE" else each for each in arguments]
    assert words in ask(*given, *(() if "--no-open" in given else ("--no-open",)), code=2).stderr


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(live, "find_spec", lambda name: None if name == "uvicorn" else object())
    said = ask("--no-open", code=2).stderr
    assert 'the live page needs uvicorn, not installed here; write pip install "nnsight-vlm[serve]"' in said


def test_it_is_terminated_as_it_is_interrupted():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), running.ended_like_ctrl_c():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_process_that_serves_stops_in_the_middle_of_an_answer():
    command = [sys.executable, "-m", "nnsight_vlm", "serve", "--no-open", "--json"]
    settings = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=settings) as process:
        facts = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
        base, _, token = facts["address"].partition("?token=")
        with httpx.Client(base_url=base, headers={"x-token": token}, timeout=60, trust_env=False) as client:
            page = client.post("api/pages").json()["page"]
            body = {"question": "describe the image.", "quantities": ["weight", "causal"]}
            with (
                client.stream("GET", f"api/pages/{page}/alive") as alive,
                client.stream("POST", f"api/pages/{page}/ask", json=body) as answer,
            ):
                beats, news = alive.iter_lines(), answer.iter_lines()
                assert next(beats) == "{}" and json.loads(next(news)) == {"waiting": 0}
                process.send_signal(signal.SIGINT)
                assert not any("payload" in json.loads(line) for line in news) and set(beats) <= {"{}"}
        assert process.wait(30) == 0
        said = process.stderr.read()
        assert "Traceback" not in said and "rror" not in said, said
