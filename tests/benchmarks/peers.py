"""Other tools, each in a virtual environment of its own, doing the same work on the same weights.

Run once: python tests/benchmarks/peers.py     (makes tests/benchmarks/.peers; needs a package index)

Every peer is a small program in `peers/` that its environment's python runs, and that `Peer` hands orders line by line,
so that its turns are interleaved with ours. All get the torch that we run. What a peer cannot do comes back as its own
error, and stands in the table as such.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
PROGRAMS, ENVIRONMENTS = HERE / "peers", HERE / ".peers"
OURS = ""
"""The environment that we run in."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A peer.

    Attributes:
        program: in `peers/`.
        environment: its name in `.peers`.
        packages: what is installed there, besides torch; `peers/constraints-<environment>.txt` pins the rest.
        about: how it stands in the table.
    """

    program: str
    environment: str
    packages: tuple[str, ...] = ()
    about: str


KINDS = {
    "hooks": Kind(
        program="hooks.py",
        environment="vlmprobe",
        about="transformers 5.3, forward hooks, sdpa (rows: eager)",
    ),
    "nnsight": Kind(program="nnsight_peer.py", environment=OURS, about="plain nnsight 0.8.1, one trace a condition"),
    "vlmprobe": Kind(
        program="vlmprobe_peer.py",
        environment="vlmprobe",
        packages=("vlmprobe==1.0.1", "transformers==5.3.0"),
        about="vlmprobe 1.0.1 (eager)",
    ),
    "transformer_lens": Kind(
        program="transformer_lens_peer.py",
        environment="transformer_lens",
        packages=("transformer-lens==4.3.0",),
        about="transformer-lens 4.3 bridge (eager)",
    ),
}


def python_of(environment: str) -> Path:
    """The python that a peer is run by."""
    return Path(sys.executable) if environment == OURS else ENVIRONMENTS / environment / "bin" / "python"


def make(environment: str, packages: Sequence[str]) -> None:
    """A virtual environment with the packages, and the very torch that we run."""
    folder = ENVIRONMENTS / environment
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pins = ["-c", str(PROGRAMS / f"constraints-{environment}.txt")]
    install = [str(python_of(environment)), "-m", "pip", "install", "-q", *pins]
    subprocess.run([*install, *packages, f"torch=={torch.__version__}"], check=True)


def made(name: str) -> bool:
    """Whether a peer's environment is there."""
    return python_of(KINDS[name].environment).exists()


class Peer:
    """A peer's running program."""

    def __init__(self, name: str, threads: int) -> None:
        kind = KINDS[name]
        command = [str(python_of(kind.environment)), kind.program]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
        self.name = name
        self.process = subprocess.Popen(
            command,
            cwd=PROGRAMS,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, folder: Path, case: str) -> dict[str, Any]:
        """`{"seconds", "values"}` of one turn of a case, or `{"error"}`."""
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps({"folder": str(folder), "case": case}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        return json.loads(line) if line else {"error": f"the program ended with {self.process.wait()}"}

    def close(self) -> None:
        """Let the program end."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(timeout=60)


@contextmanager
def running(names: Sequence[str], threads: int) -> Iterator[dict[str, Peer]]:
    """Peers while they run."""
    with ExitStack() as stack:
        peers = {name: Peer(name, threads) for name in names}
        for peer in peers.values():
            stack.callback(peer.close)
        yield peers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=sorted({kind.environment for kind in KINDS.values()} - {OURS}))
    only = parser.parse_args().only
    for kind in KINDS.values():
        if kind.packages and only in (None, kind.environment):
            make(kind.environment, kind.packages)
            print(f"{kind.environment}: {', '.join(kind.packages)} in {ENVIRONMENTS / kind.environment}")


if __name__ == "__main__":
    main()
