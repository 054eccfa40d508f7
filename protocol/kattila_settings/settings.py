"""Reads settings from `.env` and the environment; an error names the setting and the file line it came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dotenv.parser import Original, parse_stream

ENV_FILE = ".env"
# Names another file than ./.env.
ENV_FILE_VARIABLE = "KATTILA_ENV"

_Parsed = TypeVar("_Parsed")


class ConfigError(Exception):
    """A setting is missing or wrong. The text names the setting, its value, where it was set, and what is expected."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its name, its default (as text), its help text, and whether it is a secret."""

    name: str
    default: str
    help: str
    is_secret: bool = False


@dataclass(frozen=True, slots=True)
class RawValue:
    """The text of a setting and its origin, such as ".env line 3" or "the environment"."""

    text: str
    origin: str


class Settings:
    """The raw values of a program's settings. Unknown names are ignored."""

    def __init__(self, known: Sequence[Setting], raw_values: Mapping[str, RawValue]) -> None:
        """Take the program's settings and the raw values by name."""
        self._known = {setting.name: setting for setting in known}
        self._raw_values = raw_values

    def parse(self, name: str, parse_value: Callable[[str], _Parsed]) -> _Parsed:
        """Return the parsed value of a setting; an empty or missing value means the default.

        Raises:
            ConfigError: `parse_value` raised ValueError; its text says what is expected.
        """
        setting = self._known[name]
        raw = self._raw_values.get(name, RawValue("", "the default"))
        text = raw.text.strip()
        try:
            return parse_value(text or setting.default)
        except ValueError as error:
            shown = "…" if setting.is_secret else _without_password(text)
            raise ConfigError(f"{name}={shown} ({raw.origin}): {error}") from None


def read_settings(
    known: Sequence[Setting], env_file: str | None, environment: Mapping[str, str], folder: Path
) -> Settings:
    """Read settings from one file and from the environment; the environment wins.

    The file is `env_file`, or the one that KATTILA_ENV names, or `.env` in `folder` if it exists.

    Raises:
        ConfigError: a file that was named cannot be read, or a line is not a setting.
    """
    named_file = env_file or environment.get(ENV_FILE_VARIABLE) or None
    path = folder / (named_file or ENV_FILE)
    raw_values = _read_file(path, may_be_missing=not named_file)
    raw_values |= {
        setting.name: RawValue(environment[setting.name], "the environment")
        for setting in known
        if setting.name in environment
    }
    return Settings(known, raw_values)


def unnamed_file(env_file: str | None, environment: Mapping[str, str], folder: Path) -> Path | None:
    """Return the path of `.env` in `folder`, None if `read_settings` reads a file that was named."""
    return None if env_file or environment.get(ENV_FILE_VARIABLE) else folder / ENV_FILE


def required(value: _Parsed | None, name: str, example: str) -> _Parsed:
    """Return the value of a mandatory setting; raises ConfigError if it is None."""
    if value is None:
        raise ConfigError(f"{name} is not set: add it to {ENV_FILE} or the environment; {example}")
    return value


def settings_table(known: Sequence[Setting]) -> str:
    """Return the settings as a Markdown table, with the same texts as `--help`."""
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


def _read_file(path: Path, *, may_be_missing: bool) -> dict[str, RawValue]:
    raw_values: dict[str, RawValue] = {}
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
        origin = f"{path} line {_line_number(binding.original)}"
        if binding.error:
            # The text does not quote the line, which may hold a secret.
            raise ConfigError(f"{origin} is not of the form NAME=value, or a quote is not closed")
        if binding.key is not None:
            raw_values[binding.key] = RawValue(binding.value or "", origin)
    return raw_values


def _line_number(original: Original) -> int:
    # python-dotenv counts from the blank lines before a setting.
    blank = original.string[: len(original.string) - len(original.string.lstrip())]
    return original.line + blank.count("\n")


def _without_password(text: str) -> str:
    # A URL with a password is refused, and the refusal ends up in a log: leave the password out.
    scheme, slashes, rest = text.partition("//")
    return f"{scheme}{slashes}…@{rest.rpartition('@')[2]}" if "@" in rest else text
