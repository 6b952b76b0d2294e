"""Which field of the page's form a refusal is about, so that the page says it beside that field."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import SpecError


class FieldError(SpecError):
    """What a page asks for cannot be carried out, because of one of its fields.

    Attributes:
        field: as requests name it.
    """

    def __init__(self, words: str, field: str) -> None:
        super().__init__(words)
        self.field = field


@contextmanager
def about(field: str) -> Iterator[None]:
    """What is refused inside the block is about this field."""
    try:
        yield
    except FieldError:
        raise
    except SpecError as error:
        raise FieldError(str(error), field) from error


def field_of(error: BaseException) -> dict[str, str]:
    """`{"field": name}` of a refusal about one field; else nothing."""
    return {"field": error.field} if isinstance(error, FieldError) else {}
