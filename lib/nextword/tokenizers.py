"""Tokenizers: byte-level byte-pair encoding, and WordPiece as BERT reads it.

Byte-level byte-pair encoding is the tokenizer of GPT-2 and GPT-3 (Radford et al. 2019, section 2.2).

A text becomes bytes, so that no character is unknown. Frequent neighbours are merged into longer tokens, so that common
words cost one token and rare ones a few. Sennrich et al. 2016 brought byte-pair encoding to translation; GPT-2 moved it
from characters to bytes and kept merges inside the pieces that a regular expression cuts.

WordPiece (Wu et al. 2016, section 4.1) cuts words into parts, too. BERT's version first tidies the text, so that it
cannot give it back letter for letter, and has one id for whatever it does not know.
"""

from __future__ import annotations

import base64
import contextlib
import heapq
import json
import os
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import regex
from torch import Tensor

from nextword.data import fetch_file, fetch_folder
from nextword.runtime import progress

Pair = tuple[int, int]

GPT2_PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
r"""How GPT-2 cuts a text into pieces (pre-tokens). No token reaches across a cut. The first alternative to fit wins:

- ``'s|'t|'re|'ve|'m|'ll|'d``: the English contractions, lower case only. ``it's`` is cut before ``'s``, but ``IT'S``
  into ``IT``, ``'`` and ``S``: an oversight that the authors noted in their code and kept.
- `` ?\p{L}+``: letters of any script, with the one space before them. So `` the`` is a token of its own.
- `` ?\p{N}+``: digits, likewise.
- `` ?[^\s\p{L}\p{N}]+``: everything else that is not white space (punctuation, symbols, emoji), likewise.
- ``\s+(?!\S)``: white space up to, but without, the last character before a word. That last space goes to the word.
- ``\s+``: the white space that is left: a line break or a tab right before a word.
"""

SMOLLM_PATTERN = r"""\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"""
r"""How SmolLM2 cuts a text: every digit stands alone, and what lies between digits is cut as in GPT-2.

So a number is spelt digit by digit, white space before a digit stays whole, and no space ever goes to a digit.
"""

PATTERNS = {"gpt-2": GPT2_PATTERN, "smollm": SMOLLM_PATTERN}
"""The patterns that ``from_gguf`` knows, by the name that a GGUF file gives them."""

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
BYTE_ORDER = bytes(_PRINTABLE + sorted(set(range(256)) - set(_PRINTABLE)))
"""The byte that each of the ids 0 to 255 stands for. GPT-2 puts the printable Latin-1 characters first: 0 is "!"."""
_BYTE_ID = bytes(BYTE_ORDER.index(byte) for byte in range(256))  # the inverse: _BYTE_ID[byte] is its id
_BYTE_OF = dict(zip(map(chr, [*_PRINTABLE, *range(0x100, 0x144)]), BYTE_ORDER, strict=True))
"""The byte that a character stands for where GPT-2 spells tokens as text: "Ġ" is the space, "Ċ" the line break."""

_FORMAT, _VERSION = "nextword.ByteBPE", 1
_FIELDS = {"format", "version", "pattern", "special_tokens", "tokens"}
_OPTIONAL = {"absent"}


