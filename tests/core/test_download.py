"""Downloads from a local server that cuts connections, changes files and knows Range."""

import hashlib
import io
import json
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dasrec.core.download import (
    CHECKSUMS,
    DATASETS,
    Dataset,
    RemoteFile,
    download,
    fetch,
    unzip,
)
from dasrec.core.presets import PRESETS

CONTENT = bytes(range(256)) * 4096  # 1 MiB, so that a cut leaves a part


class Server(ThreadingHTTPServer):
    files: dict[str, bytes]
    cut_after: list[int]  # bytes sent before each of the next connections is dropped
    requests: list[tuple[str, str | None]]  # path, Range
    ranges: bool


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.requests.append((self.path, wanted))
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        tag = f'"{hashlib.sha256(content).hexdigest()[:8]}"'
        first = 0
        if wanted and self.server.ranges and self.headers.get("If-Range", tag) == tag:
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if first >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - first))
        self.send_header("ETag", tag)
        self.end_headers()
        cut = self.server.cut_after.pop(0) if self.server.cut_after else len(content)
        self.wfile.write(content[first : first + cut])

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with Server(("127.0.0.1", 0), Handler) as running:
        running.files, running.cut_after, running.requests, running.ranges = {}, [], [], True
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def url(server: Server, path: str = "") -> str:
    return f"http://127.0.0.1:{server.server_address[1]}{path}"


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def publish(
    monkeypatch: pytest.MonkeyPatch, server: Server, name: str, content: bytes, md5: str | None
) -> None:
    server.files[f"/{name}"] = content
    file = RemoteFile(f"https://example.org/data/{name}", md5)
    monkeypatch.setitem(DATASETS, "demo", Dataset("ml_1m", (file,)))


def test_a_cut_download_is_resumed_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = CONTENT
    server.cut_after = [300_000, 500_000]
    told: list[tuple[str, int, int | None]] = []
    fetch(url(server, "/a"), tmp_path / "a.part", lambda *args: told.append(args), pause_s=0)
    assert (tmp_path / "a.part").read_bytes() == CONTENT
    assert server.requests == [("/a", None), ("/a", "bytes=300000-"), ("/a", "bytes=800000-")]
    assert told[-1] == ("a", len(CONTENT), len(CONTENT))
    assert [held for _, held, _ in told] == sorted({held for _, held, _ in told})
    assert [p.name for p in tmp_path.iterdir()] == ["a.part"]


def test_a_later_run_resumes_too(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, server, "a.gz", CONTENT, None)
    monkeypatch.setattr(sys.modules["dasrec.core.download"], "ATTEMPTS", 1)
    server.cut_after = [1000]
    with pytest.raises(OSError, match=r"closed after 1000 of 1048576 bytes; .*run again to resume"):
        download("demo", tmp_path, base_url_override=url(server))
    assert not (tmp_path / "a.gz").exists()
    assert download("demo", tmp_path, base_url_override=url(server)) == [tmp_path / "a.gz"]
    assert (tmp_path / "a.gz").read_bytes() == CONTENT
    assert server.requests[-1] == ("/a.gz", "bytes=1000-")


def test_a_file_that_changed_meanwhile_is_started_again(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = CONTENT
    server.cut_after = [1000]
    part = tmp_path / "a.part"
    original, calls = server.files["/a"], []

    def swap(*args: Any) -> None:
        calls.append(args)
        server.files["/a"] = original[::-1]

    fetch(url(server, "/a"), part, swap, pause_s=0)
    assert part.read_bytes() == CONTENT[::-1]


def test_a_server_without_range_sends_it_all_again(server: Server, tmp_path: Path) -> None:
    server.files["/a"], server.ranges, server.cut_after = CONTENT, False, [1000]
    fetch(url(server, "/a"), tmp_path / "a.part", pause_s=0)
    assert (tmp_path / "a.part").read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_started_again(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = CONTENT
    (tmp_path / "a.part").write_bytes(CONTENT + b"more")
    fetch(url(server, "/a"), tmp_path / "a.part", pause_s=0)
    assert (tmp_path / "a.part").read_bytes() == CONTENT


def test_an_error_answer_is_not_retried(server: Server, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="the server answers 404"):
        fetch(url(server, "/none"), tmp_path / "none.part", pause_s=0)
    assert len(server.requests) == 1


def test_a_wrong_md5_is_refused_and_leaves_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, server, "a.gz", CONTENT, "0" * 32)
    with pytest.raises(ValueError, match=r"a.gz: md5 is .*, published is 0{32}; download it again"):
        download("demo", tmp_path, base_url_override=url(server))
    assert not list(tmp_path.iterdir())


def test_the_first_sha256_is_recorded_and_checked_later(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, server, "a.gz", CONTENT, None)
    download("demo", tmp_path, base_url_override=url(server))
    recorded = json.loads((tmp_path / CHECKSUMS).read_text())
    assert recorded == {"a.gz": hashlib.sha256(CONTENT).hexdigest()}
    download("demo", tmp_path, base_url_override=url(server))
    assert len(server.requests) == 1  # intact: not fetched again
    (tmp_path / "a.gz").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"a.gz: sha256 is .*, recorded at the first download"):
        download("demo", tmp_path, base_url_override=url(server))
    (tmp_path / "a.gz").unlink()
    server.files["/a.gz"] = CONTENT[::-1]
    with pytest.raises(ValueError, match="if the publisher changed it"):
        download("demo", tmp_path, base_url_override=url(server))
    assert [p.name for p in tmp_path.iterdir()] == [CHECKSUMS]


def test_an_archive_is_unpacked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zipped({"ml-1m/": b"", "ml-1m/ratings.dat": b"1::2", "ml-1m/README": b"terms"})
    publish(monkeypatch, server, "ml.zip", archive, hashlib.md5(archive).hexdigest())
    for _ in range(2):
        download("demo", tmp_path, base_url_override=url(server))
        assert (tmp_path / "ml-1m" / "ratings.dat").read_bytes() == b"1::2"
    assert sorted(p.name for p in (tmp_path / "ml-1m").iterdir()) == ["README", "ratings.dat"]


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "a/../../outside"])
def test_members_outside_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.zip").write_bytes(zipped({"good": b"1", name: b"2"}))
    with pytest.raises(ValueError, match="lies outside"):
        unzip(folder / "a.zip", folder)
    assert [p.name for p in folder.iterdir()] == ["a.zip"]


def test_not_a_zip_file(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"<html>")
    with pytest.raises(ValueError, match="not a zip file"):
        unzip(tmp_path / "a.zip", tmp_path)


def test_unknown_names_are_refused_and_known_ones_have_a_preset(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown dataset 'ml_2m'; known: ml_100k, ml_1m"):
        download("ml_2m", tmp_path)
    for dataset in DATASETS.values():
        assert dataset.preset in PRESETS
        assert all(file.url.startswith("https://") for file in dataset.files)
