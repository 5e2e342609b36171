import gzip
import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tests.data.documents import make_documents
from tfllm.config import ConfigError, PrepareConfig
from tfllm.data import PreparedData
from tfllm.tasks import prepare

SMALL = PrepareConfig(vocab_size=300, validation_fraction=0.1, num_processes=1)


def write_corpus(folder, texts, name="corpus.jsonl"):
    folder.mkdir(exist_ok=True)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (folder / name).write_text(lines, encoding="utf-8")
    return folder


def run(source, out, config=SMALL, **options):
    return prepare(source, out, config, show_progress=False, **options)


def decoded(data, split):
    return [data.tokenizer.decode(ids.tolist()) for ids in data.split(split).documents()]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_bytes_on_disk_do_not_depend_on_the_number_of_processes(tmp_path, monkeypatch):
    monkeypatch.setattr("tfllm.data.preparing.tokenizing._BATCH_CHARS", 2000)  # many small batches
    source = write_corpus(tmp_path / "in", make_documents(200))
    folders = []
    for count in (1, 3):
        config = PrepareConfig(vocab_size=300, shard_tokens=1000, num_processes=count)
        folders.append(contents(run(source, tmp_path / str(count), config).folder))
    assert folders[0] == folders[1]
    assert len(folders[0]) > 5


