"""What Python users call: run an audit, open a run, read its tables as pandas DataFrames.

Everything here is importable from `pipeline` itself: `pipeline.audit`, `pipeline.open_run`.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.cli import run_overview
from pipeline.errors import ConfigError, DataError, Stopped
from pipeline.storage import parquet, run_folder
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.run_record import read_record
from pipeline.storage.run_setup import Setup

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from pipeline.config import Config
    from pipeline.data.source import Source

HEAVY = ("heatmap", "heatmap_label", "embedding", "features")
"""Columns of the images that hold many numbers each; `Run.images` reads them only by name."""
GROUPS = ("dataset", "model", "cam", "executor", "gate", "analysis", "report")
"""Settings whose value is the name of a choice: a file in the folder of conf/ with that name."""


def audit(*settings: str | Mapping[str, object]) -> Run:
    """Audit a dataset: the command `camaudit` from Python, with the same settings and tables.

    Args:
        settings: texts as on the command line ("dataset.root=photos"), or mappings from the same
            keys to Python values ({"dataset.root": "photos", "loader.batch_size": 64}).

    Returns:
        The finished run.

    Raises:
        ConfigError: a setting, model or factory that cannot be used.
        DataError: no images, a damaged table, or more error rows than data.max_error_rate.
        GateError: the run is complete, and a limit of the gate is broken.
        NotFinished: another process holds the run, the disk is full, memory ran out.
        KeyboardInterrupt: a signal stopped the run; the same call continues it.
    """
    from pipeline.stages.audit import run_audit  # noqa: PLC0415 - imports the stages

    config = _compose(settings)
    try:
        with _signals():
            run_audit(config)
    except Stopped as error:
        raise KeyboardInterrupt(str(error)) from error
    return open_run(config.folder)


def open_run(where: str | Path) -> Run:
    """Open the folder of a run; warn about everything that the run has not finished.

    Args:
        where: the folder, such as "outputs/audit", or a URL such as "s3://audits/nightly".

    Raises:
        ConfigError: the folder holds no run; the message names runs right inside it.
        DataError: run.json or the plan is damaged.
    """
    run = Run(run_overview.open_run(where))
    for missing in run.unfinished:
        warnings.warn(f"{run.name}: {missing}", stacklevel=2)
    return run


class Run:
    """A run on disk or in a bucket; every method reads its tables anew."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.overview = run_overview.summarise_run(folder)

    def __repr__(self) -> str:
        """Name, state, images and accuracy, and what is not finished."""
        overview = self.overview
        facts = [f"{overview.state}", f"{overview.counts.get('planned', 0):,} images"]
        if overview.accuracy is not None:
            facts.append(f"accuracy {overview.accuracy:.1%}")
        return f"Run({self.folder.path}: {', '.join([*facts, *self.unfinished])})"

    @property
    def name(self) -> str:
        """The run's id, which is the name of its folder."""
        return self.overview.run_id

    @property
    def unfinished(self) -> list[str]:
        """One sentence for each part or table that is missing; empty where the run is complete."""
        return list(self.overview.missing.values())

    @property
    def warnings(self) -> list[str]:
        """What a reader of the results has to know about the audit itself."""
        return self.overview.warnings

    @property
    def class_names(self) -> list[str]:
        """The name of each class, in the order of the model's outputs."""
        return list(self._setup().class_names)

    @property
    def report(self) -> Path:
        """The first page of the report."""
        return self.folder.report / "index.html"

    def suspects(self) -> pd.DataFrame:
        """Suspects, best first: one row each, with kind, score and reasons.

        Raises:
            NotFinished: the stage rank has not run.
        """
        return _to_pandas(self.to_arrow("suspects"))

    def findings(self) -> pd.DataFrame:
        """Shortcuts that were found: verdict, effect and control; region_x0 ... in fractions.

        Raises:
            NotFinished: the stage verify has not run.
        """
        return _to_pandas(self.to_arrow("findings"))

    def classes(self) -> pd.DataFrame:
        """Counts, accuracy, mean focus statistics and mean heatmap (flat) of every class.

        Raises:
            NotFinished: the stage discover has not run.
        """
        return _to_pandas(self.to_arrow("classes"))

    def images(
        self,
        columns: Sequence[str] | None = None,
        where: Mapping[str, object] | pc.Expression | None = None,
    ) -> pd.DataFrame:
        """One row per planned image, in planned order: prediction, statistics, status.

        Args:
            columns: which columns; None reads all but those of HEAVY.
            where: {"pred": "cat", "status": ["ok"]}, None as value meaning null; or an expression
                of pyarrow.compute.

        Raises:
            KeyError: a column that does not exist.
            NotFinished: the stage explain has not finished.
        """
        return _to_pandas(self._image_table(columns, where))

    def to_arrow(self, table: str) -> pa.Table:
        """A table as a pyarrow Table: "images", or the name of a file in the folder analysis.

        Raises:
            NotFinished: the stage that writes the table has not run.
            DataError: the file is damaged.
        """
        if table == "images":
            return self._image_table(None, None)
        return parquet.read(self.folder.analysis(table))

    def heatmaps(self, image_ids: Sequence[str], *, of: str = "pred") -> NDArray[np.float32]:
        """Heatmaps (n, h, w) in [0, 1] of images, in the given order.

        Args:
            image_ids: ids of planned images.
            of: "pred" for the heatmap of the predicted class; "label" for that of the given label,
                which is stored where the label differs from the prediction.

        Returns:
            NaN for an image that has no such heatmap.

        Raises:
            KeyError: an id that is not planned.
        """
        column = {"pred": "heatmap", "label": "heatmap_label"}[of]
        table = self._rows_of(list(image_ids), [column])
        rows, columns = self._setup().grid
        maps = np.full((len(image_ids), rows * columns), np.nan, np.float32)
        for position, cells in enumerate(table[column].to_pylist()):
            if cells is not None:
                maps[position] = cells
        return maps.reshape(-1, rows, columns)

    def show(self, image_id: str, image: object | None = None) -> Figure:
        """Panels of an image: original, heatmap, overlay; a notebook shows the figure inline.

        Args:
            image_id: id of a planned image.
            image: the image itself, as `pipeline.overlay` takes one; None reads it from the
                dataset that was audited, by the settings of the run.

        Raises:
            KeyError: the id is not planned.
            DataError: the image has no heatmap, or cannot be read now.
        """
        from pipeline.data.decode import to_rgb  # noqa: PLC0415 - OpenCV, for people alone
        from pipeline.data.pictures import seen_box  # noqa: PLC0415
        from pipeline.report.panels import panels  # noqa: PLC0415

        names = ["index", "pred", "label", "confidence", "heatmap_label"]
        (row,) = self._rows_of([image_id], names).to_pylist()
        if row["pred"] is None:
            raise DataError(f"{image_id} has no heatmap: it is an error row")
        heatmaps = [self.heatmaps([image_id])[0]]
        titles = [f"{row['pred']} {row['confidence']:.1%}"]
        if row["heatmap_label"] is not None:
            heatmaps.append(self.heatmaps([image_id], of="label")[0])
            titles.append(f"{row['label']} (label)")
        pixels = self._read_image(image_id) if image is None else to_rgb(image)
        setup = self._setup()
        seen = seen_box(setup.resize, setup.crop, pixels.shape)
        return panels(pixels, np.stack(heatmaps), titles, seen=seen)

    def _setup(self) -> Setup:
        return run_folder.read_plan(self.folder, []).setup

    def _image_table(
        self, columns: Sequence[str] | None, where: Mapping[str, object] | pc.Expression | None
    ) -> pa.Table:
        rows = run_folder.rows(self.folder, self._setup())
        known = rows.schema.names
        wanted = [name for name in known if name not in HEAVY] if columns is None else list(columns)
        condition = _expression(where)
        used = [*wanted, *(where if isinstance(where, Mapping) else ())]
        unknown = [name for name in used if name not in known]
        if unknown:
            raise KeyError(f"the images have no column {', '.join(unknown)}")
        return rows.to_table(columns=wanted, filter=condition)

    def _rows_of(self, image_ids: list[str], columns: list[str]) -> pa.Table:
        """Columns of images, a row for each id in the given order."""
        found = self._image_table(["image_id", *columns], {"image_id": image_ids})
        positions = pc.index_in(pa.array(image_ids, pa.string()), found["image_id"])
        if positions.null_count:
            missing = image_ids[positions.is_null().to_pylist().index(True)]
            raise KeyError(f"{missing!r} is no image of {self.folder.path}")
        return found.take(positions)

    def _read_image(self, image_id: str) -> NDArray[np.uint8]:
        source = self._source()
        return source.read(source.image_ids.index(image_id)).pixels

    def _source(self) -> Source:
        from pipeline.data.datasets import open_source  # noqa: PLC0415 - opens files only on demand

        config = self._config()
        return open_source(config.dataset, config.data.max_pixels)

    def _config(self) -> Config:
        """The settings of the last attempt."""
        from omegaconf import OmegaConf  # noqa: PLC0415 - as in _compose

        from pipeline.config import load  # noqa: PLC0415

        return load(OmegaConf.create(read_record(self.folder.record).config))


