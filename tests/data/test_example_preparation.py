import json
import os
import shutil

import numpy as np
import pytest

from tests.data.chat_examples import (
    CHATML,
    assistant,
    by_hand,
    chat_tokenizer,
    conversations,
    preferences,
    sequences,
    trimmed,
    user,
    words,
    write_lines,
)
from tests.data.documents import make_documents
from tests.data.prepared_once import prepared
from tests.tokenizers.conversations import TOOL_CONVERSATION, TOOLS
from tests.tokenizers.template_tokenizers import FOLDER as TEMPLATES
from tests.tokenizers.template_tokenizers import tokenizer as calling_tokenizer
from tfllm.config import ConfigError, PrepareConfig
from tfllm.data import PreferenceData, PreparedData, open_data
from tfllm.data import prepared as prepared_for
from tfllm.tasks import task_named
from tfllm.tokenizers import BytePairTokenizer


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_files_hold_what_the_template_makes_of_each_record(examples, chat):
    made = [by_hand(chat, record["messages"]) for record in conversations(120)]
    train, validation = (list(sequences(examples, s)) for s in ("train", "validation"))
    assert len(list(examples.folder.glob("train-0*.bin"))) > 2  # they cross shards
    assert sorted(train + validation) == sorted(made)
    assert train == [example for example in made if example in train]  # in their order
    for split, own in ((examples.train, train), (examples.validation, validation)):
        assert split.num_documents == len(own)
        assert split.num_tokens == sum(len(ids) for ids, _ in own)
        assert split.num_learned == sum(sum(learned) for _, learned in own)


@pytest.mark.parametrize("records", ["examples", "preference"])
def test_the_bytes_on_disk_do_not_depend_on_the_number_of_processes(
    run, tmp_path, monkeypatch, records
):
    monkeypatch.setattr("tfllm.data.preparing.tokenizing._BATCH_CHARS", 2000)  # many small batches
    made = (conversations if records == "examples" else preferences)(60)
    source = write_lines(tmp_path / "a.jsonl", made)
    folders = [
        contents(run(source, str(count), num_processes=count, shard_tokens=1000).folder)
        for count in (1, 2)
    ]
    assert folders[0] == folders[1]
    assert len(folders[0]) > 8


def test_prompts_and_responses_go_through_the_template(run, tmp_path, chat):
    texts = make_documents(20, longest=10)
    pairs = list(zip(texts[::2], texts[1::2], strict=True))
    sources = {
        "a.jsonl": [{"prompt": p, "response": r} for p, r in pairs[:5]],
        "b.json": [[{"instruction": p, "input": "", "output": r} for p, r in pairs[5:]]],
    }
    for name, records in sources.items():
        write_lines(tmp_path / "in" / name, records)
    data = run(tmp_path / "in", validation_fraction=0)
    assert list(sequences(data, "train")) == [
        by_hand(chat, [user(p), assistant(r)]) for p, r in pairs
    ]
    assert [s["num_documents"] for s in data.manifest["sources"]] == [5, 5]
    assert data.manifest["chat_template"] and data.records == "examples"


def test_without_a_template_a_response_follows_its_prompt_and_ends(run, tmp_path):
    tokenizer = chat_tokenizer(template=None)
    tokenizer.save(tmp_path / "plain")
    end = tokenizer.end_token_id
    records = [
        {"prompt": "Who sat?", "response": " The cat<|endoftext|>."},
        {"system": "Be brief.", "prompt": "Where?", "response": " On the mat."},
    ]
    data = run(
        write_lines(tmp_path / "a.jsonl", records),
        tokenizer=str(tmp_path / "plain"),
        validation_fraction=0,
    )
    made = []
    for prompt, response in (
        ("Who sat?", " The cat<|endoftext|>."),
        ("Be brief.\n\nWhere?", " On the mat."),
    ):
        before, after = words(tokenizer, prompt), [*words(tokenizer, response), end]
        made.append(trimmed(before + after, [False] * len(before) + [True] * len(after)))
    assert list(sequences(data, "train")) == made
    assert [ids.count(end) for ids, _ in made] == [1, 1]  # words that spell it are words
    conversation = write_lines(tmp_path / "b.jsonl", conversations(3))
    with pytest.raises(ValueError, match=r"b\.jsonl, line 1 is a conversation.* no chat template"):
        run(conversation, tokenizer=str(tmp_path / "plain"), skip_bad_records=True, out="b")
    rows = write_lines(tmp_path / "c.jsonl", preferences(4))
    pairs = run(rows, "c", tokenizer=str(tmp_path / "plain"), validation_fraction=0)
    for (ids, learned), text in zip(
        sequences(pairs, "train"),
        [r[key] for r in preferences(4) for key in ("chosen", "rejected")],
        strict=True,
    ):
        assert [i for i, own in zip(ids, learned, strict=True) if own] == [
            *words(tokenizer, text),
            end,
        ]


