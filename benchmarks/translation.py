"""Race the encoder-decoder against transformers' Marian and torch's own Transformer: training steps and beam search.

Run ``python benchmarks/translation.py``. All have the sizes of the translation chapters (2 + 2 layers, width 128, one
table of 2,000 subwords) and get the same batches, on one thread, interleaved: in float32, and in training also under
bfloat16 autocast where the processor has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from racing import Row, begin, interleaved, rows, table
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import MarianConfig, MarianMTModel

from nextword import runtime
from nextword.generation import beam_search
from nextword.layers import sinusoidal_positions
from nextword.transformer import Transformer, TransformerConfig

V, C, HEADS, LAYERS, D_FF, PAD, BOS, EOS = 2000, 128, 4, 2, 512, 0, 1, 2
SENTENCES, LENGTH, BEAM = 100, 12, 4


def ours() -> Transformer:
    sizes = {"source_vocab": V, "target_vocab": V, "d_model": C, "n_heads": HEADS, "n_layers": LAYERS, "d_ff": D_FF}
    return Transformer(TransformerConfig(**sizes, dropout=0.0, label_smoothing=0.0, pad_id=PAD))


def marian() -> MarianMTModel:
    sizes = {"encoder_layers": LAYERS, "decoder_layers": LAYERS, "encoder_ffn_dim": D_FF, "decoder_ffn_dim": D_FF}
    heads = {"encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS}
    dropouts = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    ids = {"pad_token_id": PAD, "eos_token_id": EOS, "decoder_start_token_id": BOS, "forced_eos_token_id": None}
    extra = {"activation_function": "relu", "scale_embedding": True, "max_position_embeddings": 64}
    return MarianMTModel(MarianConfig(vocab_size=V, d_model=C, **sizes, **heads, **dropouts, **ids, **extra))


class TorchTransformer(nn.Module):
    """``torch.nn.Transformer`` between the same table and the same sinusoids."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(V, C)
        self.body = nn.Transformer(C, HEADS, LAYERS, LAYERS, D_FF, dropout=0.0, batch_first=True)
        self.register_buffer("positions", sinusoidal_positions(64, C))

    def forward(self, source: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        x, y = (self.table(ids) * math.sqrt(C) + self.positions[: ids.shape[1]] for ids in (source, target))
        causal = nn.Transformer.generate_square_subsequent_mask(target.shape[1], dtype=torch.bool)
        padding = source == PAD
        hidden = self.body(x, y, tgt_mask=causal, src_key_padding_mask=padding, memory_key_padding_mask=padding)
        return F.cross_entropy((hidden @ self.table.weight.T).flatten(0, 1), labels.flatten())


def step(model: nn.Module, loss: Callable[[], Tensor]) -> None:
    model.zero_grad(set_to_none=True)
    loss().backward()


def races(rounds: int = 20) -> list[Row]:
    torch.manual_seed(0)
    source, target, labels = (torch.randint(3, V, (SENTENCES, LENGTH)) for _ in range(3))
    a, b, c = ours(), marian(), TorchTransformer()
    training = {
        "ours": lambda: step(a, lambda: a(source, target, labels).loss),
        "transformers": lambda: step(
            b, lambda: b(input_ids=source, attention_mask=source != PAD, decoder_input_ids=target, labels=labels).loss
        ),
        "torch": lambda: step(c, lambda: c(source, target, labels)),
    }
    result = rows("translator, training", "steps/s", 1, interleaved(training, rounds))
    if runtime.bf16():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result += rows("translator, training, bf16", "steps/s", 1, interleaved(training, rounds))

    a, b = a.eval(), b.eval()
    with torch.no_grad():
        b.final_logits_bias[:, EOS] = -1e4  # nobody stops early, so that all write the same number of words
    fixed = {"num_beams": BEAM, "do_sample": False, "max_new_tokens": LENGTH, "early_stopping": True}

    def search() -> None:
        ask = a.step(source, beam=BEAM)
        start = torch.full((SENTENCES,), BOS)
        beam_search(lambda ids: ask(ids)[0], start, EOS, beam=BEAM, max_length=LENGTH, alpha=1.0)

    writing = {"ours": search, "transformers": lambda: b.generate(source, attention_mask=source != PAD, **fixed)}
    words = SENTENCES * LENGTH
    return result + rows("translator, beam of four", "words/s", words, interleaved(writing, max(5, rounds // 4)))


if __name__ == "__main__":
    begin()
    print(table(races()))
