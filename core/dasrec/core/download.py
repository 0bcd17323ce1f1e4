"""Fetch public datasets: resumed after a cut connection, checked, unpacked."""

import hashlib
import http.client
import json
import logging
import shutil
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from dasrec.core.artifacts import file_sha256

logger = logging.getLogger(__name__)

CHECKSUMS = "checksums.json"
"""Beside the files: the sha256 of each as it was first downloaded."""

ATTEMPTS = 5
BLOCK = 1 << 20

Progress = Callable[[str, int, int | None], None]
"""Called with the file's name, the bytes held and the size in bytes (None: not announced)."""


class RemoteFile(NamedTuple):
    """A published file."""

    url: str
    md5: str | None = None
    """As the publisher states it; None where none is published."""


class Dataset(NamedTuple):
    """Files of a dataset and the preset of `prepare` that reads them."""

    preset: str
    files: tuple[RemoteFile, ...]


def _movielens(name: str, md5: str) -> Dataset:
    url = f"https://files.grouplens.org/datasets/movielens/{name}.zip"
    return Dataset(name.replace("-", "_"), (RemoteFile(url, md5),))


def _amazon(preset: str, reviews: str, metadata: str) -> Dataset:
    return Dataset(preset, (RemoteFile(reviews), RemoteFile(metadata)))


def _amazon_2014(category: str) -> Dataset:
    base = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
    return _amazon(
        "amazon_2014", f"{base}/reviews_{category}_5.json.gz", f"{base}/meta_{category}.json.gz"
    )


def _amazon_2018(category: str) -> Dataset:
    base = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2"
    return _amazon(
        "amazon_2018",
        f"{base}/categoryFilesSmall/{category}_5.json.gz",
        f"{base}/metaFiles2/meta_{category}.json.gz",
    )


def _amazon_2023(category: str) -> Dataset:
    base = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw"
    return _amazon(
        "amazon_2023",
        f"{base}/review_categories/{category}.jsonl.gz",
        f"{base}/meta_categories/meta_{category}.jsonl.gz",
    )


DATASETS: dict[str, Dataset] = {
    # md5 as in the .md5 files beside the archives
    "ml_100k": _movielens("ml-100k", "0e33842e24a9c977be4e0107933c0723"),
    "ml_1m": _movielens("ml-1m", "c4d9eecfca2ab87c1945afe126590906"),
    "ml_20m": _movielens("ml-20m", "cd245b17a1ae2cc31bb14903e1204af3"),
    "ml_25m": _movielens("ml-25m", "6b51fb2759a8657d3bfcbfc42b592ada"),
    "amazon_2014_beauty": _amazon_2014("Beauty"),
    "amazon_2014_sports": _amazon_2014("Sports_and_Outdoors"),
    "amazon_2014_toys": _amazon_2014("Toys_and_Games"),
    "amazon_2014_office": _amazon_2014("Office_Products"),
    "amazon_2018_industrial": _amazon_2018("Industrial_and_Scientific"),
    "amazon_2018_office": _amazon_2018("Office_Products"),
    "amazon_2018_games": _amazon_2018("Video_Games"),
    "amazon_2023_beauty": _amazon_2023("All_Beauty"),
    "amazon_2023_games": _amazon_2023("Video_Games"),
}


