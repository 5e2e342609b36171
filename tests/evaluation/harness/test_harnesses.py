"""Each harness with a model whose answers are known, and with a real tiny model."""

import itertools
import json
import math

import numpy as np
import pytest

from tests.rounding import about, additions_of, assert_rounded, in_double
from tfllm.config import ModelConfig
from tfllm.evaluation.harness.exact_match import exact_match, extraction
from tfllm.evaluation.harness.harness import HarnessResult, in_batches
from tfllm.evaluation.harness.humaneval import (
    function_of_reply,
    humaneval,
    pass_at,
    program_of,
)
from tfllm.evaluation.harness.multiple_choice import multiple_choice
from tfllm.evaluation.metrics import mean


class Known:
    """Says what it was told to say, and remembers what it was asked."""

    def __init__(self, answers=(), likes=()):
        self.answers, self.likes, self.asked = dict(answers), dict(likes), []

    def generate(self, prompts, **options):
        self.asked.append((list(prompts), options))
        return [next(a for k, a in self.answers.items() if k in p) for p in prompts]

    def score(self, texts):
        """A token a character, the last of which has the whole log-probability."""
        self.asked.append(list(texts))
        return [
            {
                "log_prob": self.likes.get(text, 0.0),
                "num_tokens": len(text),
                "token_log_probs": [0.0] * (len(text) - 1) + [self.likes.get(text, 0.0)],
            }
            for text in texts
        ]


class KnownChat(Known):
    def reply(self, conversations, **options):
        self.conversations = conversations
        return self.generate([messages[-1]["content"] for messages in conversations], **options)


@pytest.fixture(scope="module")
def task():
    """A tiny model of bytes, which was taught nothing."""
    from tfllm.models.causal_lm import CausalLM
    from tfllm.tasks import TextGeneration
    from tfllm.tokenizers import BytePairTokenizer

    tokenizer = BytePairTokenizer.train(["a b c d " * 20], 270)
    config = ModelConfig(tokenizer.vocab_size, 16, 1, 2, max_sequence_length=256)
    return TextGeneration(CausalLM(config, seed=1), tokenizer)


# ------------------------------------------------------------------ choices


def test_the_likeliest_choice_is_chosen_raw_and_a_byte():
    likes = {
        "Go by": -4.0, "Go far away now": -6.0,  # in 2 and 12 characters
        "x yes": -2.0, "x no": -2.5, "x ñññ": -2.6,  # 3, 2 and 3 characters; 3, 2 and 6 bytes
    }  # fmt: skip
    model = Known(likes=likes)
    result = multiple_choice(
        model,
        [
            {"context": "Go", "choices": ["by", "far away now"], "answer": "1"},
            {
                "context": "x",
                "choices": {"text": ["yes", "no", "ñññ"], "label": ["A", "B", "C"]},
                "answer": "A",
            },
        ],
    )
    values = {metric.name: metric.value for metric in result.metrics}
    assert values == {"acc_norm": 1.0, "acc": 0.5, "acc_bytes": 0.5}
    assert result.predictions[0]["log_probs"] == [-4.0, -6.0]
    assert [p["chosen"] for p in result.predictions] == [0, 0]


def test_it_is_the_sum_over_the_choice_of_the_model_itself(task):
    record = {"context": "a b", "choices": ["c d", "d", "b b b"], "answer": "2"}
    result = multiple_choice(task, [record], batch_size=2)
    for choice, log_prob in zip(record["choices"], result.predictions[0]["log_probs"], strict=True):
        ids = task.tokenizer.encode(f"a b {choice}")
        context = task.tokenizer.encode("a b")
        assert ids[: len(context)] == context
        logits = task.model(np.array([ids[:-1]])).numpy()[0]
        log_probs = logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
        expected = sum(log_probs[i - 1, ids[i]] for i in range(len(context), len(ids)))
        assert log_prob == about(
            expected, additions_of(task.model.config, len(ids)) + task.tokenizer.vocab_size
        )