def _compose(settings: Sequence[str | Mapping[str, object]]) -> Config:
    """Settings as the command composes them.

    Raises:
        ConfigError: naming every setting that cannot be used.
    """
    from hydra import compose, initialize_config_dir  # noqa: PLC0415 - takes half a second
    from hydra.core.global_hydra import GlobalHydra  # noqa: PLC0415
    from hydra.errors import HydraException  # noqa: PLC0415
    from omegaconf import OmegaConf  # noqa: PLC0415

    from pipeline.config import conf_dir, load  # noqa: PLC0415

    texts = [each for each in settings if isinstance(each, str)]
    values = {k: v for each in settings if not isinstance(each, str) for k, v in each.items()}
    overrides = [*texts, *(f"{group}={values.pop(group)}" for group in GROUPS if group in values)]
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            composed = compose("config", overrides)
    except HydraException as error:
        raise ConfigError(f"settings that cannot be used:\n  {error}") from error
    finally:
        GlobalHydra.instance().hydra = before
    for key, value in values.items():
        OmegaConf.update(composed, key, value, merge=False, force_add=True)
    return load(composed)


def _signals() -> AbstractContextManager[None]:
    """Signals stop the run cleanly; Python lets only the main thread handle them."""
    from pipeline.run.signals import stop_on_signals  # noqa: PLC0415

    is_main = threading.current_thread() is threading.main_thread()
    return stop_on_signals() if is_main else nullcontext()


def _expression(where: Mapping[str, object] | pc.Expression | None) -> pc.Expression | None:
    """The condition that every entry of a mapping holds."""
    if not isinstance(where, Mapping):
        return where
    condition = pc.scalar(value=True)
    for name, value in where.items():
        if value is None:
            condition &= pc.field(name).is_null()
        elif isinstance(value, list | tuple | set | frozenset | np.ndarray):
            condition &= pc.field(name).isin(list(value))
        else:
            condition &= pc.field(name) == value
    return condition


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    """A DataFrame: nullable integers, structs as one column per field, lists as Python lists."""
    import pandas as pd  # noqa: PLC0415 - takes half a second, and nothing else needs pandas

    integers = {
        pa.int8(): pd.Int8Dtype(),
        pa.int32(): pd.Int32Dtype(),
        pa.int64(): pd.Int64Dtype(),
    }
    flat = table.flatten()
    flat = flat.rename_columns([name.replace(".", "_") for name in flat.column_names])
    frame: pd.DataFrame = flat.to_pandas(types_mapper=integers.get)
    for field in flat.schema:
        if pa.types.is_list(field.type) and pa.types.is_string(field.type.value_type):
            frame[field.name] = frame[field.name].map(list, na_action="ignore")
    return frame
