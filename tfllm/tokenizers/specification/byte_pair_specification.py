"""Read a tokenizer.json of byte-level BPE into the tables that its graph uses.

This module does not use TensorFlow. Whatever the graph could not do exactly is refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfllm.tokenizers.added_tokens import AddedToken, read_added_tokens, stand_in_for_nul
from tfllm.tokenizers.specification.character_classes import Atoms, CharacterSet, probe_digits
from tfllm.tokenizers.specification.re2_pattern import Letters, looking, to_re2
from tfllm.tokenizers.specification.split_pattern import (
    Characters,
    LookAhead,
    Node,
    Repeat,
    UnsupportedTokenizer,
    leaves,
    literal,
    parse,
)
from tfllm.tokenizers.token_bytes import character_to_byte, token_to_bytes

# The pattern of the library's ByteLevel pre-tokenizer if it splits text itself; tokenizer.json does
# not contain it.
BYTE_LEVEL_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
ADDED_TOKEN_LETTER = 1  # stands for a character of an added token, and is in no class
_MOST_LETTERS = 120


@dataclass(frozen=True)
class Split:
    """One pre-tokenizer that cuts text.

    Attributes:
        pattern: RE2 pattern over letters.
        letters: uint8 [atoms << look-aheads], the letter of an atom (<< look-aheads) plus the bits
            of the look-aheads that hold after it.
        next_bits: int32 [atoms], the bits of the look-aheads that hold before the atom.
        end_bits: Bits at the end of the text.
        num_look_aheads: Number of bits.
    """

    pattern: str
    letters: np.ndarray
    next_bits: np.ndarray
    end_bits: int
    num_look_aheads: int


@dataclass(frozen=True)
class Specification:
    """Everything that the in-graph tokenizer is built from.

    Attributes:
        vocab_size: Number of ids, which are 0 .. vocab_size - 1.
        tokens: Bytes of each id.
        added: The added tokens.
        normalize: Whether the text is brought to Unicode's form NFC.
        atoms: Classes of characters that the splits distinguish.
        splits: Splits in order, each applied to the pieces of the previous one.
        byte_ids: int32 [256], each byte's id, or -1 if the vocabulary has none.
        merge_pairs: int64 [merges, 2], the ids that each merge joins, in order of priority.
        merge_results: int32 [merges], the id that it makes.
        merge_unsafe: bool [merges], whether some earlier merge uses what this one makes.
        whole: int32 [...], ids that a piece with exactly the id's bytes always becomes.
        stand_in: Control character that occurs in no added token.
        begin, end: Ids put before and after every text.
    """

    vocab_size: int
    tokens: list[bytes]
    added: list[AddedToken]
    normalize: bool
    atoms: Atoms
    splits: list[Split]
    byte_ids: np.ndarray
    merge_pairs: np.ndarray
    merge_results: np.ndarray
    merge_unsafe: np.ndarray
    whole: np.ndarray
    stand_in: int
    begin: list[int]
    end: list[int]


def read_specification(tokenizer_json: str, added_tokens: Mapping[int, Any]) -> Specification:
    """Read the specification of a tokenizer.json.

    Args:
        tokenizer_json: Text of the file.
        added_tokens: Added tokens by id, as the library numbers them: an added token that is also
            in the vocabulary has the vocabulary's id, whatever the file says.

    Raises:
        UnsupportedTokenizer: If the file requires something that the in-graph tokenizer cannot do.
    """
    settings: dict[str, Any] = json.loads(tokenizer_json)
    model = settings["model"]
    _check_model(model)
    normalize = _normalizer(settings.get("normalizer"))
    added = read_added_tokens(added_tokens, _nfc if normalize else str, _refuse)
    _check_decoder(settings.get("decoder"))
    begin, end = ids_around(settings.get("post_processor"))
    atoms, splits = _splits(settings.get("pre_tokenizer"))

    vocab: dict[str, int] = model["vocab"]
    size = max([*vocab.values(), *added_tokens], default=-1) + 1
    tokens = [b""] * size
    for token, id_ in vocab.items():
        tokens[id_] = token_to_bytes(token)
    for id_, token in added_tokens.items():
        tokens[id_] = token_to_bytes(token.content)
    byte_ids = np.full(256, -1, np.int32)
    for character, byte in character_to_byte().items():
        byte_ids[byte] = vocab.get(character, -1)
    if model.get("unk_token") and (byte_ids < 0).any():
        raise _refuse(f"an unknown token ({model['unk_token']!r}) for bytes without a token")

    pairs, result, unsafe = read_merges(model, size)
    return Specification(
        vocab_size=size,
        tokens=tokens,
        added=added,
        normalize=normalize,
        atoms=atoms,
        splits=splits,
        byte_ids=byte_ids,
        merge_pairs=pairs,
        merge_results=result,
        merge_unsafe=unsafe,
        whole=_whole_pieces(model, added),
        stand_in=stand_in_for_nul(added, _refuse),
        begin=begin,
        end=end,
    )


def read_merges(model: dict[str, Any], size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read the merges of a BPE model in order of priority.

    Args:
        model: The model in tokenizer.json.
        size: Number of ids.

    Returns:
        int64 [merges, 2], the ids that each joins; int32 [merges], the id that it makes; bool
        [merges], whether some earlier merge uses what it makes.
    """
    vocab: dict[str, int] = model["vocab"]
    # If a pair has two merges, the library keeps the last one.
    ranks: dict[tuple[int, int], int] = {}
    results = []
    for rank, merge in enumerate(model["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        ranks[vocab[left], vocab[right]] = rank
        results.append(vocab[left + right])
    used = sorted(ranks.items(), key=lambda item: item[1])
    pairs = np.array([pair for pair, _ in used], np.int64).reshape(-1, 2)
    result = np.array([results[rank] for _, rank in used], np.int32)
    first_use = np.full(size, len(pairs), np.int64)
    order = np.arange(len(pairs))
    np.minimum.at(first_use, pairs[:, 0], order)
    np.minimum.at(first_use, pairs[:, 1], order)
    return pairs, result, first_use[result] < order


def _refuse(what: str) -> UnsupportedTokenizer:
    return UnsupportedTokenizer(
        f"the in-graph tokenizer cannot do {what}, which this tokenizer.json requires; tokenize "
        "outside the graph (BytePairTokenizer.encode)"
    )


def _check_model(model: dict[str, Any]) -> None:
    if model.get("type", "BPE") != "BPE":
        raise _refuse(f"the model type {model['type']!r}")
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout", "byte_fallback"):
        if model.get(key):
            raise _refuse(f"{key} {model[key]!r}")


def _nfc(text: str) -> str:
    from tokenizers import normalizers

    return normalizers.NFC().normalize_str(text)


def _normalizer(settings: dict[str, Any] | None) -> bool:
    if settings is None:
        return False
    if settings["type"] == "Sequence":
        return any([_normalizer(s) for s in settings["normalizers"]])
    if settings["type"] == "NFC":
        return True
    raise _refuse(f"the normalizer {settings['type']!r}")


def _check_decoder(settings: dict[str, Any] | None) -> None:
    if settings is not None and settings["type"] == "Sequence" and len(settings["decoders"]) == 1:
        settings = settings["decoders"][0]
    if settings is None or settings["type"] != "ByteLevel":
        raise _refuse(f"the decoder {settings and settings['type']!r} (ByteLevel is needed)")


def ids_around(settings: dict[str, Any] | None) -> tuple[list[int], list[int]]:
    """The ids that are put before and after a text."""
    if settings is None or settings["type"] == "ByteLevel":
        return [], []
    if settings["type"] in ("BertProcessing", "RobertaProcessing"):
        return [settings["cls"][1]], [settings["sep"][1]]
    if settings["type"] == "Sequence":
        begin: list[int] = []
        end: list[int] = []
        for inner in settings["processors"]:
            before, after = ids_around(inner)
            begin, end = before + begin, end + after
        return begin, end
    if settings["type"] != "TemplateProcessing":
        raise _refuse(f"the post-processor {settings['type']!r}")
    begin, end, seen = [], [], False
    for item in settings["single"]:
        if "Sequence" in item:
            if seen:
                raise _refuse("a template that contains the text twice")
            seen = True
        else:
            ids = settings["special_tokens"][item["SpecialToken"]["id"]]["ids"]
            (end if seen else begin).extend(ids)
    if not seen:
        raise _refuse("a template without the text")
    return begin, end


def _whole_pieces(model: dict[str, Any], added: list[AddedToken]) -> np.ndarray:
    """The ids of the vocabulary that pieces of exactly their bytes are encoded to."""
    alphabet = character_to_byte()
    vocab = {t: i for t, i in model["vocab"].items() if t and all(c in alphabet for c in t)}
    if not model.get("ignore_merges"):
        return made_by_merges(model, vocab)
    special = {t.id: t.content for t in added if t.special}
    for id_ in vocab.values():
        if id_ in special and _may_be_one_piece(special[id_]):
            raise _refuse(f"ignore_merges with the special token {special[id_]!r}, a word")
    return np.array(list(vocab.values()), np.int32)


def made_by_merges(model: dict[str, Any], vocab: Mapping[str, int]) -> np.ndarray:
    """int32 [...], the ids of the tokens that merges make from a piece equal to the token."""
    from tokenizers import Tokenizer

    model = {**model, "ignore_merges": False}
    bare = Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    encodings = bare.encode_batch_fast(list(vocab))
    pairs = zip(vocab.values(), encodings, strict=True)
    return np.array([id_ for id_, e in pairs if e.ids == [id_]], np.int32)


def _may_be_one_piece(text: str) -> bool:
    """Whether a split pattern may keep it in one piece: no common one joins letters and
    punctuation."""
    return text.isalnum() or not any(c.isalnum() for c in text)


# ------------------------------------------------------------------ splits


def _splits(settings: dict[str, Any] | None) -> tuple[Atoms, list[Split]]:
    steps = _pre_tokenizers(settings)
    if not steps or steps[-1]["type"] != "ByteLevel":
        raise _refuse("a pre-tokenizer that does not end in ByteLevel")
    trees: list[tuple[Node, bool]] = []
    for step in steps:
        kind = step["type"]
        if kind == "ByteLevel":
            if step is not steps[-1]:
                raise _refuse("a pre-tokenizer after ByteLevel")
            if step.get("add_prefix_space", True):
                raise _refuse("add_prefix_space")
            if step.get("use_regex", True):
                trees.append((parse(BYTE_LEVEL_PATTERN), False))
        elif kind == "Digits":
            digit = Characters("a digit", probe_digits())
            single = step.get("individual_digits", False)
            trees.append((digit if single else Repeat(digit, 1, None), False))
        elif kind == "Split":
            pattern = step["pattern"]
            tree = parse(pattern["Regex"]) if "Regex" in pattern else literal(pattern["String"])
            behavior, invert = step["behavior"], step.get("invert", False)
            if behavior not in ("Isolated", "Removed") or (behavior == "Removed" and not invert):
                raise _refuse(f"the split behavior {behavior!r}")
            trees.append((tree, behavior == "Removed"))
        else:
            raise _refuse(f"the pre-tokenizer {kind!r}")
    sets: list[CharacterSet] = []
    place: dict[int, int] = {}  # index in `sets` of each leaf's set
    for tree, _ in trees:
        for leaf in leaves(tree):
            characters = leaf.characters if isinstance(leaf, LookAhead) else leaf
            place[id(characters)] = len(sets)
            sets.append(characters.set)
    atoms = Atoms(sets)
    return atoms, [
        _split(tree, drops_gaps, atoms, lambda c: atoms.members[place[id(c)]])
        for tree, drops_gaps in trees
    ]


def _pre_tokenizers(settings: dict[str, Any] | None) -> list[dict[str, Any]]:
    if settings is None:
        return []
    if settings["type"] == "Sequence":
        return [step for inner in settings["pretokenizers"] for step in _pre_tokenizers(inner)]
    return [settings]


def _split(tree: Node, drops_gaps: bool, atoms: Atoms, members: Any) -> Split:
    """Assign letters to the atoms and write the pattern over them."""
    pairs = looking(tree)
    tests: list[tuple[frozenset[int], bool]] = []  # the distinct look-aheads
    for _, look in pairs:
        test = (members(look.characters), look.negative)
        if test not in tests:
            tests.append(test)
    bits = len(tests)
    in_front = frozenset(atom for before, _ in pairs for atom in members(before))
    variants = 1 << bits
    letters = np.zeros((atoms.count, variants), np.uint8)
    next_letter = ADDED_TOKEN_LETTER + 1
    for atom in range(atoms.count):
        number = variants if atom in in_front else 1
        letters[atom] = np.arange(next_letter, next_letter + number) % 256
        next_letter += number
        if next_letter > _MOST_LETTERS:
            raise _refuse("a split pattern with so many character classes")
    next_bits = np.zeros(atoms.count, np.int32)
    end_bits = 0
    for bit, (inside, negative) in enumerate(tests):
        holds = np.array([(atom in inside) != negative for atom in range(atoms.count)], np.int32)
        next_bits |= holds << bit
        end_bits |= int(negative) << bit

    def plain(characters: Characters) -> frozenset[int]:
        return frozenset(int(x) for atom in members(characters) for x in letters[atom])

    def followed(characters: Characters, look: LookAhead) -> frozenset[int]:
        bit = tests.index((members(look.characters), look.negative))
        answers = [v for v in range(variants) if v >> bit & 1]
        return frozenset(int(letters[atom][v]) for atom in members(characters) for v in answers)

    pattern = to_re2(tree, Letters(plain, followed))
    if drops_gaps:
        every = {bytes([x]) for x in letters.reshape(-1)}
        if not all(re.fullmatch(pattern.encode(), x, re.DOTALL) for x in every):
            raise _refuse("a split that drops the text between its matches")
    return Split(
        pattern=f"\\x{ADDED_TOKEN_LETTER:02x}+|{pattern}",
        letters=letters.reshape(-1),
        next_bits=next_bits,
        end_bits=end_bits,
        num_look_aheads=bits,
    )
