"""Views to HTML, and HTML to a folder that readers never meet half-written.

May live here: the only Jinja, and the swap. `PAGES_DIR` stays one plain folder, so that a web server, a bind mount or a
shell may stand in it. Each thing in it is a link into `.current`, and `.current` is a link to one version of the whole
site: renaming a new `.current` over the old one swaps all pages at once.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError
from markupsafe import Markup

from kattila_manager.pages.index_page import Page

TEMPLATES = Path(__file__).with_name("report_templates")
_VERSIONS = ".versions"
_CURRENT = ".current"
_STYLE = "style.css"


class WebsiteError(Exception):
    """The pages could not be rendered or written; the last good ones are still there."""


class Website:
    """The pages in one folder; for one publisher at a time."""

    def __init__(self, folder: Path, templates: Path = TEMPLATES) -> None:
        """Take the folder to publish in, and where the templates are. Touches nothing yet."""
        self._folder = folder
        self._templates = templates
        self._environment = Environment(
            loader=FileSystemLoader(templates),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def publish(self, pages: Iterable[Page]) -> int:
        """Render all pages and put them in place together; return how many changed.

        Raises:
            WebsiteError: a template is wrong, or the folder cannot be written; the last pages stay as they were.
        """
        try:
            return swap(self._folder, self.render(pages))
        except TemplateError as error:
            raise WebsiteError(f"the templates in {self._templates}: {type(error).__name__}: {error}") from error
        except OSError as error:
            where = error.filename or self._folder
            raise WebsiteError(f"cannot write {where} ({error.strerror}): correct PAGES_DIR, or its owner") from error

    def render(self, pages: Iterable[Page]) -> dict[str, bytes]:
        """Return each page's path and its bytes."""
        style = (self._templates / _STYLE).read_text(encoding="utf-8").strip()
        given = {"style": Markup(style), "style_hash": _hash(style)}  # noqa: S704 - our own file
        return {page.path: self._render(page, given) for page in pages}

    def _render(self, page: Page, given: Mapping[str, str]) -> bytes:
        template = self._environment.get_template(page.template)
        return template.render(page=page.view, **given).encode("utf-8", "replace")


def swap(folder: Path, files: Mapping[str, bytes]) -> int:
    """Make `files` (path to content) what the folder shows, all at once; return how many changed.

    Files that did not change are not written again, and nothing is if none did. Not synced to disk: after a power cut
    the next rendering writes them anew.

    Raises:
        OSError: the folder cannot be written, or holds files of this name that are not ours.
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
    # A reader that has just opened the old folder may finish.
    _remove_versions(versions, keep={old, new.name})


def _check_names(folder: Path, names: set[str]) -> None:
    for path in (folder / name for name in (*sorted(names), _CURRENT)):
        if path.exists() and not path.is_symlink():
            raise FileExistsError(
                errno.EEXIST, "it is there already and not kattila's; choose an empty folder", str(path)
            )


def _link(folder: Path, names: set[str]) -> None:
    """Let the folder show these names of `.current`, and no others of it."""
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
    # Some file systems have no hard links.
    with suppress(OSError):
        os.link(old.resolve(), new)
        return True
    return False


def _files_in(folder: Path) -> dict[str, bytes]:
    # The folder itself is a link; inside it there are none.
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _remove_versions(versions: Path, keep: set[str]) -> None:
    for version in versions.iterdir():
        if version.name not in keep:
            shutil.rmtree(version)


def _hash(style: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