class ByteBPE:
    r"""Byte-level byte-pair encoding (Radford et al. 2019, section 2.2).

    Ids are laid out as in GPT-2: 0 to 255 are the single bytes in the order of ``BYTE_ORDER``, then one id for each
    merge in the order in which merges were learnt, then the special tokens. The id of a token is also its rank:
    encoding merges the neighbours whose union has the lowest id, until none is left. A vocabulary made elsewhere may
    begin with its special tokens, as SmolLM2's does: what counts is that ids rise in the order of the merges.

    Any bytes survive the round trip, and so does any text that UTF-8 can express. A lone surrogate, which it cannot
    express, becomes U+FFFD, as in OpenAI's tiktoken. Only a vocabulary with ``absent`` bytes refuses some texts.

    Used in: 2019_gpt2.

    Example:
        >>> bpe = ByteBPE.train(["low lower lowest", "new newer newest"], 262)
        >>> bpe.merges()[:2]
        [(b'w', b'e'), (b'l', b'o')]
        >>> [bpe.token_bytes(i) for i in bpe.encode("lower")]
        [b'lo', b'we', b'r']
        >>> bpe.decode(bpe.encode("lowest ☕"))
        'lowest ☕'
    """

    def __init__(
        self,
        ranks: Mapping[bytes, int],
        *,
        pattern: str = GPT2_PATTERN,
        special_tokens: Mapping[str, int] | None = None,
        absent: bytes = b"",
    ) -> None:
        """Build a tokenizer from its tokens. ``train``, ``load``, ``gpt2`` and ``from_gguf`` are the usual ways to one.

        Args:
            ranks: id of each token; all 256 single bytes but the ``absent`` ones must be among them.
            pattern: regular expression (module ``regex``) that cuts a text into pieces; it may have no capturing group.
            special_tokens: id of each special token, such as ``{"<|endoftext|>": 50256}``.
            absent: bytes that have no token, so that no text with one of them can be encoded.

        Raises:
            ValueError: a byte is missing, or has a token although it is ``absent``; the ids are not 0, 1, 2, … without
                gaps; or the pattern cannot be used.
        """
        self._ranks = dict(ranks)
        self._special = dict(special_tokens or {})
        self.absent = bytes(sorted(set(absent)))
        _check_vocabulary(self._ranks, self._special, self.absent)
        self.pattern = pattern
        self._pattern = _compile(pattern)
        self._token_of = {i: token for token, i in self._ranks.items()}
        self._token_of |= {i: name.encode("utf-8") for name, i in self._special.items()}
        self._cache = _PieceCache(self._ranks)

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, *, pattern: str = GPT2_PATTERN, special_tokens: Collection[str] = ()
    ) -> ByteBPE:
        """Learn the merges of ``texts``: join the most frequent pair of neighbours, again and again.

        This is algorithm 1 of Sennrich et al. 2016, on bytes. Pairs are counted inside the pieces that ``pattern``
        cuts. Among equally frequent pairs the one with the smallest (left id, right id) comes first, so the result
        depends on nothing but the texts. It is the same as that of Hugging Face's ``tokenizers``.

        Args:
            texts: documents, read once. A special token inside them counts as ordinary text.
            vocab_size: 256 bytes + merges + special tokens. Texts too short to yield so many merges give a smaller
                vocabulary: size the model by the result's ``vocab_size``.
            pattern: see ``GPT2_PATTERN``.
            special_tokens: names that get the last ids, in this order.

        Raises:
            ValueError: ``vocab_size`` has no room for the bytes and the special tokens, or one of these is named twice.
            TypeError: ``texts`` is one string, or holds something else than strings; ``vocab_size`` is no integer.
        """
        if not isinstance(vocab_size, int):
            raise TypeError(f"vocab_size must be an integer, got {vocab_size!r}")
        special_tokens = _check_names("special_tokens", special_tokens)
        n_merges = vocab_size - 256 - len(special_tokens)
        if n_merges < 0:
            raise ValueError(
                f"vocab_size={vocab_size} is too small: 256 bytes and {len(special_tokens)} special tokens need "
                f"at least {256 + len(special_tokens)}"
            )
        tokens = [bytes([byte]) for byte in BYTE_ORDER]
        for left, right in _learn_merges(_count_pieces(texts, _compile(pattern)), n_merges):
            tokens.append(tokens[left] + tokens[right])
        ranks = {token: i for i, token in enumerate(tokens)}
        return cls(ranks, pattern=pattern, special_tokens=_number(special_tokens, first=len(ranks)))

    @classmethod
    def from_tiktoken(
        cls, path: str | Path, *, pattern: str = GPT2_PATTERN, special_tokens: Collection[str] = ("<|endoftext|>",)
    ) -> ByteBPE:
        """Read a ``*.tiktoken`` file: on each line a token in base64 and its rank, which is kept as its id.

        The file holds neither the pattern nor the special tokens. The defaults are GPT-2's; special tokens get the ids
        after the last rank (``<|endoftext|>`` is 50256 in GPT-2).

        Raises:
            ValueError: a line is not "base64 rank", a token or a rank comes twice, or ranks are missing.
        """
        ranks: dict[bytes, int] = {}
        for number, line in enumerate(Path(path).read_bytes().splitlines(), start=1):
            if not line.strip():
                continue
            try:
                encoded, rank = line.split()
                token, position = base64.b64decode(encoded, validate=True), int(rank)
            except ValueError as error:
                where = f"path={str(path)!r}, line {number}"
                raise ValueError(f"{where}: expected a base64 token and its rank, got {line[:60]!r}") from error
            if token in ranks:
                raise ValueError(f"path={str(path)!r}, line {number}: token {token!r} comes twice")
            ranks[token] = position
        names = _check_names("special_tokens", special_tokens)
        return cls(ranks, pattern=pattern, special_tokens=_number(names, first=len(ranks)))

    @classmethod
    def gpt2(cls) -> ByteBPE:
        """Return the tokenizer of GPT-2 and GPT-3 with the 50,257 ids that OpenAI published, fetched on first use.

        Raises:
            DataError: the file is not in the cache and cannot be had.

        Source: Radford et al. 2019. Used in: 2019_gpt2.
        """
        return cls.from_tiktoken(fetch_file("gpt2_ranks"))

    @classmethod
    def from_gguf(cls, path: str | Path) -> ByteBPE:
        """Read the vocabulary of a language model from its GGUF file, such as that of SmolLM2 (Allal et al. 2025).

        Such a file spells each byte of a token as a character, lists the merges, and names the pattern. Its control
        tokens become the special tokens. Bytes without a token are the ``absent`` ones: SmolLM2 lacks 21, six control
        characters and bytes that UTF-8 never or hardly ever needs.

        Raises:
            ImportError: the package ``gguf`` is not installed.
            ValueError: the file is no GGUF file, lacks a part of the vocabulary, is no byte-level BPE, names a pattern
                that is not in ``PATTERNS``, or has ids that are not in the order of its merges.
        """
        try:
            tokens, kinds, merges, pattern = _read_gguf(path)
            kind_of = dict(zip(tokens, kinds, strict=True))
            special = {token: i for i, token in enumerate(tokens) if kind_of[token] == _CONTROL}
            spelt = _spelt_bytes(token for token in tokens if token not in special)
            ranks = {spelt[token]: i for i, token in enumerate(tokens) if token in spelt}
            absent = bytes(byte for byte in range(256) if bytes([byte]) not in ranks)
            bpe = cls(ranks, pattern=pattern, special_tokens=special, absent=absent)
            if bpe.merges() != [tuple(map(spelt.get, merge.split(" "))) for merge in merges]:
                raise ValueError("its ids are not in the order of its merges")
            return bpe
        except ValueError as error:
            raise ValueError(f"path={str(path)!r} holds no ByteBPE: {error}") from error

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return len(self._token_of)

    @property
    def special_tokens(self) -> dict[str, int]:
        """Id of each special token."""
        return dict(self._special)

    def token_bytes(self, id: int) -> bytes:
        """Return the bytes that an id stands for (a special token: its name).

        Raises:
            ValueError: the vocabulary has no such id.
        """
        return self.decode_bytes([id])

    def merges(self) -> list[tuple[bytes, bytes]]:
        """Return the merges in the order in which they were learnt, each as its two halves.

        A token's halves are what encoding makes of it from the tokens learnt before it.

        Raises:
            ValueError: a token is not the union of two earlier ones, as may be in a vocabulary that was not trained by
                byte-pair encoding.
        """
        halves = []
        for token, rank in sorted(self._ranks.items(), key=lambda item: item[1]):
            if len(token) > 1:
                parts = _merge(token, self._ranks, below=rank)
                if len(parts) != 2:
                    raise ValueError(f"token {rank} = {token!r} is not the union of two tokens of lower rank")
                halves.append((parts[0], parts[1]))
        return halves

    def encode(self, text: str, *, allow_special: Collection[str] = ()) -> list[int]:
        r"""Turn a text into ids.

        The name of a special token inside the text is ordinary text: what a user types can never end a document.
        ``allow_special`` lists the names that are to become their special id instead.

        Raises:
            TypeError: ``text`` is not a string (for bytes there is ``encode_bytes``).
            ValueError: ``allow_special`` names a token that does not exist, or the text holds an ``absent`` byte.

        Example:
            >>> bpe = ByteBPE.train(["aaabdaaabac"], 260, special_tokens=["<|end|>"])
            >>> bpe.encode("abac<|end|>", allow_special=["<|end|>"])
            [257, 64, 66, 259]
        """
        text = _expressible(_check_text("text", text))
        allowed = _check_names("allow_special", allow_special)
        if not allowed:
            return self._encode_ordinary(text)
        if unknown := [name for name in allowed if name not in self._special]:
            raise ValueError(f"allow_special={unknown} are no special tokens; there are {list(self._special)}")
        ids: list[int] = []
        for n, part in enumerate(_parted(text, allowed)):
            ids += [self._special[part]] if n % 2 else self._encode_ordinary(part)
        return ids

    def encode_bytes(self, data: bytes) -> list[int]:
        r"""Turn any bytes into ids, so that ``decode_bytes`` gives the same bytes back.

        Bytes that are UTF-8 get the ids of their text. Others travel as Python's escapes (PEP 383) through the pattern,
        which takes them for punctuation.

        Example:
            >>> bpe = ByteBPE.train([], 256)
            >>> bpe.decode_bytes(bpe.encode_bytes(b"caf\xc3\xa9 \xff"))
            b'caf\xc3\xa9 \xff'
        """
        if not isinstance(data, bytes):
            raise TypeError(f"data must be bytes, got {type(data).__name__}; for a text there is encode")
        return self._encode_ordinary(data.decode("utf-8", "surrogateescape"))

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Return ``encode`` of each text."""
        return [self.encode(text) for text in _each_text(texts)]

    def _encode_ordinary(self, text: str) -> list[int]:
        return list(chain.from_iterable(map(self._cache.__getitem__, _cut(self._pattern, text))))

    def decode(self, ids: Iterable[int] | Tensor) -> str:
        """Turn ids, such as a list or a tensor of shape (T,), into text.

        The bytes are joined first: a character may lie across two tokens. Bytes that are no UTF-8 become U+FFFD.

        Raises:
            ValueError: an id is outside the vocabulary, or a tensor has another shape.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int] | Tensor) -> bytes:
        """Turn ids into the bytes they stand for. Errors as in ``decode``."""
        try:
            return b"".join([self._token_of[i] for i in _one_row(ids)])
        except KeyError as error:
            last = self.vocab_size - 1
            raise ValueError(f"ids holds {error.args[0]!r}; this vocabulary has the ids 0 to {last}") from None

    def save(self, path: str | Path) -> None:
        """Write the tokenizer to one JSON file, which is there as a whole or not at all.

        Tokens stand in the order of their ids, each byte as the Latin-1 character of the same number.
        """
        tokens = sorted(self._ranks, key=self._ranks.__getitem__)
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "pattern": self.pattern,
            "special_tokens": self._special,
            "tokens": [token.decode("latin-1") for token in tokens],
        }
        if self.absent:
            content["absent"] = self.absent.decode("latin-1")
        _write_whole(Path(path), json.dumps(content, indent=0))

    @classmethod
    def load(cls, path: str | Path) -> ByteBPE:
        """Read a tokenizer that ``save`` wrote.

        Raises:
            ValueError: the file is no such tokenizer, has another version, or a key is missing or unknown.
        """
        try:
            content = _read_fields(Path(path).read_text(encoding="utf-8"))
            special = content["special_tokens"]
            taken = set(special.values())
            free = [i for i in range(len(content["tokens"]) + len(special)) if i not in taken]
            if len(free) != len(content["tokens"]):
                raise ValueError(f"special_tokens={special} has an id twice or beyond the last one")
            ranks = {token.encode("latin-1"): i for token, i in zip(content["tokens"], free, strict=True)}
            absent = content.get("absent", "").encode("latin-1")
            return cls(ranks, pattern=content["pattern"], special_tokens=special, absent=absent)
        except ValueError as error:
            raise ValueError(f"path={str(path)!r} holds no ByteBPE: {error}") from error