@pytest.mark.parametrize("name", ["texts.jsonl", "texts.csv"])
def test_keys_next_to_the_text_are_counted_and_named(name, tmp_path):
    texts = [text.replace('"', "").replace("\n", " ") for text in make_documents(40)]
    labels = ["" if i % 4 == 0 else "spam" for i in range(40)]
    rows = [{"Text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    lines = [json.dumps(row) for row in rows]
    if name.endswith("csv"):
        lines = ["Text,label", *(f'"{row["Text"]}",{row["label"]}' for row in rows)]
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    data = run(tmp_path / name, tmp_path / "out")
    assert "keys of records that were ignored: 'label' (30)" in data.manifest["notes"]
    assert sorted(decoded(data, "train") + decoded(data, "validation")) == sorted(texts)


def test_decoding_the_shards_gives_the_documents_back(tmp_path):
    texts = [
        *make_documents(60),
        "<|endoftext|> in the middle <|endoftext|> of a text<|endoftext|>",
        "\n\n  leading and trailing space \t\n",
        "e\u0301 \u200d\U0001f469\u200d\U0001f680 \u0000 control",
    ]
    data = run(write_corpus(tmp_path / "in", texts), tmp_path / "out")
    train, validation = decoded(data, "train"), decoded(data, "validation")
    assert sorted(train + validation) == sorted(texts)
    assert train == [text for text in texts if text in set(train)]  # and in their order
    for split in (data.train, data.validation):
        own = decoded(data, split.split)
        assert split.num_documents == len(own)
        assert split.num_bytes == sum(len(text.encode()) for text in own)
        assert split.num_tokens == sum(len(ids) + 1 for ids in split.documents())


def test_no_document_of_validation_is_in_train_not_even_as_a_copy(tmp_path):
    texts = make_documents(50)
    copies = [*texts, *(text.replace(" ", "\n") + "\n" for text in texts), *texts[::-1]]
    data = run(write_corpus(tmp_path / "in", copies), tmp_path / "out")
    train, validation = (
        {" ".join(text.split()) for text in decoded(data, split)}
        for split in ("train", "validation")
    )
    assert train | validation == set(texts)
    assert not train & validation
    assert data.validation.num_documents == 3 * len(validation) > 0


def test_the_tokenizer_learns_nothing_from_validation(tmp_path, monkeypatch):
    from tfllm.tokenizers import BytePairTokenizer

    seen = []
    train = BytePairTokenizer.train.__func__

    def spy(cls, texts, *arguments, **options):
        seen.extend(texts)
        return train(cls, seen, *arguments, **options)

    monkeypatch.setattr(BytePairTokenizer, "train", classmethod(spy))
    data = run(write_corpus(tmp_path / "in", make_documents(30)), tmp_path / "out")
    assert seen == decoded(data, "train")


def test_the_split_is_near_its_fraction_even_for_one_text_file(tmp_path):
    text = "\n\n".join(make_documents(3000))
    (tmp_path / "one.txt").write_text(text, encoding="utf-8")
    data = run(tmp_path, tmp_path / "out")
    share = data.validation.num_bytes / len(text.encode())
    assert 0.1 <= share < 0.2
    assert "".join(sorted(decoded(data, "train") + decoded(data, "validation"), key=text.find))


def test_another_seed_keeps_other_documents_and_the_fraction_may_be_nothing(tmp_path):
    source = write_corpus(tmp_path / "in", make_documents(50))
    kept = []
    for seed in range(3):
        config = PrepareConfig(vocab_size=300, num_processes=1, seed=seed)
        kept.append(tuple(decoded(run(source, tmp_path / f"{seed}", config), "validation")))
    assert len(set(kept)) == 3 and all(kept)
    config = PrepareConfig(vocab_size=300, num_processes=1, validation_fraction=0)
    assert run(source, tmp_path / "none", config).validation.num_documents == 0


def test_a_given_tokenizer_is_used_as_it_is(tmp_path, prepared):
    source = write_corpus(tmp_path / "in", make_documents(20, seed=9))
    config = PrepareConfig(tokenizer=str(prepared.folder), num_processes=1)
    data = run(source, tmp_path / "out", config)
    assert contents(data.folder)["tokenizer.json"] == contents(prepared.folder)["tokenizer.json"]
    assert sorted(decoded(data, "train") + decoded(data, "validation")) == sorted(
        make_documents(20, seed=9)
    )


def test_ids_beyond_two_bytes_take_four(tmp_path, prepared):
    content = json.loads((prepared.folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["added_tokens"] = [
        {**token, "id": 70_000 if token["content"] == "<|endoftext|>" else token["id"]}
        for token in content["added_tokens"]
    ]
    vocab = content["model"]["vocab"]
    vocab["<|endoftext|>"] = 70_000
    used = set(vocab.values())
    for i in range(70_000):  # ids must leave no gap
        if i not in used:
            vocab[f"<unused {i}>"] = i
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    source = write_corpus(tmp_path / "in", make_documents(20))
    config = PrepareConfig(tokenizer=str(tmp_path / "tokenizer.json"), num_processes=1)
    data = run(source, tmp_path / "out", config)
    assert data.manifest["dtype"] == "uint32"
    assert data.end_token_id == 70_000
    ids = np.fromfile(data.folder / "train-00000.bin", "<u4")
    assert (ids == 70_000).sum() == data.train.num_documents
    assert sorted(decoded(data, "train") + decoded(data, "validation")) == sorted(
        make_documents(20)
    )


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path, prepared):
    content = json.loads((prepared.folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["added_tokens"] = []
    content["model"]["vocab"].pop("<|endoftext|>")
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    source = write_corpus(tmp_path / "in", make_documents(20))
    config = PrepareConfig(tokenizer=str(tmp_path / "tokenizer.json"), num_processes=1)
    with pytest.raises(ValueError, match="end token"):
        run(source, tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


def changed_tokenizer(prepared, folder, change):
    content = json.loads((prepared.folder / "tokenizer.json").read_text(encoding="utf-8"))
    change(content)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return PrepareConfig(tokenizer=str(path), num_processes=1)


def test_end_tokens_that_a_template_adds_are_not_doubled(tmp_path, prepared):
    end = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}

    def change(content):
        content["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [end, text, end],
            "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                "<|endoftext|>": {
                    "id": "<|endoftext|>",
                    "ids": [prepared.end_token_id],
                    "tokens": ["<|endoftext|>"],
                }
            },
        }

    texts = make_documents(20)
    source = write_corpus(tmp_path / "in", texts)
    data = run(source, tmp_path / "out", changed_tokenizer(prepared, tmp_path, change))
    assert sorted(decoded(data, "train") + decoded(data, "validation")) == sorted(texts)


def test_an_end_token_that_text_can_forge_is_refused(tmp_path, prepared):
    def change(content):
        for token in content["added_tokens"]:
            token["special"] = False

    config = changed_tokenizer(prepared, tmp_path, change)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    source = write_corpus(tmp_path / "in", ["one <|endoftext|> two", "three"])
    with pytest.raises(ValueError, match=r'must not result from text.*mark it as "special"'):
        run(source, tmp_path / "out", config)


def test_an_empty_file_among_others_is_said_and_passed_over(tmp_path):
    source = write_corpus(tmp_path / "in", make_documents(10))
    (source / "empty.txt").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"1 of 2 files contain no text.*empty\.txt"):
        data = run(source, tmp_path / "out")
    assert "empty.txt" in data.manifest["notes"][0]
    assert [s["num_documents"] for s in data.manifest["sources"]] == [10, 0]


@pytest.mark.parametrize("content", [b"", b" \n\n", gzip.compress(b"", mtime=0)])
def test_nothing_but_empty_files_is_an_error(tmp_path, content):
    name = "empty.txt.gz" if content[:1] == b"\x1f" else "empty.txt"
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"there is no text: 1 file is empty .*{name}"):
        run(tmp_path, tmp_path / "out")


def test_a_bad_file_stops_the_run_before_anything_is_written(tmp_path):
    source = write_corpus(tmp_path / "in", make_documents(10))
    (source / "z.txt").write_bytes(b"\xff\x00")
    with pytest.raises(ValueError, match=r"z\.txt is not UTF-8"):
        run(source, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["in"]


def test_a_folder_that_is_there_is_refused_unless_overwriting_is_asked_for(tmp_path):
    source = write_corpus(tmp_path / "in", make_documents(10))
    before = contents(run(source, tmp_path / "out").folder)
    with pytest.raises(FileExistsError, match="contains prepared text already"):
        run(source, tmp_path / "out")
    assert contents(tmp_path / "out") == before
    write_corpus(source, make_documents(30))
    data = run(source, tmp_path / "out", overwrite=True)
    assert data.train.num_documents + data.validation.num_documents == 30
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]


def test_files_that_prepare_did_not_write_are_never_overwritten(tmp_path):
    source = write_corpus(tmp_path / "in", make_documents(10))
    with pytest.raises(FileExistsError, match=r"not prepared text \(corpus\.jsonl"):
        run(source, source, overwrite=True)
    data = run(source, tmp_path / "out")
    (data.folder / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"besides the prepared text \(notes\.txt\)"):
        run(source, tmp_path / "out", overwrite=True)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="is a file"):
        run(source, tmp_path / "file", overwrite=True)
    (tmp_path / "empty").mkdir()
    run(source, tmp_path / "empty")


