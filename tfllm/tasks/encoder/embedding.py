"""Embedding of texts as vectors, which are close for texts with the same meaning."""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tfllm.data.preparing.record_preparation import TRUNCATED
from tfllm.data.reading.table_records import Column, Record
from tfllm.data.shards.padding import padded, padded_width, padding_mask
from tfllm.data.shards.splits import RowBatch
from tfllm.models.heads.sentence_encoder import SentenceEncoder
from tfllm.pretrained.hugging_face.sentence_modules import SETTINGS
from tfllm.pretrained.model_folder import model_folder
from tfllm.pretrained.model_source import open_source
from tfllm.tasks.encoder.encoder_task import EncoderTask, encoded_texts
from tfllm.tasks.encoder.text_embedding import TextEmbedding
from tfllm.tasks.record_task import Example

if TYPE_CHECKING:
    from tfllm.config import TrainingConfig
    from tfllm.evaluation.metrics import Metric
    from tfllm.optimization.training_step import TrainingStep
    from tfllm.tokenizers.base import Tokenizer

_SIDES = ("text", "positive")


class Embedding(EncoderTask):
    """Map texts to vectors, which are close for texts that belong together.

    They are learned from pairs, such as a question and its answer. The texts of other pairs in the
    batch serve as negatives, so larger batches learn better. Records with a `score`, a human
    judgement of the similarity of the two texts, are only used for evaluation.
    """

    name = "embedding"
    head_class = SentenceEncoder
    text_model_class = TextEmbedding
    columns: ClassVar[Mapping[str, Column]] = {
        "text": Column(aliases=("query", "question", "anchor", "sentence1", "source")),
        "positive": Column(
            aliases=("answer", "passage", "document", "response", "sentence2", "target"),
            is_input=False,
        ),
        "score": Column(
            aliases=("similarity", "label"), required=False, kind="label", is_input=False
        ),
    }
    token_features: ClassVar[tuple[str, ...]] = _SIDES
    training_defaults: ClassVar[Mapping[str, Any]] = {
        **EncoderTask.training_defaults,
        "batch_size": 32,
    }
    pretrained_defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 2e-5}

    def information(self, records: Sequence[Record]) -> dict[str, Any]:
        """Empty, since the model needs no information from the records.

        Raises:
            ValueError: all records have a score, or the same positive text.
        """
        pairs = [record for record in records if record.get("score") is None]
        if not pairs:
            raise ValueError(
                f"all {len(records):,} training records have a score, but those are only used for "
                "evaluation; give pairs of texts that belong together, without scores"
            )
        if len({record["positive"] for record in pairs}) < 2:
            raise ValueError(
                "a model learns to distinguish pairs from one another, but all training records "
                f"have the same 'positive' ({pairs[0]['positive'][:40]!r}...)"
            )
        return {}

    def examples(
        self,
        record: Record,
        tokenizer: Tokenizer,
        information: Mapping[str, Any],
        sequence_length: int,
    ) -> list[Example]:
        """One example: ids of `text` and `positive`, and `group` [1], equal for equal positives.

        There is no example for a record with a score.

        Raises:
            ValueError: the score is not a number.
        """
        if record.get("score") is not None:
            _score_of(record)
            return []
        example, cut = {}, 0
        for side in _SIDES:
            encoded = encoded_texts(tokenizer, record[side], None, sequence_length)
            example[side] = encoded["token_ids"]
            cut += int(encoded[TRUNCATED][0])
        group = zlib.crc32(record["positive"].encode("utf-8", "surrogatepass")) >> 1
        numbers = {"group": group, TRUNCATED: cut}
        return [example | {name: np.array([n], np.int32) for name, n in numbers.items()}]

    def batch(self, examples: Sequence[Example], sequence_length: int) -> RowBatch:
        """A batch for `SentenceEncoder`: inputs [B, 2, T], labels int32 [B], weights [B]."""
        both = [[example[side] for example in examples] for side in _SIDES]
        width = padded_width([len(ids) for side in both for ids in side], sequence_length)
        inputs = {
            "token_ids": np.stack([padded(ids, sequence_length, 0, width) for ids in both], 1),
            "padding_mask": np.stack(
                [padding_mask(ids, sequence_length, width) for ids in both], 1
            ),
        }
        labels = np.array([example["group"][0] for example in examples], np.int32)
        return RowBatch(inputs, labels, np.ones(len(examples), np.float32))

    def model(
        self,
        base: str | None,
        config: Any,
        information: Mapping[str, Any],
        training: TrainingConfig,
        tokenizer: Tokenizer,
    ) -> TrainingStep:
        """A pretrained embedding model with its own pooling and prompts, or the head on another
        pretrained encoder or on a new one."""
        made = super().model(base, config, information, training, tokenizer)
        source = None if base is None else open_source(model_folder(base))
        if source is None or source.config.get(SETTINGS) is None:
            return made
        assert isinstance(made, SentenceEncoder)
        return SentenceEncoder(made.encoder, seed=training.seed, **source.config[SETTINGS])

    def metrics(
        self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]
    ) -> list[Metric]:
        """Recall@10 and mean reciprocal rank among all positives; Spearman correlation of scores.

        A text that occurs in several records should find the positives of all of them.
        """
        from tfllm.evaluation.retrieval_metrics import (
            recall_from_ranks,
            reciprocal_rank_from_ranks,
        )

        texts, positives = (
            np.array([p[name] for p in predictions], np.float32).reshape(len(records), -1)
            for name in ("vector", "positive_vector")
        )
        texts, positives = _of_length_one(texts), _of_length_one(positives)
        scored = [i for i, record in enumerate(records) if record.get("score") is not None]
        metrics = []
        if len(scored) < len(records):
            ranks = _ranks(records, texts, positives, set(scored))
            metrics += [recall_from_ranks(10, ranks), reciprocal_rank_from_ranks(ranks)]
        if scored:
            metrics.append(_spearman(records, texts, positives, scored))
        return metrics


