"""A model as a pickled prompt refers to it: by what it is, and never by its weights.

Whoever reads the pickle has the model loaded already, or loads it anew. It is found among the models of the process
when it is first needed: the very model object where it is still there, or another one of the same architecture and
weights. Weights are compared by a few values of each (`weights_sample`), because a digest of all would cost more than
the rest of the pickle; weights of another precision, or that are not loaded, by the name that they were loaded from.
From then on the prompt is one of that model like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary, WeakValueDictionary

from ..errors import SpecError
from ..families import Model, models_here, view_of
from .models import architecture_digest, config_name
from .weights import weights_sample

_KEYS: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
"""The key of each model that a pickle of this process refers to."""
_MODELS: WeakValueDictionary[str, Any] = WeakValueDictionary()
"""The models by their keys, in this process and in those that are forked from it."""


@dataclass(frozen=True, kw_only=True)
class ModelReference:
    """What a pickle says of a model.

    Attributes:
        key: the model object, in the process that wrote the pickle.
        family: name of the model's family.
        name: the repository or path that it was loaded from; empty for one built in memory.
        architecture: digest of its configuration, see `architecture_digest`.
        dtype: the dtype of its weights.
        weights: digest of a few of their values; empty where they were not loaded.
    """

    key: str
    family: str
    name: str
    architecture: str
    dtype: str
    weights: str

    def model(self) -> Model:
        """The model, among those of this process.

        Raises:
            SpecError: it is not there.
        """
        written_here = _MODELS.get(self.key)
        if written_here is not None:
            return written_here
        found = next((model for model in models_here() if self._fits(model)), None)
        if found is None:
            named = f" ({self.name})" if self.name else ""
            raise SpecError(
                f"this prompt comes out of a pickle, and no model that is loaded here is the one that it was encoded "
                f"for: {self.family!r}{named}, with the same configuration and weights. Load that model first, "
                "nv.load(...); or encode it for another one, nv.encode(model, inputs=dict(prompt.inputs), "
                "images=prompt.images)"
            )
        return found

    def _fits(self, model: Model) -> bool:
        """Whether it is a model of the same architecture and weights."""
        view = view_of(model)
        if architecture_digest(view) != self.architecture:
            return False
        sample = weights_sample(view.module) if str(view.dtype) == self.dtype else ""
        if sample and self.weights:
            return sample == self.weights
        return bool(self.name) and self.name == config_name(view)


class ModelHandle:
    """A model inside the state of a prompt that is copied or pickled: a copy keeps it, a pickle refers to it."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def __deepcopy__(self, _: Any) -> ModelHandle:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _as_it_is, (reference_to(self.model),)


def _as_it_is(reference: ModelReference) -> ModelReference:
    return reference


def reference_to(model: Model) -> ModelReference:
    """What a pickle says of a model."""
    view, key = view_of(model), _KEYS.setdefault(model, uuid4().hex)
    _MODELS[key] = model
    return ModelReference(
        key=key,
        family=view.family.name,
        name=config_name(view),
        architecture=architecture_digest(view),
        dtype=str(view.dtype),
        weights=weights_sample(view.module),
    )
