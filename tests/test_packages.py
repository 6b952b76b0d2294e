"""What `tests/packages.py` finds wrong with a wheel or an sdist; the packages themselves are built in CI."""

from __future__ import annotations

import tomllib

import packages
import pytest

FILES = [
    *packages.BESIDE,
    *(f"nnsight_vlm/{name}" for name in packages.IN_WHEEL),
    "tests/a.py",
    "docs/a.md",
    "examples/a",
]
WHEEL = [*(name for name in FILES if name.startswith("nnsight_vlm/")), "x-1.dist-info/licenses/LICENSE"]
SDIST = [*FILES, "PKG-INFO"]


def test_whole_packages_have_no_faults():
    assert packages.faults_of_wheel(WHEEL, FILES) == [] == packages.faults_of_sdist(SDIST, FILES)


def test_what_the_script_expects_to_be_left_out_is_what_the_build_leaves_out():
    build = tomllib.loads((packages.ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert tuple(f"{each}/" for each in build["wheel"]["exclude"]) == packages.NOT_IN_WHEEL
    assert set(packages.IN_SDIST) <= set(build["sdist"]["include"])


@pytest.mark.parametrize("lost", WHEEL)
def test_a_wheel_that_lacks_a_file_has_a_fault(lost):
    assert packages.faults_of_wheel([name for name in WHEEL if name != lost], FILES)


@pytest.mark.parametrize("lost", FILES)
def test_an_sdist_that_lacks_a_file_has_a_fault(lost):
    assert packages.faults_of_sdist([name for name in SDIST if name != lost], FILES) == [f"the sdist lacks {lost}"]


@pytest.mark.parametrize(
    "extra",
    [
        "tests/a.py",
        "nnsight_vlm/viewing/page/src/main.ts",
        "nnsight_vlm/__pycache__/cli.cpython-311.pyc",
    ],
)
def test_files_that_do_not_belong_into_a_package_are_faults(extra):
    assert packages.faults_of_wheel([*WHEEL, extra], FILES) == [f"the wheel has {extra}"]
    if extra not in FILES:
        assert packages.faults_of_sdist([*SDIST, extra], FILES)


def test_the_repository_has_what_packages_are_made_of():
    files = packages.tracked() if (packages.ROOT / ".git").exists() else packages.BESIDE
    assert set(packages.BESIDE) <= set(files)


README = """
| 1 Words look at objects | 0.98 [0.79, 1.00] | > 0.5 | **holds** |
| control: other patches | 0.0002 [-0.0003, 0.0027] nats | > 0 | not decided |
"""


@pytest.mark.parametrize(
    "values, faulty",
    [
        ({"Words look at objects": "0.8", "other patches": "-0.0001"}, []),
        ({"Words look at objects": "0.78", "other patches": "0"}, ["Words look at objects"]),
        ({"Words look at objects": "nan", "other patches": "0"}, ["Words look at objects"]),
        ({"Words look at objects": "0.8"}, ["other patches"]),
        ({"Words look at objects": "0.8", "other patches": "0", "more": "1"}, ["more"]),
    ],
)
def test_a_number_that_the_readme_does_not_say_is_a_fault(values, faulty):
    rows = [{"statement": name, "value": value} for name, value in values.items()]
    faults = packages.faults_of_claims(rows, README)
    assert len(faults) == len(faulty) and all(name in fault for name, fault in zip(faulty, faults, strict=True))


def test_the_readme_has_claims_to_compare():
    text = (packages.ROOT / "README.md").read_text()
    assert len(packages.faults_of_claims([], text)) == 8
