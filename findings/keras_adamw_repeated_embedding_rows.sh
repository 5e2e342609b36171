#!/usr/bin/env bash
# Expected: AdamW updates an embedding from the sum of the gradients of a token, however often the token
# occurs in a batch, since that sum is the gradient.
# Happens: on the TensorFlow backend the gradient of `keras.layers.Embedding` is an IndexedSlices with one
# row an occurrence. Keras hands it to AdamW without adding up the rows of a token, so that one which
# occurs more than once is updated otherwise than by the same gradient made dense.
# Seen with TensorFlow 2.21.0 and Keras 3.15.1, Python 3.11, on a CPU.
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
ids = tf.constant([[0, 1, 1, 1]])  # token 0 once, token 1 three times
factors = tf.constant([[[1.0], [1.0], [-2.0], [3.0]]])


def table_after_two_steps(dense):
    layer = keras.layers.Embedding(3, 2, embeddings_initializer="ones")
    layer.build((None,))
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.0)
    table = layer.embeddings
    for step in (1.0, 0.3):
        with tf.GradientTape() as tape:
            loss = step * tf.reduce_sum(layer(ids) * factors)
        gradient = tape.gradient(loss, table.value)
        if dense:
            gradient = tf.convert_to_tensor(gradient)
        optimizer.apply([gradient], [table])
    return np.asarray(table)


as_it_comes, made_dense = table_after_two_steps(False), table_after_two_steps(True)
print("gradient as it comes:\n", as_it_comes, "\ngradient made dense:\n", made_dense)
once = np.abs(as_it_comes[0] - made_dense[0]).max()
repeated = np.abs(as_it_comes[1] - made_dense[1]).max()
print(f"difference of the token that occurs once {once:.2g}, three times {repeated:.2g}")
sys.exit(0 if once < 1e-6 and repeated > 0.01 else "behaviour changed")
PYTHON
