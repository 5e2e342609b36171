"""The table of kinds in docs/pretrained_models.md agrees with `MODEL_KINDS` and `TASKS`."""

import re

import pytest

import tfllm
from tests.pretrained.families import PAGE
from tfllm.pretrained.hugging_face.architectures import ARCHITECTURES
from tfllm.pretrained.model_kinds import MODEL_KINDS, kind_of_config, kind_of_model


def rows():
    text = PAGE.read_text(encoding="utf-8")
    section = re.search(r"<!-- kinds -->(.*)<!-- /kinds -->", text, re.DOTALL)
    assert section
    lines = [line.strip("| ").split(" | ") for line in section[1].strip().splitlines()]
    return lines[2:]


def codes(cell):
    return re.findall(r"`([^`]+)`", cell)


def test_the_table_has_every_kind_and_what_it_is_read_from():
    told = {codes(row[2])[0]: codes(row[3]) for row in rows()}
    assert list(told) == [kind.model_class.__name__ for kind in MODEL_KINDS]
    for kind in MODEL_KINDS:
        name = kind.model_class.__name__
        assert told[name] == [*(kind.architectures or ARCHITECTURES)]
        assert getattr(tfllm, name) is kind.model_class  # as the errors call it


def test_the_table_has_every_task():
    told = [name for row in rows() for name in codes(row[5])]
    assert sorted(told) == sorted(tfllm.TASKS)


@pytest.mark.parametrize("kind", MODEL_KINDS, ids=lambda kind: kind.model_class.__name__)
def test_a_kind_is_found_by_what_config_json_says(kind):
    for model_type in kind.model_types:
        for architecture in kind.architectures:
            values = {"model_type": model_type, "architectures": [architecture]}
            assert kind_of_config(values, "config.json") is kind
        assert model_type in kind.weight_map or not kind.architectures


def test_what_is_of_no_kind_is_refused_by_name():
    with pytest.raises(ValueError, match=r"tfllm\.CausalLM, .*; received str"):
        kind_of_model("a model")
