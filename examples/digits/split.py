"""Deal the pictures of MNIST's four files to organisations, to try a federation on one machine.

    python split.py MNIST_DIRECTORY OUT --members 4

makes OUT/1/train.npz, OUT/1/test.npz, and so on. An organisation with pictures of its own needs none of this:
IDX, .npy and .npz files, and a folder for each class, are read as they are.
"""

import argparse
import gzip
from pathlib import Path

import numpy as np

FILES = {"train": "train-{}-ubyte.gz", "test": "t10k-{}-ubyte.gz"}


def main() -> None:
    """Read, deal, write."""
    parser = argparse.ArgumentParser(description="Deal MNIST's pictures to organisations.")
    parser.add_argument("source", type=Path, help="where the four .gz files are")
    parser.add_argument("out", type=Path, help="made if missing")
    parser.add_argument("--members", type=int, default=4)
    options = parser.parse_args()
    for part, name in FILES.items():
        with gzip.open(options.source / name.format("images-idx3")) as file:
            images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
        with gzip.open(options.source / name.format("labels-idx1")) as file:
            labels = np.frombuffer(file.read(), np.uint8, offset=8)
        for member in range(options.members):
            folder = options.out / str(member + 1)
            folder.mkdir(parents=True, exist_ok=True)
            dealt = slice(member, None, options.members)
            np.savez(folder / f"{part}.npz", images=images[dealt], labels=labels[dealt])


if __name__ == "__main__":
    main()
