"""Byte-level byte-pair encoding, the tokenizer of GPT-2 and GPT-3 (Radford et al. 2019, section 2.2).

A text becomes bytes, so that no character is unknown. Frequent neighbours are merged into longer tokens, so that common
words cost one token and rare ones a few. Sennrich et al. 2016 brought byte-pair encoding to translation; GPT-2 moved it
from characters to bytes and kept merges inside the pieces that a regular expression cuts.

:func:`learn_merges` is the learning, :func:`merge_piece` the encoding; :class:`ByteBPE` puts them to use.
"""

from __future__ import annotations

import base64
import heapq
import json
import operator
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain, count, islice, pairwise
from pathlib import Path
from typing import Any

import regex
from torch import Tensor

from nextword.fetching import fetch_file
from nextword.files import atomic_file
from nextword.pretrained import open_gguf
from nextword.runtime import progress

__all__ = [
    "BYTE_ORDER",
    "GPT2_PATTERN",
    "PATTERNS",
    "SMOLLM_PATTERN",
    "SMOLLM_SYSTEM",
    "ByteBPE",
    "LinkedPieces",
    "learn_merges",
    "merge_piece",
]

Pair = tuple[int, int]

GPT2_PATTERN = "|".join(
    [
        r"'s|'t|'re|'ve|'m|'ll|'d",  # the English contractions, lower case only: an oversight that the authors noted and kept
        r" ?\p{L}+",  # letters of any script with the one space before them, so that " the" is a token of its own
        r" ?\p{N}+",  # digits, likewise
        r" ?[^\s\p{L}\p{N}]+",  # everything else that is no white space: punctuation, symbols, emoji
        r"\s+(?!\S)",  # white space up to, but without, the last character before a word: that space goes to the word
        r"\s+",  # the white space that is left: a line break or a tab right before a word
    ]
)
"""How GPT-2 cuts a text into pieces (pre-tokens). No token reaches across a cut; the first alternative to fit wins."""

# A number is spelt digit by digit, so that its tokens do not depend on its length. The lookahead keeps the white space
# before a digit whole, since no space goes to a digit.
SMOLLM_PATTERN = r"""\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"""
"""How SmolLM2 cuts a text: every digit stands alone, and what lies between digits is cut as in GPT-2."""

PATTERNS = {"gpt-2": GPT2_PATTERN, "smollm": SMOLLM_PATTERN}
"""The patterns that ``from_gguf`` knows, by the name that a GGUF file gives them."""

