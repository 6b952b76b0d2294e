"""Papers as a list of references, in text, Markdown or BibTeX."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from ..studies.papers import OTHERS, Paper

ARXIV = "https://arxiv.org/abs/"


def reference(paper: Paper) -> str:
    """A paper in one line of text."""
    if not paper.authors:
        return f"{paper.name + '. ' if paper.name else ''}arXiv {paper.arxiv}."
    names = [author.replace(",", "") for author in paper.authors if author != OTHERS]
    who = f"{names[0]} et al." if OTHERS in paper.authors else ", ".join(names) + "."
    return f"{who} {paper.title}. {paper.year}. arXiv {paper.arxiv}."


def bibtex(papers: Sequence[Paper]) -> str:
    """Papers as BibTeX entries, each with a key of its own."""
    keys = list[str]()
    for paper in papers:
        key = _key(paper)
        keys.append(key if key not in keys else f"{key}_{paper.arxiv.replace('.', '_')}")
    return "\n\n".join(_entry(paper, key) for paper, key in zip(papers, keys, strict=True))


def _key(paper: Paper) -> str:
    if not paper.authors:
        return f"arxiv{paper.arxiv.replace('.', '_')}"
    family = unicodedata.normalize("NFKD", paper.authors[0].partition(",")[0])
    return "".join(letter for letter in family.lower() if letter.isascii() and letter.isalpha()) + str(paper.year)


def _entry(paper: Paper, key: str) -> str:
    fields = {
        "title": f"{{{paper.title}}}" if paper.title else "",
        "author": " and ".join(paper.authors),
        "year": str(paper.year),
        "eprint": paper.arxiv,
        "archivePrefix": "arXiv",
        "url": f"{ARXIV}{paper.arxiv}",
    }
    lines = [f"  {name} = {{{value}}}" for name, value in fields.items() if value]
    return f"@misc{{{key},\n" + ",\n".join(lines) + "\n}"
