"""Faults for bulk generation: processes that are killed, files that cannot be written or are damaged, and what is lost by them.

All processes are forked from this one, which draws nothing itself, so a run costs milliseconds.
"""

import errno
import fcntl
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch

from ddimkit import DDIMSampler, ModelBundle, NoiseSchedule, UNet, UNetConfig
from ddimkit.cli.generate import STOPPED
from ddimkit.errors import WeightsError
from ddimkit.generate import Blocks, generate, open_shards

SEEDS, BATCH = range(3, 17), 4
"""Fourteen images in four blocks, the last of which is padded."""

FAILED = 3
"""Exit code of a process whose run raised an OSError."""

Fault = Literal["kill", "half", "error"]
"""A process is killed before an operation, killed with half of a write done, or the operation fails."""

_OPERATIONS = ("open", "fsync", "link", "replace", "unlink", "mkdir")


def subject() -> tuple[ModelBundle, DDIMSampler]:
    """A tiny network with random weights, and a sampler of it."""
    torch.manual_seed(0)
    config = UNetConfig(in_channels=1, out_channels=1, channels=(4,), blocks=1, attention_levels=(), groups=4)
    bundle = ModelBundle(UNet(config).eval(), NoiseSchedule.linear(), sample_shape=(1, 8, 8), clip=(-1.0, 1.0), name="tiny")
    return bundle, bundle.sampler(DDIMSampler, steps=2)


BUNDLE, SAMPLER = subject()


def run(folder: Path, *, pause: float = 0.0, marker: Path | None = None, **settings: Any) -> None:
    """A run of the subject, whose every model call makes a marker and takes ``pause`` seconds longer."""

    def before_call(*_: object) -> None:
        if marker is not None:
            marker.touch()
        time.sleep(pause)

    module(BUNDLE).register_forward_pre_hook(before_call)
    generate(BUNDLE, SAMPLER, SEEDS, folder, batch=BATCH, threads=1, **settings)


def module(bundle: ModelBundle) -> torch.nn.Module:
    """The network of a bundle."""
    assert isinstance(bundle.model, torch.nn.Module)
    return bundle.model


def fragile() -> ModelBundle:
    """The subject as a command's ``--model``: its calls are slow, and one process kills itself where the environment says so."""
    bundle, calls = subject()[0], list[None]()

    def before_call(*_: object) -> None:
        time.sleep(0.03)
        calls.append(None)
        mark = os.environ.get("FAULT_MARK")
        if mark and len(calls) == 3:
            with suppress(FileExistsError):  # of both ranks the first that comes so far, and none after the restart
                Path(mark).touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)  # in the middle of its second block

    module(bundle).register_forward_pre_hook(before_call)
    return bundle


FRAGILE = fragile()


class Process:
    """A forked process that does one job and ends: with 0, or with FAILED where that raised an OSError."""

    def __init__(self, job: Callable[[], object]) -> None:
        self.code: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _end(job)

    def wait(self) -> int:
        """Its exit code, or minus the signal that ended it."""
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code

    def send(self, number: int) -> None:
        """Send a signal to it."""
        os.kill(self.pid, number)


Disturb = Callable[[list[Process]], list[Process]]
"""Does something to processes; those that are to end well."""


def _end(job: Callable[[], object]) -> NoReturn:
    code = 1
    try:
        job()
        code = 0
    except OSError:
        code = FAILED
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(code)


def done(job: Callable[[], object]) -> int:
    """Do a job in a process of its own; its exit code."""
    return Process(job).wait()