def test_the_tokens_that_a_tokenizer_puts_around_a_text_stand_around_an_example(run, tmp_path):
    tokenizer = chat_tokenizer(template=None)
    begin, end = tokenizer.token_id("<|im_start|>"), tokenizer.end_token_id
    tokenizer.save(tmp_path / "plain")
    path = tmp_path / "plain" / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    around = [("<|im_start|>", begin), ("<|endoftext|>", end)]
    first, last = ({"SpecialToken": {"id": token, "type_id": 0}} for token, _ in around)
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [first, {"Sequence": {"id": "A", "type_id": 0}}, last],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {t: {"id": t, "ids": [i], "tokens": [t]} for t, i in around},
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    records = [{"prompt": "a cat", "response": " sat"}, {"text": "a dog ran"}]
    data = run(
        write_lines(tmp_path / "a.jsonl", records),
        tokenizer=str(path),
        validation_fraction=0,
    )
    prompt, answer, text = (words(tokenizer, t) for t in ("a cat", " sat", "a dog ran"))
    assert list(sequences(data, "train")) == [
        ([begin, *prompt, *answer, end], [False] * (1 + len(prompt)) + [True] * (len(answer) + 1)),
        ([begin, *text, end], [False] + [True] * (len(text) + 1)),
    ]


def test_of_a_preference_the_last_replies_alone_are_learned(run, tmp_path, chat):
    prompt = [user("a cat"), assistant("sat on"), user("a dog")]
    record = {"prompt": prompt, "chosen": "ran quickly", "rejected": "sat"}
    data = run(write_lines(tmp_path / "a.jsonl", [record]), validation_fraction=0)
    assert isinstance(data, PreferenceData) and data.records == "preference"
    for (ids, learned), reply in zip(sequences(data, "train"), ("ran quickly", "sat"), strict=True):
        whole, _ = by_hand(chat, [*prompt, assistant(reply)])
        assert ids == whole
        own = [i for i, mark in zip(ids, learned, strict=True) if mark]
        assert own == [*words(chat, reply), chat.token_id("<|im_end|>")]


def test_copies_of_an_example_stand_on_one_side(run, tmp_path):
    records = conversations(60)
    source = write_lines(tmp_path / "a.jsonl", records * 3)
    data = run(source, validation_fraction=0.1)
    train, validation = (
        {str(s) for s in sequences(data, split)} for split in ("train", "validation")
    )
    assert not train & validation
    assert data.validation.num_documents == 3 * len(validation) > 0
    assert data.train.num_documents == 3 * len(train)


@pytest.mark.parametrize("task", ["language_modeling", "instruction"])
def test_files_of_validation_are_the_validation_set(run, tmp_path, task):
    make = conversations if task == "instruction" else lambda n: [{"text": t} for t in texts[:n]]
    texts = make_documents(20)
    made = make(20)
    folder = tmp_path / "in"
    write_lines(folder / "train.jsonl", made[:15])
    held_out = write_lines(folder / "held_out.jsonl", [*made[15:], made[0]])
    # Named by itself it is not trained on, although it lies in the folder.
    with pytest.warns(UserWarning, match=r"^1 of the .*s is also in the validation files"):
        data = run(folder, validation=(str(held_out),), task=task)
    assert (data.train.num_documents, data.validation.num_documents) == (15, 6)
    assert [s.get("split") for s in data.manifest["sources"]] == ["validation", None]
    if task == "instruction":
        tokenizer = data.tokenizer
        assert list(sequences(data, "validation")) == [
            by_hand(tokenizer, record["messages"]) for record in [*made[15:], made[0]]
        ]
    else:
        found = [data.tokenizer.decode(ids.tolist()) for ids in data.validation.documents()]
        assert found == [*texts[15:], texts[0]]
    with pytest.raises(ValueError, match="nothing left to train on"):
        run(held_out, "none", validation=(str(held_out),), task=task)