def test_a_vocabulary_without_room_for_the_bytes_is_refused(tmp_path):
    source = write_corpus(tmp_path / "in", make_documents(10))
    with pytest.raises(ConfigError, match=r"vocab_size must be at least 257 .*received 256"):
        run(source, tmp_path / "out", PrepareConfig(vocab_size=256))


def test_a_link_to_the_folder_stays_a_link(tmp_path):
    source = write_corpus(tmp_path / "in", make_documents(10))
    run(source, tmp_path / "real")
    (tmp_path / "out").symlink_to("real")
    run(source, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["in", "out", "real"]


def test_a_text_too_small_for_the_vocabulary_is_said(tmp_path):
    source = write_corpus(tmp_path / "in", ["a b c", "d e f"])
    data = run(source, tmp_path / "out")
    assert data.vocab_size < 300
    assert any("too few different words for 300 tokens" in n for n in data.manifest["notes"])


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize("processes", [1, 2])
def test_an_interrupted_run_leaves_the_old_folder_whole(tmp_path, monkeypatch, error, processes):
    source = write_corpus(tmp_path / "in", make_documents(30))
    before = contents(run(source, tmp_path / "out").folder)
    write_corpus(source, make_documents(60))

    def interrupt(*_):
        raise error

    monkeypatch.setattr("tfllm.data.shards.shard_files.ShardWriter.write", interrupt)
    config = PrepareConfig(vocab_size=300, num_processes=processes)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else OSError) as caught:
        run(source, tmp_path / "out", config, overwrite=True)
    if error is not KeyboardInterrupt:
        assert "no space is left" in str(caught.value)
    assert contents(tmp_path / "out") == before
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]
    PreparedData.open(tmp_path / "out").verify()


def test_a_rename_that_fails_puts_the_old_folder_back(tmp_path, monkeypatch):
    from pathlib import Path

    source = write_corpus(tmp_path / "in", make_documents(30))
    before = contents(run(source, tmp_path / "out").folder)
    rename = Path.rename

    def refuse(self, target):
        if ".unfinished-" in self.name:
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError):
        run(source, tmp_path / "out", overwrite=True)
    assert contents(tmp_path / "out") == before
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]


