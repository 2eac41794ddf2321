"""Candidates for shortcuts, found in the tables of a run alone; no model is loaded."""
