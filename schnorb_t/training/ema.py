"""Exponential moving average of the weights, used for validation, checkpoints and prediction."""

from __future__ import annotations

import pytorch_lightning as L
import torch
from pytorch_lightning.callbacks import WeightAveraging

from schnorb_t.errors import ConfigurationError


class ExponentialMovingAverage(WeightAveraging):
    """Lightning's weight averaging with a decay that grows to ``decay``: min(decay, (1 + n) / (10 + n)) after n steps.

    Without the growth a short training would still remember its random start.

    Args:
        decay: in the long run, from 0 (no averaging) to below 1; averages over about 1 / (1 - decay) steps.

    Raises:
        ConfigurationError: another decay.
    """

    def __init__(self, decay: float = 0.998):
        if not 0 <= decay < 1:
            raise ConfigurationError(f"ema.decay: must be 0 or more and below 1, got {decay}")

        def average(averaged, current, n):
            # counted by a tensor, so that no step waits for the device
            now = torch.clamp((1 + n) / (10 + n), max=decay)
            for old, new in zip(averaged, current, strict=True):
                old.lerp_(new, (1 - now).to(old))

        super().__init__(use_buffers=False, multi_avg_fn=average)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Make the average, in the precision that the module will have."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            trainer.precision_plugin.convert_module(self._average_model)
