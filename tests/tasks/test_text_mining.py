"""From documents to a knowledge graph: each rule on example sentences, with counts by hand."""

import json
import math
import xml.etree.ElementTree as ET

import pytest

from tests.rounding import in_double
from tfllm.text_mining.knowledge_graph import NEAR, KnowledgeGraph
from tfllm.text_mining.name_finding import NameFinder, sentences
from tfllm.text_mining.relation_patterns import stated
from tfllm.text_mining.text_mining import log_likelihood_ratio, mine

ELSEWHERE = "We saw Congress and Brazil. The members met. A state is not the State of Ohio. Go on."


def split(document):
    return [s.text for s in sentences(document)]


def names(text, seen=ELSEWHERE):
    finder = NameFinder([*sentences(seen), *sentences(text)])
    return [name.text for name in finder.names(text)]


def relations(text):
    finder = NameFinder(sentences(ELSEWHERE))
    found = finder.names(text)
    ends = [
        [e if isinstance(e, str) else found[e].text for e in (s, t)]
        for s, _, t in stated(text, found)
    ]
    return {(s, r, t) for (s, t), (_, r, _) in zip(ends, stated(text, found), strict=True)}


# ---------------------------------------------------------------------- sentences and names


def test_sentences_end_where_they_end():
    text = 'Mr. Hull met J. P. Morgan. "Is it so?" It is! The U.S. Army left.\n\nA heading\n\nEnd'
    assert split(text) == [
        "Mr. Hull met J. P. Morgan.",
        '"Is it so?"',
        "It is!",
        "The U.S. Army left.",
        "A heading",
        "End",
    ]


def test_a_sentence_stands_where_it_says():
    document = "  First one. Second one, naïve 你好.\n\n  Third."
    for s in sentences(document, 4):
        assert document[s.begin : s.begin + len(s.text)] == s.text
        assert s.document == 4


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("We met the Prime Minister of France in Paris.", ["Prime Minister of France", "Paris"]),
        ("Here the President of the United States spoke.", ["President of the United States"]),
        ("There President Wilson and Senator Lodge met.", ["Wilson", "Lodge"]),
        ("I saw Brazil's envoy, Franklin D. Roosevelt.", ["Brazil", "Franklin D. Roosevelt"]),
        ("Congress met in March on a Monday.", ["Congress"]),
        ("Members of the house left; I'm here.", []),
        ("", []),
    ],
)
def test_names_are_runs_of_capitals(text, wanted):
    assert names(text) == wanted


def test_the_first_word_is_a_name_only_if_it_is_one_elsewhere():
    assert names("Brazil is far.") == ["Brazil"]
    assert names("Coffee is dear.") == []
    assert names("Coffee is dear.", "He likes Coffee.") == ["Coffee"]


# ---------------------------------------------------------------------- patterns


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            "We trade with countries such as Brazil, the Argentine Republic and Chile.",
            {(x, "is a", "countries") for x in ("Brazil", "Argentine Republic", "Chile")},
        ),
        ("In Peru, Chile and other small countries it rained.",
         {("Peru", "is a", "small countries"), ("Chile", "is a", "small countries")}),
        ("Now Brazil is a great country.", {("Brazil", "is a", "great country")}),
        ("We met Anna White, a teacher, there.", {("Anna White", "is a", "teacher")}),
        ("Then Congress has rejected the Treaty of Lima.",
         {("Congress", "has rejected", "Treaty of Lima")}),
        ("Later Hull went to Moscow.", {("Hull", "went to", "Moscow")}),
        ("Then Peru defeated Chile, and Chile invaded Bolivia.",
         {("Peru", "defeated", "Chile"), ("Chile", "invaded", "Bolivia")}),
        # What is not stated:
        ("Then Peru has not attacked Chile.", set()),
        ("The state of the Union is a measurement.", set()),
        ("They said Peru negotiated with the Soviet leaders.", set()),
        ("We saw Chile's leaders, and Peru's envoy joined Bolivia.", set()),
        ("We saw the Senate, the corps, the Court.", set()),
        ("We know America is the world's hope.", set()),
        ("The people of Peru need Chile.", set()),
    ],
)  # fmt: skip
def test_what_is_stated(text, wanted):
    assert relations(text) == wanted


