"""Text mining: a knowledge graph of a century of State of the Union addresses.

It contains names, names that share sentences more often than by chance, and relations that
sentences state in the words of a pattern. Nothing is trained: no English tagger that was trained on
such text is available, so names are found by the rules of `tfllm.text_mining.name_finding`. The
graph is written as GraphML (Gephi, yEd, Cytoscape, networkx) and JSON, with the sentences of each
relation, and is drawn.

A random sample of the relations was judged by a person from their sentences
(data/state_of_the_union_checked.tsv), which gives the precision below.

Usage: python examples/12_text_mining.py [--quick] [--data FILE ...] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import sys
import time
from pathlib import Path

from tfllm.cli import quiet_start, table

HERE = Path(__file__).parent
TEXT = HERE / "data" / "state_of_the_union.jsonl.gz"
CHECKED = HERE / "data" / "state_of_the_union_checked.tsv"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the last 12 addresses")
    parser.add_argument("--data", nargs="+", help="other text files to mine instead")
    parser.add_argument("--out", default="runs/text_mining", help="folder of the graph")
    parser.add_argument("--pictures", default=str(HERE / "pictures"), help="folder of the picture")
    options = parser.parse_args()
    start = time.perf_counter()
    with quiet_start():
        from tfllm.charts import model_charts as charts
        from tfllm.evaluation.bootstrap import confidence_interval
        from tfllm.evaluation.metrics import mean
        from tfllm.text_mining.knowledge_graph import NEAR
        from tfllm.text_mining.text_mining import mine
    if options.data:
        documents = [Path(file).read_text(encoding="utf-8") for file in options.data]
    else:
        with gzip.open(TEXT, "rt", encoding="utf-8") as file:
            documents = [json.loads(line)["text"] for line in file]
    if options.quick:
        documents = documents[-12:]

    graph = mine(documents)
    stated = [r for r in graph.relations if r.name != NEAR]
    near = [r for r in graph.relations if r.name == NEAR]
    out = Path(options.out)
    files = [graph.save(out / f"graph.{kind}") for kind in ("graphml", "json")]
    figure = graph.figure(most_relations=100, title="State of the Union addresses, 1905 to 2021")
    picture = charts.save(figure, Path(options.pictures) / "knowledge_graph.png", dpi=80)

    print("Names that share sentences more often than by chance:")
    for r in near[:10]:
        print(
            f"  {r.source} ~ {r.target}: {r.count} sentences, log-likelihood ratio "
            f"{r.log_likelihood:.0f}, {r.mutual_information:.1f} bits of mutual information"
        )
    print("\nStated:")
    for r in stated[:8]:
        print(f"  {r.source} | {r.name} | {r.target}\n    {r.evidence[0].text[:140]}")

    rows = {
        "documents": f"{len(documents)}",
        "entities": f"{len(graph.entities):,}",
        "relations": f"{len(stated):,} stated, {len(near):,} by co-occurrence",
    }
    if not options.data and not options.quick:
        found = {(r.source, r.name, r.target) for r in graph.relations}
        with open(CHECKED, encoding="utf-8", newline="") as file:
            checked = [
                row for row in csv.DictReader(file, delimiter="\t")
                if (row["source"], row["relation"], row["target"]) in found
            ]  # fmt: skip
        for what, wanted in (("stated", False), ("by co-occurrence", True)):
            right = [r["right"] == "yes" for r in checked if (r["relation"] == NEAR) == wanted]
            value, low, high = confidence_interval(mean("precision", [100.0 * r for r in right]))
            rows[f"right of {len(right)} {what}"] = (
                f"{sum(right)}, {value:.0f} % ({low:.0f} to {high:.0f})"
            )
    rows |= {
        "written": ", ".join(str(path) for path in files),
        "picture": os.path.relpath(picture),
        "time": f"{time.perf_counter() - start:.0f} s",
    }
    print("\n" + table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