# ------------------------------------------------------------------ which kind


def test_the_kind_is_found_in_the_first_records(run, tmp_path):
    for name, records, kind in (
        ("a", conversations(4), "examples"),
        ("b", [*conversations(4), {"text": "and a text"}], "examples"),
        ("c", [{"text": "a text"}, *conversations(4)], "examples"),
        ("d", preferences(4), "preference"),
        ("e", [{"text": t} for t in make_documents(4)], "text"),
    ):
        source = write_lines(tmp_path / f"{name}.jsonl", records)
        data = run(source, name)
        assert data.records == kind
        assert type(data) is (PreferenceData if kind == "preference" else PreparedData)
        assert data.train.num_documents + data.validation.num_documents == len(records)
    # A field that is asked for makes text of what could be examples.
    source = write_lines(tmp_path / "f.jsonl", [{"prompt": "a b", "response": "c"}] * 3)
    assert run(source, "f", text_field="response").records == "text"
    assert "records" not in json.loads((tmp_path / "f" / "manifest.json").read_text())


@pytest.mark.parametrize("key", ["role", "from"])
def test_rows_that_are_single_messages_are_no_texts(run, tmp_path, key):
    """As in OASST's files, where each row has the id of the one before it."""
    rows = [
        {"message_id": "1", "parent_id": None, "text": "What is it?", key: "prompter"},
        {"message_id": "2", "parent_id": "1", "text": "A bad answer.", key: "assistant"},
    ]
    source = write_lines(tmp_path / "a.jsonl", rows)
    with pytest.raises(
        ConfigError, match=rf"a\.jsonl, line 1 is a single message .*{key} 'prompter'"
    ):
        run(source)
    assert run(source, task="language_modeling", validation_fraction=0).train.num_documents == 2
    other = write_lines(tmp_path / "b.jsonl", [{"text": "the fox", key: "a novel"}] * 2)
    assert run(other, "other", validation_fraction=0).train.num_documents == 2


def test_kinds_that_do_not_go_together_are_named(run, tmp_path):
    write_lines(tmp_path / "in" / "a.jsonl", conversations(3))
    write_lines(tmp_path / "in" / "b.jsonl", preferences(3))
    with pytest.raises(ConfigError, match=r"b\.jsonl contains preferences.*a\.jsonl examples"):
        run(tmp_path / "in")
    (tmp_path / "in" / "b.jsonl").unlink()
    (tmp_path / "in" / "readme.md").write_text("about these examples")
    with pytest.raises(ConfigError, match=r"examples are JSON lines .*readme\.md is not; leave"):
        run(tmp_path / "in")
    assert not (tmp_path / "out").exists()


def test_examples_need_the_tokenizer_of_a_model(run, tmp_path):
    source = write_lines(tmp_path / "a.jsonl", conversations(3))
    with pytest.raises(
        ConfigError, match=r"examples, as in .*, need the tokenizer of the model that will"
    ):
        run(source, tokenizer=None)
    with pytest.raises(FileNotFoundError):
        run(source, tokenizer=str(tmp_path / "nowhere"))


# ------------------------------------------------------------------ bad records