def download(
    name: str,
    out_dir: Path,
    *,
    base_url_override: str | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Download a dataset; what is already there and intact is not fetched again.

    An interrupted file stays as `NAME.part` and is resumed. Where the publisher states no
    checksum, the sha256 of the first download is kept in `checksums.json` and checked later.

    Args:
        name: a key of `DATASETS`.
        out_dir: the folder for the files; archives are unpacked in it.
        base_url_override: a mirror that serves the files under their names.
        progress: told about every block.

    Returns:
        The downloaded files (archives, not their members).

    Raises:
        ValueError: an unknown name, a wrong checksum, or an archive with members outside itself.
        OSError: the address cannot be reached or answers with an error.
    """
    if name not in DATASETS:
        raise ValueError(f"download: unknown dataset '{name}'; known: {', '.join(DATASETS)}")
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = []
    for file in DATASETS[name].files:
        filename = file.url.rsplit("/", 1)[1]
        url = f"{base_url_override.rstrip('/')}/{filename}" if base_url_override else file.url
        path = out_dir / filename
        if path.exists():
            check_file(path, path, file.md5)
            logger.info("download: %s is there and intact", path)
        else:
            part = path.with_name(f"{filename}.part")
            fetch(url, part, progress)
            try:
                check_file(part, path, file.md5)
            except ValueError:
                part.unlink()
                raise
            part.rename(path)
        if path.suffix == ".zip":
            unzip(path, out_dir)
        paths.append(path)
    return paths


def check_file(path: Path, name: Path, md5: str | None) -> None:
    """Compare a file with the stated md5 and with the sha256 recorded for `name`, or record it.

    Raises:
        ValueError: another checksum.
    """
    if md5 is not None:
        with path.open("rb") as file:
            found = hashlib.file_digest(
                file, lambda: hashlib.md5(usedforsecurity=False)
            ).hexdigest()
        if found != md5:
            raise ValueError(f"{name}: md5 is {found}, published is {md5}; download it again")
    record = name.with_name(CHECKSUMS)
    known: dict[str, str] = json.loads(record.read_text()) if record.exists() else {}
    sha256 = file_sha256(path)
    expected = known.setdefault(name.name, sha256)
    if sha256 != expected:
        raise ValueError(
            f"{name}: sha256 is {sha256}, recorded at the first download is {expected}; delete "
            f"the file to download it again, and its line in {record} if the publisher changed it"
        )
    logger.info("download: %s sha256 %s", name.name, sha256)
    record.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")


def fetch(url: str, part: Path, progress: Progress | None = None, *, pause_s: float = 1.0) -> None:
    """Download `url` into `part`, going on from what it holds; retried when the line is cut.

    Args:
        url: the address.
        part: the file, possibly with the start of an earlier download.
        progress: told about every block.
        pause_s: wait before the second attempt, doubled before each further one.

    Raises:
        OSError: an error answer, or the last attempt failed.
    """
    for attempt in range(ATTEMPTS):
        try:
            return _fetch_once(url, part, progress)
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 416:
                raise OSError(f"{url}: the server answers {error.code} {error.reason}") from None
            if error.code == 416:  # the part is not the start of this file
                part.unlink(missing_ok=True)
            reason = str(error)
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
        logger.warning("download: %s: %s (attempt %d)", url, reason, attempt + 1)
        if attempt + 1 < ATTEMPTS:
            time.sleep(pause_s * 2**attempt)
    raise OSError(f"{url}: {reason}; {ATTEMPTS} attempts failed, run again to resume {part}")


def _fetch_once(url: str, part: Path, progress: Progress | None) -> None:
    validator = part.with_name(f"{part.name}.etag")
    held = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url)
    if held:
        request.add_header("Range", f"bytes={held}-")
        if validator.exists():  # the whole file is sent instead if it has changed since
            request.add_header("If-Range", validator.read_text())
    with urllib.request.urlopen(request, timeout=60) as response:
        if response.status != 206:
            held = 0
        length = response.headers.get("Content-Length")
        size = None if length is None else held + int(length)
        if tag := response.headers.get("ETag") or response.headers.get("Last-Modified"):
            validator.write_text(tag)
        logger.info("download: %s from byte %d of %s", url, held, size or "unknown")
        with part.open("ab" if held else "wb") as file:
            while block := response.read(BLOCK):
                file.write(block)
                held += len(block)
                if progress is not None:
                    progress(part.name.removesuffix(".part"), held, size)
    if size is not None and held < size:
        raise ConnectionError(f"connection closed after {held} of {size} bytes")
    validator.unlink(missing_ok=True)


def unzip(archive: Path, folder: Path) -> None:
    """Unpack an archive; members that are there in full size are left alone.

    Raises:
        ValueError: not a zip file, or a member that would land outside `folder`.
    """
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = [member for member in zipped.infolist() if not member.is_dir()]
            root = folder.resolve()
            for member in members:
                if not (root / member.filename).resolve().is_relative_to(root):
                    raise ValueError(f"{archive}: member '{member.filename}' lies outside it")
            for member in members:
                target = folder / member.filename
                if target.exists() and target.stat().st_size == member.file_size:
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                scratch = target.with_name(f"{target.name}.part")
                with zipped.open(member) as source, scratch.open("wb") as file:
                    shutil.copyfileobj(source, file)
                scratch.rename(target)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive}: not a zip file ({error}); download it again") from None
