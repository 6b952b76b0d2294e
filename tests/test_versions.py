"""Which versions of other packages are taken, and what is said about others."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import versions as corners
import zoo

import nnsight_vlm as nv
from nnsight_vlm import versions
from nnsight_vlm.families import FAMILIES, family_of

ROOT = Path(nv.__file__).parent.parent
INSIDE = {
    "transformers": ("5.14.0", "5.24.0", "5.24.3.post1", "5.23.1.dev0"),
    "torch": ("2.6.0", "2.13.0+cpu", "2.6.0a0+ecf3bae40a.nv25.01", "2.15.0"),
    "nnsight": ("0.8.0", "0.8.1"),
    "pandas": ("2.2.0", "2.3.3", "3.1.1"),
    "numpy": ("1.26.0", "1.26.4", "2.0.0", "2.4.6"),
}
OUTSIDE = {
    "transformers": ("4.57.1", "5.13.1", "5.25.0", "5.25.0.dev0", "6.0.0rc1"),
    "torch": ("2.5.1+cu124", "2.16.0", "3.0.0"),
    "nnsight": ("0.7.0", "0.8.2", "0.9.0"),
    "pandas": ("2.1.4", "4.0.0"),
    "numpy": ("1.25.2", "3.0.0"),
}


@pytest.fixture
def installed(monkeypatch):
    """A function that lets other versions seem to be installed."""

    def pretend(**found):
        real = versions.installed
        monkeypatch.setattr(versions, "installed", lambda package: found.get(package, real(package)))

    return pretend


def test_the_ranges_are_those_that_pip_is_told():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == versions.PYTHON
    asked = dict(re.fullmatch(r"([a-z0-9_-]+)(.*)", line).groups() for line in project["dependencies"])
    assert {package: asked[package] for package in versions.PACKAGES} == versions.PACKAGES


def test_the_pinned_versions_lie_in_the_ranges():
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    assert all(versions.lies_in(pins[package], wanted) for package, wanted in versions.PACKAGES.items())


def test_the_corners_are_the_ends_of_the_ranges_and_their_table_is_in_the_docs():
    for corner in corners.CORNERS.values():
        known = {package: version for package, version in corner.pins.items() if package in versions.PACKAGES}
        assert all(versions.lies_in(version, versions.PACKAGES[package]) for package, version in known.items())
        assert versions.lies_in(f"{corner.python}.0", versions.PYTHON)
    page = (ROOT / "docs" / "versions.md").read_text()
    lines = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("| ")}
    assert set(corners.CORNERS) <= set(lines)
    assert all(re.search(r"\d+ passed in|not installable here", lines[name]) for name in corners.CORNERS)


@pytest.mark.parametrize("package", INSIDE)
def test_versions_of_the_range_are_taken(package, installed):
    for version in INSIDE[package]:
        installed(**{package: version})
        assert versions.complaint() is None, version


@pytest.mark.parametrize("package", OUTSIDE)
def test_other_versions_are_refused_with_what_to_install(package, installed):
    for version in (*OUTSIDE[package], "unknown", None):
        installed(**{package: version})
        with pytest.raises(nv.SpecError) as error:
            nv.load(tiny.build_module())
        assert f"with {package} {version or '(not installed)'}, " in str(error.value)
        assert f'pip install "{package}{versions.PACKAGES[package]}"' in str(error.value)


def test_all_versions_that_are_refused_are_named_at_a_time(installed):
    installed(torch="2.5.0", pandas="2.1.0")
    complaint = versions.complaint()
    assert "with torch 2.5.0, pandas 2.1.0, " in complaint
    assert 'pip install "torch>=2.6,<2.16" "pandas>=2.2,<4"' in complaint


@pytest.mark.parametrize("python", ["3.10.14", "3.14.0", "3.14.0rc2"])
def test_another_python_is_refused(monkeypatch, python):
    monkeypatch.setattr("platform.python_version", lambda: python)
    with pytest.raises(nv.SpecError, match=re.escape(f"Python >=3.11,<3.14, and this is {python}")):
        nv.load("shapes")


def import_beside(folder):
    """What importing the package gives in a process that finds the metadata in a folder first."""
    code = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]; import nnsight_vlm"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_importing_the_package_beside_another_version_is_refused_before_that_is_imported(tmp_path):
    assert import_beside(tmp_path).returncode == 0
    metadata = tmp_path / "transformers-5.25.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 5.25.0\n")
    (tmp_path / "transformers.py").write_text("raise SystemError('imported')\n")
    refused = import_beside(tmp_path)
    assert refused.returncode == 1
    assert "ImportError: nnsight_vlm was not tested with transformers 5.25.0" in refused.stderr
    assert 'pip install "transformers>=5.14,<5.25"' in refused.stderr and "imported" not in refused.stderr


# families -------------------------------------------------------------------------------------------


def test_a_family_is_refused_with_a_transformers_that_it_does_not_run_with(monkeypatch):
    limited = replace(FAMILIES["llava"], transformers=">=5.20,!=5.24.0")
    monkeypatch.setitem(FAMILIES, "llava", limited)
    config = tiny.build_config()
    for found in ("5.20.0", "5.23.1", "5.24.1"):
        monkeypatch.setattr(versions, "installed", lambda _, found=found: found)
        assert family_of(config) is limited
    for found in ("5.19.3", "5.24.0"):
        monkeypatch.setattr(versions, "installed", lambda _, found=found: found)
        with pytest.raises(
            nv.SpecError, match=f"'llava' run with transformers>=5.20,!=5.24.0, and here is {found}; write"
        ):
            family_of(config)


def config_of(family):
    """As much of a config as says that a model is of a family."""
    config = SimpleNamespace(model_type=family.model_type)
    for path, value in family.when.items():
        *parts, last = path.split(".")
        inner = config
        for part in parts:
            inner.__dict__.setdefault(part, SimpleNamespace())
            inner = getattr(inner, part)
        setattr(inner, last, value)
    return config


def test_families_are_refused_with_every_transformers_outside_their_range(installed):
    limited = [family for family in FAMILIES.values() if family.transformers]
    assert len(limited) > 10
    for version in ("5.14.0", "5.17.0", "5.22.2", "5.24.0"):
        installed(transformers=version)
        for family in limited:
            if not versions.lies_in(version, family.transformers):
                asked = f'write pip install "transformers{versions.within(family.transformers)}"'
                with pytest.raises(nv.SpecError, match=re.escape(f"and here is {version}; {asked}")):
                    family_of(config_of(family))


def test_members_of_the_zoo_are_sorted_by_their_family():
    for name, member in zoo.ZOO.items():
        family = family_of(member.module(member.implementations[0]).config)
        assert not family.transformers or versions.lies_in(versions.installed("transformers"), family.transformers), (
            name
        )


def test_the_name_of_the_cache_is_that_of_the_model_that_is_here(sdpa):
    prompt = nv.encode(sdpa, "what is red ?", tiny.picture(0))
    output = sdpa._module(**prompt.inputs, use_cache=True)
    assert output[versions.cache_name()].get_seq_length() == prompt.width
