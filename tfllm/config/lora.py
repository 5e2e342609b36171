"""Settings of a low-rank adapter (LoRA)."""

from __future__ import annotations

from dataclasses import dataclass

from tfllm.config.rules import check, check_finite, require


@dataclass(frozen=True)
class LoraConfig:
    """A low-rank adapter: W + (alpha / rank) B A, where only A and B are trained.

    See Hu et al. (2021). The projections have the names that PEFT and Hugging Face use.

    Examples:
        >>> LoraConfig(rank=4, targets="q_proj,v_proj")
        LoraConfig(rank=4, alpha=16.0, dropout=0.0, targets=('q_proj', 'v_proj'), layers=None)
    """

    rank: int = 8
    """rank of the matrices A and B"""
    alpha: float = 16.0
    """the update is scaled by alpha / rank"""
    dropout: float = 0.0
    """dropout rate of the adapter's inputs"""
    targets: tuple[str, ...] = ("all",)
    """projections to adapt: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj (all: all
    of them), or c_attn (q_proj, k_proj and v_proj in one), c_fc, c_proj"""
    layers: tuple[int, ...] | None = None
    """indices of the blocks to adapt, counted from 0; default: all"""

    def __post_init__(self) -> None:
        targets = self.targets
        if isinstance(targets, str):
            targets = (targets,)
        names = [name.strip() for target in targets for name in str(target).split(",")]
        object.__setattr__(self, "targets", tuple(dict.fromkeys(filter(None, names))))
        require(bool(self.targets), "targets must name a projection, or be all", targets)
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(sorted(set(self.layers))))
            require(bool(self.layers), "layers must name a block", self.layers)
        check(self, "must be at least 1", "rank")
        check(self, "must be positive", "alpha")
        check(self, "must lie in [0, 1)", "dropout")
        check_finite(self)