def _one_row(ids: Iterable[int] | Tensor) -> Iterable[int]:
    """Return ids that may be a tensor of shape (T,) as numbers of Python."""
    if not isinstance(ids, Tensor):
        return ids
    if ids.ndim != 1:
        raise ValueError(f"ids must have shape (T,), got {tuple(ids.shape)}; decode one row at a time")
    numbers: list[int] = ids.tolist()
    return numbers


def _parted(text: str, names: Collection[str]) -> list[str]:
    """Cut a text at these names: every second part, from the second on, is a name that was found."""
    ordered = sorted(names, key=len, reverse=True)  # the longest name wins
    parts: list[str] = regex.split(f"({'|'.join(map(regex.escape, ordered))})", text)
    return parts


class _PieceCache(dict[str, tuple[int, ...]]):
    """Ids of each piece, worked out when it is first met. A language repeats its words, so most look-ups are hits."""

    max_pieces, max_length = 500_000, 64  # about 100 MB at most; long pieces hardly ever come back

    def __init__(self, ranks: dict[bytes, int]) -> None:
        super().__init__()
        self._ranks = ranks

    def __missing__(self, piece: str) -> tuple[int, ...]:
        data = piece.encode("utf-8", "surrogateescape")
        rank = self._ranks.get(data)
        try:
            ids = (rank,) if rank is not None else tuple(self._ranks[part] for part in _merge(data, self._ranks))
        except KeyError as error:
            byte = error.args[0][0]
            raise ValueError(f"this vocabulary has no token for the byte 0x{byte:02x}, met in {piece[:60]!r}") from None
        if len(piece) <= self.max_length:
            if len(self) >= self.max_pieces:
                self.clear()
            self[piece] = ids
        return ids


