"""Ranking of suspects: images whose label, cue or focus deserves a review."""
