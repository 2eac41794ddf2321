"""What changed between two runs, from their tables alone."""
