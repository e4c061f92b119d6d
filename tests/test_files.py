"""Files are there whole or not at all, whoever else writes to the folder, and however it ends."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

import diffusolve
from diffusolve import files
from diffusolve.files import check_writable, replacing, write_atomically

posix = pytest.mark.skipif(os.name != "posix", reason="links, devices and modes of POSIX")


def test_threads_that_save_to_one_folder_all_do(tmp_path: Path) -> None:
    """960 files of the same name, and nothing else is left."""
    failed: list[BaseException] = []
    barrier = threading.Barrier(16)

    def work(number: int) -> None:
        scheduler = diffusolve.EulerDiscreteScheduler(num_train_timesteps=1000 + number)
        barrier.wait()
        for _ in range(60):
            try:
                scheduler.save_config(tmp_path)
                diffusolve.EulerDiscreteScheduler.from_pretrained(tmp_path)
            except BaseException as error:
                failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed[0]
    assert [path.name for path in tmp_path.iterdir()] == ["scheduler_config.json"]


def names_made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are opened to be written, as they are."""
    made, opening = [], os.open

    def watched(path: Any, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            assert flags & os.O_EXCL
            made.append(Path(path).name)
        return opening(path, flags, mode)

    monkeypatch.setattr(files.os, "open", watched)
    return made


def test_no_name_can_be_foretold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = names_made(monkeypatch)
    for _ in range(20):
        write_atomically(tmp_path / "a", b"1")
    assert len(set(made)) == 20
    assert not any(str(os.getpid()) == part for name in made for part in name.split("."))


@posix
def test_a_link_in_the_way_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    monkeypatch.setattr(files, "token_hex", lambda _: "guessed")
    (tmp_path / ".guessed.partial").symlink_to(precious)
    with pytest.raises(FileExistsError, match=r"'.*config\.json'"):
        write_atomically(tmp_path / "config.json", b"new")
    assert precious.read_text() == "precious"


@posix
def test_a_link_at_the_place_is_replaced_and_what_it_showed_stays(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("shared")
    (tmp_path / "config.json").symlink_to(tmp_path / "blob")
    write_atomically(tmp_path / "config.json", b"new")
    assert (tmp_path / "blob").read_text() == "shared"
    assert (tmp_path / "config.json").read_text() == "new"


@posix
def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a", b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@posix
def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    thread = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    thread.start()
    check_writable(pipe)
    write_atomically(pipe, b"through")
    thread.join()
    assert read == [b"through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


class Broken(Exception):
    pass


@pytest.mark.parametrize("when", ["writing", "sync", "replacing"])
def test_whatever_fails_the_old_content_stays_and_nothing_is_left(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def broken(*_: Any) -> None:
        raise Broken

    if when != "writing":
        monkeypatch.setattr(files.os, {"sync": "fsync", "replacing": "replace"}[when], broken)

    def save() -> None:
        with replacing(path) as partial:
            partial.write_text("new")
            if when == "writing":
                raise Broken

    with pytest.raises(Broken):
        save()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_content_and_name_are_on_the_disk_in_that_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    synced, replaced = os.fsync, os.replace

    def fsync(handle: int) -> None:
        happened.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        synced(handle)

    def replace(a: Any, b: Any) -> None:
        happened.append("name")
        replaced(a, b)

    monkeypatch.setattr(files.os, "fsync", fsync)
    monkeypatch.setattr(files.os, "replace", replace)
    write_atomically(tmp_path / "a", b"1")
    assert happened == ["file", "name", "folder"] if os.name == "posix" else ["file", "name"]


def test_an_error_names_the_path_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere/a'"):
        write_atomically(tmp_path / "nowhere" / "a", b"1")
