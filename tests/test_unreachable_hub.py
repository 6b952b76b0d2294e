"""A model's name while the hub cannot be reached is refused within seconds; a hub that is slow is waited for."""

from __future__ import annotations

import shutil
import socket
from contextlib import closing
from pathlib import Path

import huggingface_hub
import pytest

import nnsight_vlm as nv
from nnsight_vlm.opening import hub
from nnsight_vlm.opening.files import Checkpoint
from nnsight_vlm.shapes.embedded import checkpoint

NAME = "someone/something"
UNKNOWN = "[Errno -2] Name or service not known"
LOOK_UP, ASK = socket.getaddrinfo, huggingface_hub.get_hf_file_metadata


class Network:
    """How often the hub is asked, and how long is waited, where names cannot be looked up for the first tries."""

    def __init__(self, failing: float) -> None:
        self.failing = failing
        self.tries = 0
        self.waits: list[float] = []

    def ask(self, url: str, **options: object) -> object:
        self.tries += 1
        return ASK(url, **options)

    def look_up(self, *given: object, **named: object) -> object:
        if self.tries <= self.failing:
            raise socket.gaierror(-2, "Name or service not known")
        return LOOK_UP(*given, **named)


@pytest.fixture
def network(monkeypatch):
    def make(failing: float = float("inf")) -> Network:
        made = Network(failing)
        monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", made.ask)
        monkeypatch.setattr(socket, "getaddrinfo", made.look_up)
        monkeypatch.setattr("time.sleep", made.waits.append)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        return made

    return make


@pytest.fixture
def silent(monkeypatch):
    """A hub on this machine that takes connections and never answers."""
    monkeypatch.setattr(hub, "PATIENCE", 0.05)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


@pytest.mark.parametrize("dispatch", [True, False])
def test_a_name_that_cannot_be_looked_up_is_refused_after_three_tries(network, tmp_path, dispatch):
    made = network()
    with pytest.raises(nv.SpecError) as error:
        nv.load(NAME, dispatch=dispatch, cache_dir=tmp_path)
    assert str(error.value) == (
        f"'{NAME}' is neither a folder nor in the cache of downloaded models, and the hub cannot be reached "
        f"({UNKNOWN}); connect to the network, give a local folder, or one of the models inside this package: "
        "shapes, shapes-gist, shapes-smol"
    )
    assert made.tries == 3 and made.waits == [1, 2]


def test_a_hub_that_refuses_the_connection_is_told_so(network, silent):
    silent.close()
    made = network(failing=0)
    with pytest.raises(nv.SpecError, match=r"the hub cannot be reached \(.*refused.*\); connect"):
        hub.refuse_unreachable(Checkpoint(name=NAME))
    assert made.tries == 3 and made.waits == [1, 2]


def test_a_hub_that_is_slow_is_left_to_those_who_wait_for_it(network, silent):
    made = network(failing=0)
    hub.refuse_unreachable(Checkpoint(name=NAME))
    assert made.tries == 1 and made.waits == []


def test_a_network_that_comes_up_meanwhile_is_used(network, silent):
    made = network(failing=1)
    hub.refuse_unreachable(Checkpoint(name=NAME))
    assert made.tries == 2 and made.waits == [1]


@pytest.mark.parametrize("below", ["", "inner"])
def test_the_hub_is_not_asked_for_what_lies_in_the_cache(network, tmp_path, below):
    repository = tmp_path / f"models--{NAME.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    shutil.copytree(Path(checkpoint("shapes")), repository / "snapshots" / ("a" * 40) / below)
    made = network()
    hub.refuse_unreachable(Checkpoint(name=NAME, hub={"cache_dir": tmp_path, "subfolder": below or None}))
    assert made.tries == 0
    with pytest.raises(nv.SpecError, match="the hub cannot be reached"):
        hub.refuse_unreachable(Checkpoint(name=NAME, hub={"cache_dir": tmp_path, "subfolder": "other"}))


@pytest.mark.parametrize("hub_options", [{"local_files_only": True}, {}])
def test_who_asks_for_files_of_this_machine_asks_no_network(network, tmp_path, monkeypatch, hub_options):
    made = network()
    if not hub_options:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.refuse_unreachable(Checkpoint(name=NAME, hub={"cache_dir": tmp_path, **hub_options}))
    assert made.waits == []


@pytest.mark.parametrize(
    "name", ["a/b--c", "a/b..c", "a /b", "a/\N{LATIN SMALL LETTER E WITH ACUTE}", "a/" + "b" * 200]
)
def test_a_name_that_the_hub_cannot_have_is_refused_without_asking_it(network, name):
    made = network()
    with pytest.raises(nv.SpecError, match=r"is no name on the hub: .*; write 'owner/name' as it stands there"):
        nv.load(name)
    assert made.tries == 0


@pytest.mark.parametrize("option", ["cache_dir", "revision", "subfolder"])
def test_options_of_another_kind_are_refused_by_name(network, option):
    made = network()
    with pytest.raises(nv.SpecError, match=f"^{option}=3 is no .*; write {option}="):
        nv.load(NAME, **{option: 3})
    assert made.tries == 0