BAD = [
    "{broken",
    {"prompt": "q"},
    {"messages": [assistant("a")]},
    {"messages": [user("q"), {"content": "no role"}]},
    {"messages": [user("q"), {"role": "narrator", "content": "unknown"}]},
    {"text": 5},
]


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_the_first_bad_record_is_an_error_with_file_and_line(run, tmp_path, bad):
    source = write_lines(tmp_path / "a.jsonl", [*conversations(3), bad, *conversations(3)])
    with pytest.raises(ValueError, match=r"a\.jsonl, line 4.*set skip_bad_records") as error:
        run(source)
    assert str(error.value).count("a.jsonl, line 4") == 1
    assert not (tmp_path / "out").exists()


def test_bad_records_are_skipped_counted_and_named_when_asked_for(run, tmp_path):
    source = write_lines(tmp_path / "a.jsonl", [*conversations(9), *BAD, *conversations(9, 1)])
    said = r"^6 bad records were skipped \(.*a\.jsonl, line 10; .*line 11; .*The first: .*line 10"
    with pytest.warns(UserWarning, match=said):
        data = run(source, skip_bad_records=True)
    assert data.train.num_documents + data.validation.num_documents == 18
    assert data.manifest["num_bad_records"] == 6
    assert "6 bad records were skipped" in data.describe()
    clean = write_lines(tmp_path / "b.jsonl", [*conversations(9), *conversations(9, 1)])
    other = run(clean, "clean")
    for name in ("train-00000.bin", "train-learned-00000.bin", "train-index-00000.bin"):
        assert (data.folder / name).read_bytes() == (other.folder / name).read_bytes()


def test_bad_lines_of_text_are_skipped_too(run, tmp_path):
    lines = [{"text": t} for t in make_documents(10)]
    source = write_lines(tmp_path / "a.jsonl", [*lines[:5], "[", {"body": "x"}, *lines[5:]])
    with pytest.warns(UserWarning, match=r"^2 bad records were skipped \(.*line 6; .*line 7\)"):
        data = run(source, skip_bad_records=True)
    assert data.records == "text"
    assert data.train.num_documents + data.validation.num_documents == 10


# ------------------------------------------------------------------ what is supported or refused


@pytest.fixture(scope="module")
def calling_folder(tmp_path_factory):
    """A tokenizer whose chat template writes tools and calls of them."""
    folder = tmp_path_factory.mktemp("calling")
    calling_tokenizer("qwen2_5").save(folder)
    return folder


def test_tools_and_calls_are_rendered_by_the_template(run, tmp_path, calling_folder):
    messages = json.loads(json.dumps(TOOL_CONVERSATION))
    function = messages[1]["tool_calls"][0]["function"]
    call = json.dumps(function)
    function["arguments"] = json.dumps(function["arguments"])  # as OpenAI has it
    of_share_gpt = [
        {"from": "human", "value": messages[0]["content"]},
        {"from": "function_call", "value": call},
        {"from": "observation", "value": messages[2]["content"]},
        {"from": "gpt", "value": messages[3]["content"]},
    ]
    records = [
        {"messages": TOOL_CONVERSATION, "tools": TOOLS},
        {"messages": messages, "tools": TOOLS, "parallel_tool_calls": False},
        {"conversations": of_share_gpt, "tools": json.dumps(TOOLS)},
        {"prompt": messages[0]["content"], "completion": [*messages[1:]], "tools": TOOLS},
    ]
    source = write_lines(tmp_path / "a.jsonl", records)
    data = run(source, tokenizer=str(calling_folder), validation_fraction=0)
    recorded = json.loads((TEMPLATES / "recorded.json").read_text("utf-8"))["qwen2_5"]["tools"]
    for ids, learned in sequences(data, "train"):
        assert ids == recorded["ids"][: len(ids)] and len(ids) == recorded["learned"][-1] + 1
        # But for a token that begins before the assistant's words.
        assert np.nonzero(learned)[0].tolist() == recorded["learned"][1:]
    assert "keys of records that were ignored: 'parallel_tool_calls' (1)" in data.describe()


