"""What a user writes in the brackets of an intervention or a readout, looked at before Python does."""

from __future__ import annotations

from typing import Any, Self

from ..arguments import known_names
from ..errors import SpecError


class Named:
    """A dataclass that refuses values without a name, or with a name that it has not got, in words."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """A value whose fields `__init__` sets.

        Raises:
            SpecError: a misspelt name; more values than may stand without one.
        """
        fields = {name: field for name, field in getattr(cls, "__dataclass_fields__", {}).items() if field.init}
        if not fields:  # a class of somebody else's, with an __init__ of its own
            return super().__new__(cls)
        known_names(cls.__name__, kwargs, fields)
        bare = [name for name, field in fields.items() if not field.kw_only]
        if len(args) > len(bare):
            rest = ", ".join(f"{name}=" for name in fields if name not in bare)
            raise SpecError(
                f"{cls.__name__} takes {len(bare)} value(s) without a name ({', '.join(bare)}), and {len(args)} were "
                f"given; write the name of each other: {rest}"
            )
        return super().__new__(cls)
