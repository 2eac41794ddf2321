"""The stages of an audit, in order: which tables each reads and writes, and how it runs."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.run.state import Journal

PARTS, REPORT = "parts", "report"
"""Names of the committed parts and of the report, which are not in the folder analysis."""


@dataclass(frozen=True)
class Stage:
    """One step of an audit, which reads tables and writes tables.

    reads and writes are names of tables in the folder analysis, PARTS or REPORT. The report also
    reads the changes, if a baseline is set.
    """

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    def run(self, config: Config, journal: Journal) -> None:
        """Run the stage; import its module only now, because most of them import PyTorch.

        Raises:
            AuditError: what ended the stage.
        """
        importlib.import_module(f"pipeline.stages.{self.name}").run(config, journal)


VERIFIED = ("findings", "members", "interventions", "trials")

STAGES = (
    Stage("explain", reads=(), writes=(PARTS,)),
    Stage("discover", reads=(PARTS,), writes=("classes", "candidates", "concepts")),
    Stage("verify", reads=(PARTS, "candidates", "concepts"), writes=VERIFIED),
    Stage("rank", reads=(PARTS, "findings", "members"), writes=("suspects", "decisions")),
    Stage("compare", reads=(PARTS, "classes", "findings", "suspects"), writes=("changes",)),
    Stage("gate", reads=("findings", "suspects"), writes=()),
    Stage(
        "report",
        reads=(
            PARTS,
            "classes",
            "candidates",
            "findings",
            "members",
            "interventions",
            "trials",
            "suspects",
            "decisions",
        ),
        writes=(REPORT,),
    ),
)
BY_NAME = {stage.name: stage for stage in STAGES}


def writer_of(table: str) -> str:
    """The name of the stage that writes a table."""
    return next(stage.name for stage in STAGES if table in stage.writes)
