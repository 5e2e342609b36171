"""Models with tokenizers converted from SentencePiece are served, and their folders read again."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests.tokenizers import metaspace_tokenizers
from tests.tokenizers.sentence_pieces import trained_model
from tfllm.config import GenerationConfig, ModelConfig
from tfllm.models.causal_lm import CausalLM
from tfllm.pretrained import load, save
from tfllm.serving import check, export
from tfllm.tasks import TextGeneration
from tfllm.tokenizers import SentencePieceTokenizer

KINDS = {
    "sentence_piece": lambda: SentencePieceTokenizer(trained_model("bytes"), begin=[1]),
    "metaspace": lambda: metaspace_tokenizers.made(**metaspace_tokenizers.RULES["legacy"]),
}
PROMPTS = ["the fox", "", " <s>中文\n\n", "🎉\0"]


@functools.cache
def task(kind: str) -> TextGeneration:
    tokenizer = KINDS[kind]()
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        embedding_dim=24,
        num_layers=1,
        num_heads=2,
        feed_forward_dim=32,
        max_sequence_length=64,
    )
    return TextGeneration(CausalLM(config), tokenizer, GenerationConfig(max_new_tokens=6))


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_holds_the_tokenizer(kind, tmp_path):
    ours = task(kind)
    save(ours.model, tmp_path / "model", ours.tokenizer)
    loaded = load(tmp_path / "model")
    assert type(loaded.tokenizer) is type(ours.tokenizer)
    assert loaded.tokenizer.encode_batch(PROMPTS) == ours.tokenizer.encode_batch(PROMPTS)
    assert loaded.tokenizer.end_token_ids == ours.tokenizer.end_token_ids == (2,)
    save(loaded.model, tmp_path / "model", loaded.tokenizer)  # in the place of the first
    with pytest.raises(FileExistsError, match="contains a tokenizer"):
        save(loaded.model, tmp_path / "model")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_export_answers_and_passes_the_check(kind, tmp_path):
    ours = task(kind)
    folder = export(ours, tmp_path / "model")
    served = tf.saved_model.load(str(folder)).signatures
    answers = served["serving_default"](prompt=tf.constant(PROMPTS))
    expected = ours.signatures["serving_default"](tf.constant(PROMPTS))
    for name in ("text", "prompt_tokens", "generated_tokens", "error"):
        np.testing.assert_array_equal(answers[name].numpy(), expected[name].numpy())
    # An empty prompt is one token: the end of the document before.
    lengths = [max(1, len(ids)) for ids in ours.tokenizer.encode_batch(PROMPTS)]
    assert answers["prompt_tokens"].numpy().tolist() == lengths
    report = check(folder)
    assert report.ok, str(report)