def test_weights_of_0_labels_of_false_and_nulls_are_supported(run, tmp_path, chat):
    texts = make_documents(12, longest=10)
    turns = [user(texts[0]), assistant(texts[1]), user(texts[2]), assistant(texts[3])]
    nulls = [{**m, "tool_calls": None, "name": None, "refusal": None} for m in turns]
    parts = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in turns]
    weighted = [*turns[:1], {**turns[1], "weight": 0}, *turns[2:]]
    records = [
        {"messages": turns},
        {"messages": nulls, "tools": None},
        {"messages": parts},
        {"messages": weighted},
        {"prompt": texts[4], "completion": texts[5], "label": False},
        {"prompt": turns[:3], "completion": turns[3:], "label": True, "source": "x"},
        {"messages": [turns[0], {**turns[1], "weight": 0}]},
    ]
    said = [
        r"^1 record is marked as not to be learned .*line 5$",
        r"^1 example has nothing.*line 7$",
    ]
    with pytest.warns(UserWarning, match=said[0]), pytest.warns(UserWarning, match=said[1]):
        data = run(write_lines(tmp_path / "a.jsonl", records), validation_fraction=0)
    whole = by_hand(chat, turns)
    head = len(by_hand(chat, turns[:2])[0])
    last = whole[0], [mark and i >= head for i, mark in enumerate(whole[1])]
    assert list(sequences(data, "train")) == [whole, whole, whole, last, last]
    assert data.manifest["unused_keys"] == {"source": 1}
    marked = write_lines(tmp_path / "b.jsonl", records[4:5])
    with pytest.raises(ValueError, match="nothing to learn from: 1 record is marked as not to be"):
        run(marked, "b")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"tools": TOOLS}, "does not write 'tools'; .*--ignore-keys tools"),
        ({"documents": [{"text": "x"}]}, "does not write 'documents'"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "does not write 'enable_thinking'"),
        ({"messages": TOOL_CONVERSATION}, "does not write the tool_calls of message 2"),
        (
            {"messages": [user("q"), assistant("a", reasoning="hm")]},
            "does not write the reasoning .reasoning_content.*--ignore-keys reasoning_content",
        ),
    ],
)
def test_what_the_template_does_not_write_is_refused_with_its_line(run, tmp_path, record, message):
    records = [*conversations(1), {**conversations(1)[0], **record}]
    source = write_lines(tmp_path / "a.jsonl", records)
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: the chat template " + message):
        run(source, validation_fraction=0)
    if "--ignore-keys" in message:
        ignored = ("tools", "reasoning")
        data = run(source, ignore_keys=ignored, validation_fraction=0)
        assert data.train.num_documents == 2 and "ignored: '" in data.describe()


def test_a_template_that_writes_no_end_is_warned_of(run, tmp_path):
    tokenizer = chat_tokenizer(CHATML.replace("<|im_end|>", "###"))
    tokenizer.save(tmp_path / "endless")
    source = write_lines(tmp_path / "a.jsonl", conversations(3))
    said = r"^the chat template writes no end token .* never stops.*end tokens of .*<\|endoftext\|>"
    with pytest.warns(UserWarning, match=said):
        data = run(source, tokenizer=str(tmp_path / "endless"))
    assert "never stops" in data.describe()


@pytest.mark.parametrize("at", [2, 30, 59])
def test_a_damaged_array_of_examples_says_where(run, tmp_path, at):
    lines = [json.dumps(record) for record in conversations(60)]
    lines[at] = lines[at].replace('"role"', "role", 1)
    path = tmp_path / "a.json"
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    column = lines[at].index("role") + 1
    said = rf"record {at + 1} \(line {at + 2}\) is not JSON: .*line {at + 2}, column {column} "
    with pytest.raises(ValueError, match=said):
        run(path)
    path.write_text("[\n" + ",\n".join(lines[:at]))  # cut short
    with pytest.raises(
        ValueError, match=rf"after record {at} is not .* the file ends there: line {at + 1}, "
    ):
        run(path)


def test_nothing_but_bad_records_is_an_error_that_says_what_is_wrong(run, tmp_path):
    source = write_lines(tmp_path / "a.jsonl", ["{", "["])
    with pytest.raises(ValueError, match=r"2 bad records were skipped \(.*is not JSON"):
        run(source, task="instruction", skip_bad_records=True)
    unwritten = {**conversations(1)[0], "tools": [{"name": "weather"}]}
    refused = write_lines(tmp_path / "b.jsonl", [unwritten] * 3)
    with pytest.raises(ValueError, match=r"no example is left to train on.* 3 bad records were"):
        run(refused, skip_bad_records=True)


