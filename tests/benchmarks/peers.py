"""Other tools, each in its own virtual environment, doing the same work with the same weights.

Run once: python tests/benchmarks/peers.py     (makes tests/benchmarks/.peers; needs a package index)

Every peer is a small program in `peers/` that runs under its environment's Python. `Peer` sends it one order per turn,
so that its turns alternate with ours. All environments have the same torch as ours. What a peer cannot do is returned
as its own error and shown in the table.
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

FOLDER = Path(__file__).parent
PROGRAMS, ENVIRONMENTS = FOLDER / "peers", FOLDER / ".peers"
OUR_ENVIRONMENT = ""
"""In place of a name: the environment that runs this file."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A tool to compare with.

    Attributes:
        program: the file in `peers/` that runs it.
        environment: the name of its environment in `.peers`.
        packages: what is installed there besides torch; `peers/constraints-<environment>.txt` pins their dependencies.
        title: its name in the table.
    """

    program: str
    environment: str
    packages: tuple[str, ...] = ()
    title: str


KINDS = {
    "hooks": Kind(
        program="hooks.py",
        environment="vlmprobe",
        title="transformers 5.3, forward hooks, sdpa (attention share: eager)",
    ),
    "nnsight": Kind(
        program="nnsight_peer.py", environment=OUR_ENVIRONMENT, title="plain nnsight 0.8.1, one trace per condition"
    ),
    "vlmprobe": Kind(
        program="vlmprobe_peer.py",
        environment="vlmprobe",
        packages=("vlmprobe==1.0.1", "transformers==5.3.0"),
        title="vlmprobe 1.0.1 (eager)",
    ),
    "transformer_lens": Kind(
        program="transformer_lens_peer.py",
        environment="transformer_lens",
        packages=("transformer-lens==4.3.0",),
        title="transformer-lens 4.3 bridge (eager)",
    ),
}


def python_of(environment: str) -> Path:
    """The Python interpreter of an environment."""
    return Path(sys.executable) if environment == OUR_ENVIRONMENT else ENVIRONMENTS / environment / "bin" / "python"


def make(environment: str, packages: Sequence[str]) -> None:
    """Make a virtual environment with these packages and the version of torch that runs this file."""
    folder = ENVIRONMENTS / environment
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pins = ["-c", str(PROGRAMS / f"constraints-{environment}.txt")]
    install = [str(python_of(environment)), "-m", "pip", "install", "-q", *pins]
    subprocess.run([*install, *packages, f"torch=={torch.__version__}"], check=True)


def has_environment(name: str) -> bool:
    """Whether a peer's environment was made."""
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
        """Run a case once; `{"seconds": ..., "values": [...]}`, or `{"error": ...}`."""
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps({"folder": str(folder), "case": case}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        return json.loads(line) if line else {"error": f"the program ended with {self.process.wait()}"}

    def close(self) -> None:
        """End the program and wait for it."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(timeout=60)


@contextmanager
def running(names: Sequence[str], threads: int) -> Iterator[dict[str, Peer]]:
    """A context in which the programs of these peers run; gives them by name."""
    with ExitStack() as stack:
        peers = {name: Peer(name, threads) for name in names}
        for peer in peers.values():
            stack.callback(peer.close)
        yield peers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=sorted({kind.environment for kind in KINDS.values()} - {OUR_ENVIRONMENT}))
    only = parser.parse_args().only
    for kind in KINDS.values():
        if kind.packages and only in (None, kind.environment):
            make(kind.environment, kind.packages)
            print(f"{kind.environment}: {', '.join(kind.packages)} in {ENVIRONMENTS / kind.environment}")


if __name__ == "__main__":
    main()
