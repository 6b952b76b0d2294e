"""The wheel and the sdist: built of what git has, looked at, installed and run. `python tests/packages.py`

They are built in a folder that holds nothing but the files of the repository, because a checkout also has caches. The
wheel is installed into a new environment with the versions of constraints.txt, and the README's first command runs from
it in an empty folder: what it finds must be what README.md says. `--borrow` takes the dependencies of the environment
that runs this, and downloads only `build`.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import venv
import zipfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent
IN_WHEEL = (
    *("py.typed", "cli.py", "viewing/assets/viewer.js"),
    *("shapes/checkpoints/shapes/config.json", "shapes/checkpoints/shapes-gist/config.json"),
)
IN_SDIST = ("nnsight_vlm", "tests", "docs", "examples")
BESIDE = (
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "CITATION.cff",
    "constraints.txt",
    "pyproject.toml",
)
NOT_IN_WHEEL = ("nnsight_vlm/viewing/page/",)
"""Sources of what lies in the package ready to use; pyproject.toml leaves them out."""
CACHES = ("__pycache__/", ".pyc", ".hypothesis/", "_cache/", "node_modules/", ".DS_Store")


def tracked() -> list[str]:
    """The files of the repository."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name]


def faults_of_wheel(names: Iterable[str], files: Iterable[str]) -> list[str]:
    """What is wrong with the files in a wheel.

    Args:
        names: of the files.
        files: those of the repository.
    """
    held = set(names)
    package = {name for name in files if name.startswith("nnsight_vlm/") and not name.startswith(NOT_IN_WHEEL)}
    inside = {name for name in held if ".dist-info/" not in name}
    faults = [f"the wheel has {name}" for name in sorted(inside - package)]
    faults += [f"the wheel lacks {name}" for name in sorted(package - inside)]
    faults += [f"the wheel lacks {name}" for name in IN_WHEEL if f"nnsight_vlm/{name}" not in held]
    is_licensed = any(name.endswith("licenses/LICENSE") for name in held)
    return faults if is_licensed else [*faults, "the wheel lacks its licence"]


def faults_of_sdist(names: Iterable[str], files: Iterable[str]) -> list[str]:
    """What is wrong with the files in an sdist, named below its folder."""
    held = set(names)
    wanted = {name for name in files if name.partition("/")[0] in IN_SDIST or name in BESIDE}
    faults = [f"the sdist lacks {name}" for name in sorted((wanted | set(BESIDE)) - held)]
    extra = held - wanted - {"PKG-INFO", ".gitignore"}
    faults += [f"the sdist has {name}" for name in sorted(extra)]
    return faults + [f"the sdist has the cache {name}" for name in sorted(held) if any(part in name for part in CACHES)]


def faults_of_claims(found: Iterable[dict[str, str]], readme: str) -> list[str]:
    """What a report found that README.md does not say: a number outside of the interval that stands there.

    Another processor rounds otherwise, and a model's description may differ in a word, so digits are not compared.

    Args:
        found: the rows of the report's claims.csv.
        readme: the text of README.md.
    """
    table = r"^\| (?:\w+ |control: )(.+?) \| (\S+) \[(\S+), (\S+)\]"
    said = {statement: (low, high) for statement, _, low, high in re.findall(table, readme, re.MULTILINE)}
    rows = list(found)
    faults = [f"README.md says nothing of: {row['statement']}" for row in rows if row["statement"] not in said]
    faults += [f"the report says nothing of: {name}" for name in said if name not in {row["statement"] for row in rows}]
    for row in rows:
        low, high = map(float, said.get(row["statement"], ("-inf", "inf")))
        if not low <= float(row["value"]) <= high:
            faults.append(f"{row['statement']}: {row['value']} lies outside of README.md's [{low}, {high}]")
    return faults


def run(*command: str | Path, place: Path) -> str:
    """Run a command, and say how long it took."""
    begin = time.perf_counter()
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        list(map(str, command)), cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    print(f"{time.perf_counter() - begin:7.1f} s  {' '.join(Path(each).name for each in map(str, command[:4]))}")
    if done.returncode:
        sys.exit(f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def build(place: Path) -> tuple[Path, Path]:
    """The wheel and the sdist, built in a clean folder."""
    clean, made = place / "clean", place / "dist"
    for name in tracked():
        (clean / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, clean / name)
    builder = environment(place / "builder")
    run(builder, "-m", "pip", "install", "-q", "build", place=place)
    run(builder, "-m", "build", "--outdir", made, clean, place=place)
    return next(made.glob("*.whl")), next(made.glob("*.tar.gz"))


def environment(folder: Path) -> Path:
    """The Python of a new environment."""
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


def main() -> None:
    """Build, look, install, run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--borrow", action="store_true", help="take the dependencies of this environment")
    parser.add_argument("--scenes", help="of the report; fewer than the README's are not compared with it")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        wheel, sdist = build(place)
        files = tracked()
        faults = faults_of_wheel(zipfile.ZipFile(wheel).namelist(), files)
        with tarfile.open(sdist) as packed:
            inside = [member.name.partition("/")[2] for member in packed.getmembers() if member.isfile()]
        faults += faults_of_sdist(inside, files)
        for made in (wheel, sdist):
            print(f"{made.stat().st_size / 1e6:7.2f} MB {made.name}")
        if faults:
            sys.exit("\n".join(faults))
        python, empty = environment(place / "user"), place / "empty"
        empty.mkdir()
        if asked.borrow:
            run(python, "-m", "pip", "install", "-q", "--no-deps", wheel, place=empty)
            inner = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", place=empty).strip()
            (Path(inner) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
        else:
            run(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel, place=empty)
        where = run(python, "-c", "import nnsight_vlm; print(nnsight_vlm.__file__)", place=empty)
        if str(place) not in where:
            sys.exit(f"the package that runs is not the wheel's: {where}")
        command = python.with_name("nnsight-vlm")
        run(command, "--version", place=empty)
        run(command, "doctor", place=empty)
        run(command, "report", "--quiet", *(["--scenes", asked.scenes] if asked.scenes else []), place=empty)
        with (empty / "nnsight-vlm-report" / "claims.csv").open() as file:
            faults = [] if asked.scenes else faults_of_claims(csv.DictReader(file), (ROOT / "README.md").read_text())
        if faults:
            sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