def test_examples_without_anything_to_learn_are_left_out_and_counted(run, tmp_path):
    unsaid = [user("a"), assistant("so", weight=0), user("b"), assistant(" ")]
    nothing = [
        *({"messages": [user("alone")]}, {"text": "  "}),
        # Of an empty answer only the end would be learned.
        *({"prompt": "q", "response": ""}, {"messages": unsaid}),
    ]
    source = write_lines(tmp_path / "a.jsonl", [*conversations(6), *nothing])
    said = r"^4 examples have nothing to learn from and were left out: .*line 7; .*line 10$"
    with pytest.warns(UserWarning, match=said):
        data = run(source)
    assert data.train.num_documents + data.validation.num_documents == 6
    assert "4 examples have nothing to learn from" in data.describe()
    alone = write_lines(tmp_path / "b.jsonl", nothing)
    with pytest.raises(ValueError, match="there is nothing to learn from: 4 examples were left"):
        run(alone, "b", task="instruction")
    same = write_lines(tmp_path / "c.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "a"}])
    with pytest.raises(ValueError, match="both replies are the same"):
        run(same, "c")


def test_the_command_line_prepares_examples(tmp_path, chat_folder, capsys):
    from tfllm.cli import main

    source = write_lines(tmp_path / "a.jsonl", [*conversations(9), "{", *preferences(2)])
    held_out = write_lines(tmp_path / "b.jsonl", conversations(3, seed=1))
    out = str(tmp_path / "out")
    command = ["prepare", str(source), "--out", out, "--tokenizer", str(chat_folder)]
    command += ["--validation", str(held_out), "--task", "instruction"]
    assert main(command) == 1
    assert "a.jsonl, line 10 is not JSON" in capsys.readouterr().err
    assert main([*command, "--skip-bad-records"]) == 0
    told = capsys.readouterr()
    assert "warning: 3 bad records were skipped" in told.err
    assert f"train with: tfllm train --data {out} --model {chat_folder} --out" in told.out
    data = open_data(out)
    assert (data.train.num_documents, data.validation.num_documents) == (9, 3)


# ------------------------------------------------------------------ the folder


@pytest.fixture(params=["examples", "pairs"])
def copied(request, tmp_path):
    folder = request.getfixturevalue(request.param).folder
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.mark.parametrize("name", ["train-00001", "train-learned-00001", "train-index-00000"])
def test_a_file_that_is_cut_changed_or_missing_is_named(copied, name):
    path = copied / f"{name}.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-4])
    with pytest.raises(ValueError, match=rf"{name}\.bin must have {len(content)} bytes and has"):
        open_data(copied)
    path.write_bytes(content[:-4] + bytes([content[-4] ^ 1]) + content[-3:])
    with pytest.raises(ValueError, match=rf"{name}\.bin was changed after it was written"):
        open_data(copied).verify()
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name}\.bin is listed in manifest\.json"):
        open_data(copied)


def test_every_file_is_checked_by_one_of_the_workers(copied):
    for path in sorted(copied.glob("*.*")):
        if path.name == "manifest.json":
            continue
        content = path.read_bytes()
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        found = 0
        data = open_data(copied)
        for worker in range(3):
            try:
                data.verify((worker, 3))
            except ValueError as error:
                assert path.name in str(error)
                found += 1
        assert found == 1, path
        path.write_bytes(content)


def test_what_a_read_meets_in_a_dataset_is_kept(copied):
    import tensorflow as tf

    from tfllm.data import rows_dataset

    data = open_data(copied)
    path = copied / "train-learned-00001.bin"
    path.write_bytes(bytes(path.stat().st_size - 1) + b"\x01")
    os.utime(path, (1, 1))
    rows = rows_dataset(data, "train", sequence_length=100, batch_size=4, repeat=False)
    with pytest.raises(tf.errors.OpError):
        for _ in rows:
            pass
    with pytest.raises(ValueError, match=r"train-learned-00001\.bin was changed"):
        data.raise_read_error()


