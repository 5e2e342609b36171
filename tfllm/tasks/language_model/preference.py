"""Preference tuning: prefer the better of two replies (DPO; Rafailov et al., 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from tfllm.config import ModelConfig, TrainingConfig
from tfllm.data import PreparedData
from tfllm.data.reading.record_kinds import Kind
from tfllm.models.preference_tuning import PreferenceTuning
from tfllm.tasks.language_model.instruction import Instruction

if TYPE_CHECKING:
    from tfllm.pretrained import Pretrained


class Preference(Instruction):
    """Prefer the chosen of two replies to the rejected one (DPO; Rafailov et al., 2023)."""

    name = "preference"
    kind: ClassVar[Kind] = "preference"
    fine_tuning_rates: ClassVar[tuple[float, float]] = (1e-6, 1e-5)
    sequences_per_row: ClassVar[int] = 2
    needs_pretrained: ClassVar[bool] = True
    has_reference: ClassVar[bool] = True

    def fitted(
        self, base: str | None, config: ModelConfig, training: TrainingConfig, data: PreparedData
    ) -> tuple[PreferenceTuning, Pretrained | None]:
        """The pretrained model inside a `PreferenceTuning`."""
        model, loaded = super().fitted(base, config, training, data)
        # With the same name, which is removed from the names of weights in checkpoints.
        return PreferenceTuning(model, beta=training.dpo_beta, name=model.name), loaded
