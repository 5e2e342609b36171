"""A shard that changes during a run causes an error that names it, and never wrong tokens."""

import hashlib
import multiprocessing
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tfllm.data import PreparedData, rows_dataset
from tfllm.data.shards.shard_reader import ShardReader


@pytest.fixture
def copied(prepared, tmp_path):
    return shutil.copytree(prepared.folder, tmp_path / "copy")


@pytest.fixture
def data(copied):
    """Open, and the first token of each shard read."""
    data = PreparedData.open(copied)
    for reader in data.train.readers:
        reader.read(0, 1)
    return data


SHARD = "train-00001.bin"
"""tokens 700 to 1400"""


def cut_short(path):
    os.truncate(path, 1000)


def flip(path):
    with open(path, "r+b") as file:
        byte = file.read(1)
        file.seek(0)
        file.write(bytes([byte[0] ^ 1]))


def replace(path):
    content = path.read_bytes()
    path.with_name("new").write_bytes(bytes([content[0] ^ 1]) + content[1:])
    path.with_name("new").rename(path)


def append(path):
    with open(path, "ab") as file:
        file.write(b"ab")


@pytest.mark.parametrize("change", [cut_short, flip, replace, append])
@pytest.mark.parametrize("when", ["before the first read", "while it is read"])
def test_a_shard_that_changes_is_named_with_both_checksums(copied, change, when):
    data = PreparedData.open(copied)
    if when == "while it is read":
        data.train.read(700, 800)
    time.sleep(0.02)  # the clock of a file system ticks slowly
    written = hashlib.sha256((copied / SHARD).read_bytes()).hexdigest()
    change(copied / SHARD)
    found = hashlib.sha256((copied / SHARD).read_bytes()).hexdigest()
    said = (
        rf"copy/{SHARD} was changed after it was written: .* must be {written}; received {found} "
        r"of \d+ bytes; copy the folder again"
    )
    for start, stop in ((700, 701), (1399, 1401), (0, 10**9)):
        with pytest.raises(ValueError, match=said):
            data.train.read(start, stop)
    assert data.train.read(0, 700).size == 700  # the others are as good as ever


def test_a_shard_that_vanishes_is_named(data, copied):
    (copied / SHARD).unlink()
    with pytest.raises(FileNotFoundError, match=rf"copy/{SHARD} is listed .* is not there; copy"):
        data.train.read(700, 701)


@pytest.mark.parametrize("when", ["before the first read", "while it is read"])
def test_a_shard_with_the_same_bytes_goes_on_whatever_happened_to_the_file(
    copied, when, monkeypatch
):
    data = PreparedData.open(copied)
    expected = PreparedData.open(copied).train.read(0, 10**9)
    if when == "while it is read":
        data.train.read(0, 10**9)
    time.sleep(0.02)
    os.utime(copied / "train-00000.bin")
    shutil.copy(copied / SHARD, copied / "new")
    (copied / "new").rename(copied / SHARD)
    np.testing.assert_array_equal(data.train.read(0, 10**9), expected)
    monkeypatch.setattr(ShardReader, "verify", None)  # it is read once, and not at each read
    np.testing.assert_array_equal(data.train.read(0, 10**9), expected)


def test_a_folder_that_is_moved_away_goes_on_with_what_is_open(data, copied):
    expected = PreparedData.open(copied).train.read(0, 10**9)
    copied.rename(copied.with_name("moved"))
    np.testing.assert_array_equal(data.train.read(0, 10**9), expected)


def test_a_shard_that_never_rests_is_named(data, monkeypatch):
    ticks = iter(range(1000))
    monkeypatch.setattr(
        "tfllm.data.shards.shard_reader._OpenFile.marks", lambda self: (1400, next(ticks), True)
    )
    with pytest.raises(ValueError, match=rf"{SHARD} (was|is being) changed"):
        data.train.read(700, 701)


def test_a_handle_that_the_file_server_forgot_is_replaced(data, copied, monkeypatch):
    expected = PreparedData.open(copied).train.read(700, 900)
    pread, calls = os.pread, []

    def stale(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise OSError(116, "Stale file handle")
        return pread(*arguments)

    monkeypatch.setattr(os, "pread", stale)
    np.testing.assert_array_equal(data.train.read(700, 900), expected)

    def broken(*arguments):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(OSError, match=rf"Input/output error: .*{SHARD}"):
        data.train.read(700, 701)


def test_a_read_that_the_system_cuts_up_is_whole(data, copied, monkeypatch):
    expected = PreparedData.open(copied).train.read(0, 10**9)
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, at: pread(file, min(size, 99), at))
    np.testing.assert_array_equal(data.train.read(0, 10**9), expected)


def open_files(folder: Path) -> int:
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return sum(os.path.exists(f) and str(folder) in os.readlink(f) for f in links)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux")
def test_few_files_are_open_at_a_time_and_none_when_the_data_are_gone(copied, monkeypatch):
    monkeypatch.setattr("tfllm.data.shards.shard_stream._OPEN_FILES", 2)
    data = PreparedData.open(copied)
    assert len(data.train.readers) > 3 and open_files(copied) == 0
    for _ in range(3):
        whole = data.train.read(0, 10**9)
        assert open_files(copied) == 2
    np.testing.assert_array_equal(whole, np.concatenate(list(data.train.chunks(50))))
    data.verify()
    assert open_files(copied) <= 2
    del data
    assert open_files(copied) == 0


