"""Makes the virtual environment that the server runs in, once, and keeps it for later runs and other checkouts.

Run `python tests/ndif/setup.py`, or let the tests do it. It takes about two minutes and 1.7 GB. The environment lives
in `$NNSIGHT_VLM_NDIF`, by default `nnsight-vlm/ndif` in the user's cache folder, under a digest of what is installed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
UNRESOLVED = "ndif=="
"""The server itself, which is installed without its dependencies: they ask for a newer Python and for GPU packages."""


class SetupError(RuntimeError):
    """The environment of the server could not be made."""


def home() -> Path:
    """The folder that is kept between runs: environments and the lock of the running server."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("NNSIGHT_VLM_NDIF") or cache / "nnsight-vlm" / "ndif").absolute()


def environment() -> Path:
    """Where the environment for these requirements and this Python is, or will be."""
    version = ".".join(map(str, sys.version_info[:3]))
    return home() / hashlib.sha256(REQUIREMENTS.read_bytes() + version.encode()).hexdigest()[:16]


def requirements() -> list[str]:
    """The pinned packages, one a line, without comments."""
    lines = (line.partition("#")[0].strip() for line in REQUIREMENTS.read_text().splitlines())
    return [line for line in lines if line]


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Holds a file lock; the system releases it when this process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.set_inheritable(file.fileno(), True)  # an installer that outlives us keeps others out
        yield


def run(*command: str | Path) -> None:
    """Runs one command of the setup."""
    if subprocess.run([str(part) for part in command], check=False, close_fds=False).returncode:
        raise SetupError(f"this step failed, its messages are above: {' '.join(map(str, command))[:200]}")


def install_redis() -> None:
    """Installs redis from the distribution; raises `SetupError` where that is not permitted."""
    if shutil.which("redis-server"):
        return
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise SetupError(
            "the server needs redis-server: install it (`apt-get install redis-server`), then run this again"
        )
    run("apt-get", "update", "-qq")
    run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "redis-server")


def install_packages(folder: Path) -> None:
    """A fresh virtual environment in `folder`."""
    run(getattr(sys, "_base_executable", sys.executable), "-m", "venv", "--clear", folder)
    install = (folder / "bin" / "python", "-m", "pip", "install", "-qq", "--disable-pip-version-check")
    pinned = requirements()
    run(*install, *(line for line in pinned if not line.startswith(UNRESOLVED)))
    server = (line for line in pinned if line.startswith(UNRESOLVED))
    run(*install, "--ignore-requires-python", "--no-deps", *server)


def make() -> Path:
    """The environment's folder, made if it does not exist; an unfinished one has another name."""
    folder = environment()
    with only_one(home() / "setup.lock"):
        install_redis()
        if not folder.is_dir():
            partial = folder.with_suffix(".partial")
            install_packages(partial)
            partial.rename(folder)
    return folder


if __name__ == "__main__":
    try:
        print(make())
    except SetupError as error:
        sys.exit(f"setup of the test server: {error}")