@dataclass
class Injection:
    """Counts the operations on files, and makes one of them the place of a fault.

    Attributes:
        fault: what happens there.
        place: the number of the operation, for ``"half"`` among the writes alone; -1 for none.
        error: what an operation that fails raises.
        names: the operations so far.
    """

    fault: Fault = "kill"
    place: int = -1
    error: int = errno.ENOSPC
    names: list[str] = field(default_factory=list[str])

    def install(self) -> None:
        """Take the place of the system's functions, in this process and for good."""
        for name in _OPERATIONS:
            setattr(os, name, self._around(name, getattr(os, name)))
        fcntl.lockf = self._around("lockf", fcntl.lockf)
        io.open = self._opened(io.open)  # type: ignore[assignment]

    def reached(self, name: str) -> bool:
        """Count an operation; whether it is the place of the fault. A kill happens here."""
        self.names.append(name)
        number = self.names.count("write") - 1 if self.fault == "half" else len(self.names) - 1
        here = number == self.place and (self.fault != "half" or name == "write")
        if here and self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return here

    def fail(self) -> NoReturn:
        """Raise the error, or die."""
        if self.fault == "half":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(self.error, os.strerror(self.error))

    def _around(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            if self.reached(name) and self.fault == "error":
                self.fail()
            return operation(*arguments, **keywords)

        return call

    def _opened(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
            opened = operation(file, mode, *arguments, **keywords)
            return _Writing(opened, self) if "x" in mode else opened

        return call


class _Writing:
    """A file whose writes are operations."""

    def __init__(self, file: Any, injection: Injection) -> None:
        self._file, self._injection = file, injection

    def __enter__(self) -> "_Writing":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, content: bytes) -> None:
        """Write all, or half of it where the fault is here."""
        here = self._injection.reached("write")
        self._file.write(content[: len(content) // 2] if here else content)
        if here:
            self._file.flush()
            self._injection.fail()


@dataclass
class Tally:
    """What faults of one kind did.

    Attributes:
        kind: of fault.
        injected: how many.
        lost: images that are missing or have other bytes after the same call was made again.
        doubled: images that are there twice.
        redrawn: images that were there and sound after the fault, and yet were drawn again.
        wrong: what else was not as it must be, a line each.
    """

    kind: str
    injected: int = 0
    lost: int = 0
    doubled: int = 0
    redrawn: int = 0
    wrong: list[str] = field(default_factory=list[str])

    def add(self, folder: Path, reference: Path, kept: dict[int, int] | None = None, *, code: int = 0) -> None:
        """Count one fault, by the folder after the last run of it ended with ``code``."""
        self.injected += 1
        if code:
            self.wrong.append(f"fault {self.injected}: the last run ended with {code}")
        lost, doubled = compare(folder, reference)
        self.lost, self.doubled = self.lost + lost, self.doubled + doubled
        now = sound(folder)
        self.redrawn += sum(BATCH for block, inode in (kept or {}).items() if now.get(block) != inode)


def compare(folder: Path, reference: Path) -> tuple[int, int]:
    """Images that are missing or differ from the reference, and images that stand in more than one file."""
    shards, lost, seen = open_shards(reference), 0, list[int]()
    for block in range(len(shards.blocks)):
        ours, theirs = folder / shards.path(block).relative_to(reference), shards.path(block)
        if not ours.exists() or ours.read_bytes() != theirs.read_bytes():
            lost += len(shards.blocks.seeds_of(block))
    for path in folder.glob("shards/**/*.npz"):
        seen += shards.blocks.seeds_of(int(path.stem))
    return lost, len(seen) - len(set(seen))


def sound(folder: Path) -> dict[int, int]:
    """The sound blocks of a folder and the inodes of their files, which change where a file is written again."""
    found = dict[int, int]()
    if not (folder / "manifest.json").exists():
        return found
    shards = open_shards(folder)
    for block in shards.present():
        try:
            shards.read(block)
        except WeightsError:
            continue
        found[block] = shards.path(block).stat().st_ino
    return found


@dataclass(frozen=True)
class Place:
    """Where faults are tried: a folder for all runs, and the folder of an undisturbed one."""

    root: Path
    reference: Path

    @classmethod
    def of(cls, root: Path) -> "Place":
        """With the reference drawn."""
        place = cls(root, root / "reference")
        assert done(lambda: run(place.reference)) == 0
        return place

    def fresh(self) -> Path:
        """An empty folder."""
        folder = self.root / "run"
        shutil.rmtree(folder, ignore_errors=True)
        return folder

    def copy(self) -> Path:
        """A folder with all images."""
        folder = self.fresh()
        shutil.copytree(self.reference, folder)
        return folder


def operations(place: Place) -> list[str]:
    """The names of the operations of one undisturbed run, in their order."""
    folder, log = place.fresh(), place.root / "operations"

    def record() -> None:
        injection = Injection()
        injection.install()
        run(folder)
        names = list(injection.names)
        log.write_text("\n".join(names))

    assert done(record) == 0
    return log.read_text().split()


def injected(place: Place, kind: str, faults: Iterable[Injection]) -> Tally:
    """Each fault in a run of its own, then the same call again."""
    tally = Tally(kind)
    for fault in faults:
        folder = place.fresh()

        def disturbed(folder: Path = folder, fault: Injection = fault) -> None:
            fault.install()
            run(folder)

        code = done(disturbed)
        if code not in {"kill": (-signal.SIGKILL,), "half": (-signal.SIGKILL,), "error": (0, FAILED)}[fault.fault]:
            tally.wrong.append(f"{fault.fault} at operation {fault.place}: the run ended with {code}")
        kept = sound(folder)
        if len(list(folder.glob("shards/**/*.npz"))) != len(kept):
            tally.wrong.append(f"{fault.fault} at operation {fault.place}: a damaged file has its final name")
        tally.add(folder, place.reference, kept, code=done(partial(run, folder)))
    return tally


def random_kills(place: Place, count: int, dice: random.Random) -> Tally:
    """A process killed from outside at a random moment, again and again in one folder until it is whole, then anew."""
    tally, folder = Tally("kill at a random moment"), place.fresh()
    while tally.injected < count:
        process = Process(partial(run, folder, pause=0.005))
        time.sleep(dice.uniform(0.0, 0.12))
        process.send(signal.SIGKILL)
        process.wait()
        kept = sound(folder)
        whole = len(kept) == len(Blocks(SEEDS, BATCH))
        tally.injected += 1
        if whole or tally.injected == count:
            tally.injected -= 1
            tally.add(folder, place.reference, kept, code=done(partial(run, folder)))
            folder = place.fresh()
    return tally


def damaged(place: Place, count: int, dice: random.Random) -> tuple[Tally, Tally]:
    """Shards cut off at a random byte, and shards with one flipped bit."""
    cut, flipped = Tally("shard truncated"), Tally("bit of a shard flipped")
    for i in range(2 * count):
        tally, folder = (cut, flipped)[i % 2], place.copy()
        path = dice.choice(sorted(folder.glob("shards/**/*.npz")))
        content = bytearray(path.read_bytes())
        at = dice.randrange(len(content))
        if tally is cut:
            del content[at:]
        else:
            content[at] ^= 1 << dice.randrange(8)
        path.write_bytes(content)
        kept = sound(folder)
        if len(kept) != len(Blocks(SEEDS, BATCH)) - 1:
            tally.wrong.append(f"a shard changed at byte {at} counts as sound")
        tally.add(folder, place.reference, kept, code=done(partial(run, folder)))
    return cut, flipped


def clock_jumps(place: Place, count: int, dice: random.Random) -> Tally:
    """The clock, and the times of all files, somewhere else while a folder is gone on with."""
    tally = Tally("clock jumps, between runs and within")
    for _ in range(count):
        folder = place.copy()
        dice.choice(sorted(folder.glob("shards/**/*.npz"))).unlink()
        for path in folder.glob("**/*"):
            os.utime(path, (dice.uniform(0, 4e9), dice.uniform(0, 4e9)))

        def jumping(folder: Path = folder) -> None:
            time.time = lambda: dice.uniform(0, 4e9)
            run(folder)

        kept = sound(folder)
        tally.add(folder, place.reference, kept, code=done(jumping))
    return tally


def together(place: Place, kind: str, processes: Sequence[Mapping[str, Any]], disturb: Disturb | None = None) -> Tally:
    """Processes that work on one folder at once; what is done to them; and whether those that are left make it whole."""
    tally, folder = Tally(kind), place.fresh()
    started = [Process(partial(run, folder, **settings)) for settings in processes]
    left = started if disturb is None else disturb(started)
    tally.add(folder, place.reference, code=max(abs(process.wait()) for process in left))
    for process in started:
        if process not in left and process.code is None:
            process.send(signal.SIGKILL)
            process.wait()
    return tally


def without_locks(place: Place, count: int) -> Tally:
    """Processes on a file system that has no locks."""

    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    locks, fcntl.lockf = fcntl.lockf, refuse  # type: ignore[assignment]  # which the processes inherit
    try:
        return together(place, f"{count} processes, a file system without locks", ranks(count))
    finally:
        fcntl.lockf = locks


def disturbed(place: Place, count: int, kind: str, number: signal.Signals, *, late: bool = False) -> Tally:
    """The last process gets a signal in the middle of its first block; with ``late`` it goes on once the others are through."""
    marker = place.root / "marker"
    marker.unlink(missing_ok=True)

    def disturb(started: list[Process]) -> list[Process]:
        wait_for(marker.exists)
        started[-1].send(number)
        if late:
            for process in started[:-1]:
                process.wait()
            started[-1].send(signal.SIGCONT)
        return started if late else started[:-1]

    settings = ranks(count)
    settings[-1] |= {"marker": marker, "pause": 0.2}
    return together(place, f"{count} processes, {kind}", settings, disturb)


def ranks(count: int) -> list[dict[str, Any]]:
    """The settings of so many ranks of one run."""
    return [{"rank": rank, "world_size": count, "pause": 0.005} for rank in range(count)]


def wait_for(happened: Callable[[], bool], seconds: float = 60.0) -> None:
    """Return once something has happened.

    Raises:
        TimeoutError: it has not, after so long.
    """
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError("what was waited for has not happened")
        time.sleep(0.005)


def command(folder: Path, *before: str, mark: Path | None = None) -> subprocess.Popen[bytes]:
    """``ddimkit generate`` with the subject's settings, by the launcher that is named before, if any."""
    words = ["--model", "_faults:FRAGILE", "--seeds", f"{SEEDS[0]}-{SEEDS[-1]}", "--batch", str(BATCH), "--steps", "2"]
    launched = [
        sys.executable,
        *before,
        "-m",
        "ddimkit",
        "generate",
        *words,
        "--threads",
        "1",
        "--device",
        "cpu",
        "--out",
        str(folder),
    ]
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells have it for jobs in the background, whose children inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    paths = [str(Path(__file__).parent), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "FAULT_MARK": str(mark or "")}
    return subprocess.Popen(launched, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def terminated(place: Place, number: signal.Signals) -> Tally:
    """The command gets a signal after its first block, and must end with the exit code that says so."""
    tally, folder = Tally(f"{number.name}, exit code {STOPPED}"), place.fresh()
    process = command(folder)
    wait_for(lambda: bool(sound(folder)))
    process.send_signal(number)
    code, kept = process.wait(), sound(folder)
    if code != STOPPED or len(kept) == len(Blocks(SEEDS, BATCH)):
        tally.wrong.append(f"the command ended with {code} after {len(kept)} blocks")
    tally.add(folder, place.reference, kept, code=done(partial(run, folder)))
    return tally


def elastic(place: Place) -> Tally:
    """Two ranks under torchrun, one of which is killed in the middle of a block; torchrun starts both again."""
    tally, folder, mark = Tally("torchrun, 2 ranks, one killed, one restart"), place.fresh(), place.root / "mark"
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1")
    tally.add(folder, place.reference, code=command(folder, *launcher, mark=mark).wait())
    if not mark.exists():
        tally.wrong.append("no rank was killed")
    return tally


def all_faults(place: Place, *, thorough: bool) -> Iterator[Tally]:
    """Every kind of fault."""
    dice, names = random.Random(0), operations(place)
    several = 10 if thorough else 1
    yield injected(place, "kill before each file operation", (Injection("kill", i) for i in range(len(names))))
    yield injected(place, "kill in the middle of each write", (Injection("half", i) for i in range(names.count("write"))))
    yield injected(
        place, "disk full at each file operation", (Injection("error", i) for i in range(0, len(names), 1 if thorough else 6))
    )
    readonly = range(0, len(names), 1 if thorough else 12)
    yield injected(place, "folder read-only at each file operation", (Injection("error", i, errno.EROFS) for i in readonly))
    yield random_kills(place, 10 * several, dice)
    yield from damaged(place, 3 * several, dice)
    yield clock_jumps(place, 2 * several, dice)
    for count in (1, 2, 3, 4):
        yield together(place, f"{count} process{'es' if count > 1 else ''}, no fault", ranks(count))
    yield together(place, "two runs of one share on one folder", [*ranks(1), *ranks(1)])
    yield without_locks(place, 3)
    yield disturbed(place, 3, "one lost", signal.SIGKILL)
    yield disturbed(place, 3, "one hangs", signal.SIGSTOP)
    yield disturbed(place, 3, "one hangs and goes on late", signal.SIGSTOP, late=True)
    yield terminated(place, signal.SIGTERM)
    if thorough:
        yield terminated(place, signal.SIGINT)
    yield elastic(place)
