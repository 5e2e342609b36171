"""Tokenizers of GGUF files, compared with the libraries that their token lists come from."""

import io
import json

import numpy as np
import pytest
import sentencepiece
import tensorflow as tf
import tokenizers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.pretrained.conftest import REFERENCES
from tests.pretrained.gguf_files import write_gguf
from tfllm import pretrained
from tfllm.config import ConfigError

LINES = [line for line in f"{json.__doc__}{io.__doc__}".splitlines() if line]
TEXTS = [
    "The cat sat on the mat, 12345 times; didn't it?",
    "  two spaces, a\ttab\n\n and café 你好 👩‍🚀",
    "<|im_start|>user\nwords<|im_end|>",
    "",
    " ",
]
CONTROL, NORMAL = 3, 1


def byte_level(digits):
    """A tokenizer.json with the pre-tokenizer of SmolLM (digits one by one) or of GPT-2."""
    tokenizer = Tokenizer(models.BPE())
    steps = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), *steps] if digits else steps
    )
    tokenizer.decoder = decoders.ByteLevel()
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|eot|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        special_tokens=[AddedToken(name, special=True) for name in names],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*TEXTS, *LINES] * 3, trainer)
    return tokenizer


def byte_level_lists(tokenizer):
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [CONTROL if t in special else NORMAL for t in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in model["merges"]],
    }


def sentence_piece_proto():
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*TEXTS[:2], *LINES] * 3),
        model_writer=out,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return out.getvalue()


def sentence_piece_lists(proto):
    processor = sentencepiece.SentencePieceProcessor(model_proto=proto)
    ids = range(processor.vocab_size())

    def kind(id_):
        tests = (processor.is_unknown, processor.is_control, processor.is_byte)
        return next((n for n, test in zip((2, 3, 6), tests, strict=True) if test(id_)), 1)

    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [processor.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": [processor.get_score(i) for i in ids],
        "tokenizer.ggml.token_type": [kind(i) for i in ids],
    }


@pytest.fixture
def tokenizer_of(tmp_path):
    def load(metadata, name="llama_tied"):
        path = write_gguf(REFERENCES / name, tmp_path / "model.gguf", metadata=metadata)
        return pretrained.load_tokenizer(path)

    return load


def in_graph(tokenizer, texts):
    return tokenizer.graph().tokenize(tf.constant(texts)).to_list()


@pytest.mark.parametrize("pre", ["smollm", "gpt-2"])
def test_byte_level_tokens_are_those_of_tokenizers(tokenizer_of, pre):
    reference = byte_level(digits=pre == "smollm")
    lists = byte_level_lists(reference) | {"tokenizer.ggml.pre": pre}
    lists |= {f"tokenizer.ggml.{name}_token_id": i for i, name in enumerate(("unknown", "bos"))}
    lists |= {"tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.eot_token_id": 3}
    tokenizer = tokenizer_of(lists | {"tokenizer.chat_template": "{{ messages }}"})
    expected = [reference.encode(text).ids for text in TEXTS]
    assert [tokenizer.encode(text) for text in TEXTS] == expected
    assert [tokenizer.decode(ids, skip_special=False) for ids in expected] == TEXTS
    assert tokenizer.special_tokens == {
        t.content: i for i, t in reference.get_added_tokens_decoder().items()
    }
    assert tokenizer.end_token == "<|im_end|>" and tokenizer.end_token_ids == (2, 3)
    assert tokenizer.settings["bos_token"] == "<|im_start|>"
    assert tokenizer.settings["unk_token"] == "<|endoftext|>"
    assert tokenizer.settings["chat_template"] == "{{ messages }}"


def test_sentence_piece_tokens_are_those_of_sentencepiece(tokenizer_of):
    proto = sentence_piece_proto()
    reference = sentencepiece.SentencePieceProcessor(model_proto=proto)
    tokenizer = tokenizer_of(sentence_piece_lists(proto))
    # llama.cpp's files say that a text begins with the begin token where they say nothing.
    expected = [[1, *reference.encode(text)] for text in TEXTS]
    assert [tokenizer.encode(text) for text in TEXTS] == expected == in_graph(tokenizer, TEXTS)
    assert [tokenizer.decode(ids) for ids in expected] == [reference.decode(i) for i in expected]
    assert tokenizer.end_token_ids == (2,)
    flags = {"tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_space_prefix": False}
    bare = tokenizer_of(sentence_piece_lists(proto) | flags)
    assert bare.encode(" x") == reference.encode("x") != bare.encode("x")


