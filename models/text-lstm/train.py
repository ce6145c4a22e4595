"""Film reviews, fresh or rotten: an LSTM that reads a word at a time."""

import pathlib
import sys

import torch
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from common import text_recipe  # noqa: E402

HIDDEN = 96


class TextLstm(nn.Module):
    """Embedding, LSTM, and a linear layer on its last state: no pooling over time, so that a
    program can feed it word by word and keep only the state."""

    def __init__(self, embedding: torch.Tensor):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(embedding, freeze=False)
        self.drop = nn.Dropout(0.5)
        self.lstm = nn.LSTM(embedding.shape[1], HIDDEN, batch_first=True)
        self.output = nn.Linear(HIDDEN, 2)

    def forward(self, ids):
        x = self.drop(self.embedding(ids))
        if torch.onnx.is_in_onnx_export():
            _, (last, _) = self.lstm(x)
            return self.output(last.squeeze(0))
        # The LSTM never looks ahead: with padding on the right its state at the last word is
        # what it would be without.
        states, _ = self.lstm(x)
        ends = (ids != 0).sum(1).clamp(min=1) - 1
        return self.output(self.drop(states[torch.arange(len(ids)), ends]))


if __name__ == "__main__":
    text_recipe.train(TextLstm, HERE, epochs=6, length=0, rate_scale=2.0)
