"""Filling a data folder: what is missing of what is needed is brought, each file aside and then renamed."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path, PurePosixPath

from filelock import FileLock

from edit_sweeps import manifest
from edit_sweeps.catalogue import Need, PlainFile, plain_file
from edit_sweeps.downloads import download, size_of, take_folder
from edit_sweeps.hub import FetchError, Hub, Repository, dataset_files, model_files
from edit_sweeps.manifest import EVERYTHING, Entry, FileFacts

log = logging.getLogger(__name__)

ASIDE = ".part"
"""Folder below the root for what is on its way."""


@dataclass(frozen=True)
class Outcome:
    """What became of one model, data set or file.

    Attributes:
        place: Below the root.
        licence: As the source states it.
        size: Bytes that were brought, or would be; None when the source does not say.
        done: `brought`, `there` or `wanted` (dry run).
        changed: Files that are other ones at the source than what was fetched before.
    """

    place: str
    licence: str
    size: int | None
    done: str
    changed: tuple[str, ...] = ()


def fetch(
    root: Path, needs: Sequence[Need], *, hub: Hub | None = None, dry_run: bool = False
) -> Iterator[Outcome | FetchError]:
    """Bring what is missing in the data folder `root`; yields what became of each place as it is done.

    What cannot be brought is yielded as an error, and the rest goes on.

    Args:
        root: Made if it is not there; one process at a time writes to it. Where nothing is missing,
            nothing is written, so it may be read-only.
        needs: Several may be parts of one data set.
        hub: Where models and data sets are.
        dry_run: Only look what would be brought; writes nothing.
    """
    places: dict[str, list[Need]] = {}
    for need in needs:
        places.setdefault(need.place, []).append(need)
    hub = hub or Hub()
    with ExitStack() as stack:
        may_write = False
        for place, parts in places.items():
            if not (dry_run or may_write or _is_complete(root, place, parts, hub)):
                stack.enter_context(_alone(root))
                may_write = True
            try:
                if parts[0].kind == "files":
                    yield _fetch_plain(root, place, parts[0], dry_run=dry_run)
                else:
                    yield _Fetch(root, place, parts, hub).run(dry_run=dry_run)
            except FetchError as error:
                yield error
            except OSError as error:
                yield FetchError(f"{place} cannot be written: {error}")


def _is_complete(root: Path, place: str, needs: Sequence[Need], hub: Hub) -> bool:
    """Whether nothing of it is to be brought, so that nobody needs to be kept from writing."""
    entry = manifest.read(root).get(place)
    if entry is None:
        return False
    if needs[0].kind == "files":
        return not any(manifest.damaged(root, {place: entry}, deep=False))
    try:
        return _Fetch(root, place, needs, hub).is_complete()
    except FetchError:
        return True  # it is refused: nothing is written


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Keep other processes from writing.

    Raises:
        FetchError: The folder cannot be made or written to.
    """
    aside = root / ASIDE
    lock = FileLock(root / ".lock")
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        msg = (
            f"{root} cannot be written to ({error}); give a folder that can: --to FOLDER, or EDIT_SWEEPS_DATA in the "
            "environment"
        )
        raise FetchError(msg) from error
    try:
        yield
        for archive in aside.glob("*.tar.gz"):
            archive.unlink()
        if aside.is_dir() and not any(path.is_file() for path in aside.rglob("*")):
            shutil.rmtree(aside)
    finally:
        lock.release()


