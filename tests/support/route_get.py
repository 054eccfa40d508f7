"""The judge of lookups: `ip route get`, in the words of a report."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from support.netns import Namespace


def asked(namespace: Namespace, lookup: dict[str, Any], local: str | None, link: str | None) -> dict[str, Any]:
    """What `ip route get` says to the same question, in the words of a lookup."""
    words = ["route", "get", lookup["destination"], "mark", str(lookup["fwmark"])]
    words += ["from", local] if local else []
    words += ["oif", link] if link else []
    answer = subprocess.run(
        ["ip", "-n", namespace.name, "-json", "-details", *words], check=False, capture_output=True, text=True
    )
    about = {name: lookup[name] for name in ("purpose", "tunnel", "destination", "fwmark")}
    if answer.returncode:
        error = answer.stderr.removeprefix("RTNETLINK answers: ").strip()
        return about | dict.fromkeys(("interface", "gateway", "source", "mtu", "table")) | {"error": error}
    (said,) = json.loads(answer.stdout)
    own_mtu = next(each["mtu"] for each in namespace.listed("link") if each["ifname"] == said["dev"])
    return about | {
        "interface": said["dev"],
        "gateway": said.get("gateway"),
        "source": local or said.get("prefsrc"),
        "mtu": said.get("metrics", [{}])[0].get("mtu", own_mtu),
        "table": table(said.get("table", "main")),
        "error": None,
    }


def table(name: str) -> int:
    return {"local": 255, "main": 254, "default": 253}.get(name) or int(name)
