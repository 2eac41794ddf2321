"""Proof: candidates put to the test on the model, by changing pictures and asking it again."""
