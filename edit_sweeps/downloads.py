"""Files by address: downloading with a progress bar, going on after an interruption, taking folders out of archives."""

from __future__ import annotations

import logging
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import urlsplit

from tqdm import tqdm

from edit_sweeps.hub import FetchError

log = logging.getLogger(__name__)

ATTEMPTS = 4
WAIT_S = 2.0
TIMEOUT_S = 30.0
_CHUNK = 1 << 20
T = TypeVar("T")
_LOOPBACK = ("localhost", "127.0.0.1")


def size_of(url: str) -> int | None:
    """Bytes of the file at an address; None when the server does not say.

    Raises:
        FetchError: There is nothing there, or no connection.
    """
    with _patiently(url, lambda: _open(url, {}, method="HEAD")) as response:
        length = response.headers.get("Content-Length")
    return int(length) if length else None


def download(url: str, part: Path) -> None:
    """Bring the file at an address into `part`, from where an earlier call stopped if it left something.

    What came before is gone on with only while the server says that its file is still the same one: its
    mark (ETag or date) is kept beside `part` meanwhile.

    Raises:
        FetchError: There is nothing there, or the connection fails again and again; what came is kept.
    """
    part.parent.mkdir(parents=True, exist_ok=True)
    _patiently(url, lambda: _go_on(url, part))
    _mark_of(part).unlink(missing_ok=True)


def _mark_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.mark")


def _begin(part: Path, headers: Message) -> None:
    """Forget what came before, then keep the mark of the file that comes now."""
    part.unlink(missing_ok=True)
    mark = headers.get("ETag", "")
    if not mark or mark.startswith("W/"):  # a weak one does not promise the same bytes
        mark = headers.get("Last-Modified", "")
    _mark_of(part).write_text(mark, encoding="utf-8")


def _patiently(url: str, attempt: Callable[[], T]) -> T:
    for number in range(1, ATTEMPTS + 1):
        try:
            return attempt()
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                msg = f"{url}: the server answers {error.code} {error.reason}; has the file moved?"
                raise FetchError(msg) from error
            last: Exception = error
        except (OSError, HTTPException) as error:
            last = error
        if number < ATTEMPTS:
            log.warning("%s: %s; trying again", url, last)
            time.sleep(WAIT_S * number)
    msg = f"{url} cannot be fetched ({last}); the same command goes on where this one stopped"
    raise FetchError(msg) from last


def _open(url: str, headers: dict[str, str], method: str = "GET") -> HTTPResponse:
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        msg = f"{url}: only https addresses are fetched"
        raise FetchError(msg)
    asked = urllib.request.Request(url, headers=headers, method=method)  # noqa: S310
    response: HTTPResponse = urllib.request.urlopen(asked, timeout=TIMEOUT_S)  # noqa: S310
    return response


def _go_on(url: str, part: Path) -> None:
    """One attempt.

    Raises:
        OSError: The connection ended before the file did.
    """
    mark_file = _mark_of(part)
    mark = mark_file.read_text(encoding="utf-8") if mark_file.exists() else ""
    have = part.stat().st_size if part.exists() and mark else 0
    try:
        response = _open(url, {"Range": f"bytes={have}-", "If-Range": mark} if have else {})
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        part.unlink()
        msg = "there is nothing after what came before, so it may be another file; beginning again"
        raise ConnectionError(msg) from error
    with response:
        if response.status != 206:
            have = 0
            _begin(part, response.headers)
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        bar = tqdm(
            total=total, initial=have, unit="B", unit_scale=True, desc=url.rpartition("/")[2]
        )
        with part.open("ab" if have else "wb") as file, bar:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and part.stat().st_size < total:
        msg = f"the connection ended after {part.stat().st_size} of {total} bytes"
        raise ConnectionError(msg)


def take_folder(archive: Path, member: str, to: Path) -> None:
    """Write the plain files of one folder of a .tar.gz archive, without its sub-folders, into `to`.

    Raises:
        FetchError: It is no such archive, or the folder is not in it.
    """
    to.mkdir(parents=True, exist_ok=True)
    count = 0
    try:
        with tarfile.open(archive) as files:
            for item in files:
                path = PurePosixPath(item.name)
                content = files.extractfile(item) if item.isreg() else None
                if content is None or str(path.parent) != member:
                    continue
                (to / path.name).write_bytes(content.read())
                count += 1
    except (tarfile.TarError, EOFError, OSError) as error:
        msg = f"{archive.name} cannot be unpacked ({error}); remove {archive} and fetch again"
        raise FetchError(msg) from error
    if not count:
        msg = f"{archive.name} has no files in {member}"
        raise FetchError(msg)
