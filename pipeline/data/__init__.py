"""Datasets: listing of the images, decoding, and a loader that yields batches."""
