"""A knowledge graph: the entities in texts, their relations, and the sentences as evidence."""

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
"""name of the relation between two names that frequently occur in the same sentence"""

_MOST_STATED = 4
"""maximum number of stated relations of one name that are drawn, for readability"""
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Sentence:
    """A sentence of a document."""

    document: int
    """index of the document, from 0"""
    begin: int
    """position of its first character in the document"""
    text: str


@dataclass(frozen=True)
class Entity:
    """A named person or thing, or a class."""

    name: str
    """its usual form"""
    kind: str
    """the tagger's label; or "name", or "class" for what only patterns mention ("countries")"""
    count: int
    """number of mentions"""
    variants: tuple[str, ...] = ()
    """other forms of the same name, most frequent first"""


@dataclass(frozen=True)
class Relation:
    """A relation between two entities, with its evidence."""

    source: str
    name: str
    """`NEAR`, "is a", or the verb as written"""
    target: str
    count: int
    """number of sentences that support it"""
    evidence: tuple[Sentence, ...]
    """some of these sentences"""
    log_likelihood: float | None = None
    """for `NEAR`: Dunning's ratio (1993); 10.83 occurs by chance in one of a thousand pairs"""
    mutual_information: float | None = None
    """for `NEAR`: pointwise mutual information in bits"""


@dataclass(frozen=True)
class KnowledgeGraph:
    """Entities, most frequent first, and relations between their names, best supported first."""

    entities: tuple[Entity, ...] = ()
    relations: tuple[Relation, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """The whole graph as a dictionary that JSON can hold."""
        return dataclasses.asdict(self)

    def save(self, path: str | Path) -> Path:
        """Write the graph: as GraphML if the name ends in .graphml, as JSON if it ends in .json.

        Returns:
            Path of the file.

        Raises:
            ValueError: the name has another ending.
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
        """The graph in GraphML, which Gephi, yEd, Cytoscape and networkx can read.

        It is directed, with an edge for each of several relations between two nodes. `evidence`
        contains the sentences, one per line. Control characters, which XML does not allow, are left
        out.
        """
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
        """Draw the best supported relations.

        At most a quarter of them are relations that are stated in words; the others are `NEAR`.
        Pairs of names that are not connected to any other name are left out.

        Args:
            most_relations: maximum number of relations. Defaults to 60.
            title: title of the figure.
            seed: random seed of the layout. Defaults to 0.

        Raises:
            ValueError: the graph has no relation.
        """
        near = [r for r in self.relations if r.name == NEAR]
        near = near[: most_relations - most_relations // 4 * bool(near)]
        known = {end for r in near for end in (r.source, r.target)}
        facts = [r for r in self.relations if r.name != NEAR and (r.source in known or not near)]
        facts.sort(key=lambda r: r.target not in known)  # first those between two known names
        so_far: Counter[str] = Counter()
        facts = [r for r in facts if so_far.update([r.source]) or so_far[r.source] <= _MOST_STATED]
        chosen = _connected([*near, *facts[: most_relations - len(near)]])
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
    """Check that the name of a file has a supported ending.

    Raises:
        ValueError: it ends neither in .graphml nor in .json.
    """
    if path.suffix not in (".graphml", ".json"):
        raise ValueError(
            f"the file must end in .graphml or .json, which determines its format; received {path}"
        )


def from_parts(entities: Iterable[Entity], relations: Iterable[Relation]) -> KnowledgeGraph:
    """Create a graph with sorted relations: stated ones before `NEAR`, best supported first."""
    return KnowledgeGraph(
        tuple(sorted(entities, key=lambda e: (-e.count, e.name))),
        tuple(sorted(relations, key=_order)),
    )


def _connected(relations: Sequence[Relation]) -> list[Relation]:
    """The relations in connected components of more than two names, or all if there are none."""
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
