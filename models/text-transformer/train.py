"""Film reviews, fresh or rotten: a small transformer encoder."""

import pathlib
import sys

import torch
from torch import nn
from torch.nn import functional as F

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from common import text_recipe  # noqa: E402

WIDTH, HEADS, LAYERS, DROP = 96, 4, 2, 0.3


class Block(nn.Module):
    """Self-attention and a two-layer network, each on normalised input and added to its input."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key, self.value, self.mix = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.wide, self.narrow = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.drop = nn.Dropout(DROP)

    def forward(self, x, mask):
        batch, length, _ = x.shape
        heads = lambda y: y.view(batch, length, HEADS, WIDTH // HEADS).transpose(1, 2)
        y = self.norm1(x)
        scores = heads(self.query(y)) @ heads(self.key(y)).transpose(2, 3) * (WIDTH // HEADS) ** -0.5
        y = self.drop((scores + mask).softmax(3)) @ heads(self.value(y))
        x = x + self.drop(self.mix(y.transpose(1, 2).reshape(batch, length, WIDTH)))
        return x + self.drop(self.narrow(F.relu(self.wide(self.norm2(x)))))


class TextTransformer(nn.Module):
    """Words and positions, blocks of self-attention, the mean over the words, a linear layer.
    Padding takes part in neither attention nor mean."""

    def __init__(self, embedding: torch.Tensor):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(embedding, freeze=False, padding_idx=0)
        self.project = nn.Linear(embedding.shape[1], WIDTH)
        self.position = nn.Parameter(torch.randn(text_recipe.LENGTH, WIDTH) * 0.1)
        self.drop = nn.Dropout(0.4)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.output = nn.Linear(WIDTH, 2)

    def forward(self, ids):
        word = (ids != 0).float()
        mask = (word - 1)[:, None, None, :] * 1e4
        x = self.project(self.drop(self.embedding(ids))) + self.position[:ids.shape[1]]
        for block in self.blocks:
            x = block(x, mask)
        word = word[:, :, None]
        mean = (self.norm(x) * word).sum(1) / word.sum(1).clamp(min=1)
        return self.output(self.drop(mean))


if __name__ == "__main__":
    text_recipe.train(TextTransformer, HERE, epochs=6, length=text_recipe.LENGTH, rate_scale=0.5)
