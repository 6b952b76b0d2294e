"""Puts on this machine what the tests of saved pages need: Chromium, Firefox, Playwright and axe-core.

Run `python tests/browser/setup.py` with the Python that runs the tests. The browsers are those of the distribution
(Debian and Ubuntu, as root); elsewhere install any Chromium or Chrome and Firefox 153 or later. Nothing is downloaded
but packages: Playwright speaks to the installed Chromium in that browser's protocol, and to the installed Firefox,
which is not its patched one, in WebDriver BiDi.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import browsers

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
PACKAGES = {"chromium": "chromium", "firefox": "firefox-esr"}
"""The distribution's package of each browser."""


class SetupError(RuntimeError):
    """The machine lacks something, and it could not be installed."""


def run(*command: str) -> None:
    """Runs one command of the setup."""
    if subprocess.run(command, check=False).returncode:
        raise SetupError(f"this step failed, its messages are above: {' '.join(command)}")


def install_browsers() -> None:
    """Installs the browsers that are not there; raises `SetupError` where that is not permitted."""
    missing = [PACKAGES[name] for name in browsers.COMMANDS if browsers.path_of(name) is None]
    if not missing:
        return
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise SetupError(f"the tests need {' and '.join(missing)}: install them, then run this again")
    patient = ("apt-get", "-o", "DPkg::Lock::Timeout=600", "-qq")  # another installer may be at work
    run(*patient, "update")
    run(*patient, "install", "-y", "--no-install-recommends", *missing, "fonts-dejavu-core")


def is_there(line: str) -> bool:
    """Whether a line of the requirements is installed in its version."""
    name, _, version = line.partition("==")
    try:
        return metadata.version(name) == version
    except metadata.PackageNotFoundError:
        return False


def install_packages() -> None:
    """Installs the pinned packages into the Python that runs this."""
    lines = (line.partition("#")[0].strip() for line in REQUIREMENTS.read_text().splitlines())
    if not all(is_there(line) for line in lines if line):
        run(sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", str(REQUIREMENTS))


if __name__ == "__main__":
    try:
        install_browsers()
        install_packages()
    except SetupError as error:
        sys.exit(f"setup of the browser tests: {error}")
    for command in map(browsers.path_of, browsers.COMMANDS):
        subprocess.run([str(command), "--version"], check=False)
