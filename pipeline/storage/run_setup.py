"""Arrow schemas of every table, and the few records that stages exchange."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

METADATA_KEY = b"camaudit"


@dataclass
class Setup:
    """What is decided before the first image, written into the plan and kept by every resume.

    grid is (rows, columns) of the heatmap; preprocess the arguments of Preprocess; settings and
    decided the dotted keys that a resume must not change; measured is what was decided by.
    """

    fingerprint: str
    settings: dict[str, Any]
    decided: dict[str, Any]
    class_names: list[str]
    grid: tuple[int, int]
    embedding_dim: int
    preprocess: dict[str, Any]
    n_images: int
    shard_size: int
    ignored: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)

    @property
    def batch_size(self) -> int:
        """Images per batch."""
        return int(self.decided["loader.batch_size"])

    @property
    def n_shards(self) -> int:
        """Number of parts the run ends with."""
        return -(-self.n_images // self.shard_size)

    def rows(self, shard: int) -> range:
        """Plan positions of the images of one shard."""
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, self.n_images))

    def to_metadata(self) -> dict[bytes, bytes]:
        """As the metadata of an Arrow schema."""
        return {METADATA_KEY: json.dumps(asdict(self)).encode()}

    @classmethod
    def from_metadata(cls, metadata: dict[bytes, bytes] | None) -> Setup:
        """From the metadata of an Arrow schema.

        Raises:
            KeyError, ValueError, TypeError: where it holds no setup of this version.
        """
        values = json.loads((metadata or {})[METADATA_KEY])
        lacking = {field.name for field in fields(cls)} - set(values)
        if lacking:
            raise KeyError(", ".join(sorted(lacking)))
        values["grid"] = tuple(values["grid"])
        return cls(**values)
