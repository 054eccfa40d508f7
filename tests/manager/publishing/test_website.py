"""Rendering and swapping: readers see only complete sites, even after failures."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kattila_manager.pages.index_page import Page, build
from kattila_manager.publishing.website import TEMPLATES, Published, Website, WebsiteError
from kattila_manager.site_folder import open_page, swap
from support.snapshots import agent, seen, snapshot

VERSIONS = 150
SITE = {"index.html": b"one", "nodes/a.html": b"a", "nodes/b.html": b"b"}


def shown(folder: Path) -> dict[str, bytes]:
    """Return the files that a reader of the folder sees."""
    found: dict[str, bytes] = {}
    for top in sorted(folder.iterdir()):
        if not top.name.startswith("."):
            files = top.rglob("*") if top.is_dir() else [top]
            found |= {str(file.relative_to(folder)): file.read_bytes() for file in files if file.is_file()}
    return found


# --- The swap


def test_a_site_is_shown_unchanged(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "pages"
    assert swap(folder, SITE) == 3
    assert shown(folder) == SITE


def test_nothing_is_written_when_nothing_changed(tmp_path: Path) -> None:
    swap(tmp_path, SITE)
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert swap(tmp_path, SITE) == 0
    assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_an_unchanged_page_is_not_written_again(tmp_path: Path) -> None:
    swap(tmp_path, SITE)
    before = (tmp_path / "nodes/a.html").stat()
    assert swap(tmp_path, SITE | {"index.html": b"two"}) == 1
    after = (tmp_path / "nodes/a.html").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert shown(tmp_path)["index.html"] == b"two"


def test_pages_are_added_and_removed(tmp_path: Path) -> None:
    swap(tmp_path, SITE)
    assert swap(tmp_path, {"index.html": b"one", "alarms.html": b"alarms"}) == 3
    assert shown(tmp_path) == {"index.html": b"one", "alarms.html": b"alarms"}


def test_at_most_two_versions_are_kept(tmp_path: Path) -> None:
    for number in range(5):
        swap(tmp_path, {"index.html": str(number).encode()})
    assert len(list((tmp_path / ".versions").iterdir())) == 2


def test_leftovers_of_a_killed_publisher_are_removed(tmp_path: Path) -> None:
    swap(tmp_path, SITE)
    half = tmp_path / ".versions" / "2"
    half.mkdir()
    (half / "index.html").write_bytes(b"ha")
    (tmp_path / "..current.new").symlink_to("nowhere")
    assert swap(tmp_path, SITE | {"index.html": b"two"}) == 1
    assert shown(tmp_path) == SITE | {"index.html": b"two"}


def test_a_lost_version_is_written_again(tmp_path: Path) -> None:
    swap(tmp_path, SITE)
    shutil.rmtree(tmp_path / ".versions")
    assert swap(tmp_path, SITE) == 3
    assert shown(tmp_path) == SITE


def test_a_foreign_page_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="not kattila's"):
        swap(tmp_path, SITE)
    assert (tmp_path / "index.html").read_bytes() == b"mine"
    assert not (tmp_path / ".versions").exists()


def opened(folder: Path, path: str) -> bytes | None:
    file = open_page(folder, path)
    if file is None:
        return None
    with os.fdopen(file, "rb") as stream:
        return stream.read()


def test_pages_are_opened_by_their_paths(tmp_path: Path) -> None:
    swap(tmp_path, SITE)
    (tmp_path / "robots.txt").write_bytes(b"mine")
    assert {path: opened(tmp_path, path) for path in (*SITE, "robots.txt")} == SITE | {"robots.txt": b"mine"}


@pytest.mark.parametrize(
    "path",
    [
        "missing.html",
        "nodes",
        "nodes/",
        "nodes//a.html",
        "/index.html",
        "./index.html",
        "nodes/../index.html",
        ".current/index.html",
        ".versions/1/index.html",
        "index.html/",
        "",
        "\0",
        "\ud800",
        "x" * 300,
        "pipe",
        "link.html",
    ],
    ids=ascii,
)
def test_nothing_else_is_opened(tmp_path: Path, path: str) -> None:
    swap(tmp_path, SITE)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.html").symlink_to("index.html")
    assert opened(tmp_path, path) is None


def test_nothing_is_opened_before_a_site_was_published(tmp_path: Path) -> None:
    assert opened(tmp_path, "index.html") is None
    assert opened(tmp_path / "missing", "index.html") is None


@pytest.mark.parametrize("target", ["/etc", "../outside", ".versions/../outside", ".versions/1/..", "elsewhere"])
def test_a_wrong_link_to_the_current_version_is_replaced(tmp_path: Path, target: str) -> None:
    folder = tmp_path / "pages"
    swap(folder, SITE)
    (folder / ".current").unlink()
    (folder / ".current").symlink_to(target)
    assert opened(folder, "index.html") is None
    shutil.rmtree(folder / ".versions")
    assert swap(folder, SITE) == 3
    assert shown(folder) == SITE


def test_a_link_in_the_place_of_a_page_of_the_current_version_is_written_again(tmp_path: Path) -> None:
    swap(tmp_path, SITE)
    page = tmp_path / ".versions" / "1" / "nodes" / "a.html"
    page.unlink()
    page.symlink_to("/etc/passwd")
    assert swap(tmp_path, SITE) == 1
    assert not (tmp_path / "nodes" / "a.html").is_symlink()
    assert shown(tmp_path) == SITE


def test_other_files_of_the_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "robots.txt").write_bytes(b"mine")
    swap(tmp_path, SITE)
    swap(tmp_path, {"index.html": b"two"})
    assert shown(tmp_path) == {"index.html": b"two", "robots.txt": b"mine"}


@contextmanager
def swapping(folder: Path) -> Iterator[threading.Event]:
    """Swap in sites with increasing numbers in a thread; the event is set when it ends."""
    ended = threading.Event()

    def swap_all() -> None:
        try:
            for number in range(1, VERSIONS):
                swap(folder, _numbered(number))
        finally:
            ended.set()

    thread = threading.Thread(target=swap_all)
    thread.start()
    try:
        yield ended
    finally:
        thread.join()


def _numbered(number: int) -> dict[str, bytes]:
    page = b"%d\n" % number + b"." * 50_000 + b"\n%d" % number
    return {"index.html": page, "nodes/a.html": page}


def _number(page: bytes) -> int:
    first, middle, last = page.split(b"\n")
    assert first == last
    assert len(middle) == 50_000
    return int(first)


def test_a_reader_never_sees_half_a_site_or_an_older_page_after_a_newer_one(tmp_path: Path) -> None:
    swap(tmp_path, _numbered(0))
    numbers = [0]
    with swapping(tmp_path) as ended:
        while not ended.is_set():
            # By name, as a web server does. The second page may be newer, but never older.
            numbers += [_number((tmp_path / name).read_bytes()) for name in ("index.html", "nodes/a.html")]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) > 10


def test_an_open_version_stays_one_site(tmp_path: Path) -> None:
    swap(tmp_path, _numbered(0))
    looked_at = 0
    with swapping(tmp_path) as ended:
        while not ended.is_set():
            version = os.open(tmp_path / ".current", os.O_RDONLY | os.O_DIRECTORY)
            try:
                pages = [os.open(name, os.O_RDONLY, dir_fd=version) for name in ("index.html", "nodes/a.html")]
            except FileNotFoundError:
                # Two swaps later the version is removed as a whole, and the next one is complete.
                continue
            finally:
                os.close(version)
            first, second = (os.fdopen(page, "rb") for page in pages)
            with first, second:
                assert _number(first.read()) == _number(second.read())
            looked_at += 1
    assert looked_at > 10


# --- Rendering


def test_the_repository_and_the_package_share_the_templates() -> None:
    top = Path(__file__).parents[3] / "report_templates"
    assert TEMPLATES.resolve() == top.resolve()
    assert {path.name for path in top.iterdir()} >= {"base.html", "index.html", "style.css"}


def _page(view: object, path: str = "index.html") -> Page:
    return Page(path, "index.html", lambda: view)


def _templates(folder: Path, index: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "style.css").write_text("p { color: red }")
    (folder / "index.html").write_text(index)
    return folder


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ page.no_such_member }}", "no_such_member"),
        ("{{ no_such_name }}", "no_such_name"),
        ("{% if %}", "TemplateSyntaxError"),
        ("{% extends 'missing.html' %}", "missing.html"),
    ],
)
def test_a_wrong_template_keeps_the_last_good_page(tmp_path: Path, template: str, reason: str) -> None:
    folder = tmp_path / "pages"
    pages = (_page("view"),)
    assert Website(folder, _templates(tmp_path / "good", "{{ page }}")).publish(pages) == Published(1, {})
    published = Website(folder, _templates(tmp_path / "bad", template)).publish(pages)
    assert published.changed == 0
    assert reason in repr(published.failed["index.html"])
    assert (folder / "index.html").read_text() == "view"


def _fails() -> object:
    raise ValueError("no view")


@pytest.mark.parametrize("other", [_page(2, "other.html"), Page("other.html", "index.html", _fails)])
def test_a_page_that_fails_stays_and_the_others_change(tmp_path: Path, other: Page) -> None:
    website = Website(tmp_path / "pages", _templates(tmp_path / "templates", "{{ page.title() }}"))
    website.publish((_page("one"), _page("one", "other.html")))
    for _ in range(2):
        published = website.publish((_page("two"), other))
        assert list(published.failed) == ["other.html"]
        assert shown(tmp_path / "pages") == {"index.html": b"Two", "other.html": b"One"}
    website.publish((_page("two"), _page("two", "other.html")))
    assert shown(tmp_path / "pages") == {"index.html": b"Two", "other.html": b"Two"}


def test_template_values_are_escaped(tmp_path: Path) -> None:
    website = Website(tmp_path / "pages", _templates(tmp_path / "templates", "{{ page }}"))
    assert website.render((_page("<b>'\""),)).files["index.html"] == b"&lt;b&gt;&#39;&#34;"


def test_a_folder_without_write_permission_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WebsiteError, match=r"cannot write .*correct PAGES_DIR"):
        Website(tmp_path / "file" / "pages").publish(build(seen(snapshot(agent(1)))))


def test_a_full_disk_keeps_the_last_good_page(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", small], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    try:
        website = Website(small / "pages", _templates(tmp_path / "templates", "{{ page }}"))
        website.publish((_page("good"),))
        with pytest.raises(WebsiteError, match="No space left"):
            website.publish((_page("x" * 1_000_000),))
        assert (small / "pages" / "index.html").read_text() == "good"
        website.publish((_page("good again"),))
        assert (small / "pages" / "index.html").read_text() == "good again"
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)
