"""A program that loads and runs a SavedModel as TensorFlow Serving's C++ does.

    python session_process.py JOB.json RESULTS.jsonl

It calls TensorFlow's C API (LoadSavedModel, then Session::Run) with XLA disabled as the model
server's main does, and imports neither TensorFlow's Python nor anything outside the standard
library: kernels that only Python brings are absent, as they are in a server. Events are written
line by line, so that after a crash the file says what was being done.

JOB.json: {"libraries": [libtensorflow_framework, libtensorflow_cc], "op_libraries": [...],
"saved_model": DIR, "tables": [node names], "requests": [{"id", "feeds": [[tensor name, tensor]],
"fetches": [tensor names], "only_if_failed": id or null, "measure_tables": bool,
"values": bool}]}. If `values` is true, the values of outputs are written, unless they are large.
A tensor is {"dtype": enum, "shape": [...], "data": base64} or, for strings, "strings": [base64].
"""

import array
import base64
import ctypes
import json
import os
import resource
import sys
import time
import types
from typing import Any

STRING, FLOAT, DOUBLE = 7, 1, 2
TSTRING_BYTES = 24
SCANNED = 4_000_000  # elements of an output that are searched for NaN
WRITTEN = 20_000  # an output with more elements is not written
NUMBERS = {1: "f", 2: "d", 3: "i", 4: "B", 5: "h", 6: "b", 9: "q", 10: "B", 22: "I", 23: "Q"}
"""DataType to the type code of Python's `array`"""


class Output(ctypes.Structure):
    """TF_Output."""

    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


class StatusError(Exception):
    """A TF_Status that is not OK."""