SMOLLM_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""What SmolLM2 was told at the beginning of each conversation that it was tuned on."""

# Bytes that Latin-1 shows as a character of its own: neither control characters nor white space, nor the soft hyphen.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
BYTE_ORDER = bytes(_PRINTABLE + sorted(set(range(256)) - set(_PRINTABLE)))
"""The byte that each of the ids 0 to 255 stands for. GPT-2 puts the printable Latin-1 characters first: 0 is "!"."""
_BYTE_ID = bytes(BYTE_ORDER.index(byte) for byte in range(256))  # the inverse: _BYTE_ID[byte] is its id
# The byte that a character stands for where GPT-2 spells tokens as text: "Ġ" is the space, "Ċ" the line break.
_BYTE_OF = dict(zip(map(chr, [*_PRINTABLE, *range(0x100, 0x144)]), BYTE_ORDER, strict=True))


# --- Learning merges, and encoding with them --------------------------------------------------------------------------


def learn_merges(pieces: Mapping[str, int]) -> Iterator[Pair]:
    """Yield the pair of ids to merge next, until every piece is one token (Sennrich et al. 2016, algorithm 1, on bytes).

    Ids 0 to 255 are the bytes in ``BYTE_ORDER``, and each merge makes the next id.

    Args:
        pieces: how often each piece comes in the texts.

    Used in: 2019_gpt2.
    """
    # Merges stay inside a piece, so its count stands for all of its places in the texts, which are never read again.
    text = LinkedPieces(pieces)
    # A heap gives its smallest entry: the most frequent pair, and of equally frequent ones that with the lowest ids.
    heap = [(-n, pair) for pair, n in text.counts.items()]
    heapq.heapify(heap)
    new_id = 256  # the bytes have 0 to 255
    while heap:
        # An entry may be too high but never too low, since merges take places from the pairs of older tokens and give
        # them none. So the first that still holds is the most frequent of all.
        n, pair = heapq.heappop(heap)
        present = text.counts[pair]
        if present < -n:  # merges beside it have taken some of its places, and the heap was not told
            if present > 0:
                heapq.heappush(heap, (-present, pair))  # it queues up again with the present count
            continue
        yield pair
        for new_pair in text.merge(pair, new_id):  # only pairs with the new token have become more frequent
            heapq.heappush(heap, (-text.counts[new_pair], new_pair))
        new_id += 1


class LinkedPieces:
    """The distinct pieces of some texts, one after another in one linked list of ids, with a wall between any two."""

    wall, gone = -1, -2  # what ``ids`` holds between two pieces, and where a token was merged into the one before it

    def __init__(self, pieces: Mapping[str, int]) -> None:
        self.ids, self.weights = [self.wall], [0]  # weights: how often the piece comes in the texts
        for piece, n in pieces.items():
            ids = piece.encode("utf-8").translate(_BYTE_ID)
            self.ids += [*ids, self.wall]  # no pair is made across a wall
            self.weights += [n] * (len(ids) + 1)
        # A merge unlinks the second token and moves nothing, so positions stay true.
        self.after = list(range(1, len(self.ids) + 1))  # where the next token stands
        self.before = list(range(-1, len(self.ids) - 1))  # where the one before stands
        # Each pair knows its positions: a merge takes as many steps as the pair has places, however long the texts are.
        self.counts: defaultdict[Pair, int] = defaultdict(int)
        self.positions: defaultdict[Pair, list[int]] = defaultdict(list)
        for i, (left, right) in enumerate(pairwise(self.ids)):
            if left != self.wall and right != self.wall:
                self.counts[left, right] += self.weights[i]  # as often as the piece comes in the texts
                self.positions[left, right].append(i)

    def merge(self, pair: Pair, new_id: int) -> list[Pair]:
        """Put ``new_id`` in every position of ``pair``; return the pairs that it is now part of."""
        ids, before, after, counts = self.ids, self.before, self.after, self.counts
        left, right = pair
        born: defaultdict[Pair, list[int]] = defaultdict(list)  # their positions
        for i in self.positions.pop(pair):  # from left to right: "aaa" becomes "aa", "a"
            j = after[i]
            if ids[i] != left or ids[j] != right:
                continue  # an earlier merge has taken one of the two
            h, k, n = before[i], after[j], self.weights[i]
            ids[i], ids[j] = new_id, self.gone  # h, i, j, k become h, i, k
            after[i], before[k] = k, i
            if ids[h] != self.wall:  # on the left one pair of the old kind less, and one with the new token more …
                counts[ids[h], left] -= n
                counts[ids[h], new_id] += n
                born[ids[h], new_id].append(h)
            if ids[k] != self.wall:  # … and likewise on the right
                counts[right, ids[k]] -= n
                counts[new_id, ids[k]] += n
                born[new_id, ids[k]].append(i)
        self.positions.update(born)  # which overwrites none: no pair with the new id was there before
        # Of "aaaa" the first merge makes the pair "aa", "a", and the second takes it away again.
        return [new_pair for new_pair in born if counts[new_pair] > 0]


def merge_piece(piece: bytes, ranks: Mapping[bytes, int], *, below: int = sys.maxsize) -> list[bytes]:
    """Return the tokens of a piece: merge the neighbours whose union has the lowest rank, until no union is a token.

    Args:
        piece: what the pattern cut out of a text.
        ranks: rank of each token, the earlier learnt the lower.
        below: leave aside tokens of this rank and above.

    Used in: 2019_gpt2.

    Example:
        >>> merge_piece(b"lower", {b"lo": 256, b"er": 257, b"wer": 258})
        [b'lo', b'wer']
    """
    n = len(piece)
    after = list(range(1, n + 2))  # where the token that begins at i ends, and the next one begins
    before = list(range(-1, n))  # where the token before it begins
    # The heap holds the unions that are possible, lowest rank first, the leftmost first of equal ones. So n bytes take
    # O(n log n) steps; to look through all neighbours again after each merge would take n².
    # What was learnt first is merged first, even where another order gave fewer tokens: a text is cut as in learning.
    unions = [(ranks.get(piece[i : i + 2], below), i, i + 2) for i in range(n - 1)]
    heap = [union for union in unions if union[0] < below]  # (rank, where it begins, where it ends)
    heapq.heapify(heap)
    while heap:
        _, begin, end = heapq.heappop(heap)
        middle = after[begin]  # where the right half begins
        if middle < 0 or middle >= n or after[middle] != end:
            continue  # one of the two halves has been merged with its other neighbour since
        after[begin], before[end], after[middle] = end, begin, -1  # -1: no token begins in the middle any more
        for i, j in (before[begin], end), (begin, after[end]):  # what the new token may make with either neighbour
            if i >= 0 and j <= n and (rank := ranks.get(piece[i:j], below)) < below:
                heapq.heappush(heap, (rank, i, j))
    tokens, i = [], 0
    while i < n:  # from token to token
        tokens.append(piece[i : after[i]])
        i = after[i]
    return tokens


class _PieceCache(dict[str, tuple[int, ...]]):
    # Ids of each piece, worked out when it is first met. A language repeats its words, so most
    # look-ups are hits, and a hit of a dict runs no line of Python.
    max_pieces, max_length = 500_000, 64  # about 100 MB at most; long pieces hardly ever come back

    def __init__(self, ranks: dict[bytes, int]) -> None:
        super().__init__()
        self._ranks = ranks

    def __missing__(self, piece: str) -> tuple[int, ...]:
        data = piece.encode("utf-8", "surrogateescape")  # which turns an escaped byte back into itself
        rank = self._ranks.get(data)  # a piece that is a token needs no merges
        try:
            ids = (rank,) if rank is not None else tuple(self._ranks[token] for token in merge_piece(data, self._ranks))
        except KeyError as error:
            byte = error.args[0][0]  # what is no token after all merges is a single byte
            raise ValueError(f"this vocabulary has no token for the byte 0x{byte:02x}, met in {piece[:60]!r}") from None
        if len(piece) <= self.max_length:
            if len(self) >= self.max_pieces:
                self.clear()
            self[piece] = ids
        return ids


# --- The tokenizer ----------------------------------------------------------------------------------------------------

_FORMAT, _VERSION = "nextword.ByteBPE", 1
_FIELDS = {"format", "version", "pattern", "special_tokens", "tokens"}
_NORMAL, _CONTROL = 1, 3  # what ``tokenizer.ggml.token_type`` says of a token


class ByteBPE:
    """Byte-level byte-pair encoding.

    Any bytes survive the round trip, and so does any text that UTF-8 can express. A lone surrogate, which it cannot
    express, becomes U+FFFD, as in OpenAI's tiktoken. Only a vocabulary with ``absent`` bytes refuses some texts.

    Args:
        ranks: id of each token, all 256 single bytes but the ``absent`` ones among them. The id is also the rank: ids rise
            in the order in which merges were learnt.
        pattern: regular expression (module ``regex``) that cuts a text into pieces; it may have no capturing group.
        special_tokens: id of each special token, such as ``{"<|endoftext|>": 50256}``.
        absent: bytes that have no token, so that no text with one of them can be encoded.

    Raises:
        ValueError: a byte is missing, or has a token although it is ``absent``; the ids are not 0, 1, 2, … without gaps;
            or the pattern cannot be used.

    Used in: 2019_gpt2.

    Example:
        >>> bpe = ByteBPE.train(["low lower lowest", "new newer newest"], 262)
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
        self._ranks = dict(ranks)  # those of the merges; special tokens take no part in them
        self._special = dict(special_tokens or {})
        self.absent = bytes(sorted(set(absent)))
        _check_vocabulary(self._ranks, self._special, self.absent)
        self.pattern = pattern
        self._pattern = _compile(pattern)
        self._token_of = {i: token for token, i in self._ranks.items()}
        self._token_of |= {i: name.encode("utf-8") for name, i in self._special.items()}  # decoded as their names
        self._cache = _PieceCache(self._ranks)

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, *, pattern: str = GPT2_PATTERN, special_tokens: Iterable[str] = ()
    ) -> ByteBPE:
        """Return the tokenizer that :func:`learn_merges` finds for these texts, the same as Hugging Face's ``tokenizers``.

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
        if isinstance(texts, (str, bytes)):
            raise TypeError("texts must be an iterable of strings, got one string; write [text]")
        special_tokens = check_names("special_tokens", special_tokens)
        needed = 256 + len(special_tokens)
        if vocab_size < needed:
            what = f"256 bytes and {len(special_tokens)} special tokens need at least {needed}"
            raise ValueError(f"vocab_size={vocab_size} is too small: {what}")
        # Texts are cut first: what is counted is each distinct piece, of which there are far fewer than words.
        documents: Iterable[tuple[int, str]] = enumerate(texts)
        cuts, pieces = _compile(pattern), Counter[str]()
        if isinstance(texts, (list, tuple)) and len(texts) > 100_000:
            documents = progress(documents, total=len(texts), desc="counting", unit="text")
        for i, text in documents:
            pieces.update(_cut(cuts, _expressible(check_text(f"texts[{i}]", text))))
        # Learning would go on until each piece is one token: take as many merges as there are ids left.
        merges: Iterable[Pair] = islice(learn_merges(pieces), vocab_size - needed)
        if sum(map(len, pieces)) > 500_000:
            merges = progress(merges, total=vocab_size - needed, desc="merging", unit="merge")
        # Ids as in GPT-2: the single bytes, then the merges in the order in which they were learnt, then special tokens.
        tokens = [bytes([byte]) for byte in BYTE_ORDER]
        for left, right in merges:
            tokens.append(tokens[left] + tokens[right])  # a merge as bytes: both halves have an id already
        ranks = {token: i for i, token in enumerate(tokens)}
        return cls(ranks, pattern=pattern, special_tokens=dict(zip(special_tokens, count(len(ranks)), strict=False)))

    @classmethod
    def from_tiktoken(
        cls, path: str | Path, *, pattern: str = GPT2_PATTERN, special_tokens: Iterable[str] = ("<|endoftext|>",)
    ) -> ByteBPE:
        """Read a ``*.tiktoken`` file: on each line a token in base64 and its rank, which is kept as its id.

        The file holds neither the pattern nor the special tokens. The defaults are GPT-2's; special tokens get the ids
        after the last rank (``<|endoftext|>`` is 50256 in GPT-2).

        Raises:
            ValueError: a line is not "base64 rank", a token or a rank comes twice, or ranks are missing.
        """
        ranks: dict[bytes, int] = {}
        # A token of any bytes goes into a line of text as base64.
        for number, line in enumerate(Path(path).read_bytes().splitlines(), start=1):
            if not line.strip():
                continue
            where = f"path={str(path)!r}, line {number}"
            try:
                encoded, rank = line.split()
                token, id = base64.b64decode(encoded, validate=True), int(rank)
            except ValueError as error:
                raise ValueError(f"{where}: expected a base64 token and its rank, got {line[:60]!r}") from error
            if token in ranks:
                raise ValueError(f"{where}: token {token!r} comes twice")
            ranks[token] = id
        names = check_names("special_tokens", special_tokens)
        return cls(ranks, pattern=pattern, special_tokens=dict(zip(names, count(len(ranks)), strict=False)))

    @classmethod
    def gpt2(cls) -> ByteBPE:
        """Return the tokenizer of GPT-2 and GPT-3 with the 50,257 ids that OpenAI published, fetched on first use.

        Raises:
            DataError: the file is not in the cache and cannot be had.
        """
        return cls.from_tiktoken(fetch_file("gpt2_ranks"))

    @classmethod
    def from_gguf(cls, path: str | Path) -> ByteBPE:
        """Read the vocabulary of a language model from its GGUF file, such as that of SmolLM2 (Allal et al. 2025).

        Its control tokens become the special tokens. Bytes without a token are the ``absent`` ones: SmolLM2 lacks 21, six
        control characters and bytes that UTF-8 never or hardly ever needs.

        Raises:
            ImportError: the package ``gguf`` is not installed.
            ValueError: the file is no GGUF file, lacks a part of the vocabulary, is no byte-level BPE, names a pattern
                that is not in ``PATTERNS``, or has ids that are not in the order of its merges.
        """
        try:
            # Such a file spells each byte of a token as a printable character, lists the merges, and names the pattern.
            tokens, kinds, merges, pattern = _read_gguf(path)
            # Special tokens may have any ids, the first ones in SmolLM2; what counts is the order of all others.
            special = {name: id for id, (name, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == _CONTROL}
            spelt = {token: bytes(_BYTE_OF[c] for c in token) for token in tokens if token not in special}
            ranks = {spelt[token]: id for id, token in enumerate(tokens) if token in spelt}
            absent = bytes(byte for byte in range(256) if bytes([byte]) not in ranks)
            bpe = cls(ranks, pattern=pattern, special_tokens=special, absent=absent)
            # Merges that follow from the ids must be those of the file, or texts would be cut in other ways.
            if bpe.merges() != [tuple(map(spelt.get, merge.split(" "))) for merge in merges]:
                raise ValueError("its ids are not in the order of its merges")
            return bpe
        except KeyError as error:
            what = f"a token holds {error.args[0]!r}, which stands for no byte"
            raise ValueError(f"path={str(path)!r} holds no ByteBPE: {what}") from error
        except (ValueError, TypeError, AttributeError) as error:  # the last two where damage made numbers of names
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
        """Return the bytes that an id stands for, of a special token its name; errors as in :meth:`decode`."""
        return self.decode_bytes([id])

    def merges(self) -> list[tuple[bytes, bytes]]:
        """Return the merges in the order in which they were learnt, each as its two halves.

        Raises:
            ValueError: a token is not the union of two earlier ones, as in a vocabulary that no merges made.
        """
        merges = []
        for token, rank in sorted(self._ranks.items(), key=lambda item: item[1]):
            if len(token) > 1:
                # Its halves are what encoding made of it before it was learnt.
                halves = merge_piece(token, self._ranks, below=rank)
                if len(halves) != 2:
                    raise ValueError(f"token {rank} = {token!r} is not the union of two tokens of lower rank")
                merges.append((halves[0], halves[1]))
        return merges

    def encode(self, text: str, *, allow_special: Iterable[str] = ()) -> list[int]:
        """Return the ids of a text.

        Args:
            text: any text, without the name of a special token: what a user types shall never end a document.
            allow_special: names that may stand in it and become their special id; ``bpe.special_tokens`` allows all.
                :meth:`encode_ordinary` takes all names letter by letter.

        Raises:
            TypeError: ``text`` is not a string.
            ValueError: the text holds a special token's name that is not allowed, or an ``absent`` byte; or
                ``allow_special`` names a token that does not exist.

        Example:
            >>> bpe = ByteBPE.train(["aaabdaaabac"], 260, special_tokens=["<|end|>"])
            >>> bpe.encode("abac<|end|>", allow_special=["<|end|>"])
            [257, 64, 66, 259]
        """
        text = _expressible(check_text("text", text))
        ids: list[int] = []
        for n, part in enumerate(split_at(text, check_special(text, allow_special, self._special))):
            ids += [self._special[part]] if n % 2 else self._ids(part)  # text, name, text, name, …, text
        return ids

    def encode_ordinary(self, text: str) -> list[int]:
        """Return the ids of a text, the name of a special token letter by letter."""
        return self._ids(_expressible(check_text("text", text)))

    def encode_bytes(self, data: bytes) -> list[int]:
        r"""Return the ids of any bytes, so that ``decode_bytes`` gives the same bytes back.

        Example:
            >>> bpe = ByteBPE.train([], 256)
            >>> bpe.decode_bytes(bpe.encode_bytes(b"caf\xc3\xa9 \xff"))
            b'caf\xc3\xa9 \xff'
        """
        if not isinstance(data, bytes):
            raise TypeError(f"data must be bytes, got {type(data).__name__}; for a text there is encode")
        # Bytes that are no UTF-8 travel as Python's escapes (PEP 383) through the pattern, which sees punctuation.
        return self._ids(data.decode("utf-8", "surrogateescape"))

    def encode_chat(self, messages: str | Iterable[Mapping[str, str]]) -> list[int]:
        """Return a conversation as the ids that SmolLM2 was tuned on, up to where the assistant begins to speak.

        It speaks next whoever spoke last: after a message of its own it begins another one.

        The answer ends with ``<|im_end|>``: give its id to ``generate`` as ``stop``, and :meth:`decode` what is written with
        ``skip_special=True``.

        Args:
            messages: each with a ``role``, which is "system", "user" or "assistant", and its ``content``. One string is
                a user's first message. Where the first is not the system's, ``SMOLLM_SYSTEM`` is put before it.

        Raises:
            TypeError: ``messages`` is a single message, not a list.
            ValueError: the vocabulary has no ``<|im_start|>`` and ``<|im_end|>``, there is no message, or one has no such form.

        Example:
            >>> bpe = ByteBPE.train([], 258, special_tokens=["<|im_start|>", "<|im_end|>"])
            >>> print(bpe.decode(bpe.encode_chat([{"role": "system", "content": "Be brief."}])))
            <|im_start|>system
            Be brief.<|im_end|>
            <|im_start|>assistant
            <BLANKLINE>
        """
        if not {"<|im_start|>", "<|im_end|>"} <= self._special.keys():
            raise ValueError("this vocabulary lacks <|im_start|> and <|im_end|>, with which SmolLM2 parts messages")
        start, end, roles = self._special["<|im_start|>"], self._special["<|im_end|>"], ("system", "user", "assistant")
        if isinstance(messages, Mapping):
            raise TypeError("messages is a single message; give a list of them: [message]")
        chat = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        if not chat:
            raise ValueError('messages is empty; give one at least: [{"role": "user", "content": "…"}]')
        for message in chat:
            if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
                raise ValueError(f'messages holds {message!r}; write {{"role": "user", "content": "…"}}')
            if message.get("role") not in roles:
                raise ValueError(f"messages holds {message!r}; the role must be one of {', '.join(map(repr, roles))}")
        if chat[0]["role"] != "system":
            chat = [{"role": "system", "content": SMOLLM_SYSTEM}, *chat]
        ids: list[int] = []
        for message in chat:
            # Letter by letter: whatever a message says, it cannot end itself and begin another.
            said = self.encode_ordinary(f"{message['role']}\n{message['content']}")
            ids += [start, *said, end, *self._ids("\n")]
        return [*ids, start, *self._ids("assistant\n")]  # the answer is what the model writes from here on

    def _ids(self, text: str) -> list[int]:
        # Nothing here is a loop of Python's: cutting is one call, and so is looking up all pieces.
        return list(chain.from_iterable(map(self._cache.__getitem__, _cut(self._pattern, text))))

    def decode(self, ids: Iterable[int] | Tensor, *, skip_special: bool = False) -> str:
        """Return the text of ids, such as a list or a tensor of shape (T,). Bytes that are no UTF-8 become U+FFFD.

        ``skip_special`` leaves out special tokens, such as the stop token at the end of an answer; else their names stand
        in the text.

        Raises:
            TypeError, ValueError: ``ids`` is no single row of whole numbers, or one is outside the vocabulary.

        Example:
            >>> bpe = ByteBPE.train([], 257, special_tokens=["<|end|>"])
            >>> bpe.decode([*bpe.encode("Yes."), 256, 256], skip_special=True)
            'Yes.'
        """
        if skip_special:
            ids = [i for i in id_row(ids) if i not in self._special.values()]
        # All at once: a character may lie across tokens.
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int] | Tensor) -> bytes:
        """Return the bytes of ids; errors as in :meth:`decode`."""
        try:
            return b"".join([self._token_of[i] for i in id_row(ids)])
        except KeyError as error:
            last = self.vocab_size - 1
            raise ValueError(f"ids holds {error.args[0]!r}; this vocabulary has the ids 0 to {last}") from None

    def save(self, path: str | Path) -> None:
        """Write the tokenizer to one JSON file, which is there as a whole or not at all."""
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "pattern": self.pattern,
            "special_tokens": self._special,
            # In the order of their ids, each byte as the Latin-1 character of the same number: JSON holds no bytes.
            "tokens": [token.decode("latin-1") for token in sorted(self._ranks, key=self._ranks.__getitem__)],
        }
        if self.absent:
            content["absent"] = self.absent.decode("latin-1")
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(content, indent=0), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> ByteBPE:
        """Read a tokenizer that ``save`` wrote.

        Raises:
            ValueError: the file is no such tokenizer, has another version, or a key is missing or unknown.
        """
        try:
            content = _read_fields(Path(path).read_text(encoding="utf-8"))
            tokens, special = content["tokens"], content["special_tokens"]
            # The file holds no ids but the special ones: the tokens have those that are left, in their order.
            free = [i for i in range(len(tokens) + len(special)) if i not in special.values()]
            if len(free) != len(tokens):
                raise ValueError(f"special_tokens={special} has an id twice or beyond the last one")
            ranks = {token.encode("latin-1"): i for token, i in zip(tokens, free, strict=True)}
            absent = content.get("absent", "").encode("latin-1")
            return cls(ranks, pattern=content["pattern"], special_tokens=special, absent=absent)
        except ValueError as error:
            raise ValueError(f"path={str(path)!r} holds no ByteBPE: {error}") from error


# --- Checks, shared with WordPiece -------------------------------------------------------------------------------------


def id_row(ids: Iterable[int] | Tensor, name: str = "ids") -> list[int]:
    """Return one row of ids as Python's integers; raise an error that names it where they are none."""
    if isinstance(ids, Tensor) and ids.ndim != 1:
        raise ValueError(f"{name} must have shape (T,), got {tuple(ids.shape)}; take one row at a time")
    try:  # operator.index takes integers of Python, torch and numpy, and neither lists nor fractions
        return list(map(operator.index, ids.tolist() if isinstance(ids, Tensor) else ids))
    except TypeError:
        raise TypeError(f"{name} must be one row of whole numbers, such as [5, 6], got {ids!r:.60}") from None


