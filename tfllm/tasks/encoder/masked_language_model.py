"""Masked tokens: how an encoder is pretrained, from text alone; and text with gaps filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import tensorflow as tf

from tfllm import pretrained
from tfllm.config import TrainingConfig
from tfllm.data.reading.table_records import Column, Record
from tfllm.data.shards.splits import RowBatch
from tfllm.models.heads.masked_language_model import MaskedLanguageModel
from tfllm.models.token_masking import TokenMasking, mask_tokens
from tfllm.optimization.precision import dtype_policy
from tfllm.tasks.encoder.encoder_inputs import first_tokens
from tfllm.tasks.encoder.encoder_task import EncoderTask
from tfllm.tasks.record_task import Example
from tfllm.tasks.text_model import MAX_OPEN_BATCH, TextModel

if TYPE_CHECKING:
    from tfllm.evaluation.measures import Measure
    from tfllm.tokenizers.base import Tokenizer

NUM_TOLD = 5
"""tokens that are told for a gap"""
_SCORE = "score"


class MaskedText(EncoderTask):
    """Predict the hidden tokens of a text (Devlin et al., 2019): how an encoder is pretrained.

    Which tokens those are is drawn anew at each step (`TokenMasking`). A long text is cut into
    stretches of the sequence length. What is learned is the encoder: any other task of an encoder
    begins with the folder that this one leaves.
    """

    name = "masked_language_model"
    columns: ClassVar[Mapping[str, Column]] = {
        "text": Column(aliases=("content", "sentence", "document", "review", "body")),
    }
    training_defaults: ClassVar[Mapping[str, Any]] = {
        **EncoderTask.training_defaults,
        "batch_size": 32,
    }

    def information(self, records: Sequence[Record]) -> dict[str, Any]:
        """Nothing."""
        return {}

    def examples(
        self,
        record: Record,
        tokenizer: Any,
        information: Mapping[str, Any],
        sequence_length: int,
    ) -> list[Example]:
        """The text in stretches, each `token_ids` and `token_type_ids`: [CLS] stretch [SEP]."""
        ids = tokenizer.encode(record["text"], add_special=False, parse_special=False)
        examples = []
        for begin in range(0, len(ids), sequence_length - 2):
            stretch = ids[begin : begin + sequence_length - 2]
            whole = [tokenizer.cls_token_id, *stretch, tokenizer.sep_token_id]
            token_ids = np.array(whole, np.int32)
            examples.append({"token_ids": token_ids, "token_type_ids": np.zeros_like(token_ids)})
        return examples

    def batch(self, examples: Sequence[Example], sequence_length: int) -> RowBatch:
        """As a `MaskedLanguageModel` with `masking` is fitted: labels and weights [B, T]."""
        inputs = self.batch_inputs(examples, sequence_length)
        return RowBatch(inputs, inputs["token_ids"], inputs["padding_mask"].astype(np.float32))

    def head(
        self, encoder: Any, information: Mapping[str, Any], **options: Any
    ) -> MaskedLanguageModel:
        """A `MaskedLanguageModel`, which hides nothing by itself yet."""
        return MaskedLanguageModel(encoder, **options)

    def model(
        self,
        base: str | None,
        config: Any,
        information: Mapping[str, Any],
        training: TrainingConfig,
        tokenizer: Tokenizer,
    ) -> MaskedLanguageModel:
        """A new model, a head on a pretrained encoder, or a pretrained one with its head."""
        found = None
        if base is not None:
            found = pretrained.load(
                base,
                seed=training.seed,
                dtype=dtype_policy(training.precision),
                rematerialize=training.rematerialize,
            ).model
        if not isinstance(found, MaskedLanguageModel):
            made = super().model(base, config, information, training, tokenizer)
            assert isinstance(made, MaskedLanguageModel)
            found = made
        found.masking = token_masking(tokenizer, training.seed)
        return found

    def text_model(
        self, model: Any, tokenizer: Tokenizer, information: Mapping[str, Any]
    ) -> GapFilling:
        """A `GapFilling`."""
        return GapFilling(model, tokenizer, information)

    def measures(
        self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]
    ) -> list[Measure]:
        """The share of hidden tokens that are told, and their perplexity."""
        from tfllm.evaluation.measures import of_sums

        names = ("num_right", "log_prob", "num_hidden")
        sums = np.array([[p[name] for name in names] for p in predictions], np.float64)
        return [
            of_sums("accuracy", sums, lambda s: s[:, 0] / s[:, 2], note="of hidden tokens"),
            of_sums(
                "perplexity",
                sums,
                lambda s: np.exp(-s[:, 1] / s[:, 2]),
                note="of hidden tokens",
                higher_is_better=False,
            ),
        ]


def token_masking(tokenizer: Any, seed: int) -> TokenMasking:
    """How tokens of a tokenizer are hidden: never a special one."""
    return TokenMasking(
        tokenizer.mask_token_id, tuple(tokenizer.special_tokens.values()), seed=seed
    )


class GapFilling(TextModel):
    """What may stand in the gaps of a text, and how well a model tells hidden tokens.

    Signatures, of `text` string [B]:

        serving_default: a text with the mask token, such as "Paris is the [MASK] of France.", to
            `tokens` string [B, 5] and `probabilities` float32 [B, 5] of its first gap, the most
            probable first; `truncated_tokens` int32 [B], how many tokens the model did not see;
            `error` string [B] ("", or that there is no gap: then these are empty).
        score: hides a share of the tokens, always the same ones of a text, to `num_hidden` and
            `num_right` int32 [B], how many there were and are told, and `log_prob` float32 [B], of
            all of them together; `truncated_tokens` int32 [B], of which none was hidden.

    A text is cut off at the sequence length that the model was trained with.

    Args:
        model: tells tokens.
        tokenizer: of the model.
        information: of the task.
    """

    task_name = "masked_language_model"

    warmup_texts = ("The [MASK].", "")

    def __init__(
        self, model: MaskedLanguageModel, tokenizer: Any, information: Mapping[str, Any]
    ) -> None:
        super().__init__(name="gap_filling")
        self.model = model
        self.tokenizer = tokenizer
        self.information = dict(information)
        context = model.config.max_sequence_length
        self.sequence_length = min(int(information.get("sequence_length", context)), context)
        self._masking = token_masking(tokenizer, 0)
        self._graph = tokenizer.graph()
        self._functions: dict[str, Any] = {}

    @property
    def signatures(self) -> dict[str, Any]:
        """`serving_default` and `score`."""
        if not self._functions:
            spec = tf.TensorSpec([None], tf.string, "text")
            for name, function in (("serving_default", self._fill), (_SCORE, self._score)):
                self._functions[name] = tf.function(
                    function, input_signature=[spec], autograph=False
                )
        return self._functions

    @property
    def served_state(self) -> dict[str, Any]:
        """The weights and the tokenizer."""
        return {"weights": self.model.weights, "tokenizer": self._graph}

    def with_dtype(self, dtype: str) -> GapFilling:
        """The same with another dtype, or itself."""
        if dtype == self.model.dtype_policy.name:
            return self
        return type(self)(self.model.with_dtype(dtype), self.tokenizer, self.information)

    def predict(
        self, records: Sequence[Mapping[str, Any]], *, batch_size: int = MAX_OPEN_BATCH
    ) -> list[dict[str, Any]]:
        """The tokens of the first gap by probability, and what `score` tells of the text.

        An `error` is only where there is neither a gap nor a token to hide.
        """
        answers = super().predict(records, batch_size=batch_size)
        texts = [record["text"].encode("utf-8", "surrogatepass") for record in records]
        for begin in range(0, len(texts), batch_size):
            scores = self.signatures[_SCORE](tf.constant(texts[begin : begin + batch_size]))
            for name, values in scores.items():
                for i, value in enumerate(values.numpy().tolist()):
                    answers[begin + i][name] = value
        for answer in answers:
            tokens, probabilities = answer.pop("tokens"), answer.pop("probabilities")
            found: dict[str, float] = {}
            for token, probability in zip(tokens, probabilities, strict=True):
                found.setdefault(token, probability)  # special ones are all ""
            answer["tokens"] = {} if answer["error"] else found
            if answer["num_hidden"]:  # it could be scored
                answer["error"] = ""
        return answers

    # ------------------------------------------------------------------ in the graph

    def _encoded(self, text: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.RaggedTensor, tf.Tensor]:
        """What the model takes; all tokens of each text; how many of these it does not take."""
        ids = self._graph.tokenize(text, add_special=False, parse_special=True)
        num_tokens = tf.cast(ids.row_lengths(), tf.int32)
        lengths = tf.minimum(num_tokens, self.sequence_length - 2)
        batch = tf.shape(text)[0]
        begin = tf.fill([batch, 1], tf.constant(self.tokenizer.cls_token_id, tf.int32))
        end = tf.fill([batch, 1], tf.constant(self.tokenizer.sep_token_id, tf.int32))
        token_ids = tf.concat([begin, first_tokens(ids, lengths), end], 1).to_tensor()
        mask = tf.range(tf.shape(token_ids)[1]) < lengths[:, tf.newaxis] + 2
        return {"token_ids": token_ids, "padding_mask": mask}, ids, num_tokens - lengths

    def _fill(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        inputs, ids_of_text, num_cut = self._encoded(text)
        states, _ = self.model.encoder.hidden_states(inputs)
        gaps = inputs["token_ids"] == self.tokenizer.mask_token_id
        gap = tf.argmax(tf.cast(gaps, tf.int32), 1)  # the first
        logits = self.model.logits(tf.gather(states, gap, batch_dims=1))
        # Rows of an embedding that was rounded up to some size stand for no token.
        logits = logits[:, : self.tokenizer.vocab_size]
        values, ids = tf.math.top_k(tf.nn.softmax(logits), NUM_TOLD)
        good = tf.reduce_any(gaps, 1)
        tokens = tf.gather(tf.convert_to_tensor(self._graph.token_bytes), ids)
        is_cut = tf.reduce_any(ids_of_text == self.tokenizer.mask_token_id, 1)
        error = tf.where(
            is_cut,
            f"the mask token stands behind the first {self.sequence_length - 2} tokens, which are "
            "all that the model sees",
            "the text has no mask token",
        )
        return {
            "tokens": tf.where(good[:, tf.newaxis], tokens, ""),
            "probabilities": values * tf.cast(good, tf.float32)[:, tf.newaxis],
            "truncated_tokens": num_cut,
            "error": tf.where(good, "", error),
        }

    def _score(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        inputs, _, num_cut = self._encoded(text)
        given = inputs["token_ids"]
        vocab_size = self.model.config.vocab_size
        rows = mask_tokens(given, inputs["padding_mask"], -1, self._masking, vocab_size)
        states, _ = self.model.encoder.hidden_states({**inputs, "token_ids": rows.token_ids})
        place = tf.where(rows.hidden)
        logits = self.model.logits(tf.gather_nd(states, place))
        labels = tf.gather_nd(given, place)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        right = tf.cast(tf.argmax(logits, -1, tf.int32) == labels, tf.int32)
        batch = tf.shape(text)[0]
        return {
            "num_hidden": tf.reduce_sum(tf.cast(rows.hidden, tf.int32), 1),
            "num_right": tf.math.unsorted_segment_sum(right, place[:, 0], batch),
            "log_prob": -tf.math.unsorted_segment_sum(losses, place[:, 0], batch),
            "truncated_tokens": num_cut,
        }
