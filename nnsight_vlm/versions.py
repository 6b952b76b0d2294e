"""The versions of Python and of other packages that this one was tested with, and what is called otherwise in some.

The ranges in pyproject.toml bind pip alone. conda, containers and a later upgrade bring other versions, under which an
intervention may silently not be applied: transformers 5.24 hands decoders their cache under another name. So the
package looks when it is imported, and again when it loads a model. What is installed is read from the metadata of the
packages, which imports none of them.
"""

from __future__ import annotations

import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

PYTHON = ">=3.11,<3.14"
PACKAGES = {
    "transformers": ">=5.14,<5.25",
    "torch": ">=2.6,<2.16",
    "nnsight": ">=0.8.0,<0.8.2",
    "pandas": ">=2.2,<4",
    "numpy": ">=1.26,<3",
}
"""The range of each package, as pyproject.toml has it; docs/versions.md says which of these versions were run."""


def within(wanted: str) -> str:
    """A range of versions of transformers, and within that of the package.

    >>> within(">=5.20,!=5.24.0")
    '!=5.24.0,<5.25,>=5.14,>=5.20'
    """
    return str(SpecifierSet(PACKAGES["transformers"]) & SpecifierSet(wanted))


@cache
def installed(package: str) -> str | None:
    """The version of a package that is installed; None where there is none.

    It is read once: what is imported stays as it is, and metadata that was found takes milliseconds to read.
    """
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def lies_in(found: str | None, wanted: str) -> bool:
    """Whether a version lies in a range; builds and pre-releases count as the release that they belong to.

    >>> lies_in("2.13.0+cpu", ">=2.6,<2.16"), lies_in("2.6.0a0+ecf3bae", ">=2.6,<2.16"), lies_in("2.16.0.dev1", "<2.16")
    (True, True, False)
    """
    try:
        return found is not None and Version(Version(found).base_version) in SpecifierSet(wanted)
    except InvalidVersion:  # a private build may be called anything
        return False


def complaint() -> str | None:
    """What is wrong with the versions that are here, and what to install; None where nothing is."""
    if not lies_in(platform.python_version(), PYTHON):
        return (
            f"nnsight_vlm runs on Python {PYTHON}, and this is {platform.python_version()}; make an environment of it"
        )
    found = {package: installed(package) for package in PACKAGES}
    wrong = [package for package, wanted in PACKAGES.items() if not lies_in(found[package], wanted)]
    if not wrong:
        return None
    here = ", ".join(f"{package} {found[package] or '(not installed)'}" for package in wrong)
    wanted = " ".join(f'"{package}{PACKAGES[package]}"' for package in wrong)
    return (
        f"nnsight_vlm was not tested with {here}, and there an intervention may silently not be applied; "
        f"write pip install {wanted}, or conda install with the same ranges"
    )


def is_command_line() -> bool:
    """Whether this process is the command line, which says what is wrong in words, and has `doctor` to find it."""
    asked_for = list(pairwise(sys.orig_argv))
    return Path(sys.argv[0] if sys.argv else "").stem == "nnsight-vlm" or ("-m", "nnsight_vlm") in asked_for


@cache
def cache_name() -> str:
    """How the transformers that is installed calls a cache, as an argument of a model and in what it returns."""
    from transformers.modeling_outputs import CausalLMOutputWithPast

    from .device.positions import CACHE_NAMES

    return next(name for name in CACHE_NAMES if name in CausalLMOutputWithPast.__dataclass_fields__)
