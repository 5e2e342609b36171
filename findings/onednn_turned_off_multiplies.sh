#!/usr/bin/env bash
# Expected: TF_ENABLE_ONEDNN_OPTS=0, which TensorFlow's own start-up line names "to turn them off",
# takes oneDNN out of the way: products then depend neither on it nor on ONEDNN_MAX_CPU_ISA.
#
# What happens: only TensorFlow's oneDNN operations are left out. Eigen's contraction, which then
# runs the float32 MatMul, still calls oneDNN's gemm for its blocks: ONEDNN_VERBOSE lists the calls,
# and on a processor with AVX512 the product's last bits change with ONEDNN_MAX_CPU_ISA. Two machines
# that both "have oneDNN off" may so give different numbers; and a row alone still differs from the
# same row of a batch.
#
# Seen with tensorflow 2.21.0 (oneDNN 3.7.3), Python 3.11, Linux x86-64.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check tensorflow==2.21.0
cat > "$folder/product.py" <<'PYTHON'
import hashlib
import numpy as np
import tensorflow as tf

random = np.random.default_rng(0)
x = tf.constant(random.normal(size=(64, 300)), tf.float32)
y = tf.constant(random.normal(size=(300, 200)), tf.float32)
product = tf.matmul(x, y).numpy()
print("version", tf.__version__)
print("digest", hashlib.sha256(product.tobytes()).hexdigest()[:16])
print("a row alone differs by", np.abs(tf.matmul(x[:1], y).numpy() - product[:1]).max())
PYTHON
run() { # ISA
    env TF_CPP_MIN_LOG_LEVEL=3 TF_ENABLE_ONEDNN_OPTS=0 ONEDNN_VERBOSE=1 ONEDNN_MAX_CPU_ISA="$1" \
        "$folder/venv/bin/python" "$folder/product.py" 2>/dev/null
}
run AVX2 > "$folder/avx2"
run AVX512_CORE > "$folder/avx512"
grep -E '^(version|digest|a row)' "$folder/avx2" "$folder/avx512" | sed "s|$folder/||"
calls=$(grep -c 'exec,cpu,gemm_api' "$folder/avx2" || true)
echo "calls of oneDNN's gemm with TF_ENABLE_ONEDNN_OPTS=0: $calls"
[ "$calls" -gt 0 ] || { echo "changed: there are none"; exit 1; }
if grep -q avx512f /proc/cpuinfo; then
    if [ "$(grep digest "$folder/avx2")" = "$(grep digest "$folder/avx512")" ]; then
        echo "changed: the product no longer depends on ONEDNN_MAX_CPU_ISA"
        exit 1
    fi
    echo "the product's last bits differ between AVX2 and AVX512"
fi
echo "as before"