def _merge(piece: bytes, ranks: Mapping[bytes, int], *, below: int = sys.maxsize) -> list[bytes]:
    """Merge the neighbours whose union has the lowest rank (the leftmost at a tie) until no union is a token.

    Parts are known by where they begin: ``after[i]`` is where the part that begins at i ends and the next begins. A
    heap holds the possible merges, so a piece of n bytes takes O(n log n) steps and not n².
    """
    n = len(piece)
    after = list(range(1, n + 2))
    before = list(range(-1, n))
    pairs = [(ranks.get(piece[i : i + 2], below), i, i + 2) for i in range(n - 1)]
    heap = [pair for pair in pairs if pair[0] < below]  # (rank of the union, where it begins, where it ends)
    heapq.heapify(heap)
    while heap:
        _, begin, end = heapq.heappop(heap)
        middle = after[begin]
        if middle < 0 or middle >= n or after[middle] != end:
            continue  # one of the two parts has since been merged with another neighbour
        after[begin], before[end], after[middle] = end, begin, -1  # -1: no part begins here any more
        for i, j in (before[begin], end), (begin, after[end]):  # the union with the part on either side
            if i >= 0 and j <= n and (rank := ranks.get(piece[i:j], below)) < below:
                heapq.heappush(heap, (rank, i, j))
    parts, i = [], 0
    while i < n:
        parts.append(piece[i : after[i]])
        i = after[i]
    return parts


