"""explain: every planned image through the model, one row each, one Parquet part per shard."""

from __future__ import annotations

from pipeline.config import Config
from pipeline.data.datasets import open_source
from pipeline.run.state import Journal


def run(config: Config, journal: Journal) -> None:
    """List the dataset, plan the images, compute and commit the shards that are missing.

    Raises:
        ConfigError: settings that cannot be used, or differ from those that the run began with.
        DataError: a dataset that cannot be listed.
    """
    source = open_source(config.dataset, config.data.max_pixels)
    # PyTorch takes seconds to import, which a mistake in the dataset need not wait for.
    from pipeline.run.explain_shards import explain_dataset  # noqa: PLC0415

    explain_dataset(config, journal, source)
