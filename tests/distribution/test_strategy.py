"""Strategies by name, the arithmetic of batches, and refusals with their reasons."""

import keras
import pytest
import tensorflow as tf

import tfllm.distribution.strategy as module
from tests.distribution.processes import free_ports
from tests.rounding import about
from tfllm.config import ConfigError
from tfllm.distribution.cluster import Cluster
from tfllm.distribution.strategy import BatchPlan, plan_batch
from tfllm.distribution.worker_lost import WorkerLost, lost_workers_named
from tfllm.models.causal_lm import CausalLM
from tfllm.optimization.adamw import AdamW
from tfllm.training import TrainingStep, strategy

TWO = Cluster(("127.0.0.1:1", "127.0.0.1:2"), 0, "TF_CONFIG")


def test_one_device_is_the_default_where_there_is_nothing_else():
    assert strategy() is tf.distribute.get_strategy()
    assert strategy("one", replicas=1) is tf.distribute.get_strategy()


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        (
            "two",
            {},
            "strategy must be one of auto, one, mirrored, multiworker, tpu; received 'two'",
        ),
        ("one", {"replicas": 2}, "the strategy one has one replica; received replicas=2"),
        ("one", {"replicas": 0}, "replicas must be at least 1; received 0"),
        ("mirrored", {}, "has no GPU; give replicas"),
        ("multiworker", {}, "needs a cluster: .*tfllm launch"),
        ("tpu", {"replicas": 4}, "a TPU's replicas are its cores"),
        ("one", {"cluster": TWO}, "TF_CONFIG describes 2 workers.*received 'one', with which each"),
        ("mirrored", {"cluster": TWO}, "which only the strategy multiworker"),
        ("multiworker", {"cluster": TWO, "replicas": 2}, "without GPUs is one replica"),
    ],
)
def test_combinations_that_cannot_work_are_refused_with_the_reason(name, options, reason):
    with pytest.raises(ConfigError, match=reason):
        strategy(name, **options)


def test_logical_devices_after_tensorflow_began_are_an_error_that_says_so():
    tf.constant(0)
    with pytest.raises(RuntimeError, match=r"before TensorFlow is used; call tfllm.training.stra"):
        strategy("mirrored", replicas=3)


def test_a_worker_whose_address_is_taken_is_told_that_it_may_run_already(monkeypatch):
    import socket

    monkeypatch.setenv("TF_CONFIG", "")
    (port,) = free_ports(1)
    with socket.create_server(("127.0.0.1", port)):
        cluster = Cluster((f"127.0.0.1:{port}", "127.0.0.1:1"), 0, "TF_CONFIG")
        with pytest.raises(RuntimeError, match=rf"cannot listen on .*:{port}.*already running\?"):
            strategy("multiworker", cluster=cluster)


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (tf.errors.UnavailableError(None, None, "Socket closed"), True),
        (tf.errors.InternalError(None, None, "x\nCollective ops is aborted by: y"), True),
        (tf.errors.InternalError(None, None, "cuDNN failed on /job:worker/task:0"), False),
        (
            tf.errors.ResourceExhaustedError(
                None, None, "OOM when allocating on /job:worker/replica:0/task:0/device:GPU:0"
            ),
            False,
        ),
    ],
)
def test_only_a_lost_connection_is_a_lost_worker(error, lost):
    kind = WorkerLost if lost else type(error)
    with pytest.raises(kind) as caught, lost_workers_named(1, several=True):
        raise error
    assert getattr(caught.value, "exit_status", 1) == (75 if lost else 1)
    with pytest.raises(type(error)), lost_workers_named(0, several=False):
        raise error


def test_a_process_has_one_strategy(monkeypatch):
    made = {}
    monkeypatch.setattr(module, "_made", made)
    monkeypatch.setattr(module, "_mirrored", lambda replicas: f"{replicas} replicas")
    assert strategy("mirrored", replicas=2) is strategy("mirrored", replicas=2)
    with pytest.raises(ConfigError, match="one strategy, and this one already has '2 replicas'"):
        strategy("mirrored", replicas=3)


def test_a_batch_is_divided_among_workers_replicas_and_micro_batches():
    plan = BatchPlan(96, workers=2, replicas=8, gradient_accumulation=3)
    assert (plan.rows_per_replica, plan.rows_per_micro_batch) == (12, 4)
    assert plan.describe(512) == (
        "a batch of 96 rows (49,152 tokens) = 2 workers x 4 replicas x 3 micro-batches x 4 rows of "
        "512 tokens"
    )
    assert plan_batch(8, 2, tf.distribute.get_strategy()).describe(16) == (
        "a batch of 8 rows (128 tokens) = 1 replica x 2 micro-batches x 4 rows of 16 tokens"
    )
    with pytest.raises(ConfigError, match=r"\(8 replicas x 3 micro-batches = 24\).*100; 120 would"):
        BatchPlan(100, workers=2, replicas=8, gradient_accumulation=3)


