"""`.env` and the environment to texts that know where they stand, and the errors that say so.

May live here: where settings are read and how a wrong one is told. Not here: which settings there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dotenv.parser import Original, parse_stream

ENV_FILE = ".env"
# Names another file than ./.env.
ENV_FILE_VARIABLE = "KATTILA_ENV"

_Value = TypeVar("_Value")


class ConfigError(Exception):
    """A setting is missing or wrong; the text names it, its value, where that stands, and what is expected."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its name, what holds when it is not set (as text), what it is for, and whether it is a secret."""

    name: str
    default: str
    help: str
    is_secret: bool = False


@dataclass(frozen=True, slots=True)
class Given:
    """A setting's value as text and where it stands, as in ".env line 3" or "the environment"."""

    value: str
    origin: str


class Settings:
    """What was given for the settings that a program knows; names that it does not know are skipped."""

    def __init__(self, known: Sequence[Setting], given: Mapping[str, Given]) -> None:
        """Take the known settings and what was given, by name."""
        self._known = {setting.name: setting for setting in known}
        self._given = given

    def checked(self, name: str, read_value: Callable[[str], _Value]) -> _Value:
        """Return `read_value` of the setting's text, of its default where it is empty.

        Raises:
            ConfigError: `read_value` raised ValueError; its text says what is expected.
        """
        setting = self._known[name]
        found = self._given.get(name, Given("", "the default"))
        text = found.value.strip()
        try:
            return read_value(text or setting.default)
        except ValueError as error:
            shown = "…" if setting.is_secret else _without_password(text)
            raise ConfigError(f"{name}={shown} ({found.origin}): {error}") from None


def read(known: Sequence[Setting], env_file: str | None, environment: Mapping[str, str], folder: Path) -> Settings:
    """Read the settings of the environment and, below them, of one file.

    The file is `env_file`, else the one that KATTILA_ENV names, else `.env` in `folder` if there is one.

    Raises:
        ConfigError: a file that was asked for cannot be read, or a line is no setting.
    """
    asked_for = env_file or environment.get(ENV_FILE_VARIABLE) or None
    path = folder / (asked_for or ENV_FILE)
    given = _read_file(path, may_be_missing=not asked_for)
    given |= {
        setting.name: Given(environment[setting.name], "the environment")
        for setting in known
        if setting.name in environment
    }
    return Settings(known, given)


def required(value: _Value | None, name: str, example: str) -> _Value:
    """Return a value that may not be missing; raises ConfigError."""
    if value is None:
        raise ConfigError(f"{name} is not set: put it into {ENV_FILE} or the environment; {example}")
    return value


def settings_table(known: Sequence[Setting]) -> str:
    """Return the settings as a Markdown table, for the README; `--help` shows the same texts."""
    rows = [f"| `{setting.name}` | {_code(setting.default)} | {setting.help} |" for setting in known]
    return "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows]) + "\n"


def settings_help(known: Sequence[Setting]) -> str:
    """Return the settings as indented text, for `--help`."""
    width = max(len(setting.name) for setting in known)
    rows = [
        f"  {setting.name.ljust(width)}  {setting.help.replace('`', '')}"
        + (f" (default: {setting.default})" if setting.default else "")
        for setting in known
    ]
    return "\n".join(rows)


def _code(default: str) -> str:
    return f"`{default}`" if default else "none"


def _read_file(path: Path, *, may_be_missing: bool) -> dict[str, Given]:
    given: dict[str, Given] = {}
    try:
        with path.open(encoding="utf-8") as stream:
            bindings = list(parse_stream(stream))
    except OSError as error:
        if may_be_missing and isinstance(error, FileNotFoundError):
            return {}
        raise ConfigError(f"cannot read the settings in {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start})") from None
    for binding in bindings:
        origin = f"{path} line {_line_of(binding.original)}"
        if binding.error:
            # The line itself may hold a secret.
            raise ConfigError(f"{origin} is not of the form NAME=value, or a quote is not closed")
        if binding.key is not None:
            given[binding.key] = Given(binding.value or "", origin)
    return given


def _line_of(original: Original) -> int:
    # A binding begins with the blank lines in front of it.
    blank = original.string[: len(original.string) - len(original.string.lstrip())]
    return original.line + blank.count("\n")


def _without_password(text: str) -> str:
    # A password in a URL is the very thing that is refused, so it is not repeated in a log.
    scheme, slashes, rest = text.partition("//")
    return f"{scheme}{slashes}…@{rest.rpartition('@')[2]}" if "@" in rest else text
