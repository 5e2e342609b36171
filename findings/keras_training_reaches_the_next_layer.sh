#!/usr/bin/env bash
# Expected: a layer inside another layer that is called without `training` gets the value of the layer
# around it, or else its own default: Dropout drops nothing outside of training.
# Happens: a layer's default of `training` stays with the call of the outermost layer. After a sublayer
# whose `call` has training=True by default, each later sublayer that is not told otherwise runs as in
# training: Dropout drops, in inference, because of what stands before it.
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

print("Keras", keras.__version__, keras.backend.backend())


class Doubled(keras.layers.Layer):
    def call(self, x, training=True):
        return 2 * x


class Chain(keras.layers.Layer):
    def __init__(self, *layers):
        super().__init__()
        self.layers = layers

    def call(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


x = np.ones([1, 1000], "float32")
dropped = {}
for name, order in {"dropout, doubled": (1, 0), "doubled, dropout": (0, 1)}.items():
    layers = [Doubled(), keras.layers.Dropout(0.5, seed=0)]
    y = np.asarray(Chain(*(layers[i] for i in order))(x))
    dropped[name] = int((y == 0).sum())
    print(f"{name}: {dropped[name]} of 1000 dropped, without training")
first, last = dropped.values()
sys.exit(0 if first == 0 and last > 300 else "behaviour changed")
PYTHON
