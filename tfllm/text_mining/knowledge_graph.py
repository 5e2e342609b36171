"""A knowledge graph: who and what a text tells of, how they belong together, and where it says."""

from __future__ import annotations

import dataclasses
import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfllm.charts import graph_chart
from tfllm.files import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEAR = "near"
"""the name of a relation that only says that two names stand in one sentence often"""

_MOST_STATED = 4
"""relations drawn that are stated of one name: more cannot be read"""
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Sentence:
    """Where something is said."""

    document: int
    """which, from 0"""
    begin: int
    """its first character in the document"""
    text: str


@dataclass(frozen=True)
class Entity:
    """Somebody or something with a name."""

    name: str
    """its usual form"""
    kind: str
    """the tagger's label; or "name", or "class" for what only patterns name ("countries")"""
    count: int
    """mentions"""
    variants: tuple[str, ...] = ()
    """other forms that were taken for the same, the most frequent first"""


@dataclass(frozen=True)
class Relation:
    """Two entities that belong together, and why that is believed."""

    source: str
    name: str
    """`NEAR`, "is a", or the verb as it stands"""
    target: str
    count: int
    """sentences that support it"""
    evidence: tuple[Sentence, ...]
    """some of them"""
    log_likelihood: float | None = None
    """of `NEAR`: Dunning's ratio (1993); 10.83 comes by chance once in a thousand pairs"""
    mutual_information: float | None = None
    """of `NEAR`: pointwise, in bits"""


@dataclass(frozen=True)
class KnowledgeGraph:
    """Entities, the most frequent first, and relations between their names, the surest first."""

    entities: tuple[Entity, ...] = ()
    relations: tuple[Relation, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """All of it, as JSON holds it."""
        return dataclasses.asdict(self)

    def save(self, path: str | Path) -> Path:
        """Write it: as GraphML where the name ends in .graphml, as JSON where in .json.

        Raises:
            ValueError: the name ends in something else.
        """
        path = Path(path)
        check_graph_file(path)
        if path.suffix == ".json":
            text = json.dumps(self.to_json(), ensure_ascii=False, indent=1) + "\n"
        else:
            text = self.to_graphml()
        write_file(path, text)
        return path

    def to_graphml(self) -> str:
        """The graph in GraphML, as Gephi, yEd, Cytoscape and networkx read it: directed, and with
        several edges between two nodes where there are several relations. The sentences stand in
        `evidence`, a line each. What XML cannot hold (control characters) is left out."""
        root = ET.Element("graphml", xmlns="http://graphml.graphdrawing.org/xmlns")
        keys = {
            "node": {"kind": "string", "count": "int", "variants": "string"},
            "edge": {"name": "string", "count": "int", "log_likelihood": "double",
                     "mutual_information": "double", "evidence": "string"},
        }  # fmt: skip
        for of, names in keys.items():
            for name, kind in names.items():
                attributes = {"id": f"{of}_{name}", "for": of, "attr.name": name, "attr.type": kind}
                ET.SubElement(root, "key", attributes)
        graph = ET.SubElement(root, "graph", id="knowledge", edgedefault="directed")
        for entity in self.entities:
            node = ET.SubElement(graph, "node", id=_xml_text(entity.name))
            _add_data(node, "node", kind=entity.kind, count=entity.count,
                      variants=", ".join(entity.variants))  # fmt: skip
        for number, r in enumerate(self.relations):
            ends = {"source": _xml_text(r.source), "target": _xml_text(r.target)}
            edge = ET.SubElement(graph, "edge", {"id": f"e{number}", **ends})
            _add_data(edge, "edge", name=r.name, count=r.count, log_likelihood=r.log_likelihood,
                      mutual_information=r.mutual_information,
                      evidence="\n".join(s.text for s in r.evidence))  # fmt: skip
        ET.indent(root)
        return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"

    def figure(self, *, most_relations: int = 60, title: str = "", seed: int = 0) -> Figure:
        """Its surest relations, drawn: those of names that stand together, and a quarter at most of
        what is stated of these names. Two names that are linked to no other are left out.

        Raises:
            ValueError: there is no relation.
        """
        near = [r for r in self.relations if r.name == NEAR]
        near = near[: most_relations - most_relations // 4 * bool(near)]
        known = {end for r in near for end in (r.source, r.target)}
        told = [r for r in self.relations if r.name != NEAR and (r.source in known or not near)]
        told.sort(key=lambda r: r.target not in known)  # first those between two known names
        so_far: Counter[str] = Counter()
        told = [r for r in told if so_far.update([r.source]) or so_far[r.source] <= _MOST_STATED]
        chosen = _connected([*near, *told[: most_relations - len(near)]])
        if not chosen:
            raise ValueError("there must be a relation to draw; the graph has none")
        names = {end for r in chosen for end in (r.source, r.target)}
        nodes = [graph_chart.GraphNode(e.name, e.kind, e.count) for e in self.entities]
        edges = [
            graph_chart.GraphEdge(r.source, r.target, "" if r.name == NEAR else r.name, r.count)
            for r in chosen
        ]
        return graph_chart.knowledge_graph(
            [node for node in nodes if node.name in names], edges, title=title, seed=seed
        )


def check_graph_file(path: Path) -> None:
    """Refuse a name that does not say what is to be written.

    Raises:
        ValueError: it ends neither in .graphml nor in .json.
    """
    if path.suffix not in (".graphml", ".json"):
        raise ValueError(
            f"the file must end in .graphml or .json, which says what is written; got {path}"
        )


def from_parts(entities: Iterable[Entity], relations: Iterable[Relation]) -> KnowledgeGraph:
    """The graph, in its order: patterns before `NEAR`, and by how well they are supported."""
    return KnowledgeGraph(
        tuple(sorted(entities, key=lambda e: (-e.count, e.name))),
        tuple(sorted(relations, key=_order)),
    )


def _connected(relations: Sequence[Relation]) -> list[Relation]:
    """Those in a part of the graph with more than two names, if there is such a part."""
    part: dict[str, set[str]] = {}
    for r in relations:
        joined = part.get(r.source, {r.source}) | part.get(r.target, {r.target})
        part.update(dict.fromkeys(joined, joined))
    return [r for r in relations if len(part[r.source]) > 2] or list(relations)


def _order(r: Relation) -> tuple[Any, ...]:
    score = r.log_likelihood or 0.0
    return r.name == NEAR, -score, -r.count, r.source, r.name, r.target


def _xml_text(text: str) -> str:
    return _NOT_XML.sub("", text)


def _add_data(parent: ET.Element, of: str, **values: Any) -> None:
    for name, value in values.items():
        if value is not None and value != "":
            text = f"{value:.6g}" if isinstance(value, float) else _xml_text(str(value))
            ET.SubElement(parent, "data", key=f"{of}_{name}").text = text
