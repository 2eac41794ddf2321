"""Resolved settings of runs that were never planned."""

from __future__ import annotations

from pipeline.storage.run_setup import Resolved


def resolved(batch_size: int) -> Resolved:
    """Resolved settings of a run on the CPU in float32."""
    return Resolved(
        camaudit="0",
        device="cpu",
        target_layer="layer4",
        model_fingerprint="0",
        compile=False,
        channels_last=False,
        precision="fp32",
        batch_size=batch_size,
    )