def test_keras_distribution_is_refused(tiny_config, monkeypatch):
    model = CausalLM(tiny_config)
    model.compile(AdamW())
    monkeypatch.setattr(keras.distribution, "distribution", lambda: "DataParallel")
    for use in (strategy, model.make_train_function):
        with pytest.raises(
            ValueError, match=r"keras.distribution does nothing on TensorFlow.*Data"
        ):
            use()


def test_parameter_servers_are_refused(tiny_config, monkeypatch):
    class Servers(tf.distribute.ParameterServerStrategy):
        def __init__(self):
            pass

    monkeypatch.setattr(tf.distribute, "get_strategy", Servers)
    with pytest.raises(ValueError, match="use MultiWorkerMirroredStrategy; received Servers"):
        strategy()


def test_the_optimizers_own_accumulation_is_refused(tiny_config):
    model = CausalLM(tiny_config)
    model.compile(AdamW(gradient_accumulation_steps=2))
    with pytest.raises(ValueError, match=r"set model.gradient_accumulation instead.*steps=2"):
        model.make_train_function()


def test_a_model_that_somebody_else_wrote_takes_the_step():
    ids = keras.Input((8,), dtype="int32")
    x = keras.layers.Embedding(31, 16)(ids)
    functional = keras.Model(ids, keras.layers.Dense(31)(x), name="theirs")

    class Subclass(keras.Model):
        def __init__(self):
            super().__init__()
            self.embedding = keras.layers.Embedding(31, 31)

        def call(self, x):
            return self.embedding(x)

    data = tf.random.stateless_uniform([4, 9], [0, 0], maxval=31, dtype=tf.int32)
    for model in (functional, Subclass()):
        kind = type(model)
        ours = TrainingStep.of(model)
        assert ours is model and isinstance(model, kind) and isinstance(model, TrainingStep)
        assert type(model).__name__ == kind.__name__
        assert TrainingStep.of(model) is model
        model.gradient_accumulation = 2
        model.compile(AdamW(1e-2, global_clipnorm=1.0))
        history = model.fit(data[:, :-1], data[:, 1:], epochs=8, verbose=0).history
        assert history["loss"][-1] < history["loss"][0] - 0.05
        assert set(history) == {"loss", "perplexity"}


def test_a_keras_hub_model_takes_the_step():
    keras_hub = pytest.importorskip("keras_hub")
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 32}
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=31, max_sequence_length=8, dropout=0.0, **sizes
    )
    model = TrainingStep.of(keras_hub.models.GPT2CausalLM(backbone, preprocessor=None))
    assert isinstance(model, keras_hub.models.GPT2CausalLM)
    ids = tf.random.stateless_uniform([4, 9], [0, 0], maxval=31, dtype=tf.int32)
    x = {"token_ids": ids[:, :-1], "padding_mask": tf.ones([4, 8], tf.int32)}
    weights = tf.constant([[1.0], [0.0], [0.5], [1.0]]) * tf.ones([4, 8])
    logits = model(x)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(ids[:, 1:], logits)
    wanted = float(tf.reduce_sum(losses * weights) / tf.reduce_sum(weights))
    model.compile(optimizer=AdamW(1e-2), loss=None)
    run = model.fit(x, ids[:, 1:], sample_weight=weights, shuffle=False, verbose=0)
    # Norms, projections, scores, values and the feed-forward part; a softmax; the batch's tokens.
    additions = 7 * 16 + 8 + 8 + 32 + 31 + 32
    assert run.history["loss"][0] == about(wanted, additions)


def test_votes_to_stop_are_in_what_callbacks_see_and_not_in_the_history(tiny_config):
    seen = []
    model = CausalLM(tiny_config)
    model.compile(AdamW())
    model.detailed_logs = True
    model.votes_to_stop = tf.Variable(1.0)
    ids = tf.zeros([4, 9], tf.int32)
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(logs))
    history = model.fit(ids[:, :-1], ids[:, 1:], verbose=0, callbacks=[watch]).history
    assert set(history) == {"loss", "perplexity"}
    (logs,) = seen
    assert float(logs["votes_to_stop"]) == 1.0
    assert float(logs["gradient_norm"]) > 0
    assert 0 <= float(logs["input_seconds"]) < 60
