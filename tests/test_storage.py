"""Files are complete or as they were: under errors, Ctrl-C, several writers and any umask."""

from __future__ import annotations

import ast
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest

import nnsight_vlm as nv
from nnsight_vlm import storage
from nnsight_vlm.storage import atomic_write, write_frame

PACKAGE = Path(nv.__file__).parent
WRITERS = {"write_text", "write_bytes", "to_parquet", "to_csv", "to_pickle", "savefig", "save", "save_file", "tofile"}
"""Methods and functions that write a file."""


def names(folder):
    return [path.name for path in folder.iterdir()]


def test_a_file_is_there_when_the_block_ends_and_nothing_else(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    with atomic_write(path) as temporary:
        assert temporary.parent == path.parent and temporary != path and not path.exists()
        temporary.write_text("first")
    with atomic_write(path) as temporary:
        temporary.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second" and names(path.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_error_leaves_the_file_as_it_was_and_no_other(tmp_path, error):
    path = tmp_path / "file.txt"
    for before in ([], ["file.txt"]):
        with pytest.raises(error), atomic_write(path) as temporary:
            temporary.write_text("half")
            raise error
        assert names(tmp_path) == before
        path.write_text("whole")
    assert path.read_text() == "whole"


def test_a_file_that_cannot_take_its_place_is_removed(tmp_path):
    (tmp_path / "file.txt" / "in the way").mkdir(parents=True)
    with pytest.raises(OSError), atomic_write(tmp_path / "file.txt") as temporary:
        temporary.write_text("text")
    assert names(tmp_path) == ["file.txt"]


def test_file_and_folder_are_flushed_and_the_file_before_it_has_its_name(tmp_path, monkeypatch):
    seen, path = [], tmp_path / "file.txt"
    stock = os.fsync

    def fsync(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        seen.append((is_folder, path.exists(), None if is_folder else os.fstat(descriptor).st_size))
        stock(descriptor)

    monkeypatch.setattr(storage.os, "fsync", fsync)
    with atomic_write(path) as temporary:
        temporary.write_text("text")
    assert seen == [(False, False, 4), (True, True, None)]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_an_ordinary_open(tmp_path, mask):
    before = os.umask(mask)
    try:
        (tmp_path / "ordinary").write_text("")
        with atomic_write(tmp_path / "ours") as temporary:
            temporary.write_text("")
        (tmp_path / "ours").chmod(0o640)
        with atomic_write(tmp_path / "again") as temporary:
            temporary.write_text("")
        with atomic_write(tmp_path / "ours") as temporary:
            temporary.write_text("")
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ordinary", "again", "ours")}
    assert modes == {"ordinary": 0o666 & ~mask, "again": 0o666 & ~mask, "ours": 0o640}


def test_names_may_be_as_long_as_the_file_system_allows(tmp_path):
    path = tmp_path / ("a" * 255)
    with atomic_write(path) as temporary:
        temporary.write_text("text")
    assert path.read_text() == "text"


WRITER = """
import importlib.util, sys, time
from pathlib import Path
spec = importlib.util.spec_from_file_location("storage", sys.argv[1])  # by itself: the package takes seconds to import
storage = importlib.util.module_from_spec(spec)
spec.loader.exec_module(storage)
path, letter = Path(sys.argv[2]), sys.argv[3]
print("ready", flush=True)
sys.stdin.readline()
for _ in range(200):
    with storage.atomic_write(path) as temporary:
        with temporary.open("w") as file:
            for _ in range(20):
                file.write(letter * 1000)
                file.flush()
"""


def test_two_processes_that_write_one_file_leave_one_of_their_files(tmp_path):
    path = tmp_path / "file.txt"
    arguments = [sys.executable, "-c", WRITER, storage.__file__, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    writers = [subprocess.Popen([*arguments, letter], **pipes) for letter in "ab"]
    try:
        for writer in writers:
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            writer.stdin.write("go\n")
            writer.stdin.flush()
        seen = set()
        while any(writer.poll() is None for writer in writers):
            if path.exists():
                content = path.read_text()
                assert content in ("a" * 20_000, "b" * 20_000)
                seen.add(content[0])
    finally:
        errors = [writer.communicate()[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], errors
    assert seen == {"a", "b"} and names(tmp_path) == ["file.txt"]


def test_threads_that_write_one_file_leave_one_of_their_files(tmp_path):
    path, errors = tmp_path / "file.txt", []

    def write(letter):
        try:
            for _ in range(20):
                with atomic_write(path) as temporary:
                    temporary.write_text(letter * 5000)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=[letter]) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and path.read_text() in {letter * 5000 for letter in "abcd"}
    assert names(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_frames_are_written_by_their_ending(tmp_path, ending):
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    path = tmp_path / f"frame{ending}"
    write_frame(frame, path)
    pd.testing.assert_frame_equal(pd.read_csv(path) if ending == ".csv" else pd.read_parquet(path), frame)
    with pytest.raises(AttributeError):
        write_frame(None, path)
    assert names(tmp_path) == [path.name]


def buffers_of(tree):
    """The names to which a file of Python assigns a buffer in memory."""
    found = set()
    for node in (node for node in ast.walk(tree) if isinstance(node, ast.Assign)):
        target, value = node.targets[0], node.value
        both = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
        both = both and not any(isinstance(part, ast.Starred) for part in (*target.elts, *value.elts))
        for name, made in zip(target.elts, value.elts, strict=True) if both else [(target, value)]:
            if ast.unparse(made) == "BytesIO()":
                found.add(ast.unparse(name))
    return found


def test_all_files_of_the_package_are_written_by_the_one_writer():
    """Every call that writes a file stands in a `with atomic_write(...)`; `shapes` trains models outside of it."""
    for path in PACKAGE.rglob("*.py"):
        if path.is_relative_to(PACKAGE / "shapes"):
            continue
        tree = ast.parse(path.read_text())
        inside = {
            id(node)
            for block in ast.walk(tree)
            if isinstance(block, ast.With) and any("atomic_write" in ast.unparse(item) for item in block.items)
            for node in ast.walk(block)
        }
        buffers = buffers_of(tree)
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            # a bare `save` is nnsight's, `write_text` of a path and a text the report's own, `page.save` a view's
            plain = isinstance(call.func, ast.Name) or (name == "write_text" and len(call.args) == 2)
            plain = plain or ast.unparse(call.func) == "page.save"
            in_memory = call.args and ast.unparse(call.args[0]) in buffers
            writes = name in WRITERS and call.args and not plain and not in_memory
            opens = name == "open" and any(
                isinstance(part, ast.Constant) and str(part.value)[:1] in tuple("wax")
                for part in [*call.args[-1:], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
            )
            assert not (writes or opens) or id(call) in inside, f"{path}:{call.lineno}: {ast.unparse(call)}"
