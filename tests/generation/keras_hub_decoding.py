"""The decoding loop with a tiny model of KerasHub, each made once."""

import re

import tensorflow as tf

from tests.pretrained.keras_hub_models import VOCABULARY, causal_lm
from tfllm.config import GenerationConfig
from tfllm.generation.decoding import decode
from tfllm.generation.keras_hub_decoder import KerasHubDecoder
from tfllm.generation.sampling import SamplingOptions

CONTEXT, NEVER = 40, -1
TOKEN_BYTES = tf.constant([f"<{i}>" for i in range(VOCABULARY)])


class Decoding:
    """The loop as one function for any prompts, and the forward pass as another."""

    def __init__(self, model, context=CONTEXT):
        self.model = model
        self.decoder = KerasHubDecoder(model, context)
        kinds = [tf.int32] * 3 + [t.dtype for t in SamplingOptions.of(GenerationConfig(), 1)]
        specs = [tf.TensorSpec([None], kind) for kind in kinds]
        self._decode = tf.function(self._run, input_signature=specs, autograph=False)
        self._forward = tf.function(self._full, autograph=False)

    def _run(self, flat, lengths, limits, *options):
        return decode(
            self.decoder,
            tf.RaggedTensor.from_row_lengths(flat, lengths),
            limits,
            SamplingOptions(*options),
            end_token_ids=tf.constant([NEVER]),
            token_bytes=TOKEN_BYTES,
            stops=lambda text: tf.zeros(tf.shape(text), tf.bool),
        )

    def state(self, prompts, limits, options=None):
        options = options or SamplingOptions.of(GenerationConfig(), len(prompts))
        flat = [i for prompt in prompts for i in prompt]
        lengths = [len(prompt) for prompt in prompts]
        return self._decode(*(tf.constant(x, tf.int32) for x in (flat, lengths, limits)), *options)

    def tokens(self, prompts, limits, options=None):
        texts = self.state(prompts, limits, options).text.numpy()
        return [[int(i) for i in re.findall(r"<(\d+)>", text.decode())] for text in texts]

    def logits(self, ids):
        """Of the whole forward pass, `[T, V]`."""
        return self._forward(tf.constant([ids], tf.int32)).numpy()[0]

    def _full(self, ids):
        inputs = {
            "token_ids": ids,
            "padding_mask": tf.ones_like(ids, tf.bool),
            "position_ids": tf.range(tf.shape(ids)[1])[tf.newaxis],
        }
        return self.model({name: inputs[name] for name in self.model.input}, training=False)


_made = {}


def decoding_of(name) -> Decoding:
    """Made once, with a cache that must grow: each test would trace it anew."""
    if name not in _made:
        _made[name] = Decoding(causal_lm(name))
    return _made[name]
