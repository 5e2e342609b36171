#!/usr/bin/env bash
# Expected: a TensorProto whose values do not fit it (200 for an int8, three values for a shape of two) is
# refused, or at least means the same to TensorFlow's Python and to its runtime.
# Happens: `tf.make_ndarray` refuses it, and the runtime (`tf.io.parse_tensor`, and so every server that takes
# TensorProtos) reads it without a word: integers wrap around, and values too many are left out. Of a value
# too few, both repeat the last one.
# Seen with TensorFlow 2.21.0 and NumPy 2.2.6, Python 3.11, on a CPU.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tensorflow==2.21.0 numpy==2.2.6
export TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

print("TensorFlow", tf.__version__, "NumPy", np.__version__)


def read_both_ways(dtype, values, size):
    proto = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum, int_val=values)
    proto.tensor_shape.dim.add(size=size)
    try:
        in_python = tf.make_ndarray(proto).tolist()
    except (OverflowError, ValueError) as error:
        in_python = type(error).__name__
    in_runtime = tf.io.parse_tensor(proto.SerializeToString(), dtype).numpy().tolist()
    print(f"{dtype.name}[{size}] of {values}: Python {in_python}, runtime {in_runtime}")
    return in_python, in_runtime


seen = [
    read_both_ways(tf.int8, [200], 1),
    read_both_ways(tf.uint8, [-1], 1),
    read_both_ways(tf.int32, [1, 2, 3], 2),
    read_both_ways(tf.int32, [1, 2], 3),
]
expected = [
    ("OverflowError", [-56]),
    ("OverflowError", [255]),
    ("ValueError", [1, 2]),
    ([1, 2, 2], [1, 2, 2]),
]
sys.exit(0 if seen == expected else f"behaviour changed: {seen}")
PYTHON
