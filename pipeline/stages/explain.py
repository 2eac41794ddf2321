"""The explain stage: prediction and heatmap of every planned image, one Parquet part per shard."""

from __future__ import annotations

from pipeline.config import Config
from pipeline.data.datasets import open_source
from pipeline.run.state import Journal


def run(config: Config, journal: Journal) -> None:
    """List the dataset, plan the images, compute and commit the shards that are missing.

    Raises:
        ConfigError: settings cannot be used, or differ from those that the run began with.
        DataError: the dataset cannot be listed.
    """
    source = open_source(config.dataset, config.data.max_pixels)
    # Importing PyTorch takes seconds; a mistake in the dataset is reported before.
    from pipeline.run.explain_shards import explain_dataset  # noqa: PLC0415

    explain_dataset(config, journal, source)
