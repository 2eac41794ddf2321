"""The demo: a dataset with planted faults, and a network that learnt one: `dataset=demo`."""

from pipeline.demo.data import DemoDataset, dataset, truth
from pipeline.demo.model import trained_model

__all__ = ["DemoDataset", "dataset", "trained_model", "truth"]
