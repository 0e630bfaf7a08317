"""WordPiece, the tokenizer of BERT (Wu et al. 2016, section 4.1; Devlin et al. 2018, section 3).

It cuts words into parts, as byte-pair encoding does. BERT's version first tidies the text, so that it cannot give it back
letter for letter, and has one id for whatever it does not know.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Container, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import regex
from torch import Tensor

from nextword.fetching import fetch_folder
from nextword.tokenizers import check_names, check_special, check_text, id_row, split_at


def longest_first(word: str, vocabulary: Container[str]) -> list[str]:
    """Return the longest beginning of a word that is in the vocabulary, then that of the rest, and so on.

    Used in: 2018_bert.

    Example:
        >>> longest_first("unaffordable", {"un", "##afford", "##able", "##a"})
        ['un', '##afford', '##able']
    """
    # Unlike byte-pair encoding it knows no order of merges: it takes the longest piece that fits, and never looks back.
    parts: list[str] = []
    start, end = 0, len(word)  # the rest of the word, and how much of it is tried
    while start < end:
        part = ("##" if start else "") + word[start:end]  # "##": not the beginning of a word
        if part in vocabulary:
            parts.append(part)
            start, end = end, len(word)
        else:
            end -= 1  # one letter less, until it is known
    return parts if start == len(word) else ["[UNK]"]  # one unknown rest makes the whole word unknown


class Encoding(NamedTuple):
    """One or two texts as BERT takes them, an entry a token."""

    ids: list[int]  #: [CLS], the first text, [SEP], and where there is one the second text and [SEP].
    segments: list[int]  #: 0 or 1: the first text or the second.
    special: list[bool]  #: True at [CLS] and [SEP], which are never hidden in pre-training.


class WordPiece:
    """BERT's tokenizer, reading and encoding with a vocabulary that was learnt elsewhere (Devlin et al. 2018, section 3).

    A text is tidied: control characters go, Chinese characters stand alone, accents fall off, capitals become small. It
    is cut at white space and around punctuation, and each word by :func:`longest_first`.

    Args:
        tokens: the vocabulary in the order of its ids, with [UNK], [CLS], [SEP] and [MASK].
        lower: take accents and capitals away, as the uncased models do.
        longest: letters of a word that is still cut; a longer one becomes [UNK].

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
        # The authors' code cuts words of up to 200 letters, Hugging Face's, whose ids most people have, of up to 100.
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
        return list(chain.from_iterable(map(self._cut_word, _words(check_text("text", text), self.lower))))

    def encode(self, a: str, b: str | None = None, *, allow_special: Iterable[str] = ()) -> Encoding:
        """Turn one text, or two, into what BERT takes: [CLS] a [SEP], or [CLS] a [SEP] b [SEP].

        A text that holds the name of a special token is refused, save for those in ``allow_special``: with
        ``["[MASK]"]`` a text may have gaps.

        Raises:
            TypeError: a text is no string.
            ValueError: a text holds a special token's name that is not allowed, or ``allow_special`` names a token that
                is not special.

        Example:
            >>> wordpiece = WordPiece(["[UNK]", "[CLS]", "[SEP]", "[MASK]", "yes", "no"])
            >>> wordpiece.encode("yes [MASK]", "no", allow_special=["[MASK]"])
            Encoding(ids=[1, 4, 3, 2, 5, 2], segments=[0, 0, 0, 0, 1, 1], special=[True, False, False, True, False, True])
        """
        names = [name for name in self.NAMES if name in self._id]
        allowed = check_names("allow_special", allow_special)
        # The first text is segment 0, with [CLS] before it and [SEP] behind; the second is segment 1, with its own [SEP].
        ids, segments, special = [self._id["[CLS]"]], [0], [True]
        for segment, text in enumerate([a] if b is None else [a, b]):
            present = check_special(check_text("ab"[segment], text), allowed, names, ordinary="pieces")
            pieces: list[str] = []
            for n, part in enumerate(split_at(text, present)):
                pieces += [part] if n % 2 else self.pieces(part)  # text, name, text, name, …, text
            ids += [*(self._id[piece] for piece in pieces), self._id["[SEP]"]]
            segments += [segment] * (len(pieces) + 1)
            special += [False] * len(pieces) + [True]
        return Encoding(ids, segments, special)

    def decode(self, ids: Iterable[int] | Tensor) -> str:
        """Turn ids, such as a list or a tensor of shape (T,), into words with a space between any two.

        [PAD], [CLS] and [SEP] are left out. What tidying took away does not come back.

        Raises:
            TypeError, ValueError: ``ids`` is no single row of whole numbers, or one is outside the vocabulary.
        """
        tokens = []
        for i in id_row(ids):  # a negative one would count from the end
            if not 0 <= i < self.vocab_size:
                raise ValueError(f"ids holds {i}; this vocabulary has the ids 0 to {self.vocab_size - 1}")
            tokens.append(self.tokens[i])
        # Cutting has put spaces around punctuation; nobody can tell them from those of the text, so they stay.
        return " ".join(token for token in tokens if token not in ("[PAD]", "[CLS]", "[SEP]")).replace(" ##", "")

    def _cut_word(self, word: str) -> list[str]:
        """Return a word's parts; those of the words met before are remembered."""
        if word not in self._known:  # a language repeats its words
            if len(self._known) >= 500_000:
                self._known.clear()
            self._known[word] = longest_first(word, self._id) if len(word) <= self.longest else ["[UNK]"]
        return self._known[word]


# Control and format characters, private ones, and the sign that stands for a damaged one.
_DROPPED = regex.compile(r"[\p{Cc}\p{Cf}\p{Co}\uFFFD--[\t\n\r]]", regex.V1)
# Chinese is written without spaces, so each of its characters counts as a word. Korean and Japanese letters are others.
_CHINESE = regex.compile(
    "([\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f\U0002b920-\U0002ceaf\U0002f800-\U0002fa1f])"
)
_WORD = regex.compile(r"[\p{P}$+<=>^`|~]|[^\s\p{P}$+<=>^`|~]+")  # of ASCII every sign counts as punctuation


def _words(text: str, lower: bool) -> list[str]:
    """Tidy a text and cut it into words and punctuation."""
    # The order is that of the authors' code: an accent falls off before capitals become small.
    text = _CHINESE.sub(r" \1 ", _DROPPED.sub("", text))
    if lower:
        text = regex.sub(r"\p{Mn}", "", unicodedata.normalize("NFD", text))  # an accent is now a character of its own
        text = text.replace("\u03a3", "\u03c3").lower()  # sigma first: Python knows the other one, at a word's end
    words: list[str] = _WORD.findall(text)
    return words
