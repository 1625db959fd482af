"""Put finished weights and evaluators where ``load_pretrained`` and ``load_evaluator`` find them, and their hashes in the package.

    python benchmarks/publish_weights.py FOLDER [--name cifar10] [--what model,features]

``FOLDER`` is what ``python -m ddimkit.models.train`` and ``python -m ddimkit._features.train`` wrote (``--out``). Each file is read
as it will be read later, checked against the limits of ``benchmarks/weights`` (a model of 24 MB, a feature network of 3 MB and
93 % accuracy), and copied there, in pieces where it is large. Files of another ``--what`` keep their hashes.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

from ddimkit import DDIMKitError
from ddimkit.models.bundle import load_bundle
from ddimkit.quality.evaluator import read_evaluator
from ddimkit.weights._pieces import MOST_BYTES, write_pieces
from ddimkit.weights._registry import CHECKOUT, HASHES, published_hashes
from ddimkit.weights._tensorfile import read_tensors

MOST_MODEL, MOST_NETWORK, LEAST_ACCURACY = 24_000_000, 3_000_000, 0.93


def check_model(folder: Path, name: str) -> list[str]:
    """The model's file; a ValueError where it is not fit to be published."""
    file = f"{name}.safetensors"
    load_bundle(folder / file)
    size = (folder / file).stat().st_size
    if size > MOST_MODEL:
        raise ValueError(f"{folder / file} has {size} bytes, more than {MOST_MODEL}")
    return [file]


def check_features(folder: Path, name: str) -> list[str]:
    """The files of both evaluators; a ValueError where they are not fit to be published."""
    network = folder / f"{name}-features.safetensors"
    size, figures = network.stat().st_size, read_tensors(network, kind="ddimkit-features", schema=1).settings["figures"]
    if size > MOST_NETWORK:
        raise ValueError(f"{network} has {size} bytes, more than {MOST_NETWORK}")
    if figures["test_accuracy"] < LEAST_ACCURACY:
        raise ValueError(f"{network} gets {figures['test_accuracy']:.2%} of the test images right, less than {LEAST_ACCURACY:.0%}")
    for split in ("train", "test"):
        read_evaluator(name, folder, split)
    kinds = ("reference-{}.safetensors", "scale-{}.json")
    return [network.name, *(f"{name}-{kind.format(split)}" for split in ("train", "test") for kind in kinds)]


CHECKS = {"model": check_model, "features": check_features}


def publish(folder: Path, files: list[str]) -> None:
    """Copy the files and enter their hashes."""
    CHECKOUT.mkdir(parents=True, exist_ok=True)
    known = dict(published_hashes())
    for file in files:
        content = (folder / file).read_bytes()
        if len(content) > MOST_BYTES:
            write_pieces(content, CHECKOUT / file, most=MOST_BYTES)
        else:
            (CHECKOUT / file).write_bytes(content)
        known[file] = hashlib.sha256(content).hexdigest()
        print(f"{file}: {len(content)} bytes, SHA-256 {known[file]}")
    HASHES.write_text(json.dumps(dict(sorted(known.items())), indent=2) + "\n")


def main() -> None:
    """Check everything, then publish it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", default="cifar10")
    parser.add_argument("--what", type=lambda text: text.split(","), default=list(CHECKS), help=",".join(CHECKS))
    arguments = parser.parse_args()
    try:
        files = [file for what in arguments.what for file in CHECKS[what](arguments.folder, arguments.name)]
    except (DDIMKitError, KeyError, OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")
    publish(arguments.folder, files)


if __name__ == "__main__":
    main()
