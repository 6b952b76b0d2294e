"""CITATION.cff says of the package what its metadata, its licence and its list of papers say."""

from __future__ import annotations

import tomllib
from pathlib import Path

import yaml

import nnsight_vlm as nv
from nnsight_vlm.studies.papers import PAPERS

ROOT = Path(nv.__file__).parent.parent


def test_the_citation_file_agrees_with_the_package_and_its_papers():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (cited["cff-version"], cited["type"]) == ("1.2.0", "software")
    assert cited["version"] == project["version"] and cited["license"] == project["license"]
    assert cited["authors"][0]["name"].removeprefix("The ") in (ROOT / "LICENSE").read_text()
    assert len(cited["references"]) >= 2
    for reference in cited["references"]:
        paper = PAPERS[reference["identifiers"][0]["value"].removeprefix("arXiv:")]
        names = [
            f"{author['family-names']}, {author['given-names']}"
            for author in reference["authors"]
            if "name" not in author
        ]
        assert reference["title"] == paper.title and reference["year"] == 2000 + int(paper.arxiv[:2])
        assert tuple(names) == paper.authors[: len(names)] and names
