#!/usr/bin/env python3
"""Write tfllm/serving/saved_model/linked_ops_2_20.txt: the ops that TensorFlow Serving 2.20 links.

TensorFlow Serving links TensorFlow's own ops, all of TensorFlow Text's (`ops_lib`) and the
inference ops of TensorFlow Decision Forests (SUPPORTED_TENSORFLOW_OPS in its
`tensorflow_serving/model_servers/BUILD`). The wheels of the same releases register the same ops, so
the list is read from them, without importing TensorFlow's Python package: ops that only the Python
extension registers (such as the kernels of PyFunc) are not in a server.

    python3 -m venv ENV
    ENV/bin/pip install "tensorflow==2.20.*" "tensorflow-text==2.20.*"
    ENV/bin/python tests/serving/record_linked_ops.py tfllm/serving/saved_model/linked_ops_2_20.txt

The decision forest ops are not in those wheels; they are written below as the op registrations
in `tensorflow_decision_forests/tensorflow/ops/inference/op.cc` declare them.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import sysconfig
from pathlib import Path

DECISION_FORESTS = {  # op: attributes
    "SimpleMLCreateModelResource": ["container", "shared_name"],
    "SimpleMLInferenceLeafIndexOpWithHandle": [],
    "SimpleMLInferenceOp": ["dense_output_dim", "model_identifier"],
    "SimpleMLInferenceOpWithHandle": ["dense_output_dim"],
    "SimpleMLLoadModelFromPath": ["model_identifier"],
    "SimpleMLLoadModelFromPathWithHandle": ["file_prefix", "output_types"],
}

# Graph passes replace these before a kernel is looked for.
REPLACED = {"AccumulateNV2"}

HEADER = """\
# Ops that TensorFlow Serving 2.20 has linked in: one a line, its attributes after it.
# "-" before an op: it has no CPU kernel there. Made by tests/serving/record_linked_ops.py.
"""


class _Buffer(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("free", ctypes.c_void_p)]


def record() -> tuple[bytes, bytes, bytes]:
    """Serialized OpList of TensorFlow, OpList with TensorFlow Text, KernelList of both."""
    packages = Path(sysconfig.get_paths()["purelib"])
    folder = packages / "tensorflow"
    # Not RTLD_GLOBAL: TensorFlow's own copy of OpenSSL's functions would displace Python's.
    framework = ctypes.CDLL(str(folder / "libtensorflow_framework.so.2"))
    library = ctypes.CDLL(str(folder / "libtensorflow_cc.so.2"))

    def function(name, result, *arguments):
        found = getattr(library, name, None) or getattr(framework, name)
        found.restype, found.argtypes = result, arguments
        return found

    pointer = ctypes.c_void_p
    status = function("TF_NewStatus", pointer)()
    code = function("TF_GetCode", ctypes.c_int, pointer)
    load = function("TF_LoadLibrary", pointer, ctypes.c_char_p, pointer)
    ops = function("TF_GetAllOpList", ctypes.POINTER(_Buffer))
    kernels = function("TF_GetAllRegisteredKernels", ctypes.POINTER(_Buffer), pointer)

    def content(buffer):
        return ctypes.string_at(buffer.contents.data, buffer.contents.length)

    core = content(ops())
    for path in sorted((packages / "tensorflow_text").rglob("*.so")):
        load(str(path).encode(), status)
        if code(status) != 0:
            raise SystemExit(f"{path} did not load")
    return core, content(ops()), content(kernels(status))


def main() -> None:
    """Record and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    core_bytes, all_bytes, kernel_bytes = record()
    from tensorflow.core.framework import kernel_def_pb2, op_def_pb2

    core = {op.name for op in op_def_pb2.OpList.FromString(core_bytes).op}
    everything = op_def_pb2.OpList.FromString(all_bytes).op
    kernels = kernel_def_pb2.KernelList.FromString(kernel_bytes).kernel
    on_cpu = {
        kernel.op for kernel in kernels if kernel.device_type in ("CPU", "DEFAULT")
    } | REPLACED
    attributes = {op.name: sorted(attr.name for attr in op.attr) for op in everything}

    def lines(names):
        for name in sorted(names):
            yield " ".join([name if name in on_cpu else f"-{name}", *attributes[name]])

    versions = {
        name: importlib.metadata.version(name) for name in ("tensorflow", "tensorflow-text")
    }
    text = [HEADER + f"[tensorflow {versions['tensorflow']}]", *lines(core)]
    text += [f"[tensorflow-text {versions['tensorflow-text']}]", *lines(attributes.keys() - core)]
    text += ["[tensorflow-decision-forests]"]
    text += [" ".join([name, *attrs]) for name, attrs in sorted(DECISION_FORESTS.items())]
    out.write_text("\n".join(text) + "\n")
    print(f"{out}: {len(core)} + {len(attributes) - len(core)} + {len(DECISION_FORESTS)} ops")


if __name__ == "__main__":
    main()
