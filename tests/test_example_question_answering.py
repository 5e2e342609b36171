"""examples/07_question_answering.py: gaps in addresses, compared with a baseline."""

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples.baselines.overlapping_sentence import overlapping_sentences
from examples.data.cloze_questions import passages, questions
from tfllm.tasks import task_named

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_questions_are_made_by_the_rule():
    with gzip.open(EXAMPLES / "data" / "state_of_the_union.jsonl.gz", "rt") as file:
        text = json.loads(next(file))["text"]
    made = questions([text], seed=0)
    assert made == questions([text], seed=0)
    assert len(made) > 50
    whole = {" ".join(sentences) for sentences in passages(text)}
    for record in made:
        context, answer = record["context"], record["answer"]
        assert context in whole
        assert "what" in record["question"].split("?")[0].split()
        if answer:
            assert context.count(answer) == 1
            assert context[record["answer_start"] :].startswith(answer)
    unanswered = sum(not record["answer"] for record in made)
    assert unanswered == -(-len(made) // 4)


def test_the_baseline_takes_the_sentence_with_most_words_in_common_and_is_measured():
    record = {"question": "when did the road open?", "context": "It rained. The road did open. So."}
    answers = overlapping_sentences([record])
    assert answers == [{"answer": "The road did open."}]
    task = task_named("question_answering")
    f1, exact = task.metrics([{**record, "answer": "The road did open"}], answers)
    assert (f1.value, exact.value) == (100, 100)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_example_learns_and_measures(tmp_path):
    command = [sys.executable, str(EXAMPLES / "07_question_answering.py"), "--quick"]
    command += ["--out", str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "made by a rule" in result.stdout
    rows = re.findall(r"^(\S.+)\n  F1 +([\d.]+) \[([\d.]+), ([\d.]+)\]", result.stdout, re.M)
    assert [r[0] for r in rows] == ["sentence with most words in common", "bert-tiny from scratch"]
    answers = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert len(answers) == 100
