"""Renders pages to HTML, and publishes them in a folder."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from kattila_manager import site_folder
from kattila_manager.pages.index_page import Page

TEMPLATES = Path(__file__).with_name("report_templates")
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
            kept = {path: page for path, page in site_folder.published(self._folder).items() if path in site.failed}
            return Published(site_folder.swap(self._folder, kept | site.files), site.failed)
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


def _hash(style: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
