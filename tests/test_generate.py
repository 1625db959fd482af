"""Bulk generation: blocks, shards, manifests, exports and the proof that a folder is whole. Faults: ``test_generate_faults.py``."""

import errno
import io
import json
import os
import random
import signal
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import generate_page
from ddimkit import DDIMKitError, DDIMSampler, DDPMSampler, ModelBundle, UNet, UNetConfig, WeightsError
from ddimkit.generate import (
    ROUNDING,
    Blocks,
    Generated,
    Manifest,
    Shard,
    export_adm,
    export_images,
    feature_sums,
    generate,
    measure,
    open_shards,
    shuffled,
    verify,
)
from ddimkit.generate import manifest as manifests
from ddimkit.generate.claims import Claims, missing_blocks
from ddimkit.generate.shards import pack_shard, unpack_shard
from ddimkit.generate.writer import Writer
from ddimkit.models.conditions import seed_labels
from ddimkit.quality import FeatureStatistics
from ddimkit.quality.features import to_bytes
from ddimkit.sampling import PlanSampler
from probes import Counting, smooth
from studies import SCHEDULE, SHAPE, blue, toy, toy_evaluator

CONFIGURATION = "0123456789abcdef" * 4
SEEDS = range(5, 19)


def made(folder: Path, bundle: ModelBundle | None = None, seeds: range = SEEDS, **settings: Any) -> Generated:
    """A small run: fourteen images in four blocks of four, by default."""
    bundle = toy() if bundle is None else bundle
    sampler = settings.pop("sampler", None) or bundle.sampler(DDIMSampler, steps=3)
    return generate(bundle, sampler, seeds, folder, **{"batch": 4, "threads": 1, **settings})


def images_of(folder: Path) -> np.ndarray[Any, Any]:
    shards = open_shards(folder)
    return np.concatenate([shards.read(block).images for block in range(len(shards.blocks))])


# Blocks.


@given(first=st.integers(0, 2**63 - 1), count=st.integers(1, 60), batch=st.integers(1, 20), world=st.integers(1, 9))
@pytest.mark.promise(40)
def test_blocks_hold_each_seed_once_and_shares_each_block_once(first: int, count: int, batch: int, world: int) -> None:
    seeds = range(min(first, 2**63 - count), min(first, 2**63 - count) + count)
    blocks = Blocks(seeds, batch)
    assert [seed for block in range(len(blocks)) for seed in blocks.seeds_of(block)] == list(seeds)
    for block in range(len(blocks)):
        padded = blocks.padded(block)
        assert len(padded) == batch
        assert padded[: len(blocks.seeds_of(block))] == tuple(blocks.seeds_of(block))
        assert set(padded) <= set(seeds)
    assert [block for rank in range(world) for block in blocks.share(rank, world)] == list(range(len(blocks)))


