"""Record what lm-evaluation-harness computes for two tiny models, for `test_lm_eval_values.py`.

The models are random ones written by tfllm, one whose tokenizer puts no begin token before a text
and one whose tokenizer does. To write their folders again, in tfllm's own environment:

    python -m tests.evaluation.harness.record_lm_eval folders

And to record, in an environment with `lm-eval==0.4.13`, `torch==2.13.0`, `transformers==4.57.*` and
`accelerate` (nothing is fetched from a hub):

    python tests/evaluation/harness/record_lm_eval.py record
"""

import json
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
FOLDERS = HERE / "lm_eval_models"
VALUES = HERE / "lm_eval_values.json"
CONTEXT = 48
MAX_GEN_TOKS = 12
UNTIL = ["\nQuestion:", "\n\n\n"]
PATTERN = r"([a-z])[a-z ]"
TRAINING_TEXT = (
    "the cat sat on the mat and the dog ran after it. 'where is the cat?' they asked. "
    "Question: what? Answer: that. naïve café, 你好, 12 34 "
)

LONG = "the dog ran after the cat and the cat ran after the dog, " * 4
PAIRS = [
    ["the cat sat", " on the mat"],
    ["the cat sat ", "on the mat"],
    ["the cat sat \n ", " on"],
    ["the cat s", "at on the mat"],
    ["", "the cat"],
    ["", " on the mat, naïve"],
    ["你好", "你好 café"],
    ["Question: what?\nAnswer:", " that"],
    [LONG, " and the mat"],
    ["a", " " + LONG[:60]],
    ["<|begin|>the", " cat"],
]
TEXTS = ["the cat sat on the mat.", "x", LONG, "naïve café, 你好\n\n the   mat", "the cat " * 24]
PROMPTS = ["the cat sat", "Question: what?\nAnswer:", LONG, "你好 ", "the dog ran after it. 12"]
CHOICES = [
    {"context": "the cat sat", "choices": ["on the mat", "on a hat, naïvely"], "answer": 0},
    {"context": "the dog", "choices": ["ran", "sat there", "asked where the cat is"], "answer": 2},
    {"context": "naïve ", "choices": ["你好", "café", "mat"], "answer": 1},
    {"context": "and the", "choices": ["dogs", "cat ran", "a"], "answer": 2},
    {"context": LONG, "choices": ["it", "the mat and the cat"], "answer": 1},
    {"context": "where is", "choices": ["the cat?", "it"], "answer": 0},
    {"context": "ran after", "choices": ["it", "the mat and the dog"], "answer": 0},
]
QUESTIONS = [
    "what?",
    "where is the cat?",
    "and the dog?",
    "naïve?",
    "12 34?",
    "who sat on the mat?",
]


def write_folders() -> None:
    """The two model folders."""
    from tokenizers import processors

    from tfllm.config import ModelConfig
    from tfllm.models.causal_lm import CausalLM
    from tfllm.pretrained import load, save
    from tfllm.tokenizers import BytePairTokenizer

    tokenizer = BytePairTokenizer.train([TRAINING_TEXT * 5], 300)
    config = ModelConfig(
        vocab_size=320,
        embedding_dim=16,
        num_layers=2,
        num_heads=2,
        max_sequence_length=CONTEXT,
        initializer_range=0.5,
        tied_embeddings=True,
    )
    for name, seed in (("without_begin_token", 3), ("with_begin_token", 4)):
        folder = save(CausalLM(config, seed=seed), FOLDERS / name, tokenizer)
        begin_token = {"bos_token": "<|begin|>"} if name == "with_begin_token" else {}
        for file in ("tokenizer_config.json", "special_tokens_map.json"):
            path = folder / file
            settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            settings.pop("bos_token", None)
            path.write_text(json.dumps({**settings, **begin_token}), encoding="utf-8")
        if not begin_token:
            continue
        path = folder / "tokenizer.json"
        values = json.loads(path.read_text(encoding="utf-8"))
        begin = {"id": tokenizer.vocab_size, "content": "<|begin|>", "special": True}
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        values["added_tokens"].append({**begin, **flags})
        template = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", begin["id"])]
        )
        values["post_processor"] = json.loads(template.__getstate__())
        path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
        path = folder / "config.json"
        settings = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**settings, "bos_token_id": begin["id"]}), encoding="utf-8")
        assert load(folder).tokenizer.encode("")[0] == begin["id"]