def _count_pieces(texts: Iterable[str], pattern: regex.Pattern[str]) -> Counter[str]:
    """Count the distinct pieces: merges stay inside a piece, so the rest of training never sees the texts again."""
    counts: Counter[str] = Counter()
    many = len(texts) if isinstance(texts, (list, tuple)) and len(texts) > 100_000 else None
    checked = _each_text(texts)
    for text in progress(checked, total=many, desc="counting", unit="text") if many else checked:
        counts.update(_cut(pattern, _expressible(text)))
    return counts


def _learn_merges(pieces: Mapping[str, int], n_merges: int) -> Iterable[Pair]:
    merges = islice(_best_pairs(pieces), n_merges)
    takes_long = sum(map(len, pieces)) > 500_000
    return progress(merges, total=n_merges, desc="merging", unit="merge") if takes_long else merges


def _best_pairs(pieces: Mapping[str, int]) -> Iterator[Pair]:
    """Yield the most frequent pair of ids, merge it everywhere, and go on until every piece is one token.

    The heap is not told when a count falls. A pair that comes up with an old count is put back with the present one.
    """
    links = _LinkedPieces(pieces)
    heap = [(-n, pair) for pair, n in links.count.items()]
    heapq.heapify(heap)
    new = 256
    while heap:
        n, pair = heapq.heappop(heap)
        present = links.count[pair]
        if present == -n:
            yield pair
            for born in links.merge(pair, new):
                heapq.heappush(heap, (-links.count[born], born))
            new += 1
        elif present > 0:
            heapq.heappush(heap, (-present, pair))


class _LinkedPieces:
    """The distinct pieces, one after another in one linked list of ids, with a wall between them.

    For each pair of neighbours it keeps the count and the places where it was seen. So a merge takes as many steps as
    the pair has places, however long the texts are.
    """

    wall, gone = -1, -2  # what ``token`` holds between two pieces, and where a token was merged into the one before it

    def __init__(self, pieces: Mapping[str, int]) -> None:
        self.token, self.weight = [self.wall], [0]  # weight: how often the piece comes in the texts
        for piece, n in pieces.items():
            ids = piece.encode("utf-8").translate(_BYTE_ID)
            self.token += [*ids, self.wall]
            self.weight += [n] * (len(ids) + 1)
        self.after = list(range(1, len(self.token) + 1))
        self.before = list(range(-1, len(self.token) - 1))
        self.count: defaultdict[Pair, int] = defaultdict(int)
        self.places: defaultdict[Pair, list[int]] = defaultdict(list)
        for i, (left, right) in enumerate(pairwise(self.token)):
            if left != self.wall and right != self.wall:
                self.count[left, right] += self.weight[i]
                self.places[left, right].append(i)

    def merge(self, pair: Pair, new: int) -> list[Pair]:
        """Put ``new`` in every place of ``pair`` and return the pairs that ``new`` is now part of."""
        token, after, before, count = self.token, self.after, self.before, self.count
        left, right = pair
        born: defaultdict[Pair, list[int]] = defaultdict(list)
        for i in self.places.pop(pair):  # from left to right: "aaa" becomes "aa", "a"
            j = after[i]
            if token[i] != left or token[j] != right:
                continue  # a merge has taken one of the two since
            h, k, n = before[i], after[j], self.weight[i]  # h i j k become h i k
            token[i], token[j] = new, self.gone
            after[i], before[k] = k, i
            if token[h] != self.wall:
                count[token[h], left] -= n
                count[token[h], new] += n
                born[token[h], new].append(h)
            if token[k] != self.wall:
                count[right, token[k]] -= n
                count[new, token[k]] += n
                born[new, token[k]].append(i)
        self.places.update(born)
        return [pair for pair in born if count[pair] > 0]


