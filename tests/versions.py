"""Runs the core suites at the corners of the range of versions (`nnsight_vlm.versions`), each in its own environment.

    python tests/versions.py                            # every corner, and a table as docs/versions.md has it
    python tests/versions.py --corners oldest,newest    # what CI runs

An environment holds only what its corner pins, and what follows from that; all else, torch above all, is taken from the
environment that runs this script. So it takes seconds and little space. A corner with a torch or a Python of its own
needs a torch of its own, which may be a download of several GB: it is left out unless `--download` is given.

Environments are kept in `$NNSIGHT_VLM_VERSIONS`, by default `nnsight-vlm/versions` in the user's cache folder.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parent.parent
BASE = Path(sysconfig.get_path("purelib"))
"""Where the environment that runs this script has its packages."""
OURS = f"{sys.version_info.major}.{sys.version_info.minor}"
SHOWN = ("transformers", "torch", "nnsight", "pandas", "numpy")
SELECTION = (
    "tests/test_knockout.py",
    "tests/test_generation.py",
    "tests/test_verify.py",
    "tests/test_sweep.py",
    "tests/test_loading.py",
    "tests/test_checkpoints.py",
    "tests/test_versions.py",
    "tests/test_families.py::test_cached_generation_equals_the_reference_without_a_cache",
    "tests/test_towers_in_families.py::test_a_cut_a_patch_and_what_is_read_equal_plain_hooks",
    "tests/test_lenses.py::test_words_are_those_of_the_model_whose_last_layer_returns_what_this_one_did",
)
"""What runs at every corner: knockouts, generation, proofs, sweeps, loading in full; three cases of every family.

These compare cuts of generated tokens with a forward without a cache, under both kinds of cache; cuts, patches and
reads of vision towers with plain hooks; and lenses with the model's own logits.
"""


@dataclass(frozen=True, kw_only=True)
class Corner:
    """Versions to run with.

    Attributes:
        pins: package to version; other packages are as in the environment that runs this script.
        python: the version of Python, if another.
    """

    pins: Mapping[str, str] = field(default_factory=dict)
    python: str = OURS

    @property
    def own_torch(self) -> bool:
        """Whether torch cannot be taken from the environment that runs this script."""
        return self.python != OURS or "torch" in self.pins


CORNERS = {
    "oldest": Corner(pins={"transformers": "5.14.0"}),
    "newest": Corner(pins={"transformers": "5.24.0"}),
    "all old": Corner(
        pins={
            **{"transformers": "5.14.0", "nnsight": "0.8.0", "pandas": "2.2.0", "numpy": "1.26.0"},
            **{"pyarrow": "20.0.0", "scipy": "1.13.0"},  # later ones refuse this numpy
        }
    ),
    "old torch": Corner(pins={"torch": "2.6.0"}),
    "new torch": Corner(pins={"torch": "2.15.0"}),
    "Python 3.12": Corner(python="3.12"),
    "Python 3.13": Corner(python="3.13"),
}


def home() -> Path:
    """The folder that keeps environments."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("NNSIGHT_VLM_VERSIONS") or cache / "nnsight-vlm" / "versions").absolute()


def folder_of(corner: Corner) -> Path:
    """Where a corner's environment is, or will be: another one for every base and every set of pins."""
    base = sorted(f"{found.name}=={found.version}" for found in distributions(path=[str(BASE)]))
    parts = [str(corner), sys.version, str(BASE), *([] if corner.own_torch else base)]
    return home() / hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def make(corner: Corner) -> Path:
    """The Python of a corner's environment, which is made if it does not exist; an unfinished one has another name.

    Raises:
        CalledProcessError: something cannot be installed; its output says what.
    """
    folder = folder_of(corner)
    if not folder.is_dir():
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        interpreter = (
            getattr(sys, "_base_executable", sys.executable) if corner.python == OURS else f"python{corner.python}"
        )
        run(interpreter, "-m", "venv", *([] if corner.own_torch else ["--without-pip"]), str(partial))
        python = str(partial / "bin" / "python")
        if not corner.own_torch:
            own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
            (own / "base.pth").write_text(f"import site; site.addsitedir({str(BASE)!r})\n")
        pins = [f"{package}=={version}" for package, version in corner.pins.items()]
        run(
            python,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-compile",
            *pins,
            *([f"{ROOT}[test]"] if corner.own_torch else []),
        )
        partial.rename(folder)
    return folder / "bin" / "python"


def run(*command: str) -> str:
    """What a command prints.

    Raises:
        CalledProcessError: it failed.
    """
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout


def versions(python: Path) -> list[str]:
    """The versions that an environment really has: of Python, and of the packages shown."""
    code = f"import platform, importlib.metadata as m; print(platform.python_version(), *map(m.version, {SHOWN}))"
    return run(str(python), "-c", code).split()


def measure(name: str, arguments: Sequence[str], download: bool) -> tuple[list[str], bool]:
    """The line of the table of one corner, and whether it is as it should be."""
    corner = CORNERS[name]
    asked = [corner.python, *(corner.pins.get(package, "") for package in SHOWN)]
    if corner.own_torch and not download:
        return [name, *asked, "not installable here: it needs a torch of its own"], True
    try:
        python = make(corner)
        found = versions(python)
    except (OSError, subprocess.CalledProcessError) as error:
        print(getattr(error, "stdout", error), file=sys.stderr)
        return [
            name,
            *asked,
            f"not installable here: {str(getattr(error, 'stdout', error)).strip().splitlines()[-1]}",
        ], False
    log, began = home() / f"{name.replace(' ', '-')}.log", time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as file:
        command = [str(python), "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", *arguments]
        code = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, check=False
        ).returncode
    text = log.read_text()
    if code:
        print(f"--- {name}\n{text[-20_000:]}", file=sys.stderr)
    counted = re.findall(r"\d+ (?:passed|failed|skipped|errors?)\b", text.strip().splitlines()[-1])
    return [name, *found, f"{', '.join(counted) or 'no tests ran'} in {time.monotonic() - began:.0f} s"], code == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corners", default=",".join(CORNERS), help=f"some of: {', '.join(CORNERS)}")
    parser.add_argument("--download", action="store_true", help="also the corners that need a torch of their own")
    parser.add_argument("--jobs", type=int, default=2, help="how many corners run side by side")
    parser.add_argument("tests", nargs="*", default=SELECTION, help="what pytest is given in place of the core suites")
    chosen = parser.parse_args()
    names = [name.strip() for name in chosen.corners.split(",")]
    if unknown := set(names) - set(CORNERS):
        parser.error(f"no corner is called {', '.join(sorted(unknown))}; the corners are {', '.join(CORNERS)}")
    with ThreadPoolExecutor(chosen.jobs) as pool:
        done = list(pool.map(lambda name: measure(name, chosen.tests, chosen.download), names))
    for line in (["corner", "Python", *SHOWN, "tests"], ["---"] * (len(SHOWN) + 3), *(line for line, _ in done)):
        print(f"| {' | '.join(line)} |")
    sys.exit(not all(fine for _, fine in done))


if __name__ == "__main__":
    main()
