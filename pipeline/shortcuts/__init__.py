"""Shortcuts: where a class's heat is unusual, and what interventions on pictures prove."""
