"""Files at URLs, read in blocks: seams, servers without ranges, short answers, changed files."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from model.errors import SourceError
from model.sources import remote
from model.sources.remote import RemoteFile, remote_file
from tests.remote import RangeServer, forget

BLOCK = 1000
DATA = random.Random(0).randbytes(4 * BLOCK + 321)
NAME = "/some.tar"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    monkeypatch.setattr(remote, "BLOCK", BLOCK)
    monkeypatch.setattr(remote, "_sleep", lambda _: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    forget()
    server = RangeServer()
    server.files[NAME] = DATA
    yield server
    forget()
    server.close()


def file_of(server: RangeServer) -> RemoteFile:
    return remote_file(f"{server.url}{NAME}")


def ranges(server: RangeServer) -> list[str]:
    """The ranges of blocks that were asked for, without the question for ranges itself."""
    last = f"bytes={len(DATA) - 1}-"
    return [asked for asked in server.asked if last not in asked]


def test_any_part_of_a_file_is_read_over_the_seams_of_its_blocks(server: RangeServer) -> None:
    file = file_of(server)
    ends = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 4 * BLOCK, len(DATA) - 1, len(DATA)]
    for start in ends:
        for end in ends:
            if end >= start:
                assert file.read(end - start, start) == DATA[start:end]
    assert file.read() == DATA
    assert file.read(10**6, len(DATA) - 5) == DATA[-5:]
    assert file.read(5, len(DATA) + 3) == b""


def test_each_block_is_asked_for_once_by_all_threads(server: RangeServer) -> None:
    file = file_of(server)
    file.read(1)  # asks whether there are ranges
    starts = [place for place in range(0, len(DATA), 137) for _ in range(3)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda start: file.read(137, start), starts))
    assert found == [DATA[start : start + 137] for start in starts]
    asked = ranges(server)
    wanted = [f"{NAME} bytes={k * BLOCK}-{min(len(DATA), (k + 1) * BLOCK) - 1}" for k in range(5)]
    assert sorted(asked) == sorted(wanted)


def test_a_small_file_comes_whole(server: RangeServer) -> None:
    server.files[NAME] = DATA[: BLOCK // 2]
    file = file_of(server)
    assert file.read(100, 50) == DATA[50:150]
    assert file.read() == DATA[: BLOCK // 2]
    assert server.asked == [NAME]


def test_a_server_without_ranges_has_the_file_copied_once(server: RangeServer) -> None:
    server.ranges = False
    file = file_of(server)
    for start in (3 * BLOCK - 5, 0, 17):
        assert file.read(2 * BLOCK, start) == DATA[start : start + 2 * BLOCK]
    [copy] = remote._copies.values()
    assert copy.read_bytes() == DATA
    whole = [asked for asked in server.asked if "bytes" not in asked]
    assert whole == [NAME]
    server.files[NAME] = changed = DATA[::-1]
    assert file_of(server).read(20, 5) == changed[5:25]  # another version has a copy of its own
    remote.forget()
    assert not copy.exists()
    assert remote._copies == {}


def test_a_copy_that_ends_too_early_is_tried_again(server: RangeServer) -> None:
    server.ranges = False
    file = file_of(server)
    left = [2]

    def shorten(data: bytes) -> bytes:
        if len(data) == len(DATA) and left[0]:
            left[0] -= 1
            return data[:-7]
        return data

    assert not remote._takes_ranges(file)
    server.fault = shorten
    assert file.read(BLOCK, 2 * BLOCK) == DATA[2 * BLOCK : 3 * BLOCK]
    assert left == [0]


@pytest.mark.parametrize("change", [lambda data: data[:-3], lambda data: data + b"more"])
def test_a_range_of_another_length_is_asked_for_again(server: RangeServer, change) -> None:
    file = file_of(server)
    file.read(1)
    left = [2]

    def fault(data: bytes) -> bytes:
        if left[0]:
            left[0] -= 1
            return change(data)
        return data

    server.fault = fault
    assert file.read(2 * BLOCK, BLOCK) == DATA[BLOCK : 3 * BLOCK]
    assert left == [0]
    server.fault = change
    with pytest.raises(SourceError, match=r"some\.tar could not be read .* bytes came"):
        file.read(10, 3 * BLOCK)


@pytest.mark.parametrize("ranges", [True, False])
def test_blocks_of_two_versions_are_never_joined(server: RangeServer, ranges: bool) -> None:
    server.ranges = ranges
    file = file_of(server)
    if ranges:
        assert file.read(BLOCK) == DATA[:BLOCK]
    else:
        assert not remote._takes_ranges(file)
    server.files[NAME] = DATA[:BLOCK] + DATA[: BLOCK - 1 : -1]  # of the same length
    with pytest.raises(SourceError, match=r"some\.tar changed after it was listed"):
        file.read(2 * BLOCK, BLOCK // 2)
    assert file_of(server).read() == server.files[NAME]


def test_a_small_shard_that_changed_is_refused_and_a_picture_is_not(server: RangeServer) -> None:
    for name in ("/small.tar", "/small.parquet", "/small.png"):
        server.files[name] = DATA[:100]
        file = remote_file(f"{server.url}{name}")
        server.files[name] = DATA[100:200]
        if name.endswith(".png"):  # its content is its own, and its hash is compared later
            assert file.read() == DATA[100:200]
        else:
            with pytest.raises(SourceError, match="changed after it was listed"):
                file.read()


def test_a_server_that_tells_no_version_has_its_sizes_compared(server: RangeServer) -> None:
    server.etags = False
    file = file_of(server)
    assert file.stamp.text == ""
    assert file.read(BLOCK) == DATA[:BLOCK]
    server.files[NAME] = DATA + b"more"
    with pytest.raises(SourceError, match="changed after it was listed"):
        file.read(BLOCK, BLOCK)


def test_a_file_that_vanishes_is_not_found(server: RangeServer) -> None:
    file = file_of(server)
    del server.files[NAME]
    with pytest.raises(FileNotFoundError):
        file.read(BLOCK, BLOCK)