# ---------------------------------------------------------------------- the graph


DOCUMENTS = [
    "We saw Ann Lee and Bob Ray. Today Ann Lee met Bob Ray. It rained on us. Then Ann Lee left.",
    "The Global Trade Union (GTU) met. We like the GTU. President Truman spoke. We heard Harry "
    "Truman. Then President Truman went to Lima. Nothing else was said. It was late. We slept.",
]


def by_name(graph: KnowledgeGraph):
    return {entity.name: entity for entity in graph.entities}


def test_mentions_relations_and_evidence_are_counted():
    graph = mine(DOCUMENTS, min_count=2, min_together=2, min_log_likelihood=0)
    entities = by_name(graph)
    assert entities["Ann Lee"].count == 3
    assert entities["Bob Ray"].count == 2
    found = {(r.source, r.name, r.target): r for r in graph.relations}
    assert set(found) == {
        ("Ann Lee", NEAR, "Bob Ray"),
        ("Ann Lee", "met", "Bob Ray"),
        ("Harry Truman", "went to", "Lima"),
    }
    near = found["Ann Lee", NEAR, "Bob Ray"]
    total = len(split(DOCUMENTS[0])) + len(split(DOCUMENTS[1]))
    assert near.count == 2 and near.mutual_information == in_double(math.log2(2 * total / 6))
    assert near.log_likelihood == in_double(log_likelihood_ratio(2, 3, 2, total))
    assert [s.text for s in near.evidence] == split(DOCUMENTS[0])[:2]
    for relation in graph.relations:
        for s in relation.evidence:
            assert DOCUMENTS[s.document][s.begin : s.begin + len(s.text)] == s.text
    assert [r.name for r in graph.relations][-1] == NEAR


def test_forms_of_one_name_are_merged():
    entities = by_name(mine(DOCUMENTS, min_count=2))
    assert entities["Global Trade Union"].variants == ("GTU",)
    assert entities["Harry Truman"].count == 3
    assert entities["Harry Truman"].variants == ("Truman",)


def test_a_last_name_of_two_people_or_of_a_place_is_not_merged():
    two = "We saw Bess Truman and Harry Truman. Then President Truman spoke. We left Truman."
    assert {"Bess Truman", "Harry Truman", "Truman"} <= set(by_name(mine([two], min_count=1)))
    place = "We saw George Washington. President Washington met us. " + "I like Washington. " * 3
    assert by_name(mine([place], min_count=1))["Washington"].count == 4


def test_pairs_below_the_thresholds_are_left_out():
    def near(**options):
        graph = mine(DOCUMENTS, min_count=2, min_together=2, **options)
        return [r for r in graph.relations if r.name == NEAR]

    ratio = near(min_log_likelihood=0)[0].log_likelihood
    assert near(min_log_likelihood=ratio - 0.01) and not near(min_log_likelihood=ratio + 0.01)


def test_the_ratio_is_dunnings():
    # Of independent events it is 0; else as scipy.stats.chi2_contingency(lambda_="log-likelihood",
    # correction=False) has it for [[10, 20], [30, 40]] and [[3, 0], [0, 97]].
    assert log_likelihood_ratio(2, 20, 10, 100) == in_double(0)
    # As many digits as are written here.
    assert log_likelihood_ratio(10, 30, 40, 100) == pytest.approx(0.8043486, abs=5e-8)
    assert log_likelihood_ratio(3, 3, 3, 100) == pytest.approx(26.9484336, abs=5e-8)


class Words:
    """A tagger that knows two words."""

    def tag(self, texts):
        return [
            [
                {"begin": text.find(word), "end": text.find(word) + len(word), "label": label}
                for word, label in (("water", "thing"), ("ann", "person"))
                if word in text
            ]
            for text in texts
        ]


