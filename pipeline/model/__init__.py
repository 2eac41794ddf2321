"""The classifier that is audited: built, filled with weights, and tried on one picture."""

from pipeline.model.classifier import Classifier, load

__all__ = ["Classifier", "load"]
