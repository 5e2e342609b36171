"""The memory that a run needs, from its configuration alone. Imports no TensorFlow.

The parts are what the training step holds at once: weights, gradients and the optimizer's state;
what the backward pass needs of each block; and on top of that the larger of a chunk of logits and
one block's backward pass, most of which is attention's scores. The numbers of tensors come from the
graph, and were set by measured processes (`tests/training/test_memory_estimate.py`).

Shape letters: B rows of a micro-batch, T tokens in a row, E width, N heads, L blocks.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from tfllm.charts.number_format import memory_size
from tfllm.config import ModelConfig, TrainingConfig

_PROCESS = 700 * 2**20
"""Python, TensorFlow and its graphs"""
_LOGITS_CHUNK = 48 * 2**20
"""of float32 logits that are computed at once (`linear_cross_entropy`)"""
_CHUNK_COPIES = 6
"""logits, probabilities and what their gradient is made of, as measured"""
_SCORES_AT_WORK = 3.3
"""tensors of the size of the scores that the backward pass of one block has at once, as measured"""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one replica."""

    weights: int
    """with the copies of another dtype that products use"""
    gradients: int
    optimizer: int
    activations: int
    """what all blocks keep for the backward pass"""
    work: int
    """the most that is needed besides for a while: for a chunk of logits, or for the backward pass
    of one block"""
    scores: int
    """how much of these two are attention's scores, which grow with the square of the length"""
    process: int
    """what a process has without a model; 0 on a device of its own"""

    @property
    def total(self) -> int:
        """All of it; the scores are among the activations and the work."""
        state = self.weights + self.gradients + self.optimizer
        return state + self.activations + self.work + self.process

    def describe(self) -> str:
        """One line, such as the command line prints."""
        state = self.weights + self.gradients + self.optimizer
        return (
            f"about {memory_size(self.total)} of memory: weights, gradients and optimizer "
            f"{memory_size(state)}, activations {memory_size(self.activations + self.work)} "
            f"(attention's scores {memory_size(self.scores)}), the process "
            f"{memory_size(self.process)}"
        )


def estimate_memory(
    model: Any, training: TrainingConfig, *, rows: int, on_cpu: bool = True, replicas: int = 1
) -> MemoryEstimate:
    """What training takes.

    Args:
        model: a `ModelConfig`, or the architecture of an encoder or an encoder-decoder.
        training: with its precision decided, and `trainable`.
        rows: of a micro-batch on one replica; of preferences, pairs count twice.
        on_cpu: whether the replica shares the memory of the process.
        replicas: that share the optimizer's state (`shard_optimizer`).
    """
    sizes = _Sizes.of(model)
    half = training.precision in ("bfloat16", "float16")
    unit = 2 if half else 4
    num_weights, num_trained = sizes.num_weights, sizes.num_trained(training)
    frozen = num_weights - num_trained
    weights = 4 * num_trained + {"bfloat16": 2, "int8": 1}.get(training.base_dtype, 4) * frozen
    if half and training.base_dtype != "bfloat16":
        weights += unit * num_weights  # the casts that products use
    # A micro-batch's own, and their sum; the clipped ones take the place of a sum.
    gradients = 4 * num_trained * (3 if training.gradient_accumulation > 1 else 2)
    optimizer = 8 * num_trained // (replicas if training.shard_optimizer else 1)
    saved, scores_saved = sizes.block(rows, training.sequence_length, unit)
    stream = 4 * rows * training.sequence_length * sizes.width
    scores = sizes.scores(rows, training.sequence_length, unit)
    of_block = saved - scores_saved + int(_SCORES_AT_WORK * scores)
    tokens = rows * training.sequence_length
    of_logits = min(4 * tokens * sizes.vocab_size, _LOGITS_CHUNK) * _CHUNK_COPIES
    of_logits += 4 * sizes.vocab_size * sizes.width + 2 * unit * tokens * sizes.width
    if training.rematerialize:  # a block is there whole only while its gradient is computed
        activations, scores_kept = int(sizes.num_blocks * stream), 0
        of_block += saved
        scores_at_work = scores_saved + int(_SCORES_AT_WORK * scores)
    else:
        activations = int(sizes.num_blocks * saved)
        scores_kept = int(sizes.num_blocks * scores_saved)
        scores_at_work = int(_SCORES_AT_WORK * scores)
    return MemoryEstimate(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        work=max(of_logits, of_block),
        scores=scores_kept + (scores_at_work if of_block > of_logits else 0),
        process=_PROCESS if on_cpu else 0,
    )