@pytest.mark.parametrize("context", ["", " \n"])
def test_an_empty_context_is_the_prefix_token(task, tmp_path, context):
    """The end token, where the tokenizer has no begin token; white space is the continuation's."""
    record = {"context": context, "choices": ["c d", "d", "b b b"], "answer": 1}
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    (found,) = multiple_choice(task, tmp_path / "a.jsonl", batch_size=2).predictions
    for choice, log_prob in zip(record["choices"], found["log_probs"], strict=True):
        ids = [task.tokenizer.end_token_id, *task.tokenizer.encode(f"{context} {choice}")]
        logits = task.model(np.array([ids[:-1]])).numpy()[0].astype(np.float64)
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = log_probs[range(len(ids) - 1), ids[1:]].sum()
        assert log_prob == about(
            expected, additions_of(task.model.config, len(ids)) + task.tokenizer.vocab_size
        )


def test_hellaswag_and_arc_files(tmp_path):
    likes = {"Golf: He runs": -1.0, "Golf: He swims": -2.0}
    (tmp_path / "a.jsonl").write_text(
        json.dumps(
            {"ind": 4, "activity_label": "Golf", "ctx": "He", "endings": ["runs", "swims"],
             "label": 1}
        )
    )  # fmt: skip
    result = multiple_choice(Known(likes=likes), tmp_path / "a.jsonl")
    assert [m.value for m in result.metrics] == [0, 0, 0]
    (tmp_path / "wiki.jsonl").write_text(
        json.dumps(
            {"activity_label": "Cooking", "ctx": "[header] How [title] Boil. water",
             "ctx_a": "[header] How [title] Boil.", "ctx_b": "water", "label": "0",
             "endings": ["Heat it [step] now.", "Wait."]}
        )
    )  # fmt: skip
    model = Known(likes={})
    (answer,) = multiple_choice(model, tmp_path / "wiki.jsonl").predictions
    assert answer["choices"] == ["Heat it [step] now.", "Wait."]
    assert "Cooking: How. Boil. Water Heat it now." in model.asked[0]
    likes = {"Q: Why?\nA: so": -1, "Q: Why?\nA: no": -2}
    (tmp_path / "b.jsonl").write_text(
        json.dumps(
            {"question": "Why?", "choices": {"text": ["so", "no"], "label": ["1", "2"]},
             "answerKey": "1"}
        )
    )  # fmt: skip
    template = "Q: {context}\nA:"
    result = multiple_choice(Known(likes=likes), tmp_path / "b.jsonl", template=template)
    assert [m.value for m in result.metrics] == [1, 1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": ["one"]}, r"record 1: choices must be a list of at least two texts"),
        ({"choices": "one"}, "list of at least two"),
        ({"answer": "2"}, r"index of the correct choice, 0 to 1.*received '2'"),
        ({"answer": "C"}, "received 'C'"),
    ],
)
def test_a_choice_that_is_none(change, message):
    record = {"context": "a", "choices": ["b", "c"], "answer": "0", **change}
    with pytest.raises(ValueError, match=message):
        multiple_choice(Known(), [record])


def test_a_context_that_is_too_long_loses_its_beginning_and_the_run_goes_on(task):
    records = [{"context": "a" * n, "choices": ["b", "c"], "answer": "0"} for n in (1, 900, 3)]
    result = multiple_choice(task, records, batch_size=2)
    assert len(result.predictions) == 3
    assert "1 of 3 records are longer than the model's context" in result.notes[0]
    alone = multiple_choice(task, [{**records[1], "context": "a" * 700}])
    given, expected = result.predictions[1]["log_probs"], alone.predictions[0]["log_probs"]
    assert_rounded(
        given, expected, additions_of(task.model.config, 256) + task.tokenizer.vocab_size
    )
    with pytest.raises(ValueError, match=r"at most as many tokens as the model's context \(256\)"):
        multiple_choice(task, [{"context": "a", "choices": ["b", "c" * 400], "answer": "0"}])
    with pytest.raises(ValueError, match="a continuation must not be empty; that of pair 2"):
        multiple_choice(task, [{"context": "a", "choices": ["b", ""], "answer": 0}], delimiter="")


# ------------------------------------------------------------------ answers


@pytest.mark.parametrize(
    ("rule", "text", "found"),
    [
        ("number", "so 3 + 4 = 7 apples", 7.0),
        ("number", "3 + 4 = 7\n#### $1,234.50\nAnd 5 more", 1234.5),
        ("number", "-5%", -5.0),
        ("number", "none at all", None),
        ("line", "\n The Answer!\nmore", "answer"),
        ("line", " \n", None),
        (r"regex:\((\w)\)", "is it (A) or (B)?", "B"),
        ("regex:yes|no", "no, yes", "yes"),
        ("regex:yes", "no", None),
    ],
)
def test_rules(rule, text, found):
    assert extraction(rule)(text) == found


