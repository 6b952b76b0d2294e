"""The errors of the package. Each says what was given, what was expected, and what to write."""

from __future__ import annotations

from nnsight.intervention.backends.remote import RemoteError as ServerError


class InterventionError(RuntimeError):
    """An intervention did not do what it says. Raised by `verify`, and by a run whose plan cannot hold."""


class SpecError(ValueError):
    """What the user wrote cannot be carried out; raised before the model runs."""


class RemoteError(ServerError):  # type: ignore[misc]
    """A server did not answer, or not as it should; says what to do. A kind of nnsight's error of that name."""


class PassesDifferWarning(UserWarning):
    """A shared pass does not give the numbers of single runs in this model; the cases are run one by one."""


class NonFiniteWarning(UserWarning):
    """Logits are infinite or not a number: a variant has no score, or an answer's words mean nothing."""
