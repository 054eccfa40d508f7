"""Renders pages to HTML, and swaps them into a folder, so that readers never see a half-written site.

`PAGES_DIR` stays a plain folder, which a web server, a bind mount or a shell may have open. Each entry in it is a link
into `.current`, which links to one version of the whole site. Renaming a new `.current` over the old one swaps all
pages at once.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from kattila_manager.pages.index_page import Page

TEMPLATES = Path(__file__).with_name("report_templates")
_VERSIONS = ".versions"
_CURRENT = ".current"
_STYLE = "style.css"


class WebsiteError(Exception):
    """The pages could not be written; the previous ones remain."""


@dataclass(slots=True)
class Site:
    """The bytes of each page by its path, and the errors of pages that could not be rendered."""

    files: dict[str, bytes] = field(default_factory=dict)
    failed: dict[str, Exception] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Published:
    """The number of pages that changed, and the errors of pages that could not be rendered, by path."""

    changed: int
    failed: Mapping[str, Exception]


class Website:
    """The pages in one folder, for one publisher at a time."""

    def __init__(self, folder: Path, templates: Path = TEMPLATES) -> None:
        """Publish to this folder with these templates. Nothing is written yet."""
        self._folder = folder
        self._templates = templates
        self._environment = Environment(
            loader=FileSystemLoader(templates),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def publish(self, pages: Iterable[Page]) -> Published:
        """Render all pages and swap them in together. A page that cannot be rendered stays as it was.

        Raises:
            WebsiteError: the folder cannot be written, or the style sheet is missing; the previous pages remain.
        """
        try:
            site = self.render(pages)
            kept = {path: page for path, page in _files_in(self._folder / _CURRENT).items() if path in site.failed}
            return Published(swap(self._folder, kept | site.files), site.failed)
        except OSError as error:
            where = error.filename or self._folder
            raise WebsiteError(
                f"cannot write {where} ({error.strerror}): change its owner, or correct PAGES_DIR"
            ) from error

    def render(self, pages: Iterable[Page]) -> Site:
        """Return all pages."""
        style = (self._templates / _STYLE).read_text(encoding="utf-8").strip()
        given = {"style": Markup(style), "style_hash": _hash(style)}  # noqa: S704 - our own file
        site = Site()
        for page in pages:
            try:
                site.files[page.path] = self._render(page, given)
            except Exception as error:
                site.failed[page.path] = error
        return site

    def _render(self, page: Page, given: Mapping[str, str]) -> bytes:
        template = self._environment.get_template(page.template)
        return template.render(page=page.make_view(), **given).encode("utf-8", "replace")


def swap(folder: Path, files: Mapping[str, bytes]) -> int:
    """Replace the folder's files by `files` (path to content), all at once; return how many changed.

    Unchanged files are not written again. The disk is not synced: after a power cut the next rendering writes the
    files again.

    Raises:
        OSError: the folder cannot be written, or has other files of these names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = {path.partition("/")[0] for path in files}
    _check_names(folder, names)
    before = _files_in(folder / _CURRENT)
    changed = {path for path in files if files[path] != before.get(path)}
    if changed or files.keys() != before.keys():
        _write_version(folder, files, changed)
    _link(folder, names)
    return len(changed | (before.keys() - files.keys()))


def _write_version(folder: Path, files: Mapping[str, bytes], changed: set[str]) -> None:
    current, versions = folder / _CURRENT, folder / _VERSIONS
    old = current.readlink().name if current.exists() else "0"
    versions.mkdir(exist_ok=True)
    _remove_versions(versions, keep={old})
    new = versions / str(int(old) + 1)
    for path, content in files.items():
        target = new / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if path in changed or not _linked(current / path, target):
            target.write_bytes(content)
    _put_link(current, Path(_VERSIONS) / new.name)
    # A reader that has just opened the old folder can finish.
    _remove_versions(versions, keep={old, new.name})


def _check_names(folder: Path, names: set[str]) -> None:
    for path in (folder / name for name in (*sorted(names), _CURRENT)):
        if path.exists() and not path.is_symlink():
            raise FileExistsError(
                errno.EEXIST, "the file exists and is not kattila's; choose an empty folder", str(path)
            )


def _link(folder: Path, names: set[str]) -> None:
    """Link exactly these names in the folder to `.current`."""
    for name in sorted(names):
        if not (folder / name).is_symlink():
            _put_link(folder / name, Path(_CURRENT) / name)
    for link in folder.iterdir():
        if link.name not in names and link.is_symlink() and link.readlink() == Path(_CURRENT) / link.name:
            link.unlink()


def _put_link(link: Path, target: Path) -> None:
    aside = link.with_name(f".{link.name}.new")
    aside.unlink(missing_ok=True)
    aside.symlink_to(target)
    aside.replace(link)


def _linked(old: Path, new: Path) -> bool:
    # Some file systems lack hard links.
    with suppress(OSError):
        os.link(old.resolve(), new)
        return True
    return False


def _files_in(folder: Path) -> dict[str, bytes]:
    # The folder itself is a link; there are no links inside it.
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _remove_versions(versions: Path, keep: set[str]) -> None:
    for version in versions.iterdir():
        if version.name not in keep:
            shutil.rmtree(version)


def _hash(style: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
