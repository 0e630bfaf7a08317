"""Pictures in the sentence: a picture becomes a few vectors that stand where words stand, and a language model reads on.

The language model is the one that was trained on text. What is new is an encoder whose vectors are as wide as those of words;
the rest is next-word prediction.

Source: Driess et al. 2023 (PaLM-E), sections 3 and 4; Tsimpoukelli et al. 2021 for a frozen language model.
Used in: 2023_palm_e.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn

from nextword.attention import pad
from nextword.decoder import Decoder
from nextword.layers import IGNORE_INDEX, Block, ModelOutput, check_ids, eval_mode, next_token_loss


class PictureTokens(nn.Module):
    """Picture in, a few vectors out, each as wide as a word's: a small encoder and the projection of PaLM-E's equation 3.

    Args:
        d_model: width C of the language model's vectors.
        size: height and width of a picture in pixels, divisible by 16.
        n_channels: numbers a pixel; 3 for colours.
        widths: channels of three convolutions, each of which halves the picture.
        d_vision, n_heads: width of the encoder's own block, and its heads.
    """

    def __init__(
        self,
        d_model: int,
        *,
        size: int = 64,
        n_channels: int = 3,
        widths: Sequence[int] = (24, 48, 96),
        d_vision: int = 128,
        n_heads: int = 4,
    ) -> None:
        super().__init__()
        step = 2 ** (len(widths) + 1)
        if size < step or size % step:
            raise ValueError(
                f"size={size} is not divisible by {step}: each convolution and the merge halve the picture"
            )
        self.size, self.n_channels = size, n_channels
        layers: list[nn.Module] = []
        channels = n_channels
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.stem = nn.Sequential(*layers, nn.Conv2d(channels, d_vision, 1))
        side = size // 2 ** len(widths)
        self.n_tokens = (side // 2) ** 2
        """Vectors a picture becomes."""
        self.positions = nn.Parameter(torch.randn(side * side, d_vision) * 0.02)
        self.block = Block(d_vision, n_heads, 4 * d_vision, norm_position="pre", activation="gelu")
        self.norm = nn.LayerNorm(d_vision)
        self.projection = nn.Linear(4 * d_vision, d_model)  # from the encoder's space into that of words

    def forward(self, pictures: Float[Tensor, "B c H W"]) -> Float[Tensor, "B N C"]:
        """Return N vectors for each picture, brightness from 0 to 1."""
        if pictures.ndim != 4 or pictures.shape[1:] != (self.n_channels, self.size, self.size):
            fits = f"(B, {self.n_channels}, {self.size}, {self.size})"
            raise ValueError(f"pictures has shape {tuple(pictures.shape)}; this encoder takes {fits}")
        grid = self.stem(pictures)  # (B, d_vision, h, w), one vector for each region of 8 × 8 pixels
        h, w = grid.shape[2:]
        x = rearrange(grid, "B c h w -> B (h w) c") + self.positions
        x = self.norm(self.block(x))  # each region sees all others
        # Four neighbours become one token, so that a picture takes a quarter of the places in the sentence.
        x = rearrange(x, "B (h p w q) c -> B (h w) (p q c)", h=h // 2, p=2, w=w // 2, q=2)
        tokens: Tensor = self.projection(x)
        return tokens


class PictureLM(nn.Module):
    """A language model that reads a picture before the words.

    Args:
        decoder: the language model, with learned positions. It is used, not copied.
        encoder: makes the vectors that stand in front; its width must be the decoder's.
    """

    def __init__(self, decoder: Decoder, encoder: PictureTokens) -> None:
        super().__init__()
        if decoder.config.positions != "learned":
            raise ValueError(f"decoder has {decoder.config.positions} positions; this model needs learned ones")
        if encoder.projection.out_features != decoder.config.d_model:
            raise ValueError(
                f"encoder makes vectors of width {encoder.projection.out_features}, and the decoder's words are "
                f"d_model={decoder.config.d_model} wide"
            )
        self.config = decoder.config
        self.decoder = decoder
        self.encoder = encoder

    def sentence(
        self, ids: Int64[Tensor, "B T"], pictures: Float[Tensor, "B c H W"] | None = None
    ) -> Float[Tensor, "B S C"]:
        """Return the mixed sequence that the blocks read: the picture's vectors, then the words', each with its place."""
        check_ids("ids", ids)
        x = self.decoder.embedding(ids)  # (B, T, C)
        if pictures is not None:
            if len(pictures) != len(ids):
                raise ValueError(f"pictures holds {len(pictures)} and ids {len(ids)} rows; give one picture a row")
            x = torch.cat([self.encoder(pictures), x], 1)  # (B, N + T, C): to the blocks they are all alike
        if x.shape[1] > self.config.context_length:
            raise ValueError(f"{x.shape[1]} positions are needed, and context_length={self.config.context_length}")
        positions: Tensor = self.decoder.positions.weight[: x.shape[1]]
        mixed: Tensor = x + positions
        return mixed

    def forward(
        self,
        ids: Int64[Tensor, "B T"],
        targets: Int64[Tensor, "B T"] | None = None,
        *,
        pictures: Float[Tensor, "B c H W"] | None = None,
    ) -> ModelOutput:
        """Score the token that follows each word, and return the loss over the targets.

        Args:
            ids: the words, filled up on the right.
            targets: the token that follows each of them; -100 where none is to be learned, as at the question.
            pictures: one a row, brightness from 0 to 1; None for text alone.
        """
        x = self.decoder.dropout(self.sentence(ids, pictures))
        for block in self.decoder.blocks:
            x = block(x, causal=True)
        words = self.decoder.norm(x[:, -ids.shape[1] :])  # nothing is predicted at the picture's own places
        logits = self.decoder.output(words)  # (B, T, V)
        return ModelOutput(logits, None if targets is None else next_token_loss(logits, targets, name="targets"))

    def training_loss(
        self, ids: Int64[Tensor, "B T"], targets: Int64[Tensor, "B T"], pictures: Float[Tensor, "B c H W"] | None = None
    ) -> Float[Tensor, ""]:
        """Return the loss of :meth:`forward`, computed only where there is a target."""
        x = self.decoder.dropout(self.sentence(ids, pictures))
        for block in self.decoder.blocks:
            x = block(x, causal=True)
        learned = targets != IGNORE_INDEX
        logits = self.decoder.output(self.decoder.norm(x[:, -ids.shape[1] :][learned]))  # (n, V)
        return nn.functional.cross_entropy(logits, targets[learned])

    @torch.no_grad()
    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        pictures: Float[Tensor, "B c H W"] | None = None,
        end_id: int,
        max_new_tokens: int = 1,
    ) -> list[list[int]]:
        """Return what the model writes behind each prompt, the likeliest token each time, up to the end token.

        Args:
            prompts: ids of the texts, of any lengths.
            pictures: one for each prompt.
            end_id: ends an answer; it is no part of it.
            max_new_tokens: where an answer is cut off.
        """
        if not prompts or not all(prompts) or max_new_tokens < 1:
            raise ValueError(
                f"{len(prompts)} prompts of at least {min(map(len, prompts), default=0)} ids, "
                f"max_new_tokens={max_new_tokens}; each must be 1 at least"
            )
        if pictures is not None and len(pictures) != len(prompts):
            raise ValueError(f"pictures holds {len(pictures)} and prompts {len(prompts)}; give one picture a prompt")
        device = next(self.parameters()).device
        texts = [list(prompt) for prompt in prompts]
        written: list[list[int]] = [[] for _ in texts]
        open_rows = list(range(len(texts)))
        with eval_mode(self):
            for _ in range(max_new_tokens):
                ids, mask = pad([texts[i] for i in open_rows], end_id, device=device)
                seen = None if pictures is None else pictures[open_rows].to(device)
                logits = self(ids, pictures=seen).logits  # (B, T, V)
                last = mask.sum(1) - 1  # padding stands behind the text, where nothing looks
                chosen = logits[torch.arange(len(last), device=device), last].argmax(-1).tolist()
                for i, token in zip(open_rows, chosen, strict=True):
                    if token != end_id:
                        texts[i].append(token)
                        written[i].append(token)
                open_rows = [i for i, token in zip(open_rows, chosen, strict=True) if token != end_id]
                if not open_rows:
                    break
        return written


def freeze(model: PictureLM, frozen: bool = True) -> None:
    """Keep the language model as it is and train the encoder alone, or train both."""
    model.decoder.requires_grad_(not frozen)
