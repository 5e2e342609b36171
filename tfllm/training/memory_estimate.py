"""Estimate the memory that a run needs from its configuration, without TensorFlow.

The parts are what the training step holds at once: weights, gradients and the optimizer's state;
the activations of each block that are stored for the backward pass; and on top of that the larger
of a chunk of logits and one block's backward pass, most of which are attention scores. The numbers
of tensors come from the graph, and were calibrated on measured processes
(`tests/training/test_memory_estimate.py`).

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
"""bytes of float32 logits that are computed at once (`linear_cross_entropy`)"""
_CHUNK_COPIES = 6
"""copies of a chunk: logits, probabilities and parts of their gradient, as measured"""
_SCORES_AT_WORK = 3.3
"""tensors of the size of the scores that one block's backward pass holds at once, as measured"""
LONG_CAUSAL, LONG = 1024, 4096
"""lengths from which on attention of a decoder, and any other, is in chunks of queries, as it is in
`tfllm.layers.masks`, which needs TensorFlow"""
_CHUNK_ROWS, _MOST_CHUNKS = 256, 32
"""queries of a chunk, and how many chunks there are at most"""
_CHUNKS_AT_WORK = 8
"""tensors of the size of a chunk's scores that its backward pass holds at once, as measured"""


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory of one replica, in bytes."""

    weights: int
    """weights, including copies in another dtype for the matrix products"""
    gradients: int
    optimizer: int
    activations: int
    """activations of all blocks that are stored for the backward pass"""
    work: int
    """largest temporary memory: for a chunk of logits, or for the backward pass of one block"""
    scores: int
    """the part of activations and work that is attention scores, which grow quadratically with the
    sequence length until they are computed in chunks"""
    process: int
    """memory of a process without a model; 0 on a device with its own memory"""

    @property
    def total(self) -> int:
        """The sum of all parts; `scores` is already contained in activations and work."""
        state = self.weights + self.gradients + self.optimizer
        return state + self.activations + self.work + self.process

    def describe(self) -> str:
        """The estimate in one line, as the command line prints it."""
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
    """Estimate the memory that training needs on one replica.

    Args:
        model: a `ModelConfig`, or the architecture of an encoder or an encoder-decoder.
        training: settings of the run; `precision` and `trainable` must not be "auto".
        rows: rows of a micro-batch on one replica; a pair of preferences counts twice.
        on_cpu: whether the replica uses the memory of the process.
        replicas: number of replicas that the optimizer's state is sharded over
            (`shard_optimizer`).
    """
    sizes = _Sizes.of(model)
    half = training.precision in ("bfloat16", "float16")
    unit = 2 if half else 4
    num_weights, num_trained = sizes.num_weights, sizes.num_trained(training)
    frozen = num_weights - num_trained
    weights = 4 * num_trained + {"bfloat16": 2, "int8": 1}.get(training.base_dtype, 4) * frozen
    if half and training.base_dtype != "bfloat16":
        weights += unit * num_weights  # copies that are cast for the products
    # Those of a micro-batch and their sum; clipped gradients take the memory of a sum.
    gradients = 4 * num_trained * (3 if training.gradient_accumulation > 1 else 2)
    optimizer = 8 * num_trained // (replicas if training.shard_optimizer else 1)
    saved, scores_saved = sizes.block(rows, training.sequence_length, unit)
    stream = 4 * rows * training.sequence_length * sizes.width
    scores = sizes.scores(rows, training.sequence_length, unit)
    at_work = _CHUNKS_AT_WORK if sizes.in_chunks(training.sequence_length) else _SCORES_AT_WORK
    of_block = saved - scores_saved + int(at_work * scores)
    tokens = rows * training.sequence_length
    of_logits = min(4 * tokens * sizes.vocab_size, _LOGITS_CHUNK) * _CHUNK_COPIES
    of_logits += 4 * sizes.vocab_size * sizes.width + 2 * unit * tokens * sizes.width
    if training.rematerialize:  # a block's activations exist only while its gradient is computed
        activations, scores_kept = int(sizes.num_blocks * stream), 0
        of_block += saved
        scores_at_work = scores_saved + int(at_work * scores)
    else:
        activations = int(sizes.num_blocks * saved)
        scores_kept = int(sizes.num_blocks * scores_saved)
        scores_at_work = int(at_work * scores)
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
    """The smallest change of the settings with which a run fits; empty if there is none.

    More micro-batches, which only cost time, are tried first, then recomputing the blocks, and
    finally shorter rows.

    Args:
        model: as in `estimate_memory`.
        training: as in `estimate_memory`.
        available: available memory in bytes.
        replicas: number of replicas that a batch is divided among.
        sequences_per_row: number of sequences in a row: 2 for a pair of replies.
        on_cpu: as in `estimate_memory`.

    Returns:
        The changed settings and their values.
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
    """The sizes of an architecture that the estimate uses."""

    vocab_size: int
    width: int
    num_blocks: float
    """number of blocks; a decoder block with cross-attention counts 1.5"""
    num_heads: int
    heads_dim: int
    """total size of all query heads"""
    kv_dim: int
    """total size of all key heads, and of all value heads"""
    inner: int
    gated: bool
    dropout: float
    num_weights: int
    trained: Any
    """the `ModelConfig`, if parts of the model can be trained; otherwise None"""

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
        """Number of weights that are trained."""
        of_block = self.width * (2 * self.heads_dim + 2 * self.kv_dim)
        of_block += self.width * self.inner * (3 if self.gated else 2)
        if training.trainable == "top":
            return min(of_block * (training.top_layers or 2), self.num_weights)
        if training.trainable == "lora":
            # An adapter on each projection: rank times the sum of its input and output sizes.
            sides = 4 * self.width + self.heads_dim * 2 + self.kv_dim * 2
            sides += (3 if self.gated else 2) * (self.width + self.inner)
            return int((training.lora_rank or 8) * sides * self.num_blocks)
        return self.num_weights

    def in_chunks(self, length: int) -> bool:
        """Whether attention is computed in chunks."""
        return length >= (LONG if self.trained is None else LONG_CAUSAL)

    def scores(self, rows: int, length: int, unit: int) -> int:
        """Bytes of the scores `[B, N, T, T]` of one block, or of one of its chunks."""
        if self.in_chunks(length):
            chunk = max(_CHUNK_ROWS, -(-length // _MOST_CHUNKS))
            return rows * self.num_heads * chunk * length * 4
        return rows * self.num_heads * length * length * unit

    def block(self, rows: int, length: int, unit: int) -> tuple[int, int]:
        """Bytes that one block stores for its backward pass, and how many of them are scores."""
        tokens = rows * length
        # Its input; the outputs of both norms; queries, keys and values; the attention output.
        kept = 4 * tokens * self.width + 2 * unit * tokens * self.width
        kept += unit * tokens * (2 * self.heads_dim + 2 * self.kv_dim)
        # The values before and after the activation, and the gated product.
        kept += (3 if self.gated else 2) * unit * tokens * self.inner
        if self.in_chunks(length):  # the outputs' log-sum-exp
            return kept + 4 * tokens * self.num_heads, 0
        scores = self.scores(rows, length, unit)
        if self.dropout:  # the weights before and after dropout; the mask is drawn again
            scores = 2 * scores
        return kept + scores, scores