def check_text(name: str, text: Any) -> str:
    """Return the text; raise an error that names the argument where it is none."""
    if not isinstance(text, str):
        hint = "; for bytes there is encode_bytes" if isinstance(text, bytes) else ""
        raise TypeError(f"{name} must be a string, got {type(text).__name__}{hint}")
    return text


def check_names(argument: str, names: Iterable[str]) -> list[str]:
    """Return the names; raise an error that names the argument where they are no collection of different strings."""
    if isinstance(names, str):
        raise TypeError(f"{argument} must be a collection of names, got the string {names!r}; write [{names!r}]")
    names = list(names)  # of a dictionary the keys: Counter would take its values for counts
    if bad := [name for name in names if not isinstance(name, str) or not name]:
        raise ValueError(f"{argument} must hold non-empty strings, got {bad[0]!r}")
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise ValueError(f"{argument} names {twice[0]!r} twice")
    return names


def check_special(
    text: str, allow_special: Iterable[str], special: Collection[str], *, ordinary: str = "encode_ordinary"
) -> list[str]:
    """Return which special tokens' names a text holds; raise an error where one is not allowed.

    ``ordinary`` is the method that takes such a name letter by letter.
    """
    allowed = check_names("allow_special", allow_special)
    if unknown := [name for name in allowed if name not in special]:
        raise ValueError(f"allow_special={unknown} are no special tokens; there are {list(special)}")
    present = [name for name in special if name in text]  # a search in C for each name, which costs next to nothing
    if refused := [name for name in present if name not in allowed]:
        ways = f"allow_special={refused} makes it that token, {ordinary} takes it letter by letter"
        raise ValueError(f"text holds {refused[0]!r}, the name of a special token, which was not allowed: {ways}")
    return present


