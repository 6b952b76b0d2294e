"""Running a model under interventions: check, capture, run, generate, install, prove."""