class SavedModelSession:
    """A session on the graph with the tag `serve`."""

    def __init__(self, libraries: list) -> None:
        # Loaded without RTLD_GLOBAL: TensorFlow's OpenSSL must not displace Python's.
        self._libraries = [ctypes.CDLL(path) for path in libraries]
        self._tf: Any = self._declare()
        self._status = self._tf.TF_NewStatus()

    def _declare(self) -> types.SimpleNamespace:
        """The functions of TensorFlow's C API that are used (tensorflow/c/c_api.h)."""
        p, s, i, n = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_size_t
        int64s = ctypes.POINTER(ctypes.c_int64)
        pointers, outputs = ctypes.POINTER(p), ctypes.POINTER(Output)
        functions = types.SimpleNamespace()
        for name, result, *arguments in (
            ("TF_NewStatus", p),
            ("TF_GetCode", i, p),
            ("TF_Message", s, p),
            ("TF_NewGraph", p),
            ("TF_NewSessionOptions", p),
            ("TF_LoadLibrary", p, s, p),
            ("TF_LoadSessionFromSavedModel", p, p, p, s, ctypes.POINTER(s), i, p, p, p),
            ("TF_GraphOperationByName", p, p, s),
            ("TF_NewOperation", p, p, s, s),
            ("TF_AddInput", None, p, Output),
            ("TF_FinishOperation", p, p, p),
            ("TF_AllocateTensor", p, i, int64s, i, n),
            ("TF_TensorData", p, p),
            ("TF_TensorByteSize", n, p),
            ("TF_TensorType", i, p),
            ("TF_NumDims", i, p),
            ("TF_Dim", ctypes.c_int64, p, i),
            ("TF_DeleteTensor", None, p),
            ("TF_StringInit", None, p),
            ("TF_StringCopy", None, p, s, n),
            ("TF_StringGetDataPointer", p, p),
            ("TF_StringGetSize", n, p),
            ("TF_SessionRun", None, p, p, outputs, pointers, i, outputs, pointers, i, p, i, p, p),
        ):
            found = None
            for library in self._libraries:
                found = found or getattr(library, name, None)
            if found is None:
                raise RuntimeError(f"TensorFlow's library has no {name}")
            found.restype, found.argtypes = result, arguments
            setattr(functions, name, found)
        return functions

    def _check(self) -> None:
        if self._tf.TF_GetCode(self._status):
            raise StatusError(self._tf.TF_Message(self._status).decode(errors="replace"))

    def disable_xla(self) -> bool:
        """tensorflow::DisableXlaCompilation(); False where the library does not offer it."""
        for library in self._libraries:
            disable = getattr(library, "_ZN10tensorflow21DisableXlaCompilationEv", None)
            if disable is not None:
                disable()
                return True
        return False

    def load_ops(self, path: str) -> None:
        """Load a library of ops and kernels."""
        self._tf.TF_LoadLibrary(os.fsencode(path), self._status)
        self._check()

    def load(self, folder: str) -> None:
        """Load the SavedModel: restore its variables and run its init op."""
        self._graph = self._tf.TF_NewGraph()
        tags = (ctypes.c_char_p * 1)(b"serve")
        options = self._tf.TF_NewSessionOptions()
        self._session = self._tf.TF_LoadSessionFromSavedModel(
            options, None, os.fsencode(folder), tags, 1, self._graph, None, self._status
        )
        self._check()

    def add_table_size(self, table: str) -> str:
        """Add an op that gives the number of entries of a table; the new tensor's name."""
        name = f"check/size_of/{table}"
        node = self._tf.TF_NewOperation(self._graph, b"LookupTableSizeV2", name.encode())
        self._tf.TF_AddInput(node, self._endpoint(table))
        self._tf.TF_FinishOperation(node, self._status)
        self._check()
        return name

    def run(self, feeds: list, fetches: list) -> list:
        """Run the session; a pointer to a TF_Tensor for each fetch."""
        endpoints = (Output * max(len(feeds), 1))(*[self._endpoint(name) for name, _ in feeds])
        tensors = (ctypes.c_void_p * max(len(feeds), 1))(*[self._tensor(t) for _, t in feeds])
        wanted = (Output * len(fetches))(*[self._endpoint(name) for name in fetches])
        results = (ctypes.c_void_p * len(fetches))()
        self._tf.TF_SessionRun(
            *(self._session, None, endpoints, tensors, len(feeds), wanted, results, len(fetches)),
            *(None, 0, None, self._status),
        )
        for tensor in tensors:
            if tensor:
                self._tf.TF_DeleteTensor(tensor)
        self._check()
        return list(results)

    def describe(self, tensor: int) -> dict:
        """Type and shape of a result, its number of NaNs, and its strings that are not UTF-8."""
        dtype = self._tf.TF_TensorType(tensor)
        shape = [self._tf.TF_Dim(tensor, axis) for axis in range(self._tf.TF_NumDims(tensor))]
        data, size = self._tf.TF_TensorData(tensor), self._tf.TF_TensorByteSize(tensor)
        found: dict[str, Any] = {"dtype": dtype, "shape": shape, "nan": 0, "not_utf8": []}
        if dtype == STRING:
            for index in range(_count(shape)):
                text = data + index * TSTRING_BYTES
                value = ctypes.string_at(
                    self._tf.TF_StringGetDataPointer(text), self._tf.TF_StringGetSize(text)
                )
                try:
                    value.decode()
                except UnicodeDecodeError:
                    found["not_utf8"].append([index, repr(value[:40])])
        elif dtype in (FLOAT, DOUBLE) and size:
            floats = array.array("f" if dtype == FLOAT else "d")
            floats.frombytes(ctypes.string_at(data, min(size, SCANNED * floats.itemsize)))
            found["nan"] = sum(value != value for value in floats)
        elif dtype == 9 and not shape:
            found["value"] = ctypes.c_int64.from_address(data).value
        return found

    def values(self, tensor: int) -> list | None:
        """A result's elements, strings in base64; None if it is large or of another type."""
        dtype = self._tf.TF_TensorType(tensor)
        shape = [self._tf.TF_Dim(tensor, axis) for axis in range(self._tf.TF_NumDims(tensor))]
        count = _count(shape)
        if count > WRITTEN:
            return None
        data, size = self._tf.TF_TensorData(tensor), self._tf.TF_TensorByteSize(tensor)
        if dtype == STRING:
            found = []
            for text in range(data or 0, (data or 0) + count * TSTRING_BYTES, TSTRING_BYTES):
                pointer = self._tf.TF_StringGetDataPointer(text)
                value = ctypes.string_at(pointer, self._tf.TF_StringGetSize(text))
                found.append(base64.b64encode(value).decode())
            return found
        if dtype not in NUMBERS:
            return None
        numbers = array.array(NUMBERS[dtype])
        if size:
            numbers.frombytes(ctypes.string_at(data, size))
        return numbers.tolist()

    def delete(self, tensor: int) -> None:
        """Free a result."""
        self._tf.TF_DeleteTensor(tensor)

    def _endpoint(self, name: str) -> Output:
        operation, _, index = name.partition(":")
        found = self._tf.TF_GraphOperationByName(self._graph, operation.encode())
        if not found:
            raise StatusError(f"the graph has no operation {operation!r}")
        return Output(found, int(index or 0))

    def _tensor(self, value: dict) -> int:
        shape = value["shape"]
        dims = (ctypes.c_int64 * max(len(shape), 1))(*shape)
        if value["dtype"] == STRING:
            texts = [base64.b64decode(text) for text in value["strings"]]
            size = len(texts) * TSTRING_BYTES
            tensor = self._tf.TF_AllocateTensor(STRING, dims, len(shape), size)
            data = self._tf.TF_TensorData(tensor)
            for index, text in enumerate(texts):
                self._tf.TF_StringInit(data + index * TSTRING_BYTES)
                self._tf.TF_StringCopy(data + index * TSTRING_BYTES, text, len(text))
        else:
            raw = base64.b64decode(value["data"])
            tensor = self._tf.TF_AllocateTensor(value["dtype"], dims, len(shape), len(raw))
            ctypes.memmove(self._tf.TF_TensorData(tensor), raw, len(raw))
        return tensor


