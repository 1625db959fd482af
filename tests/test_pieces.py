"""Files in pieces: what is written reads back, and nothing else does."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddimkit import WeightsError
from ddimkit.weights._pieces import MOST_BYTES, has_content, read_content, write_pieces


@given(content=st.binary(max_size=40), most=st.integers(1, 50))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, content: bytes, most: int) -> None:
    path = tmp_path_factory.mktemp("pieces") / "a.safetensors"
    assert not has_content(path)
    *pieces, index = write_pieces(content, path, most=most)
    assert index.name == "a.safetensors.json"
    assert [len(piece.read_bytes()) for piece in pieces[:-1]] == [most] * (len(pieces) - 1)
    assert len(pieces[-1].read_bytes()) <= most
    assert not path.exists()
    assert has_content(path)
    assert read_content(path) == content


def test_a_piece_is_below_16_mebibytes() -> None:
    assert MOST_BYTES < 16 * 2**20


def test_a_whole_file_goes_before_its_pieces(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_pieces(b"pieces", path)
    path.write_bytes(b"whole")
    assert read_content(path) == b"whole"


def test_a_new_version_removes_the_former_and_nothing_else(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    others = write_pieces(b"others", other, most=2)
    beside = tmp_path / "a.txt"
    beside.write_text("mine")
    former = write_pieces(b"former", path, most=1)
    latter = write_pieces(b"latter", path, most=4)
    assert read_content(path) == b"latter"
    assert read_content(other) == b"others"
    assert set(tmp_path.iterdir()) == {*others, *latter, beside}
    assert not any(piece.exists() for piece in former[:-1])


def test_one_who_is_interrupted_leaves_the_former_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, written = tmp_path / "a", list[Path]()
    write_pieces(b"former", path, most=2)
    write = Path.write_bytes

    def stopping(self: Path, content: bytes) -> int:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(self)
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", stopping)
    with pytest.raises(KeyboardInterrupt):
        write_pieces(b"latter", path, most=2)
    assert read_content(path) == b"former"


def missing(pieces: list[Path]) -> None:
    pieces[1].unlink()


def changed(pieces: list[Path]) -> None:
    pieces[0].write_bytes(b"xx")


def of_another_version(pieces: list[Path]) -> None:
    pieces[0].write_bytes(pieces[1].read_bytes())


def no_json(pieces: list[Path]) -> None:
    pieces[-1].write_text("{")


def a_list(pieces: list[Path]) -> None:
    pieces[-1].write_text("[1]")


def edited(**fields: object) -> Callable[[list[Path]], None]:
    def edit(pieces: list[Path]) -> None:
        pieces[-1].write_text(json.dumps({**json.loads(pieces[-1].read_text()), **fields}))

    return edit


DAMAGE: dict[str, tuple[Callable[[list[Path]], None], str]] = {
    "a piece missing": (missing, r"incomplete, its pieces a\.[0-9a-f]{8}\.2of3 are missing"),
    "a piece changed": (changed, "have SHA-256"),
    "another piece": (of_another_version, "have SHA-256"),
    "no JSON": (no_json, "no index of pieces"),
    "a list": (a_list, "no index of pieces"),
    "another schema": (edited(schema_version=2), "of schema 2, this version reads 1"),
    "another folder": (edited(pieces=["../a"]), "outside its own folder"),
}


@pytest.mark.promise(46)
@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_pieces_are_refused(tmp_path: Path, damage: Callable[[list[Path]], None], message: str) -> None:
    damage(write_pieces(b"abcdef", tmp_path / "a", most=2))
    with pytest.raises(WeightsError, match=message) as caught:
        read_content(tmp_path / "a")
    assert str(tmp_path) in str(caught.value)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        read_content(tmp_path / "nothing")
