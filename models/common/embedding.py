"""Initial word vectors: general ones for the meaning, and ones made from the reviews for their use there."""

import numpy as np
import scipy.sparse
from sklearn.utils.extmath import randomized_svd

from .text import PAD, Vocabulary

WINDOW = 4
# Standard deviation of the reviews' own vectors; that of the general ones is about 0.65.
SPREAD = 0.3


def general(word: str, vectors: dict[str, np.ndarray]) -> np.ndarray | None:
    """The vector of a word. The tables have neither possessives and contractions as one word nor
    curly marks, which `words-v1` keeps."""
    plain = word.replace("’", "'").strip("“”‘—–…-")
    for form in (plain, plain.removesuffix("'s"), "not" if plain.endswith("n't") else plain.split("'")[0]):
        if form in vectors:
            return vectors[form]
    return None


def own(texts: list[str], vocabulary: Vocabulary, width: int) -> np.ndarray:
    """Positive pointwise mutual information of words at most WINDOW apart, factorised (Levy and
    Goldberg 2014, "Neural Word Embedding as Implicit Matrix Factorization")."""
    rows, columns, weights = [], [], []
    for text in texts:
        ids = vocabulary.encode(text)
        for distance in range(1, WINDOW + 1):
            rows += ids[distance:]
            columns += ids[:-distance]
            weights += [1 / distance] * max(0, len(ids) - distance)
    size = (len(vocabulary), len(vocabulary))
    half = scipy.sparse.coo_matrix((weights, (rows, columns)), shape=size).tocsr()
    pairs = (half + half.T).tocoo()
    word = np.asarray(pairs.sum(1)).ravel()
    # Contexts to the power of 3/4, or rare words would dominate.
    context = word ** 0.75 * word.sum() / (word ** 0.75).sum()
    information = np.log(pairs.data * word.sum() / (word[pairs.row] * context[pairs.col]))
    matrix = scipy.sparse.csr_matrix((np.maximum(information, 0), (pairs.row, pairs.col)), shape=size)
    left, strength, _ = randomized_svd(matrix, width, random_state=0)
    table = left * np.sqrt(strength)
    return table * (SPREAD / table.std())


def table(vocabulary: Vocabulary, vectors: dict[str, np.ndarray], texts: list[str], width: int) -> np.ndarray:
    """Vectors [words, width]: the general ones, then the reviews' own; `<pad>` is zero."""
    first = len(next(iter(vectors.values())))
    result = np.zeros((len(vocabulary), width), dtype=np.float32)
    for i, word in enumerate(vocabulary.words):
        found = general(word, vectors)
        if found is not None:
            result[i, :first] = found
    result[:, first:] = own(texts, vocabulary, width - first)
    result[PAD] = 0
    return result
