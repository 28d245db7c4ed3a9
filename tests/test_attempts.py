"""Starts and ends of a cell on disk, and how often in a row the machine was to blame."""

import errno
from subprocess import CalledProcessError, TimeoutExpired

import pytest

from edit_sweeps import attempts, causes
from edit_sweeps.attempts import LOST, append, losses, read


def start(folder):
    return append(folder, {"started": "now", "host": "n1"})


def end(folder, number, how):
    append(folder, {"number": number, "ended": "now", "how": how})


def test_starts_are_numbered_and_ends_belong_to_them(tmp_path):
    assert start(tmp_path) == 1
    end(tmp_path, 1, "failed")
    assert start(tmp_path) == 2
    assert [line["number"] for line in read(tmp_path)] == [1, 1, 2]


def test_a_line_that_a_kill_left_half_spoils_neither_those_before_nor_those_after(tmp_path):
    start(tmp_path)
    with (tmp_path / attempts.FILE).open("a") as file:
        file.write('{"number": 2, "sta')
    assert start(tmp_path) == 2
    assert [line["number"] for line in read(tmp_path)] == [1, 2]


def test_a_folder_that_cannot_be_written_costs_the_note_only(tmp_path, caplog):
    (tmp_path / attempts.FILE).mkdir()
    assert start(tmp_path) == 1
    assert "cannot note the attempt" in caplog.text


@pytest.mark.parametrize(
    ("ends", "count"),
    [
        ([], 0),
        ([None], 1),
        ([None, None, None], 3),
        ([None, "failed", None], 1),
        ([None, "done"], 0),
        ([LOST, LOST], 2),
        ([None, "interrupted", None], 2),
        (["interrupted"] * 9, 0),
        ([None, None, "retry"], 0),
    ],
)
def test_losses_are_counted_back_to_the_last_end_with_a_word(tmp_path, ends, count):
    for how in ends:
        number = start(tmp_path)
        if how:
            end(tmp_path, number, how)
    assert losses(read(tmp_path)) == count


def raised(error, cause=None):
    try:
        raise error from cause
    except Exception as caught:
        return caught


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EFBIG, "File too large"),
        OSError(errno.ESTALE, "Stale file handle"),
        ConnectionResetError(),
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
        RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable"),
        raised(ValueError("cannot save"), OSError(errno.EDQUOT, "Disk quota exceeded")),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "scontrol"),
        CalledProcessError(1, ["scontrol", "requeue", "42"]),
        TimeoutExpired(["scontrol", "requeue", "42"], 60),
    ],
)
def test_the_machine_is_to_blame(error):
    assert causes.cause_of(error) == causes.INFRASTRUCTURE


@pytest.mark.parametrize(
    "error",
    [
        ValueError("layer 99"),
        OSError(errno.ENOENT, "no such file"),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: device-side assert triggered"),
        raised(KeyError("x"), ValueError("y")),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "train.jsonl"),
        CalledProcessError(1, ["nvcc", "kernel.cu"]),
    ],
)
def test_the_cell_is_to_blame(error):
    assert causes.cause_of(error) == causes.EXCEPTION