def _compile(pattern: str) -> regex.Pattern[str]:
    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"pattern={pattern!r} is no regular expression: {error}") from error
    if compiled.groups:
        raise ValueError(f"pattern={pattern!r} has capturing groups; write (?:…) instead of (…)")
    return compiled


def _cut(pattern: regex.Pattern[str], text: str) -> list[str]:
    pieces: list[str] = pattern.findall(text)
    if sum(map(len, pieces)) != len(text):
        raise ValueError(f"pattern={pattern.pattern!r} must take up every character, but leaves some of the text out")
    return pieces


def _expressible(text: str) -> str:
    """Return ``text`` with halves of surrogate pairs joined, and those without a partner replaced by U+FFFD."""
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _check_text(name: str, text: Any) -> str:
    if not isinstance(text, str):
        hint = "; for bytes there is encode_bytes" if isinstance(text, bytes) else ""
        raise TypeError(f"{name} must be a string, got {type(text).__name__}{hint}")
    return text


def _each_text(texts: Iterable[str]) -> Iterator[str]:
    if isinstance(texts, (str, bytes)):
        raise TypeError("texts must be an iterable of strings, got one string; write [text]")
    return (_check_text(f"texts[{i}]", text) for i, text in enumerate(texts))


def _check_names(argument: str, names: Collection[str]) -> list[str]:
    if isinstance(names, str):
        raise TypeError(f"{argument} must be a collection of names, got the string {names!r}; write [{names!r}]")
    if bad := [name for name in names if not isinstance(name, str) or not name]:
        raise ValueError(f"{argument} must hold non-empty strings, got {bad[0]!r}")
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise ValueError(f"{argument} names {twice[0]!r} twice")
    return list(names)


def _number(names: Iterable[str], *, first: int) -> dict[str, int]:
    return {name: i for i, name in enumerate(names, start=first)}


def _check_vocabulary(ranks: Mapping[bytes, int], special: Mapping[str, int], absent: bytes) -> None:
    if there := [byte for byte in absent if bytes([byte]) in ranks]:
        raise ValueError(f"absent holds the byte 0x{there[0]:02x}, which has the id {ranks[bytes(there[:1])]}")
    missing = [byte for byte in range(256) if byte not in absent and bytes([byte]) not in ranks]
    if missing:
        raise ValueError(f"ranks lacks {len(missing)} of the 256 single bytes, the first being 0x{missing[0]:02x}")
    if b"" in ranks:
        raise ValueError("ranks holds the empty token")
    n, ids = len(ranks) + len(special), Counter(chain(ranks.values(), special.values()))
    if wrong := [i for i in range(n) if ids[i] != 1]:
        raise ValueError(f"ids must be 0 to {n - 1}, each once; {wrong[0]} comes {ids[wrong[0]]} times")


def _read_fields(text: str) -> dict[str, Any]:
    content = json.loads(text)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f'it is not a JSON object with "format": "{_FORMAT}"')
    if content.get("version") != _VERSION:
        raise ValueError(f"its version is {content.get('version')!r}; this library reads version {_VERSION}")
    missing, unknown = sorted(_FIELDS - content.keys()), sorted(content.keys() - _FIELDS - _OPTIONAL)
    if missing or unknown:
        raise ValueError(f"missing keys {missing}, unknown keys {unknown}")
    tokens, special = content["tokens"], content["special_tokens"]
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ValueError("tokens must be a list of strings")
    if not isinstance(content["pattern"], str):
        raise ValueError("pattern must be a string")
    if not isinstance(content.get("absent", ""), str):
        raise ValueError("absent must be a string")
    if not isinstance(special, dict) or not all(type(i) is int for i in special.values()):
        raise ValueError("special_tokens must map names to ids")
    return content


_NORMAL, _CONTROL = 1, 3  # what ``tokenizer.ggml.token_type`` says of a token


