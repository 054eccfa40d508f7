"""As root, a program becomes the owner of its files before it touches them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kattila_settings import privileges
from kattila_settings.privileges import PrivilegesError
from support.service_folder import USER, folder_of_service, link, open_path

__all__ = ["open_path"]

# Drops to the owner of a path, and prints the message, and the ids of the process. It imports nothing after that.
DROP = """
import os, sys
from pathlib import Path
from kattila_settings import privileges
privileges._nearest = lambda _: Path("/")
message = privileges.drop_to_owner(Path(sys.argv[1]))
print(message, os.getresuid(), os.getresgid(), os.getgroups(), sep="\\n")
try:
    os.setuid(0)
except PermissionError:
    print("for good")
"""


def dropped(path: Path) -> list[str]:
    done = subprocess.run([sys.executable, "-c", DROP, str(path)], capture_output=True, text=True, check=False)
    return done.stdout.splitlines() or [done.stderr.splitlines()[-1]]


def test_root_becomes_the_owner_for_good_and_keeps_no_group(open_path: Path) -> None:
    folder = folder_of_service(open_path)
    shown = dropped(folder / "missing" / "file")
    assert shown[0] == f"runs as nobody, who owns {folder}/missing/file"
    assert shown[1:] == [f"({USER}, {USER}, {USER})", f"({USER}, {USER}, {USER})", f"[{USER}]", "for good"]


def test_an_owner_without_an_account_is_possible(open_path: Path) -> None:
    folder = open_path / "folder"
    folder.mkdir()
    os.chown(folder, USER - 1, USER - 2)
    assert dropped(folder)[:4] == [
        f"runs as uid {USER - 1}, who owns {folder}",
        f"({USER - 1}, {USER - 1}, {USER - 1})",
        f"({USER - 2}, {USER - 2}, {USER - 2})",
        "[]",
    ]


def test_root_stays_root_where_only_root_owns_files(open_path: Path) -> None:
    (open_path / "file").touch()
    (open_path / "link").symlink_to("file")
    assert dropped(open_path / "link")[:2] == ["None", "(0, 0, 0)"]


@pytest.mark.parametrize("kind", ["the file", "its folder", "a folder above", "a link to it", "a link above"])
def test_the_owner_may_own_any_part_of_the_way(open_path: Path, kind: str) -> None:
    (open_path / "a" / "b").mkdir(parents=True)
    file = open_path / "a" / "b" / "file"
    file.touch()
    if kind in ("a link to it", "a link above"):
        place = open_path / ("link" if kind == "a link to it" else "linked")
        link(place, file if kind == "a link to it" else Path("a/../a/b"))
        path = place if kind == "a link to it" else place / "file"
    else:
        path = file
        os.chown({"the file": file, "its folder": file.parent}.get(kind, file.parent.parent), USER, USER)
    assert dropped(path)[0] == f"runs as nobody, who owns {path}"


def test_links_that_lead_in_a_circle_are_not_followed_for_ever(open_path: Path) -> None:
    (open_path / "one").symlink_to("two")
    (open_path / "two").symlink_to("one")
    assert dropped(open_path / "one" / "file")[0] == "None"


def test_two_owners_are_refused(open_path: Path) -> None:
    folder = folder_of_service(open_path)
    (folder / "inner").mkdir()
    os.chown(folder / "inner", USER - 1, USER - 1)
    [error] = dropped(folder / "inner" / "file")
    text = f"{folder}/inner/file, the folders above it and the settings belong to nobody and uid {USER - 1}: run this"
    assert error == f"kattila_settings.privileges.PrivilegesError: {text} as the one who uses it"


def test_an_owner_who_cannot_read_the_program_is_named(open_path: Path) -> None:
    folder, hidden = folder_of_service(open_path), open_path / "hidden"
    hidden.mkdir(mode=0o700)
    (hidden / "privileges.py").touch()
    file = str(hidden / "privileges.py")
    code = DROP.replace('privileges._nearest = lambda _: Path("/")', f"privileges.__file__ = {file!r}")
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    expected = f"nobody, who owns {folder}, cannot read {hidden}: install program and Python where that user can"
    assert expected in done.stderr


def test_a_user_without_rights_stays_that_user(open_path: Path) -> None:
    folder = folder_of_service(open_path)
    code = (
        "import os, sys; from pathlib import Path; from kattila_settings import privileges; os.setuid(1)\n"
        "print(privileges.drop_to_owner(Path(sys.argv[1])))\n"
        "privileges.refuse_folder_of_others(Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"


def test_root_refuses_to_write_where_others_could_put_links(open_path: Path) -> None:
    privileges.refuse_folder_of_others(open_path)
    folder = folder_of_service(open_path)
    with pytest.raises(PrivilegesError, match=f"{folder} belongs to nobody, who could make root overwrite other files"):
        privileges.refuse_folder_of_others(folder)


def test_what_root_writes_belongs_to_the_owner(open_path: Path) -> None:
    folder = folder_of_service(open_path)
    code = DROP + 'Path(sys.argv[1], "new").touch()'
    subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, check=True)
    assert (folder / "new").stat().st_uid == USER