def _of_length_one(vectors: np.ndarray) -> np.ndarray:
    """Vectors scaled to length 1; 0 for a refused text."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def _ranks(
    records: Sequence[Record], texts: np.ndarray, positives: np.ndarray, scored: set[int]
) -> list[np.ndarray]:
    """Ranks of the relevant positives for the text of each pair."""
    from tfllm.evaluation.retrieval_metrics import ranks_among

    pairs = [i for i in range(len(records)) if i not in scored]
    documents: dict[str, int] = {}
    rows: list[int] = []
    wanted: dict[str, set[int]] = {}
    for i in pairs:
        positive = records[i]["positive"]
        if positive not in documents:
            documents[positive] = len(rows)
            rows.append(i)
        wanted.setdefault(records[i]["text"], set()).add(documents[positive])
    relevant = [wanted[records[i]["text"]] for i in pairs]
    ranks = ranks_among(texts[pairs], positives[rows], relevant)
    for i, given in zip(pairs, ranks, strict=True):
        if not texts[i].any():  # a refused text has no vector, and therefore finds nothing
            given[:] = np.inf
    return ranks


def _spearman(
    records: Sequence[Record], texts: np.ndarray, positives: np.ndarray, scored: Sequence[int]
) -> Metric:
    from tfllm.evaluation.retrieval_metrics import spearman

    scores = []
    for i in scored:
        try:
            scores.append(_score_of(records[i]))
        except ValueError as error:
            raise ValueError(f"{records[i].where}: {error}") from None
    cosines = (texts[scored] * positives[scored]).sum(1)
    return spearman(scores, cosines.tolist())


def _score_of(record: Mapping[str, Any]) -> float:
    with contextlib.suppress(ValueError):
        if math.isfinite(score := float(record["score"])):
            return score
    raise ValueError(f"a score must be a number; received {record['score']!r}")
