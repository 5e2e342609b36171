"""Parse a split pattern of `tokenizer.json` into a tree.

The leaves are sets of characters; `character_classes` determines which characters these are. Only
constructs that mean the same in every engine, or that `re2_pattern` can express, are supported;
others are refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tfllm.tokenizers.specification.character_classes import CharacterSet, probe


class UnsupportedTokenizer(ValueError):
    """A tokenizer.json requires something that the in-graph tokenizer cannot do."""


@dataclass(eq=False)
class Characters:
    """One character of a set."""

    source: str
    set: CharacterSet


@dataclass(eq=False)
class LookAhead:
    """The next character is in a set, or (negative) is not in it or does not exist."""

    characters: Characters
    negative: bool


@dataclass(eq=False)
class Repeat:
    """A node that is repeated least to most times; most is None for no limit."""

    node: Node
    least: int
    most: int | None
    lazy: bool = False
    possessive: bool = False


@dataclass(eq=False)
class Sequence:
    """Nodes in order."""

    nodes: list[Node] = field(default_factory=list)


@dataclass(eq=False)
class Choice:
    """Alternatives; the first one that lets the whole pattern match is taken."""

    nodes: list[Node]


Node = Characters | LookAhead | Repeat | Sequence | Choice


def leaves(node: Node) -> Iterator[Characters | LookAhead]:
    """The sets and look-aheads of a tree, in order."""
    if isinstance(node, Characters | LookAhead):
        yield node
    elif isinstance(node, Repeat):
        yield from leaves(node.node)
    else:
        for child in node.nodes:
            yield from leaves(child)


def can_be_empty(node: Node) -> bool:
    """Whether a tree can match no character at all."""
    if isinstance(node, Characters):
        return False
    if isinstance(node, LookAhead):
        return True
    if isinstance(node, Repeat):
        return node.least == 0 or can_be_empty(node.node)
    children = [can_be_empty(child) for child in node.nodes]
    return all(children) if isinstance(node, Sequence) else any(children)


def parse(pattern: str) -> Node:
    """Parse a split pattern.

    Raises:
        UnsupportedTokenizer: If the pattern has a construct that cannot be rewritten, or can match
            the empty string.
    """
    tree = _Parser(pattern).parse()
    if can_be_empty(tree):
        raise UnsupportedTokenizer(
            f"a split pattern must match at least one character; received {pattern!r}"
        )
    return tree


def literal(text: str) -> Node:
    """The tree of a literal string."""
    return Sequence([Characters(c, CharacterSet.of(c)) for c in text])


# Escapes with these letters match more, or less, than one character.
_REFUSED_ESCAPES = {
    **dict.fromkeys("bB", "a word boundary"),
    **dict.fromkeys("AzZG", "an anchor"),
    **dict.fromkeys("RXK", "a construct of several characters"),
    **dict.fromkeys("kg123456789", "a back-reference"),
    **dict.fromkeys("yYO", "an escape of Oniguruma's own"),
}
# Strings of ASCII letters that are another spelling of one character (the ligatures and the sharp
# s): an engine that ignores case may match them against that character.
_ONE_CHARACTER_SPELLINGS = ("ss", "st", "ff", "fi", "fl")


class _Parser:
    def __init__(self, pattern: str) -> None:
        self.pattern, self.at = pattern, 0

    def refuse(self, what: str) -> UnsupportedTokenizer:
        return UnsupportedTokenizer(
            f"the in-graph tokenizer cannot do {what}, at character {self.at} of the split pattern "
            f"{self.pattern!r}; tokenize outside the graph (BytePairTokenizer.encode)"
        )

    def parse(self) -> Node:
        tree = self.choice(ignore_case=False)
        if self.at < len(self.pattern):
            raise self.refuse("an unopened ')'")
        return tree

    def next_is(self, *texts: str) -> bool:
        return self.pattern.startswith(texts, self.at)

    def take(self, text: str) -> bool:
        if self.next_is(text):
            self.at += len(text)
            return True
        return False

    def choice(self, ignore_case: bool) -> Node:
        nodes: list[Node] = [self.sequence(ignore_case)]
        while self.take("|"):
            nodes.append(self.sequence(ignore_case))
        return nodes[0] if len(nodes) == 1 else Choice(nodes)

    def sequence(self, ignore_case: bool) -> Node:
        nodes: list[Node] = []
        letters = ""  # the current run of literal letters for which case is ignored
        while self.at < len(self.pattern) and not self.next_is("|", ")"):
            start = self.at
            node = self.element(ignore_case)
            text = self.pattern[start : self.at]
            letters = letters + text.lower() if ignore_case and len(text) == 1 else ""
            if any(s in letters for s in _ONE_CHARACTER_SPELLINGS):
                raise self.refuse(f"{letters!r} with case ignored")
            quantified = self.quantified(node)
            if quantified is not node:
                letters = ""
            nodes.append(quantified)
        return nodes[0] if len(nodes) == 1 else Sequence(nodes)

    def element(self, ignore_case: bool) -> Node:
        pattern, start = self.pattern, self.at
        character = pattern[start]
        if character == "(":
            return self.group(ignore_case)
        if character in "^$":
            raise self.refuse(f"the anchor {character!r}")
        if character in "*+?{":
            raise self.refuse(f"{character!r} with nothing to repeat")
        if character == "[":
            self.at = self.class_end()
        elif character == "\\":
            self.at = self.escape_end()
        else:
            self.at += 1
        source = pattern[start : self.at]
        if ignore_case:
            if not (len(source) == 1 and source.isascii() and source != "."):
                raise self.refuse(f"{source!r} with case ignored")
            # Beyond ASCII only U+017F and U+212A are another case of an ASCII letter.
            return Characters(source, probe(f"(?i:{source})", below=0x3000))
        if len(source) == 1 and source != ".":
            return Characters(source, CharacterSet.of(source))
        return Characters(source, probe(source))

    def group(self, ignore_case: bool) -> Node:
        for opening, what in (
            ("(?<=", "a look-behind"),
            ("(?<!", "a look-behind"),
            ("(?>", "an atomic group"),
            ("(?#", "a comment"),
            ("(?<", "a named group"),
            ("(?(", "a condition"),
            ("(?~", "an absence operator"),
        ):
            if self.next_is(opening):
                raise self.refuse(what)
        for opening in ("(?=", "(?!"):
            if self.take(opening):
                inside = self.choice(ignore_case)
                self.close()
                if not isinstance(inside, Characters):
                    raise self.refuse("a look-ahead at more than one character")
                return LookAhead(inside, negative=opening == "(?!")
        if self.take("(?i:"):
            ignore_case = True
        elif self.take("(?-i:"):
            ignore_case = False
        elif self.next_is("(?") and not self.next_is("(?:"):
            raise self.refuse(f"the group option {self.pattern[self.at : self.at + 4]!r}")
        elif not self.take("(?:"):
            self.take("(")
        inside = self.choice(ignore_case)
        self.close()
        return inside

    def close(self) -> None:
        if not self.take(")"):
            raise self.refuse("an unclosed '('")

    def class_end(self) -> int:
        """The end of the bracket expression that starts here; brackets nest."""
        depth, at = 0, self.at
        while at < len(self.pattern):
            if self.pattern[at] == "\\":
                at += 1
            elif self.pattern[at] == "[":
                depth += 1
                rest = self.pattern[at + 1 :]
                # A ']' in the first position is a member.
                at += 2 if rest.startswith("^]") else 1 if rest.startswith("]") else 0
            elif self.pattern[at] == "]":
                depth -= 1
                if depth == 0:
                    return at + 1
            at += 1
        raise self.refuse("an unclosed '['")

    def escape_end(self) -> int:
        letter = self.pattern[self.at + 1 : self.at + 2]
        if not letter:
            raise self.refuse("a lone backslash")
        if letter in _REFUSED_ESCAPES:
            raise self.refuse(f"{_REFUSED_ESCAPES[letter]} (\\{letter})")
        after = self.at + 2
        if letter in "pP":
            end = self.pattern.find("}", after)
            if not self.pattern.startswith("{", after) or end < 0:
                raise self.refuse(f"\\{letter} without {{...}}")
            return end + 1
        if letter == "x" and self.pattern.startswith("{", after):
            end = self.pattern.find("}", after)
            if end < 0:
                raise self.refuse("an unclosed '{'")
            return end + 1
        if letter in "xu":
            return after + (2 if letter == "x" else 4)
        if letter.isalnum() and letter not in "sSdDwWhHnrtfvae":
            raise self.refuse(f"the escape \\{letter}")
        return after

    def quantified(self, node: Node) -> Node:
        if self.take("?"):
            least, most = 0, 1
        elif self.take("*"):
            least, most = 0, None
        elif self.take("+"):
            least, most = 1, None
        elif self.next_is("{"):
            least, most = self.interval()
            if self.next_is("?", "+", "*", "{"):
                raise self.refuse("a quantifier after {...}")  # engines read these differently
            return self.repeat(Repeat(node, least, most))
        else:
            return node
        lazy, possessive = self.take("?"), self.take("+")
        if self.next_is("?", "+", "*", "{"):
            raise self.refuse("a quantifier of a quantifier")
        return self.repeat(Repeat(node, least, most, lazy, possessive))

    def interval(self) -> tuple[int, int | None]:
        end = self.pattern.find("}", self.at)
        low, comma, high = self.pattern[self.at + 1 : max(end, 0)].partition(",")
        if end < 0 or not (low or high) or not (low + high).isdecimal():
            raise self.refuse("a '{' that is not a quantifier (write \\{ for the character)")
        least = int(low or 0)
        most = least if not comma else int(high) if high else None
        if max(least, most or 0) > 1000 or (most is not None and most < least):
            raise self.refuse(f"the interval {self.pattern[self.at : end + 1]!r}")
        self.at = end + 1
        return least, most

    def repeat(self, repeat: Repeat) -> Repeat:
        if isinstance(repeat.node, LookAhead) or can_be_empty(repeat.node):
            raise self.refuse("repetition of something that can match nothing")
        return repeat
