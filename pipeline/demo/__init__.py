"""A dataset with planted faults and a network that fell for one: `dataset=demo model=demo`."""

from pipeline.demo.data import DemoDataset, dataset, truth
from pipeline.demo.model import trained_model

__all__ = ["DemoDataset", "dataset", "trained_model", "truth"]
