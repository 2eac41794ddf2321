"""Batches of images through a classifier: predictions, heatmaps, statistics."""