@pytest.mark.parametrize(
    ("pre", "flags", "begin", "end"),
    [
        ("gpt-2", {}, [], []),
        ("llama-bpe", {}, [1], []),  # llama.cpp's default for that name
        ("llama-bpe", {"add_bos_token": False}, [], []),
        ("gpt-2", {"add_bos_token": True}, [1], []),
        ("gpt-2", {"add_bos_token": True, "add_eos_token": True}, [1], [2]),
    ],
)
def test_begin_and_end_tokens_stand_where_the_file_says(tokenizer_of, pre, flags, begin, end):
    lists = byte_level_lists(byte_level(digits=False)) | {"tokenizer.ggml.pre": pre}
    flags = {**flags, "bos_token_id": 1, "eos_token_id": 2}
    tokenizer = tokenizer_of(lists | {f"tokenizer.ggml.{k}": v for k, v in flags.items()})
    assert tokenizer.settings["add_bos_token"] == bool(begin)
    inside = tokenizer.encode("x y", add_special=False)
    assert tokenizer.encode("x y") == [*begin, *inside, *end]


def test_a_gpt2_file_older_than_the_key_splits_as_gpt2(tokenizer_of):
    reference = byte_level(digits=False)
    tokenizer = tokenizer_of(byte_level_lists(reference), "gpt2")
    assert [tokenizer.encode(text) for text in TEXTS] == [reference.encode(t).ids for t in TEXTS]


def test_what_is_read_is_saved_as_a_hugging_face_folder(tmp_path):
    lists = byte_level_lists(byte_level(digits=True)) | {"tokenizer.ggml.pre": "smollm"}
    lists |= {"tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.eot_token_id": 3}
    embedding = np.zeros((400, 32), np.float32)
    path = write_gguf(
        REFERENCES / "llama_tied",
        tmp_path / "model.gguf",
        metadata={**lists, "vocab_size": 400, "tokenizer.chat_template": "{{ messages }}"},
        tensors={"token_embd.weight": embedding},
    )
    model, tokenizer, generation = pretrained.load(path)
    pretrained.save(model, tmp_path / "folder", tokenizer, generation=generation)
    again = pretrained.load(tmp_path / "folder")
    assert again.model.config == model.config
    assert [again.tokenizer.encode(t) for t in TEXTS] == [tokenizer.encode(t) for t in TEXTS]
    assert again.tokenizer.end_token_ids == (2, 3)
    assert again.tokenizer.settings["chat_template"] == "{{ messages }}"
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "folder" / "tokenizer.json"))
    assert [theirs.encode(text).ids for text in TEXTS] == [tokenizer.encode(t) for t in TEXTS]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "bert"}, "model must be one of gpt2, llama; received 'bert'"),
        ({"pre": "unheard-of"}, "pre must name how text is cut .*; received 'unheard-of'"),
        ({"pre": None}, "pre must name how text is cut .*; received None"),
        ({"tokens": [1, 2]}, r"tokens must be a list of texts; received \[1, 2\]"),
        ({"tokens": None}, "tokens must be a list of texts; received None"),
        ({"token_type": [1, 1]}, "token_type must have one entry for each of the .*received 2"),
        ({"merges": ["a b c"]}, "a merge must name two tokens.*received 'a b c'"),
        ({"merges": 5}, "merges must be a list; received 5"),
        ({"eos_token_id": 10**6}, "eos_token_id must be the id of one of the .*; received 1000000"),
        ({"add_bos_token": True}, "add_bos_token needs tokenizer.ggml.bos_token_id"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(tokenizer_of, changes, message):
    lists = byte_level_lists(byte_level(digits=False)) | {"tokenizer.ggml.pre": "gpt-2"}
    with pytest.raises(ConfigError, match=rf"model\.gguf.*{message}"):
        tokenizer_of(lists | {f"tokenizer.ggml.{key}": value for key, value in changes.items()})


def test_a_file_with_more_tokens_than_the_model_is_refused(tmp_path):
    lists = byte_level_lists(byte_level(digits=False)) | {"tokenizer.ggml.pre": "gpt-2"}
    path = write_gguf(REFERENCES / "llama_tied", tmp_path / "model.gguf", metadata=lists)
    with pytest.raises(ValueError, match=r"has 3\d\d ids, but the model's vocab_size is 96"):
        pretrained.load(path)


def test_sampling_settings_of_the_file_are_the_models(tmp_path):
    settings = {"temp": 0.7, "top_k": 20, "top_p": 0.9, "penalty_repeat": 1.25}
    metadata = {f"general.sampling.{key}": value for key, value in settings.items()}
    path = write_gguf(REFERENCES / "llama_tied", tmp_path / "model.gguf", metadata=metadata)
    generation = pretrained.load(path).generation
    assert (generation.temperature, generation.top_k, generation.top_p) == (0.7, 20, 0.9)
    assert generation.repetition_penalty == 1.25
    path = write_gguf(REFERENCES / "llama_tied", tmp_path / "plain.gguf")
    assert pretrained.load(path).generation.temperature == 0