def open_gguf(path: str | Path) -> Any:
    """Return the package ``gguf``'s reader of a file.

    Raises:
        ImportError: the package is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise ImportError('from_gguf needs the package gguf. Run: pip install "nextword[chapters]"') from error
    return gguf.GGUFReader(path)


def _read_gguf(path: str | Path) -> tuple[list[str], list[int], list[str], str]:
    """Return what a GGUF file says of its tokenizer: tokens by id, the kind of each, merges, and the pattern."""
    fields = open_gguf(path).fields

    def values(name: str) -> list[Any]:
        if (field := fields.get(f"tokenizer.ggml.{name}")) is None:
            raise ValueError(f"it lacks tokenizer.ggml.{name}")
        items = [field.parts[i] for i in field.data]
        return [item.tobytes().decode("utf-8") if item.dtype == "uint8" else item.item() for item in items]

    (model,), (pre,) = values("model"), values("pre")
    if model != "gpt2":
        raise ValueError(f"tokenizer.ggml.model is {model!r}; byte-level BPE is called 'gpt2'")
    if pre not in PATTERNS:
        raise ValueError(f"tokenizer.ggml.pre is {pre!r}; known patterns are {sorted(PATTERNS)}")
    tokens, kinds = values("tokens"), values("token_type")
    if other := set(kinds) - {_NORMAL, _CONTROL}:
        raise ValueError(f"a token is of type {min(other)}; known are {_NORMAL}, normal, and {_CONTROL}, control")
    return tokens, kinds, values("merges"), PATTERNS[pre]


def _spelt_bytes(tokens: Iterable[str]) -> dict[str, bytes]:
    try:
        return {token: bytes([_BYTE_OF[character] for character in token]) for token in tokens}
    except KeyError as error:
        raise ValueError(f"a token holds {error.args[0]!r}, which stands for no byte") from None


def _write_whole(path: Path, text: str) -> None:
    """Write under another name first: a reader sees the old file or the whole new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


# --- WordPiece ---------------------------------------------------------------------------------------------------------


class Encoding(NamedTuple):
    """One or two texts as BERT takes them, an entry a token."""

    ids: list[int]
    segments: list[int]
    """0 for [CLS], the first text and its [SEP]; 1 for the second text and its own."""
    special: list[bool]
    """True at [CLS] and [SEP], which are never hidden in pre-training."""


