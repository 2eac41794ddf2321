"""Changes between two runs, computed from their tables alone."""
