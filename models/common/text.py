"""The tokenizer `words-v1`, the vocabulary, and ids."""

import re
from collections import Counter

import numpy as np

PAD, UNK = 0, 1

# A word is a run of ASCII letters and digits, apostrophes and bytes of other scripts; ! and ? are
# words by themselves; every other byte separates.
WORD = re.compile(rb"[a-z0-9'\x80-\xff]+|[!?]")


def tokens(text: str) -> list[bytes]:
    """The words of a text, as Kiln's own tokenizer `words-v1` finds them."""
    lower = text.encode().translate(LOWER)
    stripped = (word.strip(b"'") for word in WORD.findall(lower))
    return [word for word in stripped if word]


LOWER = bytes(b + 32 if 65 <= b <= 90 else b for b in range(256))


class Vocabulary:
    """Words by id: 0 is `<pad>`, 1 `<unk>`, then the words of the training texts, most frequent first."""

    def __init__(self, texts: list[str], size: int, least: int = 2):
        self.counts = Counter(word for text in texts for word in tokens(text))
        # In order of frequency, then of bytes: the same ids wherever it is built.
        ranked = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        known = [word for word, count in ranked if count >= least][:size - 2]
        self.words = ["<pad>", "<unk>"] + [word.decode() for word in known]
        self.ids = {word: i + 2 for i, word in enumerate(known)}

    def __len__(self):
        return len(self.words)

    def encode(self, text: str) -> list[int]:
        """The ids of a text; a text without a word is one `<unk>`."""
        return [self.ids.get(word, UNK) for word in tokens(text)] or [UNK]

    def forgetting(self) -> np.ndarray:
        """By id, how often training should replace a word by `<unk>`: rare words more often, so that
        the network learns to do without them and what an unknown word means."""
        counts = [self.counts.get(word.encode(), np.inf) for word in self.words]
        return 0.05 + 0.5 / np.array(counts)

    def encode_all(self, texts: list[str], length: int) -> np.ndarray:
        """Ids [n, length], padded on the right, cut if longer."""
        ids = np.zeros((len(texts), length), dtype=np.int64)
        for row, text in zip(ids, texts):
            known = self.encode(text)[:length]
            row[:len(known)] = known
        return ids