def settings_that_fit(
    model: Any,
    training: TrainingConfig,
    available: float,
    *,
    replicas: int = 1,
    sequences_per_row: int = 1,
    on_cpu: bool = True,
) -> dict[str, Any]:
    """The least change of the settings with which a run fits; empty where none is found.

    More micro-batches come first, which cost nothing but time; then recomputing the blocks, and
    shorter rows last.

    Args:
        model: as of `estimate_memory`.
        training: as of `estimate_memory`.
        available: bytes.
        replicas: that a batch is divided among.
        sequences_per_row: 2 where a row is a pair of replies.
        on_cpu: as of `estimate_memory`.
    """
    assert training.batch_size is not None
    parts = max(training.batch_size // replicas, 1)
    counts = [n for n in range(training.gradient_accumulation, parts + 1) if parts % n == 0]
    length = training.sequence_length
    lengths = [length]
    while lengths[-1] > 64:
        lengths.append(lengths[-1] // 2)
    for tokens in lengths:
        for again in sorted({training.rematerialize, True}):
            for count in counts:
                changed = dataclasses.replace(
                    training,
                    sequence_length=tokens,
                    rematerialize=again,
                    gradient_accumulation=count,
                )
                rows = parts // count * sequences_per_row
                found = estimate_memory(model, changed, rows=rows, on_cpu=on_cpu, replicas=replicas)
                if found.total <= available:
                    names = ("gradient_accumulation", "rematerialize", "sequence_length")
                    return {
                        name: getattr(changed, name)
                        for name in names
                        if getattr(changed, name) != getattr(training, name)
                    }
    return {}


@dataclass(frozen=True)
class _Sizes:
    """What the estimate needs of an architecture."""

    vocab_size: int
    width: int
    num_blocks: float
    """an encoder-decoder's decoder blocks have a further attention"""
    num_heads: int
    heads_dim: int
    """of all query heads"""
    kv_dim: int
    """of all key and of all value heads"""
    inner: int
    gated: bool
    dropout: float
    num_weights: int
    trained: Any
    """a `ModelConfig`, where parts of it can be trained"""

    @classmethod
    def of(cls, model: Any) -> _Sizes:
        head_dim = getattr(model, "head_dim", None) or model.embedding_dim // model.num_heads
        kv_heads = getattr(model, "num_kv_heads", None) or model.num_heads
        gated = getattr(model, "gated", False)
        inner = model.feed_forward_dim or 4 * model.embedding_dim
        heads_dim, kv_dim = model.num_heads * head_dim, kv_heads * head_dim
        decoder = getattr(model, "num_decoder_layers", 0) or 0
        width = model.embedding_dim
        attention = width * (2 * heads_dim + 2 * kv_dim)
        block = attention + width * inner * (3 if gated else 2)
        num_weights = model.vocab_size * width + model.num_layers * block
        num_weights += decoder * (block + attention)
        if not getattr(model, "tied_embeddings", True):
            num_weights += model.vocab_size * width
        if getattr(model, "positions", "learned") == "learned":
            num_weights += model.max_sequence_length * width
        return cls(
            model.vocab_size,
            width,
            model.num_layers + 1.5 * decoder,
            model.num_heads,
            heads_dim,
            kv_dim,
            inner,
            gated,
            model.dropout,
            num_weights,
            model if isinstance(model, ModelConfig) else None,
        )

    def num_trained(self, training: TrainingConfig) -> int:
        """Weights that are trained."""
        of_block = self.width * (2 * self.heads_dim + 2 * self.kv_dim)
        of_block += self.width * self.inner * (3 if self.gated else 2)
        if training.trainable == "top":
            return min(of_block * (training.top_layers or 2), self.num_weights)
        if training.trainable == "lora":
            # An adapter on each projection: rank rows of both its sides.
            sides = 4 * self.width + self.heads_dim * 2 + self.kv_dim * 2
            sides += (3 if self.gated else 2) * (self.width + self.inner)
            return int((training.lora_rank or 8) * sides * self.num_blocks)
        return self.num_weights

    def scores(self, rows: int, length: int, unit: int) -> int:
        """`[B, N, T, T]` of one block."""
        return rows * self.num_heads * length * length * unit

    def block(self, rows: int, length: int, unit: int) -> tuple[int, int]:
        """What one block keeps for its backward pass, and how much of that are scores."""
        tokens = rows * length
        # Its input; both norms' results; queries, keys and values; what they give.
        kept = 4 * tokens * self.width + 2 * unit * tokens * self.width
        kept += unit * tokens * (2 * self.heads_dim + 2 * self.kv_dim)
        # Before and after the activation, and the gated product.
        kept += (3 if self.gated else 2) * unit * tokens * self.inner
        scores = self.scores(rows, length, unit)
        if self.dropout:  # the weights, and those that are left; the mask is drawn again
            scores = 2 * scores
        return kept + scores, scores
