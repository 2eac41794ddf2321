"""The classifier that is audited: built, filled with weights, and tried on one picture."""