def test_an_index_that_does_not_fit_is_refused(copied):
    manifest = json.loads((copied / "manifest.json").read_text())
    entry = manifest["splits"]["train"]
    entry["num_documents"] += 1
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"manifest\.json is damaged .*the index of train does"):
        open_data(copied)


def test_a_folder_of_another_kind_or_version_is_refused(copied):
    manifest = json.loads((copied / "manifest.json").read_text())
    for change, message in (
        ({"format_version": 1}, "format version 1, but this version of tfllm reads 2"),
        ({"records": "pictures"}, "format version 2, but this version of tfllm reads"),
        ({"records": ["a"]}, "format version 2, but this version of tfllm reads"),
    ):
        (copied / "manifest.json").write_text(json.dumps(manifest | change))
        if change.get("records") == "pictures":
            message = "this version of tfllm"
        with pytest.raises(ValueError, match=message):
            open_data(copied)


def test_the_manifest_accounts_for_every_file_and_the_folder_can_be_replaced(run, tmp_path):
    source = write_lines(tmp_path / "a.jsonl", conversations(6))
    data = run(source)
    splits = data.manifest["splits"].values()
    listed = {
        s["file"] for split in splits for k in ("shards", "learned", "index") for s in split[k]
    }
    listed |= set(data.manifest["tokenizer_files"])
    assert listed == set(os.listdir(data.folder)) - {"manifest.json"}
    assert data.tokenizer.settings["chat_template"] == chat_tokenizer().settings["chat_template"]
    write_lines(source, preferences(6))
    assert run(source, overwrite=True).records == "preference"
    assert sorted(os.listdir(tmp_path)) == ["a.jsonl", "out"]
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"besides the prepared text \(notes\.txt\)"):
        run(source, overwrite=True)


def test_a_changed_template_is_another_tokenizer(chat_folder, examples):
    saved = BytePairTokenizer.load(examples.folder)
    assert saved.settings == BytePairTokenizer.load(chat_folder).settings


# ------------------------------------------------------------------ prepared once


def test_files_are_prepared_once_and_must_stay_the_same(tmp_path, chat_folder):
    config = PrepareConfig(tokenizer=str(chat_folder), num_processes=1)
    source, into = write_lines(tmp_path / "a.jsonl", conversations(6)), tmp_path / "run" / "data"
    first = prepared(source, into, config, show_progress=False)
    before = {path: path.stat().st_mtime_ns for path in into.iterdir()}
    again = prepared(str(source), into, config, show_progress=False)
    assert again.manifest == first.manifest
    assert before == {path: path.stat().st_mtime_ns for path in into.iterdir()}
    # A version that did not know the setting did as is done by default.
    manifest = {**first.manifest, "settings": dict(first.manifest["settings"])}
    del manifest["settings"]["split"]
    (into / "manifest.json").write_text(json.dumps(manifest))
    assert prepared(source, into, config, show_progress=False).manifest == manifest
    (into / "manifest.json").write_text(json.dumps(first.manifest))
    other = PrepareConfig(tokenizer=str(chat_folder), seed=1)
    with pytest.raises(ValueError, match=r"was prepared with seed = 0; received 1"):
        prepared(source, into, other)
    lines = source.read_text().splitlines()
    write_lines(source, [*lines[1:], lines[0]])  # as many bytes
    with pytest.raises(ValueError, match=r"other files, or they were changed"):
        prepared(source, into, config)
    copy = write_lines(tmp_path / "b.jsonl", lines)
    with pytest.raises(ValueError, match=r"other files, or"):
        prepared(copy, into, config)
    source.unlink()  # what was made of it is there
    task = task_named("instruction")
    how = task.prepare_config(config)
    assert prepared_for(task, source, into, how).manifest == first.manifest
    with pytest.raises(FileNotFoundError):
        prepared(source, tmp_path / "elsewhere", config)