def test_a_tagger_decides_what_an_entity_is():
    graph = mine(["Here ann drank water. So it was. Nothing."], tagger=Words(), min_count=1,
                 min_together=1, min_log_likelihood=0)  # fmt: skip
    assert {(e.name, e.kind, e.count) for e in graph.entities} == {
        ("ann", "person", 1),
        ("water", "thing", 1),
    }
    assert [(r.source, r.name, r.target) for r in graph.relations] == [("ann", NEAR, "water")]


def test_nothing_gives_nothing_and_bad_settings_are_refused():
    assert mine([]) == mine(["", "  \n"]) == KnowledgeGraph()
    with pytest.raises(ValueError, match="min_count must be at least 1; received 0"):
        mine([], min_count=0)
    with pytest.raises(ValueError, match="min_log_likelihood"):
        mine([], min_log_likelihood=float("nan"))
    with pytest.raises(ValueError, match="document 2 is of the type bytes"):
        mine(["a", b"b"])


# ---------------------------------------------------------------------- files and pictures


def test_json_and_graphml_hold_all_of_it(tmp_path):
    graph = mine([DOCUMENTS[0] + " We saw \x07Eve & <Co>.", DOCUMENTS[1]], min_count=1)
    kept = json.loads(graph.save(tmp_path / "graph.json").read_text(encoding="utf-8"))
    assert kept == json.loads(json.dumps(graph.to_json()))
    root = ET.parse(graph.save(tmp_path / "graph.graphml")).getroot()
    space = {"g": "http://graphml.graphdrawing.org/xmlns"}
    assert len(root.findall(".//g:node", space)) == len(graph.entities)
    assert len(root.findall(".//g:edge", space)) == len(graph.relations)
    assert not list(tmp_path.glob("*.part"))
    with pytest.raises(ValueError, match=r"must end in \.graphml or \.json"):
        graph.save(tmp_path / "graph.txt")


def test_the_command_reads_files_and_writes_the_graph(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    from tfllm.cli import main

    for i, text in enumerate(DOCUMENTS):
        (tmp_path / f"{i}.txt").write_text(text)
    out, picture = tmp_path / "graph.json", tmp_path / "graph.png"
    command = ["mine", str(tmp_path), "--out", str(out), "--picture", str(picture)]
    assert main([*command, "--min-count", "2", "--min-log-likelihood", "0"]) == 0
    assert json.loads(out.read_text()) == json.loads(
        json.dumps(mine(DOCUMENTS, min_count=2, min_log_likelihood=0).to_json())
    )
    assert "relations in 2 documents" in capsys.readouterr().out
    assert picture.stat().st_size > 1000
    assert main(["mine", str(tmp_path), "--out", "graph.txt"]) == 1
    assert "must end in .graphml or .json" in capsys.readouterr().err


def test_networkx_reads_the_graphml(tmp_path):
    networkx = pytest.importorskip("networkx")
    graph = mine(DOCUMENTS, min_count=2, min_together=2, min_log_likelihood=0)
    read = networkx.read_graphml(graph.save(tmp_path / "graph.graphml"), force_multigraph=True)
    assert set(read.nodes) == set(by_name(graph))
    assert read.nodes["Ann Lee"] == {"kind": "name", "count": 3}
    edges = {(s, data["name"], t): data for s, t, data in read.edges(data=True)}
    assert set(edges) == {(r.source, r.name, r.target) for r in graph.relations}
    assert edges["Ann Lee", "met", "Bob Ray"]["evidence"] == "Today Ann Lee met Bob Ray."


def test_the_picture_has_names_that_are_linked():
    pytest.importorskip("matplotlib")
    text = (
        "Today Ann met Bob. Then Bob met Cid. Here Ann saw Bob, Cid. Then Dan met Eve. Ann Bob Cid."
    )
    figure = mine([text] * 3, min_count=1, min_together=1, min_log_likelihood=0).figure()
    shown = {t.get_text() for t in figure.axes[0].texts}
    assert {"Bob", "Cid", "met"} <= shown
    assert not {"Dan", "Eve"} & shown
    with pytest.raises(ValueError, match="must be a relation to draw"):
        KnowledgeGraph().figure()