class _Fetch:
    """One repository of the hub.

    Args:
        root: The data folder.
        place: Of the repository in it.
        needs: Parts of it.
        hub: Where it is.
    """

    def __init__(self, root: Path, place: str, needs: Sequence[Need], hub: Hub) -> None:
        self.root, self.place, self.needs, self.hub = root, place, needs, hub
        self.kind, self.name = needs[0].kind, needs[0].name
        self.entry = manifest.read(root).get(place)
        self.revision = self._revision()

    def _revision(self) -> str | None:
        revisions = {need.revision for need in self.needs}
        if len(revisions) > 1:
            msg = (
                f"{self.place}: revisions {', '.join(map(str, revisions))} are asked for at once, and one folder holds "
                "one; fetch them into two data folders"
            )
            raise FetchError(msg)
        (revision,) = revisions
        if self.entry and revision is None and self.entry.has_revision(None):
            return self.entry.revision  # a folder pinned to a commit stays so
        if self.entry and not self.entry.has_revision(revision):
            msg = (
                f"{self.place} holds revision {self.entry.revision or 'main'} and {revision or 'main'} is asked for; "
                f"use another data folder, or remove {self.root / self.place} and its entry in manifest.json"
            )
            raise FetchError(msg)
        return revision

    def run(self, *, dry_run: bool) -> Outcome:
        """Bring what is missing of it."""
        if self.entry and self.is_complete():
            return Outcome(self.place, self.entry.licence, 0, "there")
        # More of what is there already must be of the same commit.
        pinned = self.entry.commit if self.entry else None
        repository = self.hub.look_up(self.kind, self.name, pinned or self.revision)
        wanted = self._wanted(repository)
        lacking = {name for name in wanted if not self._is_here(name, repository.sizes[name])}
        size = sum(repository.sizes[name] for name in lacking)
        if dry_run:
            return Outcome(self.place, repository.licence, size, "wanted" if lacking else "there")
        changed = self._bring(repository, wanted, lacking) if wanted else ()
        return Outcome(self.place, repository.licence, size, "brought", changed)

    def _parts(self) -> tuple[str, ...]:
        """What the manifest then says is there in full."""
        known = self.entry.parts if self.entry else ()
        asked = [need.subset or EVERYTHING for need in self.needs if not need.only]
        return tuple(dict.fromkeys((*known, *asked)))

    def is_complete(self) -> bool:
        """Whether all that is asked for is there, as far as the manifest knows, without asking the hub."""
        entry = self.entry
        if entry is None:
            return False
        if EVERYTHING not in entry.parts and not set(self._parts()) <= set(entry.parts):
            return False
        # Of a tokenizer's files a repository has some, which came with whatever was fetched of it first.
        only = {n for need in self.needs for n in need.only if need.kind == "datasets"}
        if not only <= set(entry.files):
            return False
        return all(self._is_here(name, facts.size) for name, facts in entry.files.items())

    def _wanted(self, repository: Repository) -> set[str]:
        wanted: set[str] = set()
        for need in self.needs:
            if need.only:
                wanted |= self._named(repository, need.only)
            elif self.kind == "models":
                wanted |= model_files(repository.sizes, self.name)
            else:
                wanted |= dataset_files(repository, need.subset)
        if not wanted:
            msg = f"{self.place}: the hub's repository holds no data files"
            raise FetchError(msg)
        outside = sorted(name for name in wanted if not _stays_inside(name))
        if outside:
            msg = f"{self.place}: the hub names a file outside the folder, {outside[0]!r}; nothing of it is fetched"
            raise FetchError(msg)
        return wanted | (set(self.entry.files) & set(repository.sizes) if self.entry else set())

    def _named(self, repository: Repository, only: Sequence[str]) -> set[str]:
        found = {n for n in repository.sizes if any(fnmatch(n, pattern) for pattern in only)}
        absent = [name for name in only if "*" not in name and name not in found]
        if absent and self.kind == "datasets":
            msg = f"{self.place}: the hub's repository has no file {', '.join(absent)} at {repository.commit}"
            raise FetchError(msg)
        return found | ({"README.md"} & set(repository.sizes))

    def _is_here(self, name: str, size: int) -> bool:
        path = self.root / self.place / name
        return path.is_file() and path.stat().st_size == size

    def _bring(
        self, repository: Repository, wanted: set[str], lacking: set[str]
    ) -> tuple[str, ...]:
        """Download, check, move into place, note in the manifest; returns what is not as it was."""
        aside, home = self.root / ASIDE / self.place, self.root / self.place
        if lacking:
            self.hub.bring(self.kind, self.name, repository.commit, lacking, aside)
        known = self.entry.files if self.entry else {}
        facts = {n: manifest.facts_of((aside if n in lacking else home) / n) for n in wanted}
        for name, file in facts.items():
            _check(
                f"{self.place}/{name}", file, repository.sizes[name], repository.sha256.get(name)
            )
        shutil.rmtree(aside / ".cache", ignore_errors=True)  # notes of the downloader
        if home.exists():
            for name in sorted(lacking):
                (home / name).parent.mkdir(parents=True, exist_ok=True)
                (aside / name).replace(home / name)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            _keep_only(aside, lacking)  # an interrupted call may have been after another revision
            home.parent.mkdir(parents=True, exist_ok=True)
            aside.rename(home)
        entry = Entry(
            source=self.name,
            revision=self.revision,
            commit=repository.commit,
            licence=repository.licence,
            parts=self._parts(),
            fetched=_today(),
            files={**known, **facts},
        )
        _note(self.root, self.place, entry)
        return tuple(n for n in sorted(lacking) if n in known and known[n] != facts[n])


