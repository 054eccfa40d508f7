"""The module kattila_environment writes a settings file: tokens are generated once, kept, and never shown."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values

from support.modules import PYTHON, SKIPPED, Answer, run_module

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason=SKIPPED)
HEADER = "Written by a test."
TOKENS = ["READ_TOKEN", "ADMIN_TOKEN"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "manager.env"


def written(path: Path, check: bool = False, given: dict[str, str] | None = None, **settings: Any) -> Answer:
    return run_module(
        "kattila_environment",
        check=check,
        path=str(path),
        header=HEADER,
        settings={"DNS": "kattila.example.com", **settings},
        tokens=TOKENS,
        given=given or {},
        mode="0640",
    )


def values(path: Path) -> dict[str, str | None]:
    return dict(dotenv_values(path, interpolate=False))


def tokens(path: Path) -> list[str]:
    return [str(values(path)[name]) for name in TOKENS]


def test_tokens_are_generated_once(path: Path) -> None:
    assert written(path).changed
    first = tokens(path)
    assert len({*first}) == len(TOKENS)
    assert min(len(token) for token in first) >= 32
    assert not written(path).changed
    assert written(path, MANAGER_WORKERS=3).changed
    assert tokens(path) == first


@pytest.mark.parametrize("line", ["READ_TOKEN=chosen-by-hand", "export READ_TOKEN = chosen-by-hand"])
def test_a_token_set_by_hand_is_kept(path: Path, line: str) -> None:
    path.write_text(f"{line}\n")
    written(path)
    assert values(path)["READ_TOKEN"] == "chosen-by-hand"


def test_an_empty_token_is_generated(path: Path) -> None:
    path.write_text("READ_TOKEN=\n")
    written(path)
    assert values(path)["READ_TOKEN"]


def test_no_answer_contains_a_token(path: Path) -> None:
    answers = [written(path), written(path), written(path, MANAGER_WORKERS=3)]
    assert [token for token in tokens(path) for answer in answers if token in answer.text] == []
    assert "READ_TOKEN=(hidden)" in answers[0].members["diff"]["after"]


@pytest.mark.parametrize("token", ["chosen-in-the-inventory", 'it\'s # "odd" \\ = $HOME', "12345678"])
def test_a_given_token_replaces_the_one_in_the_file_and_is_not_shown(path: Path, token: str) -> None:
    written(path)
    admin = values(path)["ADMIN_TOKEN"]
    answer = written(path, given={"READ_TOKEN": token, "ADMIN_TOKEN": ""})
    assert answer.changed
    assert values(path)["READ_TOKEN"] == token
    assert values(path)["ADMIN_TOKEN"] == admin
    assert token not in answer.text
    assert json.dumps(token)[1:-1] not in answer.text
    assert not written(path, given={"READ_TOKEN": token}).changed


def test_a_token_stays_when_it_is_no_longer_given(path: Path) -> None:
    written(path, given={"READ_TOKEN": "chosen-in-the-inventory"})
    assert not written(path).changed
    assert values(path)["READ_TOKEN"] == "chosen-in-the-inventory"


def test_unknown_lines_are_hidden(path: Path) -> None:
    path.write_text(
        "#READ_TOKEN=an-older-one\n  export  ADMIN_TOKEN = chosen\nPASSWORD=x-y-z\nDNS=old.example.com\nodd\n"
    )
    answer = written(path)
    assert answer.members["diff"]["before"].splitlines() == [
        "(hidden)",
        "ADMIN_TOKEN=(hidden)",
        "PASSWORD=(hidden)",
        "DNS=old.example.com",
        "(hidden)",
    ]
    assert [word for word in ("an-older-one", "chosen", "x-y-z", "odd") if word in answer.text] == []


def test_check_mode_shows_the_change_and_makes_none(path: Path) -> None:
    answer = written(path, check=True)
    assert answer.changed
    assert "DNS=kattila.example.com" in answer.members["diff"]["after"]
    assert not path.exists()


def test_a_wrong_mode_is_a_change(path: Path) -> None:
    written(path)
    path.chmod(0o644)
    assert written(path, check=True).changed
    assert written(path).changed
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("value", ["a b", "it's", 'a"b', "back\\slash", "a#b", "a #b", "$HOME", "two\nlines"])
def test_a_value_survives_quoting(path: Path, value: str) -> None:
    written(path, LABELS=value)
    assert values(path)["LABELS"] == value


def test_a_setting_without_a_value_is_left_out(path: Path) -> None:
    written(path, DNS_SERVER="")
    assert "DNS_SERVER" not in values(path)