def record() -> None:
    """The values of lm-evaluation-harness."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    import lm_eval
    import transformers
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    def requests(kind: str, arguments: list[tuple]) -> list[Instance]:
        return [
            Instance(request_type=kind, doc={}, arguments=given, idx=i)
            for i, given in enumerate(arguments)
        ]

    values: dict = {
        "versions": {"lm_eval": lm_eval.__version__, "transformers": transformers.__version__}
    }
    for folder in sorted(FOLDERS.iterdir()):
        model = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1)
        settings = {"until": UNTIL, "max_gen_toks": MAX_GEN_TOKS, "do_sample": False}
        found = values[folder.name] = {
            # One by one: of two requests whose tokens are alike up to the last, a common call gives
            # the shorter continuation the log-probability of another place.
            "log_likelihoods": [
                model.loglikelihood(requests("loglikelihood", [tuple(pair)]))[0][0]
                for pair in PAIRS
            ],
            "rolling": model.loglikelihood_rolling(
                requests("loglikelihood_rolling", [(text,) for text in TEXTS])
            ),
            "generated": model.generate_until(
                requests("generate_until", [(prompt, dict(settings)) for prompt in PROMPTS])
            ),
        }
        found["questions"] = questions_of(model, requests, settings)
        found["tasks"] = of_tasks(model, found["questions"], settings)
    VALUES.write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def questions_of(model, requests, settings: dict) -> list[dict[str, str]]:
    """Questions whose answers are the model's own for every other one, as far as there are any."""
    import re

    shots = [{"question": question, "answer": "the mat"} for question in QUESTIONS[:2]]
    before = "".join(f"Question: {s['question']}\nAnswer: {s['answer']}\n\n" for s in shots)
    prompts = [(f"{before}Question: {q}\nAnswer:", dict(settings)) for q in QUESTIONS[2:]]
    texts = model.generate_until(requests("generate_until", prompts))
    records = list(shots)
    for number, (question, text) in enumerate(zip(QUESTIONS[2:], texts, strict=True)):
        matches = re.findall(PATTERN, text)
        answer = f"{matches[-1]} " if matches and number % 2 == 0 else "q "
        records.append({"question": question, "answer": answer})
    return records


def of_tasks(model, questions: list[dict[str, str]], settings: dict) -> dict[str, float]:
    """What three tasks on local files give, with standard errors."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as folder:

        def task(name: str, splits: dict[str, list[dict]], config: dict) -> dict:
            files = {}
            for split, records in splits.items():
                files[split] = str(Path(folder) / f"{name}_{split}.jsonl")
                Path(files[split]).write_text("".join(json.dumps(r) + "\n" for r in records))
            return {
                "task": name,
                "dataset_path": "json",
                "dataset_kwargs": {"data_files": files, "cache_dir": folder},
                "test_split": "test",
                **config,
            }

        def mean(metric: str) -> dict:
            return {"metric": metric, "aggregation": "mean", "higher_is_better": True}

        choices = {
            "output_type": "multiple_choice",
            "doc_to_text": "{{context}}",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "metric_list": [mean("acc"), mean("acc_norm"), mean("acc_bytes")],
        }
        answers = {
            "output_type": "generate_until",
            "fewshot_split": "train",
            "fewshot_config": {"sampler": "first_n"},
            "num_fewshot": 2,
            "doc_to_text": "Question: {{question}}\nAnswer:",
            "doc_to_target": "{{answer}}",
            "generation_kwargs": settings,
            "filter_list": [
                {
                    "name": "last",
                    "filter": [
                        {"function": "regex", "regex_pattern": PATTERN, "group_select": -1},
                        {"function": "take_first"},
                    ],
                }
            ],
            "metric_list": [mean("exact_match")],
        }
        rolling = {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [
                {"metric": name, "aggregation": aggregation}
                for name, aggregation in (
                    ("word_perplexity", "weighted_perplexity"),
                    ("byte_perplexity", "weighted_perplexity"),
                    ("bits_per_byte", "bits_per_byte"),
                )
            ],
        }
        targets = [{**q, "answer": q["answer"].strip()} for q in questions[2:]]
        result = lm_eval.simple_evaluate(
            model=model,
            tasks=[
                task("choices", {"test": CHOICES}, choices),
                task("answers", {"train": questions[:2], "test": targets}, answers),
                task("documents", {"test": [{"text": text} for text in TEXTS]}, rolling),
            ],
            task_manager=TaskManager(include_defaults=False),
            bootstrap_iters=10,
            log_samples=False,
        )
    return {
        f"{name}/{metric}": value
        for name, values in result["results"].items()
        for metric, value in values.items()
        if isinstance(value, float)
    }


if __name__ == "__main__":
    {"folders": write_folders, "record": record}[sys.argv[1]]()
