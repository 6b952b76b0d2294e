"""Prompts as copies and pickles: neither holds a model's weights, see `identity.references`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..identity import ModelHandle, ModelReference


class KnowsItsModel:
    """A value with a field `model`: a copy has the same model, and a pickle says which one it is.

    The model of a value that was unpickled is found when it is first needed.
    """

    def __getstate__(self) -> dict[str, Any]:
        state = dict(vars(self))
        known = state.pop("model", None)
        return state if known is None else {**state, "reference": ModelHandle(known)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        fields = dict(state)
        reference = fields.pop("reference")
        fields |= {"model": reference.model} if isinstance(reference, ModelHandle) else {"reference": reference}
        vars(self).update(fields)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            reference = vars(self).get("reference")
            if name != "model" or not isinstance(reference, ModelReference):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            fields = vars(self)
            fields["model"] = reference.model()
            del fields["reference"]
            return fields["model"]
