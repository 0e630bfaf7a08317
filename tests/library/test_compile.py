"""Models that torch.compile takes as a whole: no value of a tensor decides what comes next, so nothing waits for the device.

In a process of its own, since the checks of annotations that the other tests install are no part of the library. Nothing
is compiled: torch only traces the operations, and says how often it would have to stop.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

DECODERS: dict[str, dict[str, Any]] = {
    "plain": {"dropout": 0.1},
    "post-norm, sinusoids": {"norm_position": "post", "positions": "sinusoidal", "tie_embeddings": False},
    "rotary, grouped queries": {"positions": "rotary", "n_kv_heads": 2, "norm": "rms", "activation": "swiglu"},
    "local": {"attention": ("local",), "window": 3},
    "fixed": {"attention": ("fixed",), "stride": 4, "sparse_heads": "split"},
}
TRACED = f"""
import json, torch
from nextword.decoder import Decoder, DecoderConfig
from nextword.encoder import Encoder, EncoderConfig, MaskedLM
from nextword.transformer import Transformer, TransformerConfig

def breaks(call, *arguments, **settings):
    torch._dynamo.reset()
    found = torch._dynamo.explain(call)(*arguments, **settings)
    return [str(reason) for reason in found.break_reasons] or found.graph_break_count

ids, found = torch.randint(1, 50, (2, 8)), {{}}
mask = torch.arange(8) >= torch.tensor([[0], [3]])
sizes = {{"vocab_size": 50, "context_length": 9, "d_model": 24, "n_layers": 1, "n_heads": 4}}
for name, changes in {DECODERS}.items():
    model = Decoder(DecoderConfig(**sizes, **changes))
    found[name] = breaks(model.eval(), ids, ids, mask=mask)
    found[name + ", training loss"] = breaks(model.train().training_loss, ids, ids)
labels = {{"labels": ids, "next_sentence_labels": torch.tensor([0, 1])}}
for positions in ("learned", "rotary"):
    model = MaskedLM(Encoder(EncoderConfig(**sizes, positions=positions, dropout=0.1)))
    found["encoder, " + positions] = breaks(model.train(), ids, ids % 2, mask=mask, **labels)
model = Transformer(TransformerConfig(source_vocab=50, target_vocab=50, d_model=24, n_heads=4, n_layers=1, d_ff=8))
found["Transformer"] = breaks(model.train(), ids, ids, ids)
print(json.dumps(found))
"""


def test_the_whole_forward_is_one_graph() -> None:
    done = subprocess.run([sys.executable, "-c", TRACED], capture_output=True, text=True)
    found = json.loads(done.stdout or pytest.fail(done.stderr[-2000:]))
    assert len(found) == 2 * len(DECODERS) + 3
    assert not {name: why for name, why in found.items() if why}
