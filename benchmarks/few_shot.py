"""Race scoring that reads a prompt's examples once against scoring that reads them anew for each question.

Run ``python benchmarks/few_shot.py``. The model is the real SmolLM2, the task that of the chapter on GPT-3: is a sentence
about a film praise or blame, after sixteen examples. Both ways must give the same numbers before the time counts.
"""

from __future__ import annotations

import torch
from racing import Row, begin, interleaved, rows, table

from nextword import data
from nextword.decoder import Decoder
from nextword.evaluation import few_shot_prompt, loglikelihood
from nextword.tokenizers import ByteBPE

SHOTS, QUESTIONS = 16, 20


def races(rounds: int = 5) -> list[Row]:
    """Return the rows of this file."""
    file = data.fetch_file("smollm2")
    model, bpe = Decoder.from_gguf(file), ByteBPE.from_gguf(file)
    films = [(r.text, "positive" if sum(r.ratings) > 0 else "negative") for r in data.load_ratings("movies")]
    films = [film for film in films if len(film[0]) < 100][: 2 * SHOTS + QUESTIONS]
    how = {"template": "Review: {query}\nSentiment: {answer}", "separator": "\n\n"}
    pairs = []
    for query, _ in films[-QUESTIONS:]:
        generator = torch.Generator().manual_seed(0)
        prompt = few_shot_prompt(films[:-QUESTIONS], SHOTS, query=query, generator=generator, **how)
        pairs += [(prompt, " positive"), (prompt, " negative")]

    def score(share: bool) -> torch.Tensor:
        found = loglikelihood(model, bpe, pairs, share_prefix=share)
        return torch.tensor([likelihood.log_prob for likelihood in found])

    torch.testing.assert_close(score(True), score(False), rtol=1e-3, atol=1e-3)
    sides = {"ours": lambda: score(True), "re-reading": lambda: score(False)}
    name = f"few-shot scoring, {SHOTS} examples"
    return rows(name, "questions/s", QUESTIONS, interleaved(sides, rounds), {"re-reading": 3.0})


if __name__ == "__main__":
    begin()
    print(table(races()))
