"""Rules about a SavedModel's graph: growing tables, shared state, files, devices, constants."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tfllm.serving.checks.ops import name_of, where
from tfllm.serving.checks.report import Finding, listed
from tfllm.serving.saved_model.graph import Place, SavedModelGraph

TABLE_INSERTS = {"LookupTableInsert", "LookupTableInsertV2"}
MUTABLE_TABLES = re.compile(r"(Anonymous)?Mutable(Dense)?HashTable(OfTensors)?(V2)?$")
QUEUE_INSERTS = {"QueueEnqueue", "QueueEnqueueV2", "QueueEnqueueMany", "QueueEnqueueManyV2"}
QUEUE_INSERTS |= {"Stage", "MapStage", "BarrierInsertMany"}
FILE_ACCESS = {"ReadFile", "WriteFile", "MatchingFiles", "Save", "SaveV2", "SaveSlices"}
FILE_ACCESS |= {"Restore", "RestoreV2", "RestoreSlice", "MergeV2Checkpoints", "TextLineDataset"}
FILE_ACCESS |= {"TFRecordDataset", "TFRecordDatasetV2", "FixedLengthRecordDatasetV2"}
PRINTS = {"Print", "PrintV2"}
VARIABLE_WRITES = re.compile(
    r"Assign(Add|Sub)?VariableOp$|Resource(Scatter|Apply|SparseApply)\w*$|Assign(Add|Sub)?$"
)
CONSTANT_BYTES = 256 * 1024
"""a larger constant is assumed to be a weight"""
CONSTANTS_BYTES = 1024 * 1024
"""limit of all constants together"""
GRAPH_BYTES = 1_900_000_000
"""a protocol buffer has at most 2 GiB (2,147,483,648 bytes)"""


def check_graph(graph: SavedModelGraph) -> Iterator[Finding]:
    """Findings about the nodes and functions of a graph."""
    yield from _growing(graph)
    yield from _written_variables(graph)
    yield from _host_access(graph)
    yield from _devices(graph)
    yield from _constants(graph)


def _growing(graph: SavedModelGraph) -> Iterator[Finding]:
    inserts = [place for place in graph.places if place.node.op in TABLE_INSERTS]
    tables = [place for place in graph.places if MUTABLE_TABLES.match(place.node.op)]
    grown = [place for place in inserts if place.requested]
    if grown:
        names = listed(place.node.name for place in tables)
        yield Finding(
            "error",
            "growing_table",
            f"requests insert into a table, {where(grown)}; mutable tables: {names or 'none'}. "
            "It grows for as long as the server runs",
            "use a tf.lookup.StaticHashTable or variables, and compute what the table remembered "
            "on each call (KerasHub's byte-pair tokenizers keep such a cache)",
        )
    elif tables:
        ops = listed(sorted({place.node.op for place in tables}))
        yield Finding(
            "warning",
            "mutable_table",
            f"{ops} holds state, though no signature inserts into it, {where(tables)}",
            "use a tf.lookup.StaticHashTable for what does not change",
        )
    queues = [p for p in graph.places if p.node.op in QUEUE_INSERTS and p.requested]
    if queues:
        yield Finding(
            "warning",
            "growing_queue",
            f"requests put elements into a queue that outlives them, {where(queues)}",
            "keep what a request computes in its own tensors",
        )


def _written_variables(graph: SavedModelGraph) -> Iterator[Finding]:
    places = [p for p in graph.places if VARIABLE_WRITES.match(p.node.op) and p.requested]
    if places:
        ops = listed(sorted({place.node.op for place in places}))
        yield Finding(
            "warning",
            "variable_written",
            f"requests change variables ({ops}), {where(places)}: they see each other's state, "
            "and answers depend on their order",
            "call the model with training=False, keep caches in tensors of the call, and draw "
            "random numbers from a seed that the request gives (tf.random.stateless_*)",
        )


def _host_access(graph: SavedModelGraph) -> Iterator[Finding]:
    files = [p for p in graph.places if p.node.op in FILE_ACCESS and p.requested]
    if files:
        ops = listed(sorted({place.node.op for place in files}))
        yield Finding(
            "warning",
            "file_access",
            f"requests read or write files of the server ({ops}), {where(files)}",
            "load files when the model is loaded (tf.lookup initializers with assets, variables), "
            "and never name a file by an input",
        )
    prints = [p for p in graph.places if p.node.op in PRINTS and p.requested]
    if prints:
        yield Finding(
            "warning",
            "prints",
            f"requests print into the server's log, {where(prints)}",
            "remove tf.print",
        )


def _devices(graph: SavedModelGraph) -> Iterator[Finding]:
    pinned: dict[str, list[Place]] = {}
    for place in graph.places:
        match = re.search(r"\b(GPU|TPU|XLA_\w+)\b", place.node.device, re.IGNORECASE)
        if match:
            pinned.setdefault(place.node.device, []).append(place)
    for device, places in sorted(pinned.items()):
        yield Finding(
            "warning",
            "device_pinned",
            f"nodes are pinned to {device}, {where(places)}: a server without it cannot place them",
            "export outside of tf.device and tf.distribute scopes, or on a CPU",
        )


def _constants(graph: SavedModelGraph) -> Iterator[Finding]:
    sizes = [
        (place.node.attr["value"].tensor.ByteSize(), place)
        for place in graph.places
        if place.node.op == "Const"
    ]
    total = sum(size for size, _ in sizes)
    large = sorted((item for item in sizes if item[0] > CONSTANT_BYTES), key=lambda x: -x[0])
    if large or total > CONSTANTS_BYTES:
        names = listed(f"{name_of(place)} ({size:,} bytes)" for size, place in large)
        yield Finding(
            "warning",
            "weights_as_constants",
            f"saved_model.pb holds {total:,} bytes of constants"
            + (f", {len(large)} of them larger than 256 kB: {names}" if large else "")
            + ". Each function that uses one has its own copy, and the file may have at most 2 GB",
            "make them tf.Variables that the exported object tracks (an attribute of the tf.Module "
            "or a layer's weight), not tensors or arrays that a function closes over",
        )
    if graph.file_bytes > GRAPH_BYTES:
        yield Finding(
            "error",
            "graph_too_large",
            f"saved_model.pb has {graph.file_bytes:,} bytes; a file of 2 GiB cannot be read",
            "keep weights in variables; see weights_as_constants",
        )


def mutable_tables(graph: SavedModelGraph) -> list[str]:
    """Names of the graph's nodes that are tables which can grow."""
    return [
        place.node.name
        for place in graph.places
        if not place.function and MUTABLE_TABLES.match(place.node.op)
    ]