def split_at(text: str, names: Collection[str]) -> list[str]:
    """Cut a text at these names, of which the longest wins: every second part, from the second on, is a name."""
    # With a group in the pattern, split returns what it cut at, too.
    either = "|".join(map(regex.escape, sorted(names, key=len, reverse=True)))
    parts: list[str] = regex.split(f"({either})", text) if names else [text]
    return parts


def _compile(pattern: str) -> regex.Pattern[str]:
    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"pattern={pattern!r} is no regular expression: {error}") from error
    if compiled.groups:  # findall would give the groups instead of the pieces
        raise ValueError(f"pattern={pattern!r} has capturing groups; write (?:…) instead of (…)")
    return compiled


def _cut(pattern: regex.Pattern[str], text: str) -> list[str]:
    pieces: list[str] = pattern.findall(text)
    # What no alternative fits would be left out without a word, and the text would not come back.
    if sum(map(len, pieces)) != len(text):
        raise ValueError(f"pattern={pattern.pattern!r} must take up every character, but leaves some of the text out")
    return pieces


def _expressible(text: str) -> str:
    # UTF-8 has no lone halves of surrogate pairs, which strings of Python may hold: those of a pair are joined, and one
    # without a partner becomes U+FFFD.
    try:  # nearly every text, so it is the quick way
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _check_vocabulary(ranks: Mapping[bytes, int], special: Mapping[str, int], absent: bytes) -> None:
    if there := [byte for byte in absent if bytes([byte]) in ranks]:
        raise ValueError(f"absent holds the byte 0x{there[0]:02x}, which has the id {ranks[bytes(there[:1])]}")
    if missing := [byte for byte in range(256) if byte not in absent and bytes([byte]) not in ranks]:
        raise ValueError(f"ranks lacks {len(missing)} of the 256 single bytes, the first being 0x{missing[0]:02x}")
    if b"" in ranks:
        raise ValueError("ranks holds the empty token")
    # Ids are rows of an embedding: none may be missing, and none may stand for two tokens.
    n, ids = len(ranks) + len(special), Counter(chain(ranks.values(), special.values()))
    if wrong := [i for i in range(n) if ids[i] != 1]:
        raise ValueError(f"ids must be 0 to {n - 1}, each once; {wrong[0]} comes {ids[wrong[0]]} times")


