"""Lets a program that root starts run as the user who owns its files.

That user could have put links in the place of files and folders, which root would follow.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path

# As the kernel (path_resolution(7)).
_MOST_LINKS = 40


class PrivilegesError(Exception):
    """The program cannot run as the owner of its files; the text gives the cause and the remedy."""


def drop_to_owner(path: Path, settings: Path | None = None) -> str | None:
    """As root, become the owner of `path` for good; return a line that says so, None if nothing had to change.

    The owner is the user, other than root, to whom the file belongs, or a folder or link on the way to it. Call this
    before the program touches a file below `path`, which may be missing. `settings` is a file that was read because it
    is in the working folder; its owner could have chosen `path`.

    Raises:
        PrivilegesError: these are several users, or the owner cannot read the program, or the system refuses it.
    """
    owners = _owners_besides_root(path) if os.geteuid() == 0 else {}
    if os.geteuid() == 0 and settings is not None and os.path.lexists(settings):
        path = path if owners else settings
        owners |= _owners_besides_root(settings)
    if not owners:
        return None
    if len(owners) > 1:
        names = " and ".join(_account(user, group)[0] for user, group in owners.items())
        raise PrivilegesError(
            f"{path}, the folders above it and the settings belong to {names}: run this as the one who uses it"
        )
    return _become(path, *_account(*owners.popitem()))


def _become(path: Path, name: str, user: int, group: int, groups: list[int]) -> str:
    try:
        os.setgroups(groups)
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)
    except OSError as error:
        raise PrivilegesError(
            f"cannot run as {name}, who owns {path} ({error.strerror}): run this as that user"
        ) from None
    # Parts of the program, and of Python, are imported only when they are used.
    for needed in map(_nearest, (__file__, os.__file__)):
        if not os.access(needed, os.R_OK):
            file = needed.resolve()
            raise PrivilegesError(
                f"{name}, who owns {path}, cannot read {file}: install program and Python where that user can"
            )
    return f"runs as {name}, who owns {path}"


def refuse_folder_of_others(folder: Path) -> None:
    """Raise PrivilegesError if root would write to a folder in which another user can put links."""
    owners = _owners_besides_root(folder) if os.geteuid() == 0 else {}
    if owners:
        name = _account(*owners.popitem())[0]
        raise PrivilegesError(
            f"{folder} belongs to {name}, who could make root overwrite other files: run this as {name}, or choose a "
            "folder that only root can change"
        )


def _owners_besides_root(path: Path) -> dict[int, int]:
    """Return the users other than root, each with a group, who own a part of the path or a link on the way."""
    return {found.st_uid: found.st_gid for found in _on_the_way(path) if found.st_uid != 0}


def _account(user: int, group: int) -> tuple[str, int, int, list[int]]:
    """Return the name, user, group and all groups of a user; without an account, the given group."""
    try:
        account = pwd.getpwuid(user)
    except KeyError:
        return f"uid {user}", user, group, []
    return account.pw_name, user, account.pw_gid, os.getgrouplist(account.pw_name, account.pw_gid)


def _nearest(file: str) -> Path:
    """Return a file, or the archive that it is in, or the folder that this user cannot enter."""
    path = Path(file)
    return next(each for each in (path, *path.parents) if os.access(each, os.F_OK))


def _on_the_way(path: Path) -> Iterator[os.stat_result]:
    """Yield the status of each folder, link and file on the way to a path."""
    place, links = Path("/"), 0
    parts = deque(path.absolute().parts[1:])
    while parts:
        part = parts.popleft()
        place = place.parent if part == ".." else place / part
        try:
            found = place.lstat()
        except OSError:
            return
        yield found
        if stat.S_ISLNK(found.st_mode):
            links += 1
            if links > _MOST_LINKS:
                return
            target = place.readlink()
            place = Path("/") if target.is_absolute() else place.parent
            parts.extendleft(reversed(target.parts[1 if target.is_absolute() else 0 :]))