@pytest.mark.parametrize(
    ("seeds", "batch", "kind"),
    [
        ([1, 2], 4, TypeError),
        (range(0), 4, ValueError),
        (range(0, 8, 2), 4, ValueError),
        (range(-1, 3), 4, ValueError),
        (range(2**63, 2**63 + 1), 4, ValueError),
        (range(2**63), 4, ValueError),
        (range(10**12 + 1), 4, ValueError),
        (range(3), 0, ValueError),
        (range(3), 1.5, TypeError),
    ],
)
def test_what_is_no_block_is_refused(seeds: Any, batch: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        Blocks(seeds, batch)


# Shards.


def shard(count: int = 3, **changes: Any) -> Shard:
    numbers = np.random.default_rng(0)
    images = numbers.integers(0, 256, (count, 4, 5, 3), dtype=np.uint8)
    return replace(
        Shard(images, np.arange(count), np.arange(count) % 2, numbers.normal(size=(count, 6)).astype(np.float16)), **changes
    )


def test_a_shard_is_a_plain_archive_and_the_same_bytes_each_time() -> None:
    content = pack_shard(shard(), CONFIGURATION)
    assert content == pack_shard(shard(), CONFIGURATION)
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        assert {name: (value.dtype.str, value.shape) for name, value in archive.items()} == {
            "images": ("|u1", (3, 4, 5, 3)),
            "seeds": ("<i8", (3,)),
            "labels": ("<i8", (3,)),
            "features": ("<f2", (3, 6)),
        }
    found = unpack_shard(content, CONFIGURATION)
    for name in ("images", "seeds", "labels", "features"):
        assert np.array_equal(getattr(found, name), getattr(shard(), name))
    bare = unpack_shard(pack_shard(shard(labels=None, features=None), CONFIGURATION))
    assert bare.labels is None
    assert bare.features is None


@given(data=st.data())
def test_every_changed_bit_and_every_missing_byte_is_noticed(data: st.DataObject) -> None:
    content = bytearray(pack_shard(shard(), CONFIGURATION))
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[at:]
    with pytest.raises(WeightsError):
        unpack_shard(bytes(content), CONFIGURATION)


def test_a_shard_of_another_configuration_is_refused() -> None:
    with pytest.raises(WeightsError, match="another configuration"):
        unpack_shard(pack_shard(shard(), "f" * 64), CONFIGURATION)


def signed(arrays: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive of any members with a checksum that holds, as an attacker can make it."""
    import hashlib

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in arrays.items():
            archive.writestr(name, content)
        archive.comment = f"ddimkit-shard 1 configuration {CONFIGURATION} sha256 {'0' * 64}".encode()
    content = buffer.getvalue()[:-64]
    return content + hashlib.sha256(content).hexdigest().encode()


def array(value: Any, shape: tuple[int, ...] | None = None) -> bytes:
    """A ``.npy`` file, whose header may lie about the shape."""
    buffer = io.BytesIO()
    if shape is None:
        np.save(buffer, value)
    else:
        header = {"descr": np.lib.format.dtype_to_descr(value.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(buffer, header)
        buffer.write(value.tobytes())
    return buffer.getvalue()


GOOD = {"images.npy": array(np.zeros((2, 1, 1, 1), np.uint8)), "seeds.npy": array(np.arange(2))}


@pytest.mark.promise(46)
@pytest.mark.parametrize(
    "members",
    [
        {**GOOD, "seeds.npy": array(np.array([{}, {}], dtype=object))},
        {**GOOD, "images.npy": array(np.zeros(2, np.uint8), (2, 10**6, 10**6, 3))},
        {**GOOD, "images.npy": array(np.zeros(2, np.uint8), (-2, 1, 1, -1))},
        {**GOOD, "images.npy": array(np.zeros((2, 1, 1, 1)))},
        {**GOOD, "seeds.npy": array(np.arange(3))},
        {**GOOD, "../evil.npy": array(np.arange(2))},
        {**GOOD, "images.npy": b"\x93NUMPY\x01\x00\xff\xff{"},
        {**GOOD, "images.npy": b""},
        {"seeds.npy": GOOD["seeds.npy"]},
        {},
    ],
)
def test_crafted_archives_are_refused(members: dict[str, bytes]) -> None:
    assert unpack_shard(signed(GOOD)).seeds.tolist() == [0, 1]
    with pytest.raises(WeightsError):
        unpack_shard(signed(members))


def test_a_compressed_archive_is_refused_before_it_is_unpacked() -> None:
    with pytest.raises(WeightsError, match="compressed"):
        unpack_shard(signed({**GOOD, "images.npy": array(np.zeros((2, 1000, 1000, 3), np.uint8))}, zipfile.ZIP_DEFLATED))


def test_golden_files_of_the_first_schema_are_read(tmp_path: Path) -> None:
    golden = Path(__file__).parent / "golden"
    (tmp_path / "manifest.json").write_bytes((golden / "generate_v1.json").read_bytes())
    shards = open_shards(tmp_path)
    assert (shards.blocks.seeds, shards.blocks.batch) == (range(3, 6), 2)
    assert Manifest.load(tmp_path).sampler(SCHEDULE).nfe == 2
    found = unpack_shard((golden / "generate_v1.npz").read_bytes(), shards.configuration)
    assert (found.images.shape, found.seeds.tolist()) == ((1, 4, 4, 1), [5])
    assert found.images.reshape(-1)[:4].tolist() == [217, 208, 196, 164]
    assert found.labels is not None
    assert found.labels.tolist() == [2]
    assert found.features is not None
    assert found.features.shape == (1, 4)


# Runs.


@pytest.mark.promise(40)
@pytest.mark.parametrize("count", [1, 3, 4, 5, 14])
def test_exactly_the_images_asked_for_and_each_call_of_one_shape(count: int, tmp_path: Path) -> None:
    shapes = list[tuple[int, ...]]()

    def model(x: Tensor, t: Tensor) -> Tensor:
        shapes.append(tuple(x.shape))
        return smooth(x, t)

    bundle, seeds = toy(model), range(7, 7 + count)
    done = made(tmp_path, bundle, seeds)
    assert (done.asked, done.images, done.drawn, done.whole, done.set_aside) == (count, count, count, True, ())
    assert set(shapes) == {(4, *SHAPE)}
    expected = bundle.sampler(DDIMSampler, steps=3).sample(smooth, (count, *SHAPE), seed=seeds)
    assert np.array_equal(images_of(tmp_path), to_bytes(expected).permute(0, 2, 3, 1).numpy())
    shards = open_shards(tmp_path)
    assert [seed for block in range(len(shards.blocks)) for seed in shards.read(block).seeds] == list(seeds)
    again = made(tmp_path, bundle, seeds)
    assert (again.drawn, again.images, len(shapes)) == (0, count, 3 * len(shards.blocks))


@pytest.mark.promise(26)
def test_the_callers_state_is_as_before(tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy(), torch.get_num_threads()  # noqa: NPY002
    flags = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    made(tmp_path, threads=2)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert np.array_equal(before[2], np.random.get_state()[1])  # noqa: NPY002
    assert before[3] == torch.get_num_threads()
    assert flags == (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark)


def unet(seed: int = 0) -> ModelBundle:
    torch.manual_seed(seed)
    network = UNet(UNetConfig(in_channels=1, out_channels=1, channels=(4,), blocks=1, attention_levels=(), groups=4)).eval()
    return ModelBundle(network, SCHEDULE, sample_shape=SHAPE, name="tiny")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch": 3}, "batch is 4 there and 3 here"),
        ({"seeds": range(5, 18)}, r"seeds is 18 there and 17 here"),
        ({"sampler": toy().sampler(DDIMSampler, steps=4)}, "sampler.settings.steps is 3 there and 4 here"),
        ({"sampler": toy().sampler(DDPMSampler, steps=3)}, "sampler.name is .*DDIM.* there and .*DDPM.* here"),
        ({"bundle": toy(name="other")}, "model.name"),
        ({"bundle": toy(clip=(-2.0, 2.0))}, "clip"),
        ({"bundle": toy(blue)}, "model.code_sha256"),
        ({"extractor": toy_evaluator().extractor}, "features is null there"),
        ({"bundle": toy(conditions=seed_labels(3))}, "conditions_sha256"),
    ],
)
def test_a_folder_of_another_configuration_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    made(tmp_path)
    with pytest.raises(ValueError, match=said):
        made(tmp_path, **change)


@pytest.mark.skipif(sys.platform == "win32", reason="no locks on bytes of a file, and no fork")
def test_a_claim_of_another_process_is_told_without_waiting(tmp_path: Path) -> None:
    ready, go_on = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.write(ready[1], b"1" if Claims(tmp_path / "claims").take(0) else b"0")
        os.read(go_on[0], 1)
        os._exit(0)

    def late(*_: object) -> None:
        raise TimeoutError("the claim waits for the other process")

    before = signal.signal(signal.SIGALRM, late)
    try:
        assert os.read(ready[0], 1) == b"1"
        signal.alarm(5)
        claims = Claims(tmp_path / "claims")
        assert not claims.take(0)
        assert claims.take(1)
        os.write(go_on[1], b"1")
        os.waitpid(child, 0)
        assert claims.take(0)  # the system gave it back
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        os.close(go_on[1])


def test_the_manifest_names_what_decides_the_bytes(tmp_path: Path) -> None:
    made(tmp_path)
    found = Manifest.load(tmp_path).configuration
    assert found["rounding"] == ROUNDING == "round(127.5 * (x + 1)), halves to even, clamped to 0..255"
    assert found["noise"] == toy().sampler(DDIMSampler, steps=3).record()["noise"]
    values = torch.tensor([-2.0, -1.0, 0.0, 2 / 255, 1.0, 3.0]).reshape(1, 1, 1, 6)
    assert to_bytes(values).flatten().tolist() == [0, 0, 128, 128, 255, 255]  # 127.5 and 128.5: both to the even 128


def test_a_folder_of_other_weights_is_refused(tmp_path: Path) -> None:
    made(tmp_path, unet())
    assert made(tmp_path, unet()).drawn == 0
    with pytest.raises(ValueError, match=r"model\.sha256"):
        made(tmp_path, unet(1))


def test_another_machine_is_refused_unless_machines_may_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, seeds=range(8))
    next(tmp_path.glob("shards/**/*.npz")).unlink()
    whole = manifests.describe_machine
    monkeypatch.setattr(manifests, "describe_machine", lambda device: {**whole(device), "processor": "another"})
    with pytest.raises(ValueError, match=r"another machine or other versions: processor is .* there and \"another\" here"):
        made(tmp_path, seeds=range(8))
    assert made(tmp_path, seeds=range(8), mixed_machines=True).drawn == 4
    (beside,) = tmp_path.glob("manifest-*.json")
    assert json.loads(beside.read_text())["machine"]["processor"] == "another"


def test_threads_are_the_folders_unless_given(tmp_path: Path) -> None:
    made(tmp_path, threads=2)
    assert Manifest.load(tmp_path).machine["threads"] == 2
    made(tmp_path, threads=None)
    with pytest.raises(ValueError, match="threads is 2 there and 1 here"):
        made(tmp_path, threads=1)


@pytest.mark.promise(61)
def test_floats_of_another_processor_are_the_same_configuration(tmp_path: Path) -> None:
    bundle = toy()
    plan = bundle.sampler(DDIMSampler, steps=3).plan()

    def run_table(factor: float) -> Generated:
        table = replace(plan, a=plan.a * factor)
        return made(tmp_path, sampler=PlanSampler.from_plan(SCHEDULE, table, prediction="x0", clip=(-1.0, 1.0)))

    assert run_table(1.0).drawn == 14
    open_shards(tmp_path).path(0).unlink()
    assert run_table(1 + 1e-15).drawn == 4
    assert verify(tmp_path).good
    with pytest.raises(ValueError, match=r"plan\.a is"):
        run_table(1 + 1e-6)


def test_conditions_reach_the_model_and_labels_are_kept(tmp_path: Path) -> None:
    seen = list[Tensor]()

    def model(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        seen.append(y)
        return smooth(x, t) + y.reshape(-1, 1, 1, 1) / 10

    def conditions(seeds: Sequence[int]) -> dict[str, Tensor]:
        return {"y": torch.tensor([seed % 3 for seed in seeds])}

    made(tmp_path, toy(model, conditions=conditions), range(6))
    assert [y.tolist() for y in seen[::3]] == [[0, 1, 2, 0], [1, 2, 2, 2]]
    shards = open_shards(tmp_path)
    labels = [shards.read(block).labels for block in (0, 1)]
    assert [part.tolist() for part in labels if part is not None] == [[0, 1, 2, 0], [1, 2]]


def test_conditions_and_decoder_of_a_bundle_are_used(tmp_path: Path) -> None:
    bundle = toy(lambda x, t, y: smooth(x, t) + y.reshape(-1, 1, 1, 1) / 10, conditions=seed_labels(3, "y"))
    made(tmp_path, replace(bundle, decode=lambda latents: latents.repeat_interleave(2, dim=2)))
    assert images_of(tmp_path).shape == (14, 8, 4, 1)
    assert open_shards(tmp_path).read(0).labels is not None


def test_a_decoder_that_gives_no_images_is_refused(tmp_path: Path) -> None:
    bundle = toy(decode=lambda latents: latents.flatten(1))
    with pytest.raises(ValueError, match=r"images \(B, C, H, W\) of 4 samples, got shape \(4, 16\)"):
        made(tmp_path, bundle)


def test_no_block_is_begun_that_would_end_too_late(tmp_path: Path) -> None:
    done = made(tmp_path, max_seconds=0.0)
    assert (done.images, done.whole) == (0, False)
    assert made(tmp_path, max_seconds=60.0).whole


def test_an_interrupted_run_writes_what_it_has_drawn(tmp_path: Path) -> None:
    class Stopping(Counting):
        def __call__(self, x: Tensor, t: Tensor, **keywords: Any) -> Tensor:
            if self.calls == 7:
                raise KeyboardInterrupt
            return super().__call__(x, t, **keywords)

    bundle = toy(Stopping())
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, bundle)
    assert len(open_shards(tmp_path).present()) == 2
    assert made(tmp_path, replace(bundle, model=Stopping())).drawn == 6


def test_a_full_disk_says_what_could_not_be_written_and_what_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ddimkit.generate import shards

    write = shards.write_durably

    def full(path: Path, content: bytes, **settings: Any) -> None:
        if path.name == "000000002.npz":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content, **settings)

    monkeypatch.setattr(shards, "write_durably", full)
    with pytest.raises(OSError, match=r"block 2 cannot be written to .*No space left.*what is there stays") as error:
        made(tmp_path)
    assert error.value.errno == errno.ENOSPC
    assert {0, 1} <= open_shards(tmp_path).present()


def test_an_unwritable_folder_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    bundle = toy()
    with pytest.raises(OSError, match="images cannot be written to"):
        made(tmp_path / "file", bundle)
    assert bundle.model.calls == 0  # type: ignore[attr-defined]


def test_shards_without_a_manifest_are_refused(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ValueError, match="shards but no manifest"):
        made(tmp_path)


@pytest.mark.promise(40)
def test_a_run_that_begins_at_the_same_time_is_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exists, others = Path.exists, list[Generated]()

    def late(path: Path, **settings: Any) -> bool:
        found = exists(path, **settings)
        if path.name == "manifest.json" and not others:
            monkeypatch.setattr(Path, "exists", exists)
            others.append(made(tmp_path))  # another process, right after the look
        return found

    monkeypatch.setattr(Path, "exists", late)
    assert made(tmp_path).whole
    assert others[0].whole


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "ddimkit-generate", "schema": 1}', "\xff", "[" * 100_000])
def test_a_damaged_manifest_is_refused(content: str, tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "manifest.json").write_text(content, encoding="latin-1")
    for read in (Manifest.load, open_shards, verify, made):
        with pytest.raises(WeightsError, match="no manifest that this version can read"):
            read(tmp_path)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"rank": 2, "world_size": 2}, ValueError),
        ({"sampler": "ddim"}, TypeError),
        ({"threads": 0}, ValueError),
        ({"threads": 1.5}, TypeError),
        ({"max_seconds": float("nan")}, ValueError),
        ({"max_seconds": -1.0}, ValueError),
        ({"max_seconds": "1"}, TypeError),
        ({"bundle": toy(sample_shape=(3,))}, ValueError),
    ],
)
def test_arguments_are_checked(settings: dict[str, Any], kind: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(kind, match=r"rank|sampler|samples|threads|max_seconds"):
        made(tmp_path / "new", **settings)
    assert not (tmp_path / "new").exists()


@pytest.mark.promise(34)
def test_a_bar_is_shown_only_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path / "a")
    assert capsys.readouterr() == ("", "")
    made(tmp_path / "b", progress=True)
    assert "14/14" in capsys.readouterr().err


# The writer and the claims.


def test_the_writer_overlaps_and_keeps_few_waiting() -> None:
    may_write, written, given_up = threading.Event(), list[int](), list[int]()

    def write(block: int, _: Shard) -> None:
        may_write.wait()
        written.append(block)

    def give(writer: Writer) -> None:
        for block in range(6):
            writer.put(block, shard())
            given_up.append(block)

    with Writer(write, depth=2) as writer:
        producer = threading.Thread(target=give, args=(writer,))
        producer.start()
        while len(given_up) < 3:  # one is being written, two wait
            time.sleep(0.001)
        time.sleep(0.02)
        assert (given_up, written) == ([0, 1, 2], [])
        may_write.set()
        producer.join()
        writer.flush()
        assert written == list(range(6))


def test_the_writers_error_reaches_the_caller_and_nothing_hangs() -> None:
    def fail(block: int, _: Shard) -> None:
        raise OSError(errno.ENOSPC, "full")

    def give(error: Exception | None) -> None:
        with Writer(fail, depth=1) as writer:
            writer.put(0, shard())
            if error is not None:
                raise error
            for block in range(1, 10):
                writer.put(block, shard())

    with pytest.raises(OSError, match="full"):
        give(None)
    with pytest.raises(KeyError):  # the caller's own error is not replaced
        give(KeyError())


def test_blocks_that_others_claim_are_left_to_them_and_taken_at_last(tmp_path: Path) -> None:
    made(tmp_path)
    shards = open_shards(tmp_path)
    for block in (1, 2):
        shards.path(block).unlink()
    claims, waited = Claims(tmp_path / "claims"), list[float]()
    # One process may lock a byte twice, so the claim of another process on block 2 is played.
    take: Callable[[int], bool] = claims.take
    claims.take = lambda block: block != 2 and take(block)  # type: ignore[method-assign]
    found = missing_blocks(shards, claims, range(4), lambda: None, sleep=waited.append)
    assert next(found) == 1
    shards.write(1, Shard(np.zeros((4, 4, 4, 1), np.uint8), np.array(list(shards.blocks.seeds_of(1)))))
    assert next(found) == 2
    assert waited
    claims.close()


# Exports.


def test_the_order_of_an_export_never_changes() -> None:
    assert shuffled(range(10)).tolist() == [9, 8, 4, 3, 0, 1, 7, 2, 6, 5]
    assert sorted(shuffled(range(1000, 1100)).tolist()) == list(range(100))


def test_the_file_for_the_adm_suite_holds_each_image_once_in_that_order(tmp_path: Path) -> None:
    made(tmp_path, toy(lambda x, t, y: smooth(x, t) + y.reshape(-1, 1, 1, 1) / 10, conditions=seed_labels(3, "y")))
    target = tmp_path / "adm.npz"
    assert export_adm(tmp_path, target) == 14
    with np.load(target, allow_pickle=False) as archive:
        images, labels = archive["arr_0"], archive["arr_1"]
        assert archive.files == ["arr_0", "arr_1"]
    order = shuffled(SEEDS)
    assert np.array_equal(images, images_of(tmp_path)[order])
    assert labels.tolist() == [SEEDS[i] % 3 for i in order]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adm.npz", "claims", "manifest.json", "shards"]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot take space beforehand")
def test_a_full_disk_stops_an_export_before_a_page_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path)

    def full(descriptor: int, offset: int, size: int) -> None:
        assert (offset, size) == (0, 14 * 16)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        export_adm(tmp_path, tmp_path / "adm.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["claims", "manifest.json", "shards"]


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_have_one_name_a_seed_and_the_same_bytes(channels: int, tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image")
    made(tmp_path, toy(sample_shape=(channels, 4, 6)), range(996, 1003))
    assert export_images(tmp_path, tmp_path / "png") == 7
    names = sorted(path.relative_to(tmp_path / "png").as_posix() for path in tmp_path.glob("png/**/*.*"))
    assert names == [f"{seed - seed % 1000:06d}/{seed:06d}.png" for seed in range(996, 1003)]
    for name, expected in zip(names, images_of(tmp_path), strict=True):
        drawn = np.rint(image.imread(tmp_path / "png" / name) * 255).astype(np.uint8)
        assert np.array_equal(drawn.reshape(expected.shape), expected)


def test_pictures_of_another_run_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ddimkit.generate import shards

    made(tmp_path / "a")
    made(tmp_path / "b", toy(blue))
    target = tmp_path / "png"
    sync, synced = shards.os.fsync, list[int]()
    with monkeypatch.context() as patch:

        def fail(descriptor: int) -> None:
            synced.append(descriptor)
            if len(synced) > 8:
                raise OSError(errno.EIO, "lost")
            sync(descriptor)

        patch.setattr(shards.os, "fsync", fail)
        with pytest.raises(OSError, match="lost"):
            export_images(tmp_path / "a", target)
    assert not list(target.glob("**/*.partial"))
    assert 0 < len(list(target.glob("*/*.png"))) < 14
    with pytest.raises(ValueError, match="png holds pictures of another configuration"):
        export_images(tmp_path / "b", target)
    assert export_images(tmp_path / "a", target) == export_images(tmp_path / "a", target) == 14
    (target / "configuration").unlink()
    with pytest.raises(ValueError, match="png holds pictures of unknown origin"):
        export_images(tmp_path / "a", target)


def test_only_a_whole_folder_is_exported(tmp_path: Path) -> None:
    made(tmp_path)
    open_shards(tmp_path).path(2).unlink()
    for export in (export_adm, export_images):
        with pytest.raises(DDIMKitError, match="1 of 4 blocks are missing, the first is 2"):
            export(tmp_path, tmp_path / "x.npz")
    assert not (tmp_path / "x.npz").exists()


def test_pictures_of_two_channels_are_refused(tmp_path: Path) -> None:
    made(tmp_path, toy(sample_shape=(2, 4, 4)))
    with pytest.raises(ValueError, match="1 or 3 channels"):
        export_images(tmp_path, tmp_path / "png")


# Verification.


def test_a_whole_folder_is_good(tmp_path: Path) -> None:
    made(tmp_path)
    found = verify(tmp_path, toy(), redraw=9)
    assert found.good
    assert [one.block for one in found.redrawn] == [0, 1, 2, 3]
    assert (found.images, found.missing, found.damaged, found.strange, found.elsewhere) == (14, (), (), (), ())
    assert str(found).splitlines()[-1] == "good"
    assert verify(tmp_path).redrawn == ()


def test_what_is_wrong_with_a_folder_is_named(tmp_path: Path) -> None:
    made(tmp_path)
    shards = open_shards(tmp_path)
    shards.path(0).unlink()
    shards.path(1).write_bytes(shards.path(1).read_bytes()[:-1])
    shards.path(2).write_bytes(shards.path(3).read_bytes())
    (shards.path(3).parent / ".x.partial").write_bytes(b"")
    found = verify(tmp_path, toy(), redraw=9)
    assert not found.good
    assert (found.images, found.missing) == (2, (0,))
    assert [one.block for one in found.redrawn] == [3]
    assert ["truncated" in line for line in found.damaged] == [True, False]
    assert "other seeds than its name says" in found.damaged[1]
    assert [path.name for path in found.strange] == [".x.partial"]
    assert "NOT good" in str(found)


@pytest.mark.promise(40)
@pytest.mark.parametrize("name", ["0000000001.npz", "00000000\u0661.npz", "9" * 200 + ".npz"])
def test_a_misnamed_file_is_no_block(name: str, tmp_path: Path) -> None:
    made(tmp_path)
    shards = open_shards(tmp_path)
    shards.path(1).rename(shards.path(1).with_name(name))
    assert shards.present() == {0, 2, 3}
    found = verify(tmp_path)
    assert (found.good, found.images, found.missing) == (False, 10, (1,))
    assert [path.name for path in found.strange] == [name]
    assert made(tmp_path).drawn == 4
    shards.path(1).unlink()
    shards.path(1).mkdir()
    assert len(verify(tmp_path).damaged) == 1


def test_images_of_another_origin_are_found_by_drawing_again(tmp_path: Path) -> None:
    made(tmp_path)
    shards = open_shards(tmp_path)
    changed = shards.read(1).images.copy()
    changed[0, 0, 0, 0] ^= 1
    shards.write(1, replace(shards.read(1), images=changed))
    assert verify(tmp_path).good  # checksums hold
    found = verify(tmp_path, toy(), redraw=4)
    assert not found.good
    assert [(one.block, one.largest) for one in found.redrawn if one.share] == [(1, 1)]


def test_another_machine_may_differ_by_rounding_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path)
    shards = open_shards(tmp_path)
    changed = shards.read(1).images.copy()
    changed[0, 0, 0, 0] ^= 1
    shards.write(1, replace(shards.read(1), images=changed))
    whole = manifests.describe_machine
    monkeypatch.setattr(manifests, "describe_machine", lambda device: {**whole(device), "processor": "another"})
    found = verify(tmp_path, toy(), redraw=4)
    assert len(found.elsewhere) == 1
    assert found.good
    shards.write(1, replace(shards.read(1), images=255 - changed))
    assert not verify(tmp_path, toy(), redraw=4).good


def test_blocks_of_mixed_machines_may_differ_by_rounding_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path)
    shards = open_shards(tmp_path)
    changed = shards.read(1).images.copy()
    changed[0, 0, 0, 0] ^= 1
    shards.path(1).unlink()
    whole = manifests.describe_machine
    with monkeypatch.context() as patch:
        patch.setattr(manifests, "describe_machine", lambda device: {**whole(device), "processor": "another"})
        made(tmp_path, mixed_machines=True)
    shards.write(1, replace(shards.read(1), images=changed))
    found = verify(tmp_path, toy(), redraw=4)
    assert found.good
    assert "to rounding only: manifest-" in str(found)
    shards.write(1, replace(shards.read(1), images=255 - changed))
    assert not verify(tmp_path, toy(), redraw=4).good


def test_verification_with_another_model_is_refused(tmp_path: Path) -> None:
    made(tmp_path, unet())
    with pytest.raises(ValueError, match=r"another model: model\.sha256"):
        verify(tmp_path, unet(1))


# Features.


def test_features_are_kept_and_measured_without_the_images(tmp_path: Path) -> None:
    evaluator, seeds = toy_evaluator(), range(40)
    made(tmp_path, seeds=seeds, extractor=evaluator.extractor)
    features = evaluator.extractor(torch.from_numpy(images_of(tmp_path)).permute(0, 3, 1, 2))
    kept = features.astype(np.float16).astype(np.float64)
    shards = open_shards(tmp_path)
    assert np.array_equal(np.concatenate([shards.read(block).features for block in range(10)]), kept)
    assert measure(tmp_path, evaluator).to_dict() == evaluator.evaluate_features(kept, seeds).to_dict()
    whole, kernel = feature_sums(tmp_path)
    parts = [feature_sums(tmp_path, part) for part in (range(7, 10), range(7))]
    joined = parts[0][0].merge(parts[1][0])
    for found in (whole, joined):
        np.testing.assert_allclose(found.scatter, FeatureStatistics.of(kept).scatter, rtol=1e-12)
    assert kernel is not None
    assert parts[0][1] is not None
    assert parts[1][1] is not None
    np.testing.assert_allclose(parts[0][1].merge(parts[1][1]).third, kernel.third, rtol=1e-12)


def test_features_of_another_extractor_or_none_are_refused(tmp_path: Path) -> None:
    made(tmp_path / "a", extractor=toy_evaluator().extractor)
    with pytest.raises(ValueError, match="features of 'quarters', not of"):
        measure(tmp_path / "a", toy_evaluator("another"))
    made(tmp_path / "b")
    with pytest.raises(ValueError, match="keeps no features"):
        measure(tmp_path / "b", toy_evaluator())
    with pytest.raises(ValueError, match="one block"):
        feature_sums(tmp_path / "a", range(0))


def test_features_that_half_precision_cannot_hold_are_refused(tmp_path: Path) -> None:
    extractor = replace(toy_evaluator().extractor, extract=lambda x: x.flatten(1) * 1e6)
    with pytest.raises(ValueError, match="half precision cannot hold"):
        made(tmp_path, extractor=extractor)


def test_a_saved_table_is_the_sampler_again(tmp_path: Path) -> None:
    bundle = toy()
    made(tmp_path, bundle, sampler=bundle.sampler(DDPMSampler, steps=5))
    again = Manifest.load(tmp_path).sampler(SCHEDULE)
    assert isinstance(again, PlanSampler)
    assert (again.nfe, again.clip, again.prediction) == (5, (-1.0, 1.0), "x0")
    assert verify(tmp_path, bundle, redraw=4).good


# The page of the documentation.


def test_the_page_shows_the_newest_figures_and_where_there_are_none_the_command(tmp_path: Path) -> None:
    assert "python benchmarks/generate_faults.py --out" in generate_page.faults(tmp_path)
    assert "python benchmarks/generate_throughput.py --out" in generate_page.throughput(tmp_path)
    head = {"date": "2026-01-02", "machine": {"processor": "P"}, "versions": {"torch": "2.0"}}
    tallies = [
        {"kind": "kill", "injected": 40, "lost": 1, "doubled": 2, "redrawn": 3},
        {"kind": "cut", "injected": 2, "lost": 0, "doubled": 0, "redrawn": 0},
    ]
    faults = tmp_path / "2026-01-02-generate_faults-p.json"
    faults.write_text(json.dumps({**head, "settings": {"quick": True}, "faults": tallies}))
    assert "Not yet measured" in generate_page.faults(tmp_path)  # a rehearsal is no measurement
    faults.write_text(json.dumps({**head, "settings": {"quick": False}, "faults": tallies}))
    assert generate_page.faults(tmp_path).splitlines()[-3:] == [
        "| kill | 40 | 1 | 2 | 3 |",
        "| cut | 2 | 0 | 0 | 0 |",
        "| all | 42 | 1 | 2 | 3 |",
    ]
    result = {
        "settings": {"quick": False, "batch": 16, "steps": 50, "blocks": 32, "milliseconds": 5.0},
        "ratio": {"ratio": 0.98, "low": 0.97, "high": 0.99},
        "outside_model": {"generate": {"clock": 0.03, "processor": 0.02}},
    }
    (tmp_path / "2026-01-02-generate_throughput-p.json").write_text(json.dumps({**head, **result}))
    page = generate_page.throughput(tmp_path)
    assert "0.980 (0.970 to 0.990) times the images a second" in page
    assert "| generate | 3.0% | 2.0% |" in page