class WordPiece:
    """BERT's tokenizer, reading and encoding with a vocabulary that was learnt elsewhere (Devlin et al. 2018, section 3).

    A text is tidied: control characters go, Chinese characters stand alone, accents fall off, capitals become small. It
    is cut at white space and around punctuation. Each word then gives up the longest beginning that is in the vocabulary,
    the rest gives up its own, written with "##", and so on; a word of which any part is left over becomes one [UNK].

    Args:
        tokens: the vocabulary in the order of its ids, with [UNK], [CLS], [SEP] and [MASK].
        lower: take accents and capitals away, as the uncased models do.
        longest: letters of a word that is still cut; a longer one becomes [UNK]. The authors' code says 200, Hugging
            Face's 100.

    Raises:
        ValueError: a token stands twice, or one of the four is missing.

    Used in: 2018_bert.

    Example:
        >>> wordpiece = WordPiece(["[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##afford", "##able", "!"])
        >>> wordpiece.pieces("Unaffordable!")
        ['un', '##afford', '##able', '!']
        >>> wordpiece.encode("Unaffordable!").ids
        [1, 4, 5, 6, 7, 2]
    """

    NAMES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    """The tokens with a meaning of their own; a vocabulary may lack the first."""

    def __init__(self, tokens: Sequence[str], *, lower: bool = True, longest: int = 100) -> None:
        self.tokens, self.lower, self.longest = tuple(tokens), lower, longest
        self._id = {token: i for i, token in enumerate(self.tokens)}
        if len(self._id) < len(self.tokens):
            twice = next(token for i, token in enumerate(self.tokens) if self._id[token] != i)
            raise ValueError(f"tokens holds {twice!r} twice")
        if missing := [name for name in self.NAMES[1:] if name not in self._id]:
            raise ValueError(f"tokens lacks {', '.join(missing)}")
        self._known: dict[str, list[str]] = {}

    @classmethod
    def load(cls, path: str | Path, *, lower: bool = True, longest: int = 100) -> WordPiece:
        """Read a vocabulary, a token a line, such as BERT's ``vocab.txt``.

        Raises:
            ValueError: the file is no such vocabulary.
        """
        try:
            return cls(Path(path).read_text(encoding="utf-8").rstrip("\n").split("\n"), lower=lower, longest=longest)
        except ValueError as error:
            raise ValueError(f"path={str(path)!r} holds no WordPiece: {error}") from error

    @classmethod
    def bert(cls) -> WordPiece:
        """Return the tokenizer of the uncased BERT models with its 30,522 ids, which comes with the model "minilm".

        Raises:
            DataError: the file is not in the cache and cannot be had.
        """
        return cls.load(fetch_folder("minilm") / "vocab.txt")

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self.tokens)

    def id_of(self, token: str) -> int:
        """Return the id of a token, such as ``"[MASK]"``.

        Raises:
            ValueError: the vocabulary has no such token.
        """
        if token not in self._id:
            raise ValueError(f"token={token!r} is not in the vocabulary")
        return self._id[token]

    def pieces(self, text: str) -> list[str]:
        """Return a text's tokens without [CLS] and [SEP]."""
        return list(chain.from_iterable(map(self._cut_word, _words(_check_text("text", text), self.lower))))

    def encode(self, a: str, b: str | None = None, *, allow_special: Collection[str] = ()) -> Encoding:
        """Turn one text, or two, into what BERT takes: [CLS] a [SEP], or [CLS] a [SEP] b [SEP].

        The name of a special token inside a text is ordinary text, save for those in ``allow_special``: with
        ``["[MASK]"]`` a text may have gaps.

        Raises:
            TypeError: a text is no string.
            ValueError: ``allow_special`` names a token that is not special.

        Example:
            >>> wordpiece = WordPiece(["[UNK]", "[CLS]", "[SEP]", "[MASK]", "yes", "no"])
            >>> wordpiece.encode("yes [MASK]", "no", allow_special=["[MASK]"])
            Encoding(ids=[1, 4, 3, 2, 5, 2], segments=[0, 0, 0, 0, 1, 1], special=[True, False, False, True, False, True])
        """
        allowed = _check_names("allow_special", allow_special)
        if unknown := [name for name in allowed if name not in self.NAMES or name not in self._id]:
            raise ValueError(f"allow_special={unknown} are no special tokens; there are {list(self.NAMES)}")
        ids, segments, special = [self._id["[CLS]"]], [0], [True]
        for segment, text in enumerate([a] if b is None else [a, b]):
            some = [self._id[piece] for piece in self._with_names(_check_text("ab"[segment], text), allowed)]
            ids += [*some, self._id["[SEP]"]]
            segments += [segment] * (len(some) + 1)
            special += [False] * len(some) + [True]
        return Encoding(ids, segments, special)

    def decode(self, ids: Iterable[int] | Tensor) -> str:
        """Turn ids, such as a list or a tensor of shape (T,), into words with a space between any two.

        [PAD], [CLS] and [SEP] are left out. What tidying took away does not come back.

        Raises:
            ValueError: an id is outside the vocabulary, or a tensor has another shape.
        """
        tokens = []
        for i in _one_row(ids):
            if not 0 <= i < self.vocab_size:
                raise ValueError(f"ids holds {i}; this vocabulary has the ids 0 to {self.vocab_size - 1}")
            tokens.append(self.tokens[i])
        return " ".join(token for token in tokens if token not in ("[PAD]", "[CLS]", "[SEP]")).replace(" ##", "")

    def _with_names(self, text: str, allowed: Collection[str]) -> list[str]:
        if not allowed:
            return self.pieces(text)
        parts = enumerate(_parted(text, allowed))
        return [piece for n, part in parts for piece in ([part] if n % 2 else self.pieces(part))]

    def _cut_word(self, word: str) -> list[str]:
        """Return a word's parts, the longest known beginning first."""
        if word not in self._known:
            if len(self._known) >= _PieceCache.max_pieces:
                self._known.clear()
            self._known[word] = self._longest_first(word)
        return self._known[word]

    def _longest_first(self, word: str) -> list[str]:
        parts: list[str] = []
        start, end = 0, len(word) if len(word) <= self.longest else 0
        while start < end:
            part = ("##" if start else "") + word[start:end]
            if part in self._id:
                parts.append(part)
                start, end = end, len(word)
            else:
                end -= 1
        return parts if start == len(word) else ["[UNK]"]


_DROPPED = regex.compile(r"[\p{Cc}\p{Cf}\p{Co}\uFFFD--[\t\n\r]]", regex.V1)
_CHINESE = regex.compile(
    "([\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f\U0002b920-\U0002ceaf\U0002f800-\U0002fa1f])"
)
_WORD = regex.compile(r"[\p{P}$+<=>^`|~]|[^\s\p{P}$+<=>^`|~]+")  # of ASCII every sign counts as punctuation


def _words(text: str, lower: bool) -> list[str]:
    """Tidy a text and cut it into words and punctuation."""
    text = _CHINESE.sub(r" \1 ", _DROPPED.sub("", text))
    if lower:
        text = regex.sub(r"\p{Mn}", "", unicodedata.normalize("NFD", text))  # an accent is now a character of its own
        text = text.replace("\u03a3", "\u03c3").lower()  # sigma first: Python knows the other one, at a word's end
    words: list[str] = _WORD.findall(text)
    return words
