#!/usr/bin/env bash
# Expected: tf.raw_ops.QuantizedMatMulWithBias, which multiplies matrices of 8-bit integers into
# qint32, gives the integers' exact sums of products on every processor: 64 products of 8 bits are far
# from 32 bits.
#
# What happens: on processors without VNNI, oneDNN's kernel adds neighbouring products in 16 bits,
# which saturate, and says nothing. The integers are wrong by some percent, and a SavedModel that is
# right on the machine that exported it is wrong on an older one. ONEDNN_MAX_CPU_ISA makes oneDNN
# compute as for such a processor. Rows of 7 bits (below 128) are exact everywhere.
#
# Seen with tensorflow 2.21.0 (oneDNN 3.7.3), Python 3.11, Linux x86-64.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check tensorflow==2.21.0
cat > "$folder/product.py" <<'PYTHON'
import numpy as np
import tensorflow as tf


@tf.function
def product(rows, matrix):
    sums, _, _ = tf.raw_ops.QuantizedMatMulWithBias(
        a=tf.bitcast(rows, tf.quint8), b=tf.bitcast(matrix, tf.qint8), bias=tf.zeros([8]),
        min_a=0.0, max_a=255.0, min_b=-127.0, max_b=127.0, input_quant_mode="SCALED",
    )
    return tf.bitcast(sums, tf.int32)


random = np.random.default_rng(0)
matrix = random.integers(-127, 128, (64, 8)).astype(np.int8)
print("version", tf.__version__)
for largest in (127, 255):
    rows = random.integers(0, largest + 1, (2, 64)).astype(np.uint8)
    exact = rows.astype(int) @ matrix.astype(int)
    given = product(tf.constant(rows), tf.constant(matrix)).numpy()
    print(f"rows up to {largest}: wrong by at most {np.abs(given - exact).max()} "
          f"of {np.abs(exact).max()}")
PYTHON
run() { # ISA
    env TF_CPP_MIN_LOG_LEVEL=3 ONEDNN_MAX_CPU_ISA="$1" \
        "$folder/venv/bin/python" "$folder/product.py" 2>/dev/null
}
run AVX2 | tee "$folder/avx2"
grep -q '^rows up to 127: wrong by at most 0 ' "$folder/avx2" \
    || { echo "changed: rows of 7 bits are not exact"; exit 1; }
if grep -q '^rows up to 255: wrong by at most 0 ' "$folder/avx2"; then
    echo "changed: the sums are exact without VNNI"
    exit 1
fi
if grep -qE 'avx_vnni|avx512_vnni' /proc/cpuinfo; then
    run DEFAULT > "$folder/vnni"
    echo "with this processor's VNNI: $(grep 255 "$folder/vnni")"
    grep -q '^rows up to 255: wrong by at most 0 ' "$folder/vnni" \
        || { echo "changed: the sums are wrong with VNNI, too"; exit 1; }
fi
echo "as before"