@pytest.mark.parametrize("rule", ["words", "regex:(", "regex"])
def test_a_rule_that_is_none(rule):
    with pytest.raises(ValueError, match="extract must be"):
        extraction(rule)


RECORDS = [
    {"question": "1 + 1?", "answer": "It is\n#### 2"},
    {"question": "2 + 2?", "answer": "#### 4"},
    {"question": "9 + 9?", "answer": "18"},
]


def test_answers_are_cut_out_and_compared():
    model = Known({"1 + 1": "I think 2.", "2 + 2": "5", "9 + 9": "9 + 9 = 18.0"})
    result = exact_match(model, RECORDS, batch_size=2)
    assert result.metrics[0].value == in_double(2 / 3)
    assert [p["extracted"] for p in result.predictions] == [2.0, 5.0, 18.0]
    assert [p["right"] for p in result.predictions] == [True, False, True]
    _, options = model.asked[0]
    assert options == {"temperature": 0.0, "max_new_tokens": 256, "stop": ["\nQuestion:", "\n\n\n"]}


def test_shots_stand_before_and_are_not_measured():
    model = Known({"9 + 9?\nAnswer:": "18", "2 + 2?\nAnswer:": "3"})
    result = exact_match(model, RECORDS, num_shots=1, limit=1)
    assert result.metrics[0].num_examples == 1
    assert model.asked[0][0] == [
        "Question: 1 + 1?\nAnswer: It is\n#### 2\n\nQuestion: 2 + 2?\nAnswer:"
    ]
    with pytest.raises(ValueError, match="more records than num_shots; received 3"):
        exact_match(model, RECORDS, num_shots=3)


def test_shots_of_a_chat_are_turns():
    model = KnownChat({"9 + 9": "18", "2 + 2": "4"})
    result = exact_match(model, RECORDS, num_shots=1, chat=True, template="{question}")
    assert result.metrics[0].value == 1
    roles = [[m["role"] for m in conversation] for conversation in model.conversations]
    assert roles == [["user", "assistant", "user"]] * 2
    with pytest.raises(ValueError, match="chat needs a model with a chat template"):
        exact_match(Known(), RECORDS, chat=True)


