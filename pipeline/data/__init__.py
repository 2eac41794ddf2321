"""From a dataset to pictures in batches: sources, decoding, the loader."""
