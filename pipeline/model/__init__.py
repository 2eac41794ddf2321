"""The classifier that is audited: its construction, weights, preprocessing and target layer."""
