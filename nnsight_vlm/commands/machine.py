"""What `nnsight-vlm doctor` finds on a machine: packages, extras, what does not import, devices, a server.

None of it needs a package that may be missing, and none of it holds what an issue should not: paths, names of users,
keys, addresses.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import re
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

from .. import versions

NAME = "nnsight-vlm"
NDIF = "https://api.ndif.us"
TRIED = ("torch", "transformers", "nnsight", "torchvision", "peft", "nnsight_vlm.loading")
"""What is imported where it is installed; the last one is what all that runs a model needs."""
MOST_BYTES = 10_000_000
"""Most bytes that are read of what a server answers."""


class Package(NamedTuple):
    """A package that is needed, or of use.

    Attributes:
        name: as pip knows it.
        installed: its version; None where it is not there.
        wanted: the versions that are taken; empty for any.
    """

    name: str
    installed: str | None
    wanted: str = ""

    @property
    def fits(self) -> bool:
        """Whether it is there in a version that is taken."""
        return versions.lies_in(self.installed, self.wanted)


class Server(NamedTuple):
    """What a server answered.

    Attributes:
        answers: whether it did, as it should.
        words: in how long, or why not.
    """

    answers: bool
    words: str


def needed() -> list[Package]:
    """The packages that this one needs, by its own metadata; by its list of ranges where it is not installed."""
    listed = [_package(each) for each in _requirements() if each.marker is None or each.marker.evaluate({"extra": ""})]
    return listed or [Package(name, versions.installed(name), wanted) for name, wanted in versions.PACKAGES.items()]


def extras() -> dict[str, list[Package]]:
    """The packages of each extra, `pip install "nnsight-vlm[hub]"`."""
    try:
        names = metadata(NAME).get_all("Provides-Extra") or []
    except PackageNotFoundError:
        return {}
    optional = [each for each in _requirements() if each.marker and not each.marker.evaluate({"extra": ""})]
    return {
        name: [_package(each) for each in optional if each.marker and each.marker.evaluate({"extra": name})]
        for name in names
    }


def _requirements() -> list[Requirement]:
    try:
        return [Requirement(line) for line in requires(NAME) or ()]
    except PackageNotFoundError:
        return []


def _package(requirement: Requirement) -> Package:
    return Package(requirement.name, versions.installed(requirement.name), str(requirement.specifier))


def import_failures() -> dict[str, str]:
    """Packages that are installed and cannot be imported, and why."""
    failures = {}
    for name in TRIED:
        if "." not in name and versions.installed(name) is None:
            continue
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a broken installation raises
            failures[name] = without_places(f"{type(error).__name__}: {error}")
    return failures


def system() -> str:
    """Python and the system that it runs on."""
    return f"{platform.python_version()}, {platform.system()} {platform.machine()}"


def devices() -> Iterator[str]:
    """What models can run on here."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        import psutil

        memory = psutil.virtual_memory()
        yield f"cpu: {cores} cores, {_gigabytes(memory.total)}, {_gigabytes(memory.available)} free"
    except ImportError:
        yield f"cpu: {cores} cores"
    try:
        import torch

        for number in range(torch.cuda.device_count()):
            free, whole = torch.cuda.mem_get_info(number)
            name = torch.cuda.get_device_name(number)
            yield f"cuda:{number}: {name}, {_gigabytes(whole)}, {_gigabytes(free)} free, CUDA {torch.version.cuda}"
        if torch.backends.mps.is_available():
            yield "mps: Apple's GPU, with the memory of the CPU"
    except Exception as error:  # a broken torch is named among what does not import, a broken driver here
        yield f"GPUs: cannot be asked ({without_places(str(error) or type(error).__name__)})"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def server_set() -> tuple[str, bool]:
    """The server that nnsight is set to, and whether a key for it is."""
    try:
        from ..remote.client import has_key, place_of

        return place_of(True), has_key()
    except Exception:  # nnsight is not there, or broken
        return os.environ.get("NDIF_HOST") or NDIF, bool(os.environ.get("NDIF_API_KEY"))


def ask(host: str, patience: float) -> Server:
    """Ask a server which models it has.

    Args:
        host: its address, `http://127.0.0.1:8001`.
        patience: seconds that it has for an answer.
    """
    begin = time.perf_counter()
    try:
        with urllib.request.urlopen(f"{host.rstrip('/')}/status", timeout=patience) as response:
            known = json.loads(response.read(MOST_BYTES))["deployments"].values()
        running = sum(each.get("application_state") == "RUNNING" for each in known)
    except urllib.error.HTTPError as error:
        return Server(False, f"it answers with the error {error.code}")
    except OSError as error:
        return Server(False, _why_silent(error, patience))
    except Exception:  # whatever stands in the answer of something else
        return Server(False, "something answers there that is no such server")
    return Server(True, f"answers after {time.perf_counter() - begin:.1f} s; {len(known)} models, {running} running")


def _why_silent(error: OSError, patience: float) -> str:
    """Why there was no answer, in words that hold no address."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    reasons: list[tuple[type[BaseException], str]] = [
        (TimeoutError, f"no answer within {patience:g} s"),
        (ConnectionRefusedError, "the connection was refused: nothing listens there"),
        (socket.gaierror, "its name is not known: no network, or a wrong address"),
        (ssl.SSLError, "no secure connection: a certificate is refused, or a proxy stands between"),
    ]
    return next((words for kind, words in reasons if isinstance(reason, kind)), f"no connection ({_kind(reason)})")


def _kind(reason: object) -> str:
    return type(reason).__name__


def without_places(text: str) -> str:
    """The first line of a text, with addresses and folders taken out.

    >>> without_places("ImportError: /home/ann/venv/lib/libcudart.so.12: no such file")
    'ImportError: .../libcudart.so.12: no such file'
    """
    line = next(iter(text.strip().splitlines()), "")
    line = re.sub(r"\w+://\S+", "(an address)", line)
    for place in sorted({sys.prefix, sys.base_prefix, str(Path.home()), str(Path.cwd())}, key=len, reverse=True):
        if len(place) > 1:  # below it, names of folders may have spaces
            line = re.sub(rf"{re.escape(place)}(?:[\\/][^\\/:;,'\"()]+)*[\\/]", ".../", line).replace(place, "...")
    return re.sub(r"(?:\b[A-Za-z]:)?[\\/](?:[^\s\\/:;,'\"()]+[\\/])+", ".../", line)
