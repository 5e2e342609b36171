"""The graph of a SavedModel on disk: its nodes, its functions, and the signatures that run them.

It is read from `saved_model.pb` with TensorFlow's protocol buffers; nothing is loaded or run.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVE_TAG = "serve"
INIT_SIGNATURE = "__saved_model_init_op"
TRAIN_SIGNATURE = "__saved_model_train_op"
LOADING = "(loading)"
"""takes the place of a signature's name for nodes that run when the model is loaded"""


class SavedModelError(ValueError):
    """`saved_model.pb` is missing, cannot be parsed, or has no graph to serve."""

    def __init__(self, code: str, message: str, fix: str) -> None:
        super().__init__(message)
        self.code, self.fix = code, fix


@dataclass(frozen=True)
class Place:
    """A node and its place in the graph."""

    node: Any
    """the NodeDef"""
    function: str
    """the function that contains it; "" for the graph itself"""
    signatures: tuple[str, ...]
    """the signatures that run it; LOADING is among them if it runs when the model is loaded"""

    @property
    def requested(self) -> bool:
        """Whether a request runs it."""
        return any(name != LOADING for name in self.signatures)


class SavedModelGraph:
    """The MetaGraphDef with the tag `serve` of one version folder."""

    def __init__(self, meta_graph: Any, file_bytes: int = 0) -> None:
        self.meta_graph = meta_graph
        self.file_bytes = file_bytes
        """size of saved_model.pb"""
        self.graph = meta_graph.graph_def
        self.functions = {fn.signature.name: fn for fn in self.graph.library.function}
        self.signatures: dict[str, Any] = {
            name: signature
            for name, signature in sorted(meta_graph.signature_def.items())
            if name not in (INIT_SIGNATURE, TRAIN_SIGNATURE)
        }
        self._nodes = {node.name: node for node in self.graph.node}

    @classmethod
    def read(cls, version_folder: Path) -> SavedModelGraph:
        """Parse the SavedModel in a folder.

        Raises:
            SavedModelError: it is missing, cannot be parsed, or has no graph to serve.
        """
        from google.protobuf import message, text_format
        from tensorflow.core.protobuf import saved_model_pb2

        saved_model = saved_model_pb2.SavedModel()
        binary, text = version_folder / "saved_model.pb", version_folder / "saved_model.pbtxt"
        try:
            if binary.is_file():
                saved_model.ParseFromString(binary.read_bytes())
            elif text.is_file():
                text_format.Parse(text.read_text("utf-8"), saved_model)
            else:
                raise SavedModelError(
                    "no_saved_model",
                    f"{version_folder} has no saved_model.pb",
                    "give a folder NAME/VERSION that tf.saved_model.save or `tfllm export` wrote",
                )
        except (message.DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
            raise SavedModelError(
                "unreadable_saved_model",
                f"saved_model.pb cannot be parsed ({error}): it is truncated or of another format",
                "export again; copy to a temporary name and rename, so that nobody reads a part",
            ) from error
        tags = [sorted(meta.meta_info_def.tags) for meta in saved_model.meta_graphs]
        for meta, names in zip(saved_model.meta_graphs, tags, strict=True):
            if names == [SERVE_TAG]:
                return cls(meta, (binary if binary.is_file() else text).stat().st_size)
        raise SavedModelError(
            "no_serve_tag",
            f"no graph has the tag set {{{SERVE_TAG!r}}}, which TensorFlow Serving loads; "
            f"the tag sets are {tags}",
            "save with tf.saved_model.save or model.export, which set the tag",
        )

    @functools.cached_property
    def places(self) -> list[Place]:
        """Every node of the graph and of its functions."""
        by_node, by_function = self._reached
        places = [Place(n, "", tuple(by_node.get(n.name, ()))) for n in self.graph.node]
        for name, function in self.functions.items():
            roots = tuple(by_function.get(name, ()))
            places += [Place(node, name, roots) for node in function.node_def]
        return places

    def callers(self, function: str) -> tuple[str, ...]:
        """The signatures that may call a function, possibly including LOADING."""
        return tuple(self._reached[1].get(function, ()))

    @functools.cached_property
    def _reached(self) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Node name to the signatures that run it, and the same for function names."""
        by_node: dict[str, list[str]] = {}
        by_function: dict[str, list[str]] = {}
        for root, tensors in self._roots().items():
            nodes, functions = self._reach(tensors)
            for name in nodes:
                by_node.setdefault(name, []).append(root)
            for name in functions:
                by_function.setdefault(name, []).append(root)
        return by_node, by_function

    def _roots(self) -> dict[str, list[str]]:
        """Signature name (or LOADING) to the tensors that it fetches."""
        roots = {
            name: [tensor for info in signature.outputs.values() for tensor in tensor_names(info)]
            for name, signature in self.signatures.items()
        }
        loading = [self.meta_graph.saver_def.restore_op_name]
        if INIT_SIGNATURE in self.meta_graph.signature_def:
            init = self.meta_graph.signature_def[INIT_SIGNATURE]
            loading += [info.name for info in init.outputs.values()]
        for key in ("saved_model_main_op", "legacy_init_op"):
            if key in self.meta_graph.collection_def:
                loading += self.meta_graph.collection_def[key].node_list.value
        roots[LOADING] = [name for name in loading if name]
        return roots

    def _reach(self, tensors: Iterable[str]) -> tuple[set[str], set[str]]:
        """Names of the graph's nodes and of the functions that may run to compute the tensors."""
        nodes: set[str] = set()
        functions: set[str] = set()
        waiting = [_node_name(tensor) for tensor in tensors]
        calls: list[str] = []
        while waiting:
            name = waiting.pop()
            if name in nodes or name not in self._nodes:
                continue
            nodes.add(name)
            node = self._nodes[name]
            waiting += [_node_name(tensor) for tensor in node.input]
            calls += self.callees(node)
        while calls:
            name = calls.pop()
            if name not in functions:
                functions.add(name)
                for node in self.functions[name].node_def:
                    calls += self.callees(node)
        return nodes, functions

    def callees(self, node: Any) -> Iterator[str]:
        """The functions that a node calls or holds as attributes."""
        if node.op in self.functions:
            yield node.op
        for value in node.attr.values():
            kind = value.WhichOneof("value")
            if kind == "func" and value.func.name in self.functions:
                yield value.func.name
            elif kind == "list":
                yield from (fn.name for fn in value.list.func if fn.name in self.functions)


def tensor_names(info: Any) -> list[str]:
    """The names of the tensors of a TensorInfo."""
    encoding = info.WhichOneof("encoding")
    if encoding == "coo_sparse":
        sparse = info.coo_sparse
        return [
            sparse.values_tensor_name,
            sparse.indices_tensor_name,
            sparse.dense_shape_tensor_name,
        ]
    if encoding == "composite_tensor":
        return [name for part in info.composite_tensor.components for name in tensor_names(part)]
    return [info.name]


def _node_name(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]
