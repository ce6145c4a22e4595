"""Make the held-out pictures of this folder from the test split of the digits.

    python models/data/make.py [folder of the downloaded packages]
"""

import pathlib
import sys

import numpy as np
from PIL import Image

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from common import data  # noqa: E402

pictures, labels = data.read_digits(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "data-cache"))
tested = data.split_digits(labels, *data.parse_split("0.8/0.2"))[2]
picked = [i for digit in range(10) for i in tested[labels[tested] == digit][:2]]
np.savez_compressed(HERE / "digits-20.npz", pictures=pictures[picked], labels=labels[picked].astype(np.uint8))
for digit in (0, 2, 4, 7, 9):
    Image.fromarray(pictures[picked[2 * digit]]).save(HERE / f"digit-{digit}.png")
