"""KerasHub's `enable_lora` under `TrainingStep`, on rows of examples."""

import numpy as np
import pytest

from tests.data.chat_examples import chat_tokenizer, conversations, write_lines
from tfllm.config import PrepareConfig
from tfllm.data import rows_dataset
from tfllm.optimization.adamw import AdamW
from tfllm.optimization.training_step import TrainingStep
from tfllm.tasks import prepare


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    chat_tokenizer().save(folder / "tokenizer")
    source = write_lines(folder / "a.jsonl", conversations(40))
    config = PrepareConfig(tokenizer=str(folder / "tokenizer"), num_processes=1)
    return prepare(source, folder / "out", config, show_progress=False)


def test_only_the_adapter_of_a_keras_hub_model_learns(data):
    keras_hub = pytest.importorskip("keras_hub")

    backbone = keras_hub.models.LlamaBackbone(
        vocabulary_size=data.vocab_size,
        num_layers=2,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=16,
        intermediate_dim=24,
    )
    backbone.enable_lora(2)
    model = TrainingStep.of(keras_hub.models.LlamaCausalLM(backbone, preprocessor=None))
    optimizer = AdamW(3e-2, 0.0, global_clipnorm=1.0)
    model.compile(optimizer)

    def with_mask(x, y, weights):
        mask = x["segment_ids"] > 0
        return {"token_ids": x["token_ids"], "padding_mask": mask}, y, weights

    rows = rows_dataset(data, "train", sequence_length=64, batch_size=8).map(with_mask)
    before = {v.path: v.numpy() for v in model.weights}
    trained = {v.path for v in model.trainable_weights}
    assert len(trained) == 2 * 2 * 2 and all("lora" in path for path in trained)
    losses = [
        model.fit(rows, steps_per_epoch=8, verbose=0, shuffle=False).history["loss"][0]
        for _ in range(2)
    ]
    assert losses[1] < losses[0]
    moved = {v.path for v in model.weights if (v.numpy() != before[v.path]).any()}
    assert moved == trained
    held = 2 * sum(4 * np.prod(v.shape) for v in model.trainable_weights)
    assert optimizer.state_bytes() == held
