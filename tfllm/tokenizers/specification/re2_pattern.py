r"""Write the tree of a split pattern so that RE2 cuts text exactly as the original does.

RE2 gets the text as one ASCII letter for each character, the letter of the character's atom, and
the pattern is written over these letters; so RE2's own notion of a letter or a space never matters.

RE2 has no look-ahead. A one-character look-ahead such as the ``(?!\S)`` of ``\s+(?!\S)`` is a
property of the character before it: "the next character is in the set". So a character has one
letter for each answer, and ``\s+(?!\S)`` becomes ``\s*`` and then a space whose letter says that no
other character follows.

RE2 prefers the match that a backtracking engine prefers (the leftmost, the first alternative,
greedy or lazy as written), so nothing else changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tfllm.tokenizers.specification.split_pattern import (
    Characters,
    Choice,
    LookAhead,
    Node,
    Repeat,
    Sequence,
    UnsupportedTokenizer,
    can_be_empty,
)


@dataclass(frozen=True)
class Letters:
    """The sets of letters over which a pattern is written.

    plain(characters): Letters of the set's characters, whatever follows them.
    followed(characters, look_ahead): Those of them that say that the look-ahead holds.
    """

    plain: Callable[[Characters], frozenset[int]]
    followed: Callable[[Characters, LookAhead], frozenset[int]]


def looking(tree: Node) -> list[tuple[Characters, LookAhead]]:
    """Each look-ahead of a tree, with the set of the character before it.

    Raises:
        UnsupportedTokenizer: If there is something other than one character before a look-ahead.
    """
    found: list[tuple[Characters, LookAhead]] = []

    def walk(node: Node) -> None:
        if isinstance(node, Repeat):
            walk(node.node)
        elif isinstance(node, Choice | Sequence):
            before: Node | None = None
            for child in node.nodes:
                if isinstance(child, LookAhead):
                    inner = before.node if isinstance(before, Repeat) else before
                    if (
                        not isinstance(inner, Characters)
                        or isinstance(node, Choice)
                        or (
                            isinstance(before, Repeat)
                            and (before.least == 0 or before.lazy or before.possessive)
                        )
                    ):
                        raise _refuse_look_ahead(child)
                    found.append((inner, child))
                else:
                    walk(child)
                before = child
        elif isinstance(node, LookAhead):
            raise _refuse_look_ahead(node)

    walk(tree)
    return found


def _refuse_look_ahead(node: LookAhead) -> UnsupportedTokenizer:
    return UnsupportedTokenizer(
        f"the in-graph tokenizer cannot do a look-ahead at {node.characters.source!r} that does "
        "not come right after one character or a greedy run of at least one"
    )


def to_re2(tree: Node, letters: Letters) -> str:
    """Write the tree as an RE2 pattern over letters.

    Raises:
        UnsupportedTokenizer: If a possessive quantifier is not equivalent to a greedy one.
    """

    def write(node: Node, follow: Callable[[], frozenset[int]]) -> str:
        if isinstance(node, Characters):
            return _letter_class(letters.plain(node))
        if isinstance(node, Repeat):
            if node.possessive:
                # It is equivalent to greedy if what follows cannot start with what it would give
                # back.
                inner = node.node
                if not isinstance(inner, Characters) or letters.plain(inner) & follow():
                    raise UnsupportedTokenizer(
                        "the in-graph tokenizer cannot do a possessive quantifier whose "
                        "characters can also begin what follows it"
                    )
            return _repeat(write(node.node, _unknown), node.least, node.most, node.lazy)
        if isinstance(node, Choice):
            return "(?:" + "|".join(write(child, follow) for child in node.nodes) + ")"
        assert isinstance(node, Sequence)
        parts = []
        for i, child in enumerate(node.nodes):
            after = node.nodes[i + 1] if i + 1 < len(node.nodes) else None
            if isinstance(child, LookAhead):
                continue
            if isinstance(after, LookAhead):
                repeat = child if isinstance(child, Repeat) else Repeat(child, 1, 1)
                assert isinstance(repeat.node, Characters)
                most = None if repeat.most is None else repeat.most - 1
                if most != 0:
                    parts.append(_repeat(write(repeat.node, _unknown), repeat.least - 1, most))
                parts.append(_letter_class(letters.followed(repeat.node, after)))
            else:
                rest = node.nodes[i + 1 :]
                parts.append(write(child, lambda r=rest: _first(r, letters, follow)))  # type: ignore[misc]
        return "".join(parts)

    return write(tree, frozenset)


def _unknown() -> frozenset[int]:
    """What follows the inside of a repetition: anything, to be safe."""
    return frozenset(range(256))


def _first(
    nodes: list[Node], letters: Letters, follow: Callable[[], frozenset[int]]
) -> frozenset[int]:
    """The letters that a sequence of nodes can begin with."""
    result: frozenset[int] = frozenset()
    for node in nodes:
        if isinstance(node, Characters):
            return result | letters.plain(node)
        if isinstance(node, LookAhead):
            return _unknown()
        if isinstance(node, Repeat):
            result |= _first([node.node], letters, frozenset)
        elif isinstance(node, Sequence):
            result |= _first(node.nodes, letters, frozenset)
        else:
            for child in node.nodes:
                result |= _first([child], letters, frozenset)
        if not can_be_empty(node):
            return result
    return result | follow()


def _repeat(written: str, least: int, most: int | None, lazy: bool = False) -> str:
    if (least, most) == (1, 1):
        return written
    sign = {(0, 1): "?", (0, None): "*", (1, None): "+"}.get((least, most))
    if sign is None:
        sign = f"{{{least},{'' if most is None else most}}}"
    return f"(?:{written}){sign}" + ("?" if lazy else "")


def _letter_class(letters: frozenset[int]) -> str:
    if not letters:
        return r"[^\x00-\xff]"  # nothing: the text is ASCII
    return "[" + "".join(f"\\x{letter:02x}" for letter in sorted(letters)) + "]"