def test_an_answer_that_does_not_fit_the_rule(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"question": "Who?", "answer": "She"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl.*must fit the rule 'number'; received 'She'"):
        exact_match(Known(), file)
    assert exact_match(Known({"Who": "she.\nYes"}), file, extract="line").metrics[0].value == 1


def test_a_tiny_model_answers(task):
    result = exact_match(task, RECORDS, max_new_tokens=5)
    texts = task.generate(
        [f"Question: {r['question']}\nAnswer:" for r in RECORDS], max_new_tokens=5, temperature=0.0
    )
    assert [p["text"] for p in result.predictions] == texts


# ------------------------------------------------------------------ programs

PROBLEM = {
    "task_id": "test/0",
    "prompt": 'import math\n\ndef area(r):\n    """Of a circle."""\n',
    "entry_point": "area",
    "canonical_solution": "    return math.pi * r * r\n",
    "test": "def check(candidate):\n    assert abs(candidate(2) - 12.566) < 0.001\n",
}
OTHER = {
    "task_id": "test/1",
    "prompt": 'def twice(x):\n    """2x"""\n',
    "entry_point": "twice",
    "canonical_solution": "    return x + x\n",
    "test": "def check(candidate):\n    assert candidate(3) == 6\n",
}


@pytest.mark.parametrize(("n", "c", "k"), [(5, 2, 1), (5, 2, 3), (4, 0, 2), (4, 4, 2), (6, 5, 3)])
def test_pass_at_k_is_the_share_of_choices_with_a_right_one(n, c, k):
    every = list(itertools.combinations(range(n), k))
    expected = np.mean([any(i < c for i in chosen) for chosen in every])
    assert pass_at(k, [c], [n]).value == in_double(expected)
    assert pass_at(k, [c], [n]).value == in_double(1 - math.comb(n - c, k) / math.comb(n, k))


def test_functions_are_run_against_their_tests():
    answers = {"area": "\n    return math.pi * r * r", "twice": "\n    return x"}
    model = Known(answers)
    result = humaneval(model, [PROBLEM, OTHER], allow_code_execution=True)
    assert result.metrics[0].name == "pass@1"
    assert result.metrics[0].value == 0.5
    assert [(p["task_id"], p["passed"]) for p in result.predictions] == [
        ("test/0", True),
        ("test/1", False),
    ]
    assert result.predictions[1]["reason"].startswith("AssertionError")
    assert all(not prompt.endswith("\n") for prompt in model.asked[0][0])


def test_a_reply_with_a_code_block_is_run():
    answers = {
        "area": "Sure:\n```python\ndef area(r):\n    return math.pi * r ** 2\n```\nDone.",
        "twice": "```\ndef twice(x):\n    return 2 * x",
    }
    result = humaneval(KnownChat(answers), [PROBLEM, OTHER], allow_code_execution=True, chat=True)
    assert [p["reason"] for p in result.predictions] == ["", ""]
    assert function_of_reply("def f(): pass") == "def f(): pass"


def test_samples_have_seeds_of_their_own_and_are_estimated_together():
    class Seeded(Known):
        def generate(self, prompts, **options):
            self.asked.append(options)
            return ["\n    return 2 * x" if options["seed"] == 8 else "\n    return x"] * len(
                prompts
            )

    result = humaneval(
        Seeded(), [OTHER], allow_code_execution=True, num_samples=3, ks=(1, 2), temperature=0.8,
        seed=7,
    )  # fmt: skip
    assert [m.value for m in result.metrics] == in_double([1 / 3, 2 / 3])
    assert [p["passed"] for p in result.predictions] == [False, True, False]


def test_nothing_is_generated_where_code_may_not_run():
    model = Known()
    with pytest.raises(PermissionError, match="allow_code_execution=True"):
        humaneval(model, [PROBLEM], allow_code_execution=False)
    with pytest.raises(ValueError, match=r"ks must be from 1 to num_samples \(1\)"):
        humaneval(model, [PROBLEM], allow_code_execution=True, ks=(1, 10))
    with pytest.raises(ValueError, match="without a temperature, all num_samples"):
        humaneval(model, [PROBLEM], allow_code_execution=True, num_samples=2)
    assert model.asked == []


def test_canonical_solutions_pass_and_others_fail():
    from tfllm.evaluation.harness.code_execution import run_programs

    programs = [program_of(p, "\n" + p["canonical_solution"]) for p in (PROBLEM, OTHER)]
    programs += [program_of(OTHER, "\n    return None"), program_of(OTHER, "")]
    passed = [o.passed for o in run_programs(programs, allow_code_execution=True)]
    assert passed == [True, True, False, False]


def test_a_tiny_model_writes_programs(task):
    result = humaneval(task, [OTHER], allow_code_execution=True, max_new_tokens=4)
    assert result.metrics[0].value == 0


# ------------------------------------------------------------------ what they share


def test_results_are_told_and_written(tmp_path):
    result = HarnessResult("x", [mean("hits", [1, 0, 1, 1], note="by hand")], [{"a": "é"}])
    (hits,) = result.metric_values()
    assert (hits.value, hits.note) == (0.75, "by hand")
    assert hits.low < hits.value <= hits.high
    assert result.save(tmp_path / "out" / "p.jsonl").read_text(encoding="utf-8") == '{"a": "é"}\n'
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_batches_give_answers_in_order():
    seen = []

    def answer(some):
        seen.append(some)
        return [text.upper() for text in some]

    assert in_batches(["a", "ccc", "bb"], answer, 2) == ["A", "CCC", "BB"]
    assert seen == [["ccc", "bb"], ["a"]]
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        in_batches(["a"], answer, 0)


def test_bad_records_are_told(tmp_path):
    with pytest.raises(ValueError, match=r"record 2 must have \['answer'\]"):
        exact_match(Known(), [RECORDS[0], {"question": "?"}])
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(ValueError, match=r"no column 'question'.*its columns are 'text'"):
        exact_match(Known(), tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match="limit must be at least 0"):
        multiple_choice(Known(), tmp_path / "a.jsonl", limit=-1)