def test_threads_read_at_the_same_time(data, copied, monkeypatch):
    monkeypatch.setattr("tfllm.data.shards.shard_stream._OPEN_FILES", 1)
    expected = PreparedData.open(copied).train.read(0, 10**9)
    wrong = []

    def work(seed):
        draw = np.random.default_rng(seed)
        for start in draw.integers(0, len(expected) - 40, 300).tolist():
            if not np.array_equal(data.train.read(start, start + 40), expected[start : start + 40]):
                wrong.append(start)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_pickled_copy_opens_its_own_files_and_knows_how_they_were(data, copied):
    expected = data.train.read(0, 10**9)
    copy = pickle.loads(pickle.dumps(data))
    assert not any(reader.is_open for reader in copy.train.readers)
    np.testing.assert_array_equal(copy.train.read(0, 10**9), expected)
    time.sleep(0.02)
    flip(copied / SHARD)
    copy = pickle.loads(pickle.dumps(data))
    with pytest.raises(ValueError, match="was changed"):
        copy.train.read(700, 701)


def total(data) -> int:
    return int(data.train.read(0, 10**9).astype(np.int64).sum())


def test_a_spawned_process_reads_the_same(data):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(total, (data,)) == total(data)


FORK = """
import os, sys, threading
import numpy as np
from tfllm.data import PreparedData

data = PreparedData.open(sys.argv[1])
expected = data.train.read(0, 10**9)
stop = threading.Event()

def keep_reading():
    while not stop.is_set():
        assert np.array_equal(data.train.read(0, 10**9), expected)

threads = [threading.Thread(target=keep_reading) for _ in range(2)]
for thread in threads:
    thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        same = all(np.array_equal(data.train.read(0, 10**9), expected) for _ in range(5))
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
for thread in threads:
    thread.join()
print("SAME")
"""


def test_forked_processes_read_the_same(copied):
    command = [sys.executable, "-W", "ignore", "-c", FORK, str(copied)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.stdout.strip() == "SAME", done.stderr


def test_a_file_cut_short_does_not_kill_the_process_that_reads_it(tmp_path):
    """As it does one that has mapped the file: the system sends it SIGBUS."""
    path = tmp_path / "train-00000.bin"
    np.arange(1 << 20, dtype="<u4").tofile(path)
    program = """
import os, sys
from pathlib import Path
import numpy as np
from tfllm.data.shards.shard_reader import ShardReader
from tfllm.data.shards.shard_files import Shard
path = Path(sys.argv[1])
shard = Shard(path.name, 1 << 20, "?")
mapped = np.memmap(path, dtype="<u4", mode="r")
reader = ShardReader(path.parent, shard, np.dtype("<u4"))
assert reader.read(1 << 19, (1 << 19) + 9).tolist() == mapped[1 << 19 : (1 << 19) + 9].tolist()
os.truncate(path, 4096)
try:
    reader.read(1 << 19, (1 << 19) + 9)
except ValueError as error:
    print(error, flush=True)
print(mapped[1 << 19])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True
    )
    assert re.search(r"train-00000\.bin was changed .* of 4096 bytes", done.stdout), done.stderr
    assert done.returncode < 0  # the map


def test_a_dataset_passes_the_error_on_and_the_data_keep_it(data, copied):
    import tensorflow as tf

    data.raise_read_error()
    rows = iter(rows_dataset(data, "train", sequence_length=16, batch_size=4))
    next(rows)
    time.sleep(0.02)
    flip(copied / SHARD)
    with pytest.raises(tf.errors.OpError, match=rf"{SHARD} was changed after it was written"):
        for _ in range(1000):
            next(rows)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(copied / SHARD))} was changed"):
        data.raise_read_error()


@pytest.mark.parametrize("count", [1, 2, 3, 50])
def test_the_shares_of_the_workers_are_all_files_once(data, copied, count, monkeypatch):
    seen = []
    verify = ShardReader.verify

    def noted(reader):
        if reader.path.parent == copied:  # another test's rows may still be read ahead
            seen.append(reader.path.name)
        verify(reader)

    monkeypatch.setattr(ShardReader, "verify", noted)
    monkeypatch.setattr(PreparedData, "_verify_other_file", lambda self, name: seen.append(name))
    per_worker = []
    for index in range(count):
        before = len(seen)
        data.verify((index, count))
        per_worker.append(len(seen) - before)
    assert sorted(seen) == sorted({p.name for p in copied.iterdir()} - {"manifest.json"})
    assert max(per_worker) - min(per_worker) <= 1


def test_only_the_worker_with_the_changed_shard_finds_it(data, copied):
    flip(copied / SHARD)
    found = []
    for index in range(3):
        try:
            data.verify((index, 3))
        except ValueError as error:
            found.append(str(error))
    assert len(found) == 1 and SHARD in found[0]
    with pytest.raises(ValueError, match=r"0 <= index < count; received \(3, 3\)"):
        data.verify((3, 3))


def test_the_check_shows_how_far_it_is(data, capsys):
    data.verify(show_progress=True)
    assert "checking the data: 100%" in capsys.readouterr().err
    data.verify()
    assert capsys.readouterr().err == ""
