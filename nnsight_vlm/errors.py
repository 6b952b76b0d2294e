"""The errors of the package. Each says what was given, what was expected, and what to write."""

from __future__ import annotations

from nnsight.intervention.backends.remote import RemoteError as ServerError

from .showing import visible


class Worded(Exception):
    """Quotes what others wrote (names of files, answers, a server's words) with its unseen characters as escapes.

    Python itself shows errors and warnings, so this is the border at which their text is shown.
    """

    def __str__(self) -> str:
        return visible(super().__str__(), keep_lines=True)


class InterventionError(Worded, RuntimeError):
    """An intervention did not do what it says. Raised by `verify`, and by a run whose plan cannot hold.

    Attributes:
        found: what was found, with places and numbers.
        plain: what it comes to, in one sentence for a reader of the live page, who sees neither code nor numbers.
    """

    def __init__(self, found: str, *, plain: str = "The model did something else than this.", advice: str = "") -> None:
        """An error whose text is what was found and, where there is any, the advice what to write in Python."""
        super().__init__(f"{found}{advice}")
        self.found, self.plain = found, plain


class SpecError(Worded, ValueError):
    """What the user wrote cannot be carried out; raised before the model runs."""


class RemoteError(Worded, ServerError):  # type: ignore[misc]
    """A server did not answer, or not as it should; says what to do. A kind of nnsight's error of that name."""


class PassesDifferWarning(Worded, UserWarning):
    """A shared pass does not give the numbers of single runs in this model; the cases are run one by one."""


class NonFiniteWarning(Worded, UserWarning):
    """Logits are infinite or not a number: a variant has no score, or an answer's words mean nothing."""


class UnknownWordsWarning(Worded, UserWarning):
    """A text has words that the tokenizer does not know; the model is shown its unknown token in their place."""


def reason_of(error: BaseException) -> str:
    """The first line of what an error of another library says; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