def test_a_killed_run_leaves_nothing_that_opens(tmp_path):
    source = write_corpus(tmp_path / "in", make_documents(30))
    script = f"""
        import os
        from tfllm.config import PrepareConfig
        from tfllm.tasks import prepare
        from tfllm.data.shards import shard_files as shards
        shards.ShardWriter.close = lambda self: os._exit(9)
        prepare({str(source)!r}, {str(tmp_path / "out")!r},
                PrepareConfig(vocab_size=300, num_processes=1), show_progress=False)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)])
    assert done.returncode == 9
    left = [path for path in tmp_path.iterdir() if path.name != "in"]
    assert all(path.name.startswith(".out.unfinished-") for path in left) and left
    for path in left:
        with pytest.raises(FileNotFoundError):
            PreparedData.open(path)
    run(source, tmp_path / "out")


def test_a_script_without_a_main_guard_may_use_several_processes(tmp_path):
    source = write_corpus(tmp_path / "in", make_documents(30))
    script = tmp_path / "script.py"
    script.write_text(
        "from tfllm.config import PrepareConfig\nfrom tfllm.tasks import prepare\n"
        f"data = prepare({str(source)!r}, {str(tmp_path / 'out')!r},\n"
        "               PrepareConfig(vocab_size=300, num_processes=2), show_progress=False)\n"
        "import sys\nprint(data.train.num_documents, 'tensorflow' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "29 False\n"


def test_a_worker_that_dies_is_an_error_and_not_a_wait(tmp_path, monkeypatch):
    from tfllm.data.preparing import tokenizing

    source = write_corpus(tmp_path / "in", make_documents(30))
    monkeypatch.setattr(tokenizing, "WORKER", "import os; os._exit(7)")
    config = PrepareConfig(vocab_size=300, num_processes=2)
    with pytest.raises(RuntimeError, match=r"exited early \(exit code 7\).*num_processes lower"):
        run(source, tmp_path / "out", config)
    assert sorted(os.listdir(tmp_path)) == ["in"]


def test_text_that_changes_under_the_run_is_refused(tmp_path, monkeypatch):
    from tfllm.data.preparing.text_preparation import TextPreparation

    source = write_corpus(tmp_path / "in", make_documents(30))
    train = TextPreparation.tokenizer

    def train_and_append(*arguments):
        with open(source / "corpus.jsonl", "a") as file:
            file.write('{"text": "one more"}\n')
        return train(*arguments)

    monkeypatch.setattr(TextPreparation, "tokenizer", train_and_append)
    with pytest.raises(ValueError, match="must not change while it is prepared"):
        run(source, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["in"]


def test_the_manifest_accounts_for_everything(tmp_path):
    texts = make_documents(30)
    source = write_corpus(tmp_path / "in", texts)
    data = run(source, tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest == data.manifest
    assert manifest["vocab_size"] == data.tokenizer.vocab_size
    assert manifest["end_token_id"] == data.tokenizer.end_token_id
    splits = manifest["splits"].values()
    assert sum(split["num_documents"] for split in splits) == 30
    assert sum(split["num_bytes"] for split in splits) == sum(len(t.encode()) for t in texts)
    listed = {shard["file"] for split in splits for shard in split["shards"]}
    listed |= set(manifest["tokenizer_files"])
    assert listed == set(os.listdir(tmp_path / "out")) - {"manifest.json"}
    assert manifest["sources"][0]["num_bytes"] == (source / "corpus.jsonl").stat().st_size


def test_a_file_name_that_is_not_utf8_is_no_reason_to_lose_the_work(tmp_path):
    (tmp_path / "in").mkdir()
    name = os.fsdecode(b"caf\xe9.txt")
    try:
        (tmp_path / "in" / name).write_text("some text " * 50)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    data = run(tmp_path / "in", tmp_path / "out")
    assert data.manifest["sources"][0]["path"].endswith(name)


def test_a_progress_bar_is_shown_when_asked_for(tmp_path, capfd):
    source = write_corpus(tmp_path / "in", make_documents(10))
    prepare([source], tmp_path / "out", SMALL)
    assert "tokenizing: 100%" in capfd.readouterr().err


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path):
    script = """
        import sys
        from tfllm.config import PrepareConfig
        from tfllm.tasks import prepare
        prepare(sys.argv[1], sys.argv[2],
                PrepareConfig(vocab_size=1000, num_processes=1), show_progress=False)
        print(int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]))
    """
    peaks = []
    for megabytes in (5, 25):
        folder = tmp_path / str(megabytes)
        folder.mkdir()
        with open(folder / "a.jsonl", "w", encoding="utf-8") as file:
            while file.tell() < megabytes * 10**6:
                for text in make_documents(1000, seed=file.tell()):
                    file.write(json.dumps({"text": text}) + "\n")
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), folder, folder / "out"],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] < peaks[0] + 20, peaks  # MiB
