"""What every encoder-decoder does, be it made of LSTMs or of attention: read a source once, then score or write a target.

Used in: 2016_gnmt, 2017_transformer.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from nextword import checkpoints
from nextword.layers import ModelOutput, check_vocabulary, count_parameters, eval_mode, next_token_loss

T = TypeVar("T", bound="EncoderDecoder")


class EncoderDecoder(nn.Module):
    """A translator in two halves (Cho et al. 2014; Sutskever et al. 2014).

    A subclass says how it encodes and decodes. It has a ``config`` with ``source_vocab``, ``pad_id`` and
    ``label_smoothing``, and a linear layer ``output`` that scores the words.
    """

    config_class: ClassVar[type[Any]]
    config: Any
    output: nn.Linear  # from a vector of C numbers to V scores

    def encode(self, source: Int64[Tensor, "B S"]) -> Any:
        """Return the memory, a named tuple of tensors with B rows: all that the decoder learns about ``source``."""
        raise NotImplementedError

    def decode(self, target: Int64[Tensor, "B T"], memory: Any, cache: Any = None) -> Float[Tensor, "B T C"]:
        """Return the decoder's vector at every position of ``target``; ``output`` turns it into scores.

        Args:
            target: what has been written. With a cache, only what is new since the last call.
            memory: what :meth:`encode` returned.
            cache: from :meth:`new_cache`; it then also holds what is new.
        """
        # An LSTM has the weights at hand. The Transformer, where keeping them takes time, overrides this method.
        return self.decode_with_attention(target, memory, cache)[0]

    def decode_with_attention(
        self, target: Int64[Tensor, "B T"], memory: Any, cache: Any = None
    ) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B T S"]]:
        """Return what :meth:`decode` does, and how much of its attention each position paid to each source token."""
        raise NotImplementedError

    def new_cache(self) -> Any:
        """Return an empty cache for :meth:`decode`."""
        raise NotImplementedError

    def reorder_cache(self, cache: Any, rows: Int64[Tensor, " N"]) -> None:
        """Keep these rows of the batch, in this order: what beam search does when hypotheses change places."""
        raise NotImplementedError

    def forward(
        self,
        source: Int64[Tensor, "B S"],
        target: Int64[Tensor, "B T"],
        labels: Int64[Tensor, "B T"] | None = None,
    ) -> ModelOutput:
        """Score every next word of ``target``.

        Args:
            source: the sentence to translate, filled up with ``pad_id``.
            target: the translation as the decoder reads it: the start token first, then what has been written.
            labels: the word that follows each of ``target``; -100 where there is none.

        Raises:
            TypeError, ValueError: ids that are no batch of int64.
            IndexError: an id outside the vocabulary, from the embedding.
        """
        memory = self.encode(source)  # read once; all that the decoder learns of the source
        # All words of the target are scored at once: in training the right ones are known (teacher forcing).
        hidden = self.decode(target, memory)  # (B, T, C)
        logits = self.output(hidden)  # (B, T, V)
        if labels is None:
            return ModelOutput(logits, None)
        smoothing = self.config.label_smoothing if self.training else 0.0
        # A label of -100 does not count: padding is not to be learned.
        return ModelOutput(logits, next_token_loss(logits, labels, label_smoothing=smoothing))

    def step(self, source: Int64[Tensor, "B S"], *, beam: int = 1) -> EncoderDecoderStep:
        """Return the function that :func:`~nextword.generation.beam_search` calls for each next word."""
        return EncoderDecoderStep(self, source, beam)

    def check_source(self, source: Int64[Tensor, "B S"]) -> None:
        """Raise an error that names ``source`` where :meth:`encode` cannot read it. It reads the ids, as no forward may."""
        check_vocabulary("source", source, self.config.source_vocab)

    @classmethod
    def from_pretrained(cls: type[T], path: str | os.PathLike[str]) -> T:
        """Return a model that :func:`~nextword.checkpoints.save` wrote, in evaluation mode; its tokenizer lies beside it.

        Raises:
            ValueError: there is no such model, or it is of another kind.
        """
        return checkpoints.from_folder(cls, cls.config_class, path)

    def num_parameters(self, embedding: bool = True) -> int:
        """Return the number of parameters, each shared matrix once; without ``embedding``, the non-embedding ones."""
        return count_parameters(self, embedding=embedding)


class EncoderDecoderStep:
    """The next word of N half-written translations; called by :func:`~nextword.generation.beam_search`.

    Args:
        model: the encoder-decoder.
        source: sentences (B, S); each gets ``beam`` neighbouring rows, so that N = B · beam.
        beam: hypotheses a sentence.

    Raises:
        TypeError, ValueError: ``source`` is no batch of ids that the model can read.
    """

    def __init__(self, model: EncoderDecoder, source: Int64[Tensor, "B S"], beam: int = 1) -> None:
        model.check_source(source)
        self.model, self.cache, self.length = model, model.new_cache(), 0  # length: words that the cache holds
        with torch.inference_mode(), self._without_dropout():
            memory = model.encode(source)  # once a sentence, not once a hypothesis
            # (N, S, …), N = B · beam. Hypotheses of a sentence are neighbours, as beam_search has them.
            self.memory = type(memory)(*(x.repeat_interleave(beam, 0) for x in memory))

    def __call__(self, ids: Int64[Tensor, "N T"]) -> tuple[Float[Tensor, "N V"], Float[Tensor, "N S"]]:
        """Return the log-probabilities of the next word, and where the last one looked."""
        with torch.inference_mode(), self._without_dropout():
            # What earlier words gave is in the cache, so only the newest are read.
            hidden, attention = self.model.decode_with_attention(ids[:, self.length :], self.memory, self.cache)
            self.length = ids.shape[1]  # the cache has seen all of them by now
            # Logarithms: those of a sentence's words add up, where the product of their probabilities could underflow.
            return self.model.output(hidden[:, -1]).log_softmax(-1), attention[:, -1]  # (N, V), (N, S)

    def reorder(self, rows: Int64[Tensor, " N"]) -> None:
        """Keep these hypotheses, in this order."""
        # Rows change places within their sentence only, and have the same memory there, so it stays.
        self.model.reorder_cache(self.cache, rows)

    def _without_dropout(self) -> AbstractContextManager[None]:
        # Changing the mode of all modules takes as long as a small step, so it is left out where nothing is dropped anyway.
        return eval_mode(self.model) if self.model.training else nullcontext()