def _count(shape: list) -> int:
    count = 1
    for dim in shape:
        count *= dim
    return count


def run_job(job: dict, write) -> None:
    """Load the model, then run its requests.

    Args:
        job: what JOB.json says.
        write: called with each event.
    """
    session = SavedModelSession(job["libraries"])
    write({"event": "start", "xla_disabled": session.disable_xla()})
    for path in job["op_libraries"]:
        try:
            session.load_ops(path)
        except StatusError as error:
            write({"event": "op_library_failed", "path": path, "error": str(error)})
    started, before = time.monotonic(), peak_memory()
    try:
        session.load(job["saved_model"])
    except StatusError as error:
        write({"event": "load_failed", "error": str(error)})
        return
    write(
        {
            "event": "loaded",
            "seconds": time.monotonic() - started,
            "memory": peak_memory(),
            "runtime_memory": before,
            "cpu_seconds": time.process_time(),
        }
    )
    sizes = {}
    for table in job["tables"]:
        try:
            sizes[table] = session.add_table_size(table)
        except StatusError:
            continue  # the size op does not support this kind of table
    failed = set()
    for request in job["requests"]:
        if request["only_if_failed"] is not None and request["only_if_failed"] not in failed:
            continue
        write({"event": "begin", "id": request["id"]})
        started = time.monotonic()
        result = {"event": "end", "id": request["id"], "error": "", "outputs": []}
        try:
            tensors = session.run(request["feeds"], request["fetches"])
            result["seconds"] = time.monotonic() - started
            for tensor in tensors:
                described = session.describe(tensor)
                if request.get("values"):
                    described["values"] = session.values(tensor)
                result["outputs"].append(described)
                session.delete(tensor)
            result["memory"], result["cpu_seconds"] = peak_memory(), time.process_time()
        except StatusError as error:
            failed.add(request["id"])
            result["error"] = str(error)
        if request["measure_tables"]:
            result["tables"] = measure_tables(session, sizes)
        write(result)
    write({"event": "done"})


def peak_memory() -> int:
    """The peak memory of this process, in bytes."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    # On Linux the value would include that of the process that started this one.
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def measure_tables(session: SavedModelSession, sizes: dict) -> dict:
    """Table name to its number of entries; tables whose size cannot be read are left out."""
    measured = {}
    for table, tensor_name in sizes.items():
        try:
            [tensor] = session.run([], [tensor_name])
        except StatusError:
            continue
        measured[table] = session.describe(tensor)["value"]
        session.delete(tensor)
    return measured


def main() -> None:
    """Run the job of the command line."""
    with open(sys.argv[1], encoding="utf-8") as file:
        job = json.load(file)
    with open(sys.argv[2], "w", encoding="utf-8") as out:

        def write(event: dict) -> None:
            out.write(json.dumps(event) + "\n")
            out.flush()

        run_job(job, write)
    # TensorFlow's threads may still be running, and nothing is left to do.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
