#!/usr/bin/env bash
# Expected: `global_clipnorm=1` bounds the norm of the gradient that the optimizer applies by 1, with any
# number of replicas.
# Happens: under `tf.distribute.MirroredStrategy` Keras clips the gradient of each replica and then sums
# them, so that the applied norm is up to the number of replicas.
# Seen with TensorFlow 2.21.0 and Keras 3.15.1, Python 3.11, on logical CPU devices.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tensorflow==2.21.0 keras==3.15.1
export TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import keras
import numpy as np
import tensorflow as tf

print("TensorFlow", tf.__version__, "Keras", keras.__version__)
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)


def applied_norm(replicas):
    devices = [f"CPU:{i}" for i in range(replicas)]
    strategy = tf.distribute.MirroredStrategy(
        devices, cross_device_ops=tf.distribute.HierarchicalCopyAllReduce()
    )
    with strategy.scope():
        model = keras.Sequential(
            [keras.Input((3,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")]
        )
        model.compile(keras.optimizers.SGD(1.0, global_clipnorm=1.0), loss="mse")
    x = np.tile(np.array([[30.0, 40.0, 0.0]], "float32"), (8, 1))
    model.fit(x, np.full((8, 1), 100.0, "float32"), batch_size=8, verbose=0)
    # One step of SGD at a learning rate of 1 from zero: the weights are the applied gradient.
    return float(np.linalg.norm(model.get_weights()[0]))


norms = {replicas: applied_norm(replicas) for replicas in (1, 2, 4)}
print("norm of the update by number of replicas:", norms)
sys.exit(0 if all(abs(norm - n) < 1e-3 for n, norm in norms.items()) else "behaviour changed")
PYTHON
