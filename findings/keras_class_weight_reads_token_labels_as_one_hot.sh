#!/usr/bin/env bash
# Expected: with integer labels for each token, `[batch, time]`, and a sparse loss,
# `fit(class_weight={1: 0.0})` leaves out the tokens whose label is 1, or is refused.
# Happens: Keras takes a row of labels for a one-hot vector. A row counts by the place of its largest
# label: where no label at all is 1, the row whose largest one is its second is left out, without a
# warning; and where a label is 1, its weight stays.
# Seen with TensorFlow 2.21.0 and Keras 3.15.1, Python 3.11.
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
ids = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]])


def loss_of(labels, class_weight=None):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((3,), dtype="int32"), keras.layers.Embedding(10, 8, "normal")]
        + [keras.layers.Dense(10)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.0), loss=loss)
    data = {"batch_size": 3, "verbose": 0, "class_weight": class_weight}
    return model.fit(ids, labels, **data).history["loss"][0]


without = np.array([[9, 0, 0], [0, 9, 0], [0, 0, 9]])  # the largest at place 0, 1 and 2; no 1
ones = np.array([[9, 1, 1], [9, 1, 1], [9, 1, 1]])  # the largest at place 0
kept = loss_of(without, {1: 0.0}) / loss_of(without)
stayed = loss_of(ones, {1: 0.0}) / loss_of(ones)
print(f"no label is 1, class_weight={{1: 0}}: {kept:.3f} of the loss without weights")
print(f"two of three labels are 1, class_weight={{1: 0}}: {stayed:.3f} of it")
same = abs(kept - 2 / 3) < 0.02 and abs(stayed - 1) < 1e-4
sys.exit(0 if same else "behaviour changed")
PYTHON
