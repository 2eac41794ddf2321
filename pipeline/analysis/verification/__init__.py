"""Verification of candidates: interventions on images, and their effect on the predictions."""
