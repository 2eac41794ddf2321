"""The setup of a run: settings that are resolved once, when the run is planned."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

JsonObject = dict[str, Any]
"""A JSON object, whose values are of several types."""

METADATA_KEY = b"camaudit"


@dataclass(frozen=True)
class Resolved:
    """Resolved settings: values of "auto" settings, and other values that rows depend on.

    camaudit is the version that planned the run; device is "cpu" or "cuda"; precision is a key of
    engine.precision.DTYPES; batch_size is a number of images. All attempts at a run must have the
    same resolved settings.
    """

    camaudit: str
    device: str
    target_layer: str
    model_fingerprint: str
    compile: bool
    channels_last: bool
    precision: str
    batch_size: int

    def to_json(self) -> JsonObject:
        """The values by dotted key, as they are stored in metadata and shown in messages."""
        return {key: getattr(self, name) for name, key in _RESOLVED_KEYS.items()}

    @classmethod
    def from_json(cls, values: JsonObject) -> Resolved:
        """Make resolved settings from values by dotted key.

        Raises:
            KeyError: a value is missing.
        """
        return cls(**{name: values[key] for name, key in _RESOLVED_KEYS.items()})


_RESOLVED_KEYS = {
    "camaudit": "camaudit",
    "device": "device",
    "target_layer": "model.target_layer",
    "model_fingerprint": "model.fingerprint",
    "compile": "compile",
    "channels_last": "channels_last",
    "precision": "precision",
    "batch_size": "loader.batch_size",
}


@dataclass
class Setup:
    """The metadata of the plan and of every part.

    settings holds the settings, by dotted key, that a resume must not change. measured holds the
    agreement with float32 of the precisions that were compared. grid is (rows, columns) of a
    heatmap; preprocess holds the fields of model.preprocess.Preprocess. ignored counts the files
    of the dataset that are no images, by suffix; warnings are sentences for readers of the audit.
    """

    fingerprint: str
    settings: JsonObject
    resolved: Resolved
    class_names: list[str]
    grid: tuple[int, int]
    embedding_dim: int
    preprocess: JsonObject
    n_images: int
    shard_size: int
    ignored: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    measured: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def n_shards(self) -> int:
        """Number of parts of the complete run."""
        return -(-self.n_images // self.shard_size)

    @property
    def fixed(self) -> JsonObject:
        """Settings and resolved settings by dotted key: what a resume must not change."""
        return self.settings | self.resolved.to_json()

    @property
    def resize(self) -> int | list[int]:
        """The size of resized images: the shorter side in pixels, or [height, width]."""
        size: int | list[int] = self.preprocess["resize"]
        return size

    @property
    def crop(self) -> list[int]:
        """The size of the model's input: [height, width] in pixels."""
        size: list[int] = self.preprocess["crop"]
        return size

    def rows(self, shard: int) -> range:
        """Plan positions of the images of one shard."""
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, self.n_images))

    def to_metadata(self) -> dict[bytes, bytes]:
        """The metadata of an Arrow schema."""
        values = {**asdict(self), "resolved": self.resolved.to_json()}
        named = {_STORED_NAMES.get(name, name): value for name, value in values.items()}
        return {METADATA_KEY: json.dumps(named).encode()}

    @classmethod
    def from_metadata(cls, metadata: dict[bytes, bytes] | None) -> Setup:
        """From the metadata of an Arrow schema.

        Raises:
            KeyError, ValueError, TypeError: the metadata holds no setup of this version.
        """
        values = json.loads((metadata or {})[METADATA_KEY])
        known = {each.name: _STORED_NAMES.get(each.name, each.name) for each in fields(cls)}
        lacking = set(known.values()) - set(values)
        if lacking:
            raise KeyError(", ".join(sorted(lacking)))
        found = {name: values[stored] for name, stored in known.items()}
        found["resolved"] = Resolved.from_json(found["resolved"])
        found["grid"] = tuple(found["grid"])
        return cls(**found)


_STORED_NAMES = {"resolved": "decided"}
"""Names in the metadata of files that differ from today's names in the code."""
