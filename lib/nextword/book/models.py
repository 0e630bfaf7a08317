"""The models that answer in the pages of their chapters, trained by the functions of these chapters and kept in 8 bits.

``bert_both_ways`` and ``bert_left_to_right`` are one network trained in two ways; ``taste_…`` are InstructGPT's steps, with
a reward model, and a second one as a judge; ``clip_icons`` names icons.

Used in: 2018_bert, 2021_clip, 2022_instructgpt.
"""

from __future__ import annotations

from pathlib import Path

from nextword import checkpoints
from nextword.checkpoints import LoadedModel
from nextword.contrastive import CLIP, CLIPConfig

FOLDER = Path(__file__).parent / "answering"
"""Where they lie; ``make checkpoints NAME=taste_ppo`` trains one again."""

JUDGES = Path(__file__).parent / "judges.json.gz"
"""What judges texts beside the ``taste_…`` networks: words with weights, and the scale of each judge."""


def load(name: str) -> LoadedModel:
    """Return a model with its tokenizer, None for CLIP's words, and its card.

    Raises:
        ValueError: there is no such model.
    """
    names = sorted(path.name for path in FOLDER.iterdir())
    if name not in names:
        raise ValueError(f"name={name!r}: choose {', '.join(names)}")
    return read(FOLDER / name)


def read(folder: Path) -> LoadedModel:
    """Return the model of a folder: one that the library loads by itself, or a CLIP, whose words are saved nowhere."""
    found = checkpoints.read(folder)
    if found.architecture != "CLIP":
        return checkpoints.load(folder)
    return LoadedModel(checkpoints.from_folder(CLIP, CLIPConfig, folder), None, found.card)
