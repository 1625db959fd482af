"""Everything that reads a file or an argument, given valid ones that were changed: it gives a value, or an error that it may give.

``DDIMKIT_FUZZ`` is the number of inputs of each reader; ``nox -s fuzz`` tries 5,000.
"""

import contextlib
import io
import json
import os
import struct
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ddimkit import (
    DDIMKitError,
    DDIMSampler,
    LearnedSampler,
    ModelBundle,
    NoiseSchedule,
    Plan,
    SamplerState,
    Study,
    UNet,
    UNetConfig,
)
from ddimkit.generate import Manifest, generate, open_shards
from ddimkit.generate.shards import unpack_shard
from ddimkit.learning import shipped
from ddimkit.models.bundle import load_bundle, save_bundle
from ddimkit.models.data import read_cifar10, read_idx
from ddimkit.quality import Reference
from ddimkit.quality.network import FeatureNetwork, FeatureNetworkConfig, load_network, save_network
from ddimkit.weights._pieces import read_content, write_pieces
from probes import smooth
from studies import SHAPE, study, toy, toy_evaluator

EXAMPLES = int(os.environ.get("DDIMKIT_FUZZ", "15"))
ALLOWED = (DDIMKitError, ValueError, TypeError, OSError)

fuzzed = settings(
    max_examples=EXAMPLES,
    derandomize=EXAMPLES < 1000,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

ODD = st.sampled_from(
    [None, True, -1, 0, 1, 2**63, 10**30, 1e308, -0.0, float("nan"), float("inf"), "", "x", "../x", [], {}, [[]], [None]]
)


class Reader(NamedTuple):
    """A reader of a file of some name, and how a valid one is made."""

    name: str
    write: Callable[[Path], object]
    read: Callable[[Path], object]


def a_network() -> UNet:
    torch.manual_seed(0)
    return UNet(UNetConfig(in_channels=1, out_channels=1, channels=(4,), blocks=1, attention_levels=(), groups=4)).eval()


def write_bundle(path: Path) -> None:
    save_bundle(ModelBundle(a_network(), NoiseSchedule.linear(), sample_shape=(1, 4, 4)), path)


def write_state(path: Path) -> None:
    bundle = toy()
    next(iter(bundle.sampler(DDIMSampler, steps=3).iterate(bundle.model, (2, *SHAPE), seed=0))).save(path)


def write_generated(path: Path) -> Path:
    bundle, folder = toy(smooth), path.parent / "generated"
    generate(bundle, bundle.sampler(DDIMSampler, steps=2), range(3), folder, batch=2, threads=1)
    return folder


def write_manifest(path: Path) -> None:
    path.write_bytes((write_generated(path) / "manifest.json").read_bytes())


def write_shard(path: Path) -> None:
    folder = write_generated(path)
    path.write_bytes(open_shards(folder).path(1).read_bytes())


def write_idx(path: Path) -> None:
    path.write_bytes(struct.pack(">HBB2I", 0, 8, 2, 2, 3) + bytes(6))


def write_cifar10(path: Path) -> None:
    path.write_bytes((bytes([3]) + bytes(3072)) * 2)


def write_pieces_of_something(path: Path) -> None:
    write_pieces(bytes(range(100)), path.with_suffix(""), most=64)


READERS = (
    Reader("values", write_idx, read_idx),
    Reader("batch.bin", write_cifar10, read_cifar10),
    Reader("bundle.safetensors", write_bundle, load_bundle),
    Reader("state.safetensors", write_state, SamplerState.load),
    Reader(
        "network.safetensors",
        lambda path: save_network(FeatureNetwork(FeatureNetworkConfig(1, (4,), classes=3)).eval(), {}, path),
        lambda path: load_network(path, name="x"),
    ),
    Reader("reference.safetensors", lambda path: toy_evaluator().reference.save(path), Reference.load),
    Reader("study.json", lambda path: study().save(path), Study.load),
    Reader(
        "plan.json",
        lambda path: path.write_text(json.dumps(toy().sampler(DDIMSampler, steps=3).plan().to_dict())),
        lambda path: Plan.from_dict(json.loads(path.read_bytes())),
    ),
    Reader(
        "table.json",
        lambda path: path.write_bytes((Path(shipped.__file__).parent / "tables" / "mnist-5.json").read_bytes()),
        LearnedSampler.load,
    ),
    Reader("manifest.json", write_manifest, lambda path: Manifest.load(path.parent)),
    Reader("000000001.npz", write_shard, lambda path: unpack_shard(path.read_bytes())),
    Reader("pieces.json", write_pieces_of_something, lambda path: read_content(path.with_suffix(""))),
)


@pytest.fixture(scope="module", params=READERS, ids=lambda reader: reader.name)
def valid(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Reader, Path, bytes]:
    """A reader, and a valid file that it reads."""
    reader: Reader = request.param
    path = tmp_path_factory.mktemp("fuzz") / reader.name
    reader.write(path)
    reader.read(path)
    return reader, path, path.read_bytes()


def changed_bytes(content: bytes, data: st.DataObject) -> bytes:
    """Some bytes replaced, removed, doubled or added; places near the front, where headers are, come up as often as all others."""
    found = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        end = len(found) if data.draw(st.booleans()) else min(200, len(found))
        at = data.draw(st.integers(0, max(0, end - 1)))
        match data.draw(st.sampled_from(["set", "cut", "drop", "repeat", "add"])):
            case "set":
                found[at : at + 1] = bytes([data.draw(st.integers(0, 255))])
            case "cut":
                del found[at:]
            case "drop":
                del found[at : at + data.draw(st.integers(1, 8))]
            case "repeat":
                found[at:at] = found[at : at + data.draw(st.integers(1, 64))]
            case _:
                found[at:at] = data.draw(st.binary(max_size=8))
    return bytes(found)


def changed_json(plain: Any, data: st.DataObject) -> Any:
    """JSON values with one of them, at any depth, replaced or gone."""
    if isinstance(plain, dict) and plain and data.draw(st.integers(0, 4)):
        key = data.draw(st.sampled_from(sorted(plain)))
        if data.draw(st.integers(0, 9)) == 0:
            return {name: value for name, value in plain.items() if name != key}
        return {**plain, key: changed_json(plain[key], data)}
    if isinstance(plain, list) and plain and data.draw(st.integers(0, 4)):
        at = data.draw(st.integers(0, len(plain) - 1))
        return [*plain[:at], changed_json(plain[at], data), *plain[at + 1 :]]
    return data.draw(ODD)


def changed_settings(content: bytes, data: st.DataObject) -> bytes:
    """A safetensors file whose header, or one of whose settings, which are JSON in it, is changed."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    name = data.draw(st.sampled_from(sorted(header["__metadata__"])))
    try:
        inner = changed_json(json.loads(header["__metadata__"][name]), data)
        header["__metadata__"][name] = json.dumps(inner)
    except ValueError:
        header = changed_json(header, data)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def changed(reader: Reader, content: bytes, data: st.DataObject) -> bytes:
    """A valid file's content, changed at the level of bytes or of what they mean."""
    kind = Path(reader.name).suffix
    if kind == ".json" and data.draw(st.booleans()):
        return json.dumps(changed_json(json.loads(content), data)).encode()
    if kind == ".safetensors" and data.draw(st.booleans()):
        return changed_settings(content, data)
    return changed_bytes(content, data)


@pytest.mark.promise(46)
@fuzzed
@given(data=st.data())
def test_a_changed_file_gives_a_value_or_an_error_of_ours(valid: tuple[Reader, Path, bytes], data: st.DataObject) -> None:
    reader, path, content = valid
    path.write_bytes(changed(reader, content, data))
    with contextlib.suppress(*ALLOWED), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader.read(path)


COMMANDS = {
    "sample": ["--steps", "2", "--num", "1", "--grid", "x.png", "--seed", "1"],
    "plan": ["--steps", "3", "--sampler", "ddim", "--eta", "0.5", "--spacing", "trailing", "--json"],
    "generate": ["--verify", "nowhere", "--seeds", "0-3", "--batch", "2", "--export", "x.npz"],
    "recommend": ["--close", "0.8"],
}
WORDS = st.sampled_from(
    [
        "",
        "-",
        "--",
        "x",
        "0",
        "-1",
        "1e9",
        "999,500",
        "3,3",
        "nan",
        "../x",
        "\x00",
        "a:b",
        "ddim:",
        "--json",
        "--steps",
        "\ud800",
        "9" * 30,
    ]
)


@fuzzed
@given(data=st.data())
def test_a_changed_command_ends_with_a_code_and_no_traceback(
    data: st.DataObject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("typer")
    pytest.importorskip("rich")
    from ddimkit import cli

    monkeypatch.chdir(tmp_path)
    name = data.draw(st.sampled_from(sorted(COMMANDS)))
    arguments = list(COMMANDS[name])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(arguments)))
        arguments[at : at + data.draw(st.integers(0, 1))] = [data.draw(WORDS)]
    quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with quiet[0], quiet[1], mock.patch.object(sys, "argv", ["ddimkit", name, *arguments]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(SystemExit):
            cli.main()


def test_changes_change() -> None:
    """The mutations themselves: they differ from what they began with, and reach every level."""
    seen = set[str]()

    @settings(max_examples=50, derandomize=True)
    @given(data=st.data())
    def collect(data: st.DataObject) -> None:
        seen.add(json.dumps(changed_json({"a": [1, {"b": 2}], "c": 3}, data)))
        changed_bytes(np.arange(20, dtype=np.uint8).tobytes(), data)

    collect()
    assert len(seen) > 10