def _stays_inside(name: str) -> bool:
    """Whether a path that the hub names lies below the folder it is put into."""
    parts = PurePosixPath(name).parts
    return not (name.startswith("/") or "\\" in name or ".." in parts)


def _keep_only(folder: Path, names: Collection[str]) -> None:
    """Remove every other file below `folder`, and sub-folders that are then empty."""
    kept = {folder / name for name in names}
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder before the folder
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path not in kept:
            path.unlink()


def _check(shown: str, facts: FileFacts, size: int, digest: str | None) -> None:
    """Compare what came with what the source said.

    Raises:
        FetchError: It is something else.
    """
    if facts.size != size or (digest and facts.sha256 != digest):
        msg = (
            f"{shown} is not what the hub says: {facts.size} bytes with sha256 {facts.sha256}, and it should be "
            f"{size} bytes{f' with {digest}' if digest else ''}; remove it and fetch again"
        )
        raise FetchError(msg)


def _fetch_plain(root: Path, place: str, need: Need, *, dry_run: bool) -> Outcome:
    """Bring a file or a folder of an archive, by its address."""
    source, entry = plain_file(need.name), manifest.read(root).get(place)
    if source is None:
        msg = f"{need}: no address of files/{need.name} is known; put it at {root / place} by hand"
        raise FetchError(msg)
    if entry and not any(manifest.damaged(root, {place: entry}, deep=False)):
        return Outcome(place, entry.licence, 0, "there")
    if dry_run:
        return Outcome(place, source.licence, size_of(source.url), "wanted")
    before, size = (entry.files if entry else {}), _bring_plain(root, place, source)
    files = _facts_at(root / place)
    _note(root, place, _entry_of(source, files))
    changed = tuple(n for n in sorted(files) if n in before and before[n] != files[n])
    return Outcome(place, source.licence, size, "brought", changed)


def _bring_plain(root: Path, place: str, source: PlainFile) -> int:
    """Download, unpack if it is an archive, move into place; returns the bytes that were downloaded."""
    aside, home = root / ASIDE / place, root / place
    home.parent.mkdir(parents=True, exist_ok=True)
    if source.member is None:
        download(source.url, aside)
        size = aside.stat().st_size
        aside.replace(home)
        return size
    # One archive may hold several of our folders; it is kept until all is fetched.
    archive = root / ASIDE / f"{sha256(source.url.encode()).hexdigest()[:16]}.tar.gz"
    size = 0
    if not archive.exists():
        part = archive.with_suffix(".part")
        download(source.url, part)
        size = part.stat().st_size
        part.replace(archive)
    shutil.rmtree(aside, ignore_errors=True)
    take_folder(archive, source.member, aside)
    shutil.rmtree(home, ignore_errors=True)
    aside.rename(home)
    return size


def _facts_at(path: Path) -> dict[str, FileFacts]:
    if path.is_file():
        return {path.name: manifest.facts_of(path)}
    return {
        file.relative_to(path).as_posix(): manifest.facts_of(file)
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def _entry_of(source: PlainFile, files: dict[str, FileFacts]) -> Entry:
    return Entry(
        source=f"{source.url}#{source.member}" if source.member else source.url,
        revision=source.commit,
        commit=source.commit,
        licence=source.licence,
        fetched=_today(),
        files=files,
    )


def _note(root: Path, place: str, entry: Entry) -> None:
    files = dict(sorted(entry.files.items()))
    manifest.write(root, manifest.read(root) | {place: replace(entry, files=files)})


def _today() -> str:
    return datetime.now(tz=UTC).date().isoformat()
