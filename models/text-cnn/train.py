"""Film reviews, fresh or rotten: Kim's convolutional sentence classifier."""

import pathlib
import sys

import torch
from torch import nn
from torch.nn import functional as F

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from common import text_recipe  # noqa: E402

FILTERS = 100


class TextCnn(nn.Module):
    """Convolutions over 3, 4 and 5 words in parallel, the maximum of each filter over the text, and
    a linear layer (Kim 2014, "Convolutional Neural Networks for Sentence Classification")."""

    def __init__(self, embedding: torch.Tensor):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(embedding, freeze=False, padding_idx=0)
        self.drop = nn.Dropout(0.5)
        self.convolutions = nn.ModuleList(nn.Conv1d(embedding.shape[1], FILTERS, width) for width in (3, 4, 5))
        self.output = nn.Linear(3 * FILTERS, 2)

    def forward(self, ids):
        x = self.drop(self.embedding(ids)).transpose(1, 2)
        peaks = [F.relu(convolution(x)).amax(2) for convolution in self.convolutions]
        return self.output(self.drop(torch.cat(peaks, 1)))


if __name__ == "__main__":
    text_recipe.train(TextCnn, HERE, epochs=6, length=text_recipe.LENGTH, margin=5)
