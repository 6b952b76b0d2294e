"""A judge that says which objects a text names, such as a language model: what it is asked, and its answers on disk.

Every call is kept as a line of JSON, in a file that is named by a digest of the judge, the text and the names. The same
question is not asked twice: a call that was answered is read from its file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..arguments import folder, function
from ..errors import SpecError, reason_of
from ..identity import setting_digest
from ..storage import atomic_write

Judge = Callable[[str, Sequence[str]], Sequence[str]]
"""From a text and the names of objects to those of the names that the text says are there."""
WRITE = "judge=my_judge, a function (text, names) -> the names that the text says are there"


def judge_given(judge: Any, transcripts: Any, journal: Path | None) -> tuple[Judge | None, Path | None]:
    """The judge and the folder of its transcripts; by default a folder in the journal.

    Raises:
        SpecError: no function, no folder, or transcripts without a judge.
    """
    if judge is None:
        if transcripts is not None:
            raise SpecError("transcripts= keeps what a judge answers, and there is none; write judge= too")
        return None, None
    judge = function("judge", judge, WRITE)
    if transcripts is None:
        return judge, None if journal is None else journal / "transcripts"
    return judge, folder("transcripts", transcripts)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A judge and its transcripts.

    Attributes:
        judge: see `Judge`.
        identity: a digest of the judge; None where no later process would know it (a lambda, a closure). Then its
            transcripts are written and not read.
        folder: of the transcripts; None keeps none.
    """

    judge: Judge
    identity: str | None
    folder: Path | None

    @classmethod
    def of(cls, judge: Judge, folder: Path | None) -> Asked:
        """A judge whose identity is looked up once."""
        try:
            identity: str | None = setting_digest(judge)
        except SpecError:
            identity = None
        return cls(judge=judge, identity=identity, folder=folder)

    def said(self, text: str, names: Sequence[str], whose: str) -> tuple[str, ...]:
        """The names that the judge says are in a text, in the order of `names`, each once.

        Args:
            text: a description.
            names: what it is asked about.
            whose: what the text is of, for messages and transcripts.

        Raises:
            SpecError: the judge raised an error, or answered with something else than some of the names.
        """
        path = (
            None if self.folder is None else self.folder / f"{setting_digest([self.identity, text, list(names)])}.jsonl"
        )
        kept = None if path is None or self.identity is None else _answer_in(path, names)
        if kept is not None:
            return kept
        about = {"of": whose, "judge": self.identity, "text": text, "names": list(names)}
        try:
            given = self.judge(text, tuple(names))
        except Exception as error:
            _keep(path, {**about, "error": f"{type(error).__name__}: {error}"})
            raise SpecError(
                f"{whose}: judge= raised {type(error).__name__}: {reason_of(error)}; {self._what_is_kept()}"
            ) from error
        answer = _checked(given, names)
        if answer is None:
            _keep(path, {**about, "error": f"no list of these names: {given!r:.500}"})
            raise SpecError(
                f"{whose}: judge= answered {given!r:.200}, and must answer with a list of some of the names that it is "
                f"given, such as {list(names[:2])}; {self._what_is_kept()}"
            )
        _keep(path, {**about, "said": list(answer)})
        return answer

    def _what_is_kept(self) -> str:
        if self.folder is None:
            return "write transcripts= to keep its answers, so that the next call goes on after them"
        if self.identity is None:
            return (
                f"its answers are kept in {self.folder}, and asked for again, because a lambda or closure is not known "
                "in another call; write it at the top of a module"
            )
        return f"its answers up to here are kept in {self.folder}; mend the judge, and call again to go on"


def _checked(given: Any, names: Sequence[str]) -> tuple[str, ...] | None:
    """What a judge answered, as some of the names; None where it is something else."""
    if isinstance(given, (str, bytes)):
        return None
    try:
        answer = list(given)
    except TypeError:
        return None
    if not all(isinstance(each, str) and each in names for each in answer):
        return None
    return tuple(name for name in names if name in answer)


def _keep(path: Path | None, line: dict[str, Any]) -> None:
    """Add a line to a transcript."""
    if path is not None:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        with atomic_write(path) as temporary:
            temporary.write_text(before + json.dumps(line, ensure_ascii=True) + "\n", encoding="utf-8")


def _answer_in(path: Path, names: Sequence[str]) -> tuple[str, ...] | None:
    """The answer that a transcript holds; None where there is none, or the file is broken."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        found = [line["said"] for line in lines if "said" in line]
    except (OSError, ValueError, TypeError):
        return None
    return _checked(found[-1], names) if found else None
