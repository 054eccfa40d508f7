"""Swaps the files of a website into a folder, so that readers never see a half-written one, and opens them.

`PAGES_DIR` stays a plain folder, which a web server, a bind mount or a shell may have open. Each entry in it is a link
into `.current`, which links to one version of the whole site. Renaming a new `.current` over the old one swaps all
pages at once. Other links are not followed: somebody could have put them there to show or to overwrite other files.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from kattila_keys import durable

_VERSIONS = ".versions"
_CURRENT = ".current"
_TARGET = re.compile(rf"{re.escape(_VERSIONS)}/([0-9]{{1,18}})")


def swap(folder: Path, files: Mapping[str, bytes]) -> int:
    """Replace the folder's files by `files` (path to content), all at once; return how many changed.

    Unchanged files are not written again. The disk is not synced: after a power cut the next rendering writes the
    files again.

    Raises:
        OSError: the folder cannot be written, or has other files of these names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = {path.partition("/")[0] for path in files}
    with durable.folder(folder) as own:
        _check_names(folder, own, names)
        old = _current_version(own)
        before = _files_of(own, old)
        changed = {path for path in files if files[path] != before.get(path)}
        if changed or files.keys() != before.keys():
            _write_version(own, old, files, changed)
        _link(own, names)
    return len(changed | (before.keys() - files.keys()))


def published(folder: Path) -> dict[str, bytes]:
    """Return the content of the files that `swap` wrote last, by path; raises OSError."""
    with suppress(FileNotFoundError), durable.folder(folder) as own:
        return _files_of(own, _current_version(own))
    return {}


def open_page(folder: Path, path: str) -> int | None:
    """Return the descriptor of a published file, or of a file that somebody else put into the folder.

    None if there is none, or only behind a link. Names that begin with a dot are not published.
    """
    parts = path.split("/")
    if any(not part or part.startswith(".") for part in parts):
        return None
    # ValueError: the path contains a character that no file name has.
    with suppress(OSError, ValueError), durable.folder(folder) as own:
        version = _current_version(own)
        for above in ((_VERSIONS, version), ()) if version else ((),):
            with suppress(FileNotFoundError), _below(own, (*above, *parts[:-1])) as parent:
                return durable.open_file(parent, parts[-1])
    return None


def _write_version(own: int, old: str | None, files: Mapping[str, bytes], changed: set[str]) -> None:
    with _below(own, (_VERSIONS,), create=True) as versions:
        _remove_versions(versions, keep={old})
        new = str(int(old or 0) + 1)
        os.mkdir(new, dir_fd=versions)
        for path, content in files.items():
            *above, name = path.split("/")
            with _below(versions, (new, *above), create=True) as parent:
                if path in changed or not _linked(versions, (str(old), *above), name, parent):
                    _create(parent, name, content)
        _put_link(own, _CURRENT, f"{_VERSIONS}/{new}")
        # A reader that has just opened the old folder can finish.
        _remove_versions(versions, keep={old, new})


def _create(parent: int, name: str, content: bytes) -> None:
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=parent)
    with os.fdopen(file, "wb") as stream:
        stream.write(content)


def _linked(versions: int, above: Sequence[str], name: str, parent: int) -> bool:
    """Give a file of another version a second name; return False on a file system without hard links."""
    with suppress(OSError), _below(versions, above) as old:
        os.link(name, name, src_dir_fd=old, dst_dir_fd=parent, follow_symlinks=False)
        return True
    return False


def _remove_versions(versions: int, keep: set[str | None]) -> None:
    with os.scandir(versions) as found:
        others = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found if entry.name not in keep]
    for name, is_folder in others:
        if is_folder:
            shutil.rmtree(name, dir_fd=versions)
        else:
            os.unlink(name, dir_fd=versions)


def _check_names(folder: Path, own: int, names: set[str]) -> None:
    for name in (*sorted(names), _CURRENT):
        with suppress(FileNotFoundError):
            if not stat.S_ISLNK(os.stat(name, dir_fd=own, follow_symlinks=False).st_mode):
                raise FileExistsError(
                    errno.EEXIST, "the file exists and is not kattila's; choose an empty folder", str(folder / name)
                )


def _link(own: int, names: set[str]) -> None:
    """Link exactly these names in the folder to `.current`."""
    with os.scandir(own) as found:
        links = {entry.name: os.readlink(entry.name, dir_fd=own) for entry in found if entry.is_symlink()}
    for name in sorted(names):
        if links.get(name) != f"{_CURRENT}/{name}":
            _put_link(own, name, f"{_CURRENT}/{name}")
    for name, target in links.items():
        if name not in names and target == f"{_CURRENT}/{name}":
            os.unlink(name, dir_fd=own)


def _put_link(own: int, name: str, target: str) -> None:
    aside = f".{name}.new"
    with suppress(FileNotFoundError):
        os.unlink(aside, dir_fd=own)
    os.symlink(target, aside, dir_fd=own)
    os.rename(aside, name, src_dir_fd=own, dst_dir_fd=own)


def _current_version(own: int) -> str | None:
    try:
        target = _TARGET.fullmatch(os.readlink(_CURRENT, dir_fd=own))
    except FileNotFoundError:
        return None
    return target[1] if target else None


def _files_of(own: int, version: str | None) -> dict[str, bytes]:
    """Return the content of a version's files by path; {} if it is lost."""
    found: dict[str, bytes] = {}
    with suppress(FileNotFoundError), _below(own, (_VERSIONS, version or "")) as top:
        for folder, _, names, descriptor in os.fwalk(".", dir_fd=top):
            for name in names:
                # Not a link or a pipe: such a file is written again.
                with suppress(OSError):
                    found[str(Path(folder, name))] = durable.read(descriptor, name)
    return found


@contextmanager
def _below(parent: int, names: Sequence[str], *, create: bool = False) -> Iterator[int]:
    """Open a folder below another one meanwhile, without following links; raises OSError."""
    opened = os.dup(parent)
    try:
        for name in names:
            if create:
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=opened)
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=opened)
            os.close(opened)
            opened = inner
        yield opened
    finally:
        os.close(opened)
