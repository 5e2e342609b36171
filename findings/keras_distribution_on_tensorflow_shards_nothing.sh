#!/usr/bin/env bash
# Expected: a model that is made and trained under `keras.distribution.set_distribution(DataParallel(...))`
# runs on the devices that were given, or Keras says that the backend cannot do it.
# Happens: on the TensorFlow backend `set_distribution` is accepted without a warning, and every
# weight and product stays on one device with the whole batch.
# Seen with TensorFlow 2.21.0 and Keras 3.15.1, Python 3.11, on logical CPU devices.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tensorflow==2.21.0 keras==3.15.1
export TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES= KERAS_BACKEND=tensorflow
"$folder/venv/bin/python" -W error - <<'PYTHON'
import sys

import keras
import numpy as np
import tensorflow as tf

print("TensorFlow", tf.__version__, "Keras", keras.__version__)
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
keras.distribution.set_distribution(keras.distribution.DataParallel(devices=["cpu:0", "cpu:1"]))


class DeviceOf(keras.layers.Layer):
    """Keeps the device on which each of its products ran, and the rows that it saw."""

    seen: list = []

    def call(self, x):
        y = tf.matmul(x, tf.ones((3, 3)))
        if tf.executing_eagerly():
            self.seen.append((y.device[-5:], int(y.shape[0])))
        return y


model = keras.Sequential([keras.Input((3,)), DeviceOf(), keras.layers.Dense(1)])
model.compile("sgd", "mse", run_eagerly=True)
model.fit(np.ones((8, 3), "float32"), np.ones((8, 1), "float32"), batch_size=8, verbose=0)
print("device and rows of each product:", DeviceOf.seen)
print("device of the weights:", {str(w.value.device)[-5:] for w in model.weights})
alone = {device for device, _ in DeviceOf.seen} == {"CPU:0"}
whole = {rows for _, rows in DeviceOf.seen} == {8}
sys.exit(0 if alone and whole else "behaviour changed")
PYTHON
