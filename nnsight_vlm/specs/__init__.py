"""What a user can ask for, as frozen values: interventions (what to change) and measurements (what to look at)."""
