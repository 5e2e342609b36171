"""Question answering: a pretrained encoder finds the answer to a question in a context.

No set of English questions by people is available here, so the questions are made by a rule
(examples/data/cloze_questions.py): a number or name in a sentence of a State of the Union address
is replaced by "what", and the words around it are the question; every fourth question has a context
without its answer. So the results show how well a model finds such gaps, which is easier than
questions by people. The model is trained on addresses before 2000 and evaluated on those since. The
baseline answers with the sentence that shares most words with the question.

The model is all-MiniLM-L6-v2 (`make minilm` installs it): small enough to be fine-tuned on two
cores in minutes. For questions by people, give SQuAD's files, or JSON lines or CSV with question,
context, answer and answer_start, with --train and --test.

Usage: python examples/07_question_answering.py [--quick] [--train FILE --test FILE] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from tfllm.cli import quiet_start, table

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
BASELINE = "sentence with most words in common"
FIRST_TESTED = 2000
CONTEXT = (
    "The museum opened in 1891 with a gift of $40,000 from Clara Jensen. Fire closed it in 1923, "
    "and the city paid 2 million crowns for the new building."
)
ASK = ("the museum opened in what?", "a gift of what from Clara Jensen?", "the king visited what?")


def write_questions(folder: Path, quick: bool) -> tuple[Path, Path]:
    """Write questions from the addresses before 2000, and from those since."""
    from data.cloze_questions import questions

    source = HERE / "data" / "state_of_the_union.jsonl.gz"
    with gzip.open(source, "rt", encoding="utf-8") as file:
        addresses = [json.loads(line) for line in file]
    paths = []
    for name, most in (("train", 200), ("test", 100)):
        is_test = name == "test"
        texts = [a["text"] for a in addresses if (int(a["year"]) >= FIRST_TESTED) == is_test]
        records = questions(texts, seed=0)
        paths.append(folder / f"{name}.jsonl")
        lines = (json.dumps(r) + "\n" for r in (records[:most] if quick else records))
        paths[-1].write_text("".join(lines), encoding="utf-8")
    return paths[0], paths[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a minute: few texts, a tiny model")
    parser.add_argument("--train", type=Path, help="other questions to train on")
    parser.add_argument("--test", type=Path, help="other questions to evaluate on")
    parser.add_argument("--out", type=Path, default=Path("runs/question_answering"))
    options = parser.parse_args()
    with quiet_start():
        from baselines.overlapping_sentence import overlapping_sentences
        from pretrained import minilm

        from tfllm.data.reading.table_records import read_table
        from tfllm.evaluation.metric_values import metric_values
        from tfllm.tasks import evaluate, load, task_named
        from tfllm.training import train

    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    learned, test = options.train, options.test
    if learned is None or test is None:
        learned, test = write_questions(options.out, options.quick)
        print("the questions are gaps in sentences, made by a rule rather than by people")
    definition = task_named("question_answering")
    seen, unseen = (read_table(path, definition.columns).records for path in (learned, test))
    print(f"{len(seen):,} questions to train on, {len(unseen):,} to evaluate on")

    found: dict[str, Any] = {
        BASELINE: metric_values(definition.metrics(unseen, overlapping_sentences(unseen)))
    }

    name = "bert-tiny from scratch" if options.quick else "MiniLM, fine-tuned"
    start = time.perf_counter()
    run = train(
        learned,
        options.out / "run",
        model={"size": "bert-tiny"} if options.quick else minilm(),
        task="question_answering",
        epochs=2 if options.quick else 1,
        sequence_length=192,
        batch_size=16,
        learning_rate=1e-3 if options.quick else 2e-4,
        validate_every=1000,
        verbose=False,
    )
    seconds = time.perf_counter() - start
    print(f"{name}: {run.step} updates in {seconds:.0f} s, {run.tokens_per_second:,.0f} tokens/s")
    result = evaluate(
        run.folder, test, task="question_answering", out=options.out / "predictions.jsonl"
    )
    found[name] = result.metrics
    print(f"answered {result.num_records / result.seconds:,.0f} questions/s\n")

    for system, metrics in found.items():
        print(f"{system}\n{table({m.name: m.format() for m in metrics})}")
    task = load(run.folder)
    print(f"\n{CONTEXT}")
    for question in ASK:
        answer = task.ask(question, CONTEXT)
        print(f"  {question} {answer['answer'] or '(no answer)'} ({answer['score']:.0%})")
    print(
        f"\nserve it:  tfllm export {run.folder} saved_models/answers && tfllm serve saved_models"
    )


if __name__ == "__main__":
    main()
