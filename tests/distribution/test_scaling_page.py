"""The commands of docs/scaling.md are valid, and the files and sections it names exist."""

import re
import shlex
from pathlib import Path

import pytest

from tfllm.cli.parsing import parse
from tfllm.cli.settings import settings
from tfllm.config import ModelConfig, TrainingConfig, build
from tfllm.distribution.cluster import detect_cluster

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
LINES = [
    line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) for line in block.splitlines()
]


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("tfllm ")])
def test_a_command_is_what_the_command_line_takes(line):
    options = parse(shlex.split(line)[1:])
    if options.command == "launch":
        options = parse(options.worker_command)
    if options.command == "train":
        found = settings(options, "training", "model")
        build(TrainingConfig, found["training"])
        assert set(found["model"]) <= {"size", *ModelConfig.__dataclass_fields__}


def test_the_tf_config_is_one():
    (line,) = (line for line in LINES if line.startswith("export TF_CONFIG="))
    cluster = detect_cluster(dict([shlex.split(line)[1].split("=", 1)]))
    assert cluster.is_chief and len(cluster.workers) == 2


def test_files_and_sections_that_are_named_are_there():
    for name in set(re.findall(r"\bexamples/[\w./-]+\w", PAGE)):
        assert (ROOT / name).exists(), name
    titles = re.findall(r"^#+ (.*)$", PAGE, re.M)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= anchors


def test_settings_that_are_named_are_settings():
    for name, value in re.findall(r"`([a-z_]+)=([\w.]+)`", PAGE):
        build(TrainingConfig, {"batch_size": 64, name: value})
