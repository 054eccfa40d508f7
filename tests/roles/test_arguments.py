"""The roles' defaults and argument specs agree, and cover every setting."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from kattila_agent import config as agent_config
from kattila_manager import config as manager_config
from support.modules import tasks_in

ROLES = Path(__file__).parent.parent.parent / "roles"
NAMES = sorted(path.name for path in ROLES.iterdir())
TYPES: dict[str, type] = {"str": str, "path": str, "int": int, "bool": bool, "list": list, "dict": dict}
# Facts that a role sets for others.
FACTS = {"kattila_preflight_architecture", "kattila_preflight_fingerprint"}
# Settings that follow from the role's own units and folders.
FIXED = {"STATE_DIR", "WIREGUARD_HELPER", "CLOCK_HELPER"}


def loaded(role: str, path: str) -> Any:
    return yaml.safe_load((ROLES / role / path).read_text())


def defaults(role: str) -> dict[str, Any]:
    return dict(loaded(role, "defaults/main.yml"))


def options(role: str) -> dict[str, dict[str, Any]]:
    return dict(loaded(role, "meta/argument_specs.yml")["argument_specs"]["main"]["options"])


def written_settings() -> dict[str, Any]:
    """Return the arguments with which the manager's role writes its settings file."""
    tasks, module = loaded("kattila_manager", "tasks/configure.yml"), "kattila.status.kattila_environment"
    (written,) = [task[module] for task in tasks if module in task]
    return dict(written)


def is_expression(value: Any) -> bool:
    return isinstance(value, str) and "{{" in value


def optional(role: str) -> dict[str, tuple[dict[str, Any], Any]]:
    """Return the options with a default: by name the option and its value in defaults."""
    return {name: (option, defaults(role)[name]) for name, option in options(role).items() if "default" in option}


each_role = pytest.mark.parametrize("role", NAMES)


@each_role
def test_defaults_and_argument_specs_name_the_same_variables(role: str) -> None:
    assert list(defaults(role)) == list(options(role))


@each_role
def test_variables_begin_with_the_name_of_their_role(role: str) -> None:
    assert [name for name in options(role) if not name.startswith(f"{role}_")] == []


@each_role
def test_all_other_variables_are_marked_as_internal(role: str) -> None:
    internal = set(loaded(role, "vars/main.yml"))
    for path in (ROLES / role / "tasks").glob("*.yml"):
        for task in tasks_in(path):
            internal |= {task["register"]} if "register" in task else set()
            internal |= set(task.get("ansible.builtin.set_fact", {}))
    assert [name for name in internal - FACTS if not name.startswith(f"__{role}_")] == []


def test_the_documented_facts_exist() -> None:
    specs = (ROLES / "kattila_preflight/meta/argument_specs.yml").read_text()
    assert [fact for fact in FACTS if f"`{fact}`" not in specs] == []


@each_role
def test_every_variable_is_described_and_typed(role: str) -> None:
    described = [(option["description"], TYPES[option["type"]]) for option in options(role).values()]
    assert all(described)
    assert [
        name for name, option in options(role).items() if (option["type"] == "list") != ("elements" in option)
    ] == []


@each_role
def test_variables_without_a_default_come_from_the_inventory(role: str) -> None:
    required = {name: defaults(role)[name] for name in options(role).keys() - optional(role).keys()}
    assert [name for name in required if not options(role)[name].get("required", False)] == []
    assert [name for name, value in required.items() if not re.fullmatch(r"{{ kattila_\w+ }}", value)] == []


@each_role
def test_defaults_are_the_documented_ones(role: str) -> None:
    # Expressions are left out: they look up fleet or node variables before they fall back to the documented default.
    plain = {name: pair for name, pair in optional(role).items() if not is_expression(pair[1])}
    assert [name for name, (option, value) in plain.items() if value != option["default"]] == []


@each_role
def test_defaults_are_of_their_type(role: str) -> None:
    for name, (option, value) in optional(role).items():
        plain = [each for each in (option["default"], value) if not is_expression(each)]
        assert [each for each in plain if type(each) is not TYPES[option["type"]]] == [], name
        assert [each for each in plain if each not in option.get("choices", [each])] == [], name


def test_every_setting_of_the_agent_can_be_set() -> None:
    written = loaded("kattila_agent", "vars/main.yml")["__kattila_agent_environment"]
    named, further = re.findall(r"'([A-Z_]+)':", written), options("kattila_agent")["kattila_agent_settings"]["options"]
    assert "combine(kattila_agent_settings)" in written
    assert sorted([*named, *further, *FIXED]) == sorted(setting.name for setting in agent_config.SETTINGS)


@each_role
def test_every_entry_point_has_the_same_options(role: str) -> None:
    specs = loaded(role, "meta/argument_specs.yml")["argument_specs"]
    assert {name: spec["options"] for name, spec in specs.items()} == dict.fromkeys(specs, options(role))


def test_every_setting_of_the_manager_can_be_set() -> None:
    tasks = loaded("kattila_manager", "tasks/configure.yml")
    (written,) = [
        task["kattila.status.kattila_environment"] for task in tasks if "kattila.status.kattila_environment" in task
    ]
    assert {*written["settings"], *written["tokens"]} == {setting.name for setting in manager_config.SETTINGS}


def test_the_managers_secrets_are_generated_on_its_node_or_given_without_a_trace() -> None:
    tasks = loaded("kattila_manager", "tasks/configure.yml")
    (written,) = [
        task["kattila.status.kattila_environment"] for task in tasks if "kattila.status.kattila_environment" in task
    ]
    secret = {setting.name for setting in manager_config.SETTINGS if setting.is_secret}
    assert set(written["tokens"]) == set(written["given"]) == secret
    names = [name for name in options("kattila_manager") if name.endswith("_token")]
    assert sorted(written["given"].values()) == sorted(f"{{{{ {name} }}}}" for name in names)
    assert [(options("kattila_manager")[name].get("no_log"), defaults("kattila_manager")[name]) for name in names] == [
        (True, "")
    ] * len(secret)
