"""The errors of the package. Each says what was given, what was expected, and what to write."""

from __future__ import annotations


class InterventionError(RuntimeError):
    """An intervention did not do what it says. Raised by `verify`, and by a run whose plan cannot hold."""


class SpecError(ValueError):
    """What the user wrote cannot be carried out; raised before the model runs."""