def _read_fields(text: str) -> dict[str, Any]:
    content = json.loads(text)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f'it is not a JSON object with "format": "{_FORMAT}"')
    if content.get("version") != _VERSION:
        raise ValueError(f"its version is {content.get('version')!r}; this library reads version {_VERSION}")
    # A key that is not known may mean that texts are cut in another way.
    missing, unknown = sorted(_FIELDS - content.keys()), sorted(content.keys() - _FIELDS - {"absent"})
    if missing or unknown:
        raise ValueError(f"missing keys {missing}, unknown keys {unknown}")
    tokens, special = content["tokens"], content["special_tokens"]
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ValueError("tokens must be a list of strings")
    if wrong := [name for name in ("pattern", "absent") if not isinstance(content.get(name, ""), str)]:
        raise ValueError(f"{wrong[0]} must be a string")
    if not isinstance(special, dict) or not all(type(i) is int for i in special.values()):
        raise ValueError("special_tokens must map names to ids")
    return content


def _read_gguf(path: str | Path) -> tuple[list[str], list[int], list[str], str]:
    # What a GGUF file says of its tokenizer: tokens by id, the kind of each, merges, and the pattern.
    fields = open_gguf(path).fields

    def values(name: str) -> list[Any]:
        if (field := fields.get(f"tokenizer.ggml.{name}")) is None:
            raise ValueError(f"it lacks tokenizer.ggml.{name}")
        items = [field.parts[i] for i in field.data]  # an array of one number each, or of a string's bytes
        return [item.tobytes().decode("utf-8") if item.dtype == "uint8" else item.item() for item in items]

    (model,), (pre,) = values("model"), values("pre")
    if model != "gpt2":
        raise ValueError(f"tokenizer.ggml.model is {model!r}; byte-level BPE is called 'gpt2'")
    if pre not in PATTERNS:
        raise ValueError(f"tokenizer.ggml.pre is {pre!r}; known patterns are {sorted(PATTERNS)}")
    tokens, kinds = values("tokens"), values("token_type")  # others are those of SentencePiece: unknown, byte, unused
    if other := set(kinds) - {_NORMAL, _CONTROL}:
        raise ValueError(f"a token is of type {min(other)}; known are {_NORMAL}, normal, and {_CONTROL}, control")
    return tokens, kinds, values("merges"), PATTERNS[pre]
