"""Why a tunnel is in its state: stable codes, their texts for engineers, and the commands to check with.

In a text A and B are the ends, as the verdict orders them. `{absence}` is the standing of A, `{time}`, `{span}` and
`{key}` are values of the verdict, and `{age}` is how long ago the handshake was. Texts of alarms must not contain
`{age}`, because alarms are rewritten when their text changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from kattila_manager.topology.wireguard.ends import Standing


class Reason(StrEnum):
    """The reasons of all verdicts."""

    # Up.
    HANDSHAKE = "handshake"
    RENEWED_BY_SENDER = "renewed_by_sender"
    RENEWED_BY_RECEIVER = "renewed_by_receiver"
    REBOOTED = "rebooted"
    RECREATED = "recreated"
    CLOCK_JUMPED = "clock_jumped"
    CLOCK_WENT_BACK = "clock_went_back"
    UP_BY_ONE = "up_by_one"
    # Suspect.
    RENEWAL_DUE = "renewal_due"
    QUIET = "quiet"
    TWO_LOST = "two_lost"
    TRYING = "trying"
    OVERDUE_BY_ONE = "overdue_by_one"
    LATE = "late"
    # Down.
    NOTHING_TO_SEND = "nothing_to_send"
    OTHER_NOT_TRIED = "other_not_tried"
    NOTHING_ARRIVES = "nothing_arrives"
    NEITHER_RECEIVES = "neither_receives"
    THREE_LOST = "three_lost"
    NOT_ARRIVED = "not_arrived"
    TRIED = "tried"
    NOT_RENEWED = "not_renewed"
    NOT_SENDING = "not_sending"
    INTERFACE_DOWN = "interface_down"
    CLOCK_BEHIND = "clock_behind"
    BOTH_RESTARTED = "both_restarted"
    DOWN_BY_ONE = "down_by_one"
    # One direction, refused.
    ANSWER_LOST = "answer_lost"
    ANSWER_OR_KEYS = "answer_or_keys"
    KEY_ON_ONE_SIDE = "key_on_one_side"
    NOTHING_COMPLETES = "nothing_completes"
    # Never.
    NEVER_ARRIVED = "never_arrived"
    NEVER_ANSWERED = "never_answered"
    NEVER_TRIED = "never_tried"
    NEVER_YET = "never_yet"
    NO_ENDPOINTS = "no_endpoints"
    NEVER_BY_ONE = "never_by_one"
    # Idle.
    IDLE = "idle"
    NO_ENDPOINT = "no_endpoint"
    # One side lists the other.
    NOT_LISTED = "not_listed"
    REMOVED = "removed"
    FORMER_KEY = "former_key"
    INTERFACE_GONE = "interface_gone"
    ABSENT_ONCE = "absent_once"
    STALE_ABSENCE = "stale_absence"
    STALE_LISTING = "stale_listing"
    # Unknown, and no new verdict.
    NOBODY_REPORTS = "nobody_reports"
    UNREADABLE = "unreadable"
    KEY_CLAIMED_TWICE = "key_claimed_twice"
    TWO_AGENTS = "two_agents"
    SHORT_RUN = "short_run"
    # External.
    EXTERNAL_UP = "external_up"
    EXTERNAL_IDLE = "external_idle"
    EXTERNAL_DOWN = "external_down"
    EXTERNAL_NEVER = "external_never"
    EXTERNAL_UNKNOWN = "external_unknown"


class Note(StrEnum):
    """What else is known about a tunnel, beside its state; other modules find it."""

    PACKET_LOSS = "packet_loss"
    NOT_ALLOWED = "not_allowed"
    INVALID_DATA = "invalid_data"
    STANDBY = "standby"
    UNMONITORED = "unmonitored"
    NOW_MONITORED = "now_monitored"
    FORGOTTEN = "forgotten"


TEXTS: Mapping[Reason | Note, str] = {
    Reason.HANDSHAKE: "{a} and {b} completed a handshake {age} ago. That proves both directions.",
    Reason.RENEWED_BY_SENDER: (
        "{a} and {b} completed a handshake {age} ago. That proves both directions. "
        "The initiator renews the session when it next sends."
    ),
    Reason.RENEWED_BY_RECEIVER: (
        "The session is {age} old. {a} renews it on the next packet received after 165 s, or {b} does at 180 s."
    ),
    Reason.REBOOTED: "{a} rebooted and its counters restarted. A handshake that {b} knows counts for both sides.",
    Reason.RECREATED: "{a}'s interface was recreated. A handshake that {b} knows counts for both sides.",
    Reason.CLOCK_JUMPED: (
        "{a}'s clock jumped forward. The last known handshake still counts: "
        "without a byte received there was no new handshake."
    ),
    Reason.CLOCK_WENT_BACK: ("{a}'s clock jumped back. The last known handshake still counts, at its known time."),
    Reason.UP_BY_ONE: "{absence}. {b} reports a handshake {age} ago, which proves both directions.",
    Reason.RENEWAL_DUE: ("The session is due for renewal. It is not late until {span} after the last handshake."),
    Reason.QUIET: ("Renewal is due and nothing was received for {span}. One keepalive may be lost or late."),
    Reason.TWO_LOST: "Two of {a}'s packets in a row did not reach {b}.",
    Reason.TRYING: "{a} is trying to reach {b}.",
    Reason.LATE: "The session was not renewed within {span} of the last handshake. No packet is known to be lost.",
    Reason.OVERDUE_BY_ONE: (
        "Renewal is overdue by {b}'s report. {a} has not reported since; "
        "it will report or count as silent within {span}."
    ),
    Reason.NOTHING_TO_SEND: "Nothing that {a} sends reaches {b}. {b} had nothing to send.",
    Reason.OTHER_NOT_TRIED: (
        "{a}'s keepalives and handshake attempts do not reach {b}. The direction {b}→{a} was not tried."
    ),
    Reason.NOTHING_ARRIVES: "Nothing arrives in either direction.",
    Reason.NEITHER_RECEIVES: "Both sides send and neither receives.",
    Reason.THREE_LOST: ("Three of {a}'s packets in a row did not reach {b}, although the session is young."),
    Reason.NOT_ARRIVED: "{a} tried to reach {b} and nothing arrived.",
    Reason.TRIED: "The last attempts failed, and nothing shows that the tunnel works again.",
    Reason.NOT_RENEWED: "The session was not renewed within {span} of the last handshake.",
    Reason.NOT_SENDING: (
        "{a} does not even send: it has no route to the endpoint, "
        "or (wireguard-go) its own output filter refuses the packets."
    ),
    Reason.INTERFACE_DOWN: "{a}'s interface {a_interface} is down.",
    Reason.CLOCK_BEHIND: (
        "{a}'s clock went back, so {b} refuses {a}'s handshakes as older than the last one. Set {a}'s clock."
    ),
    Reason.BOTH_RESTARTED: ("No handshake since both sides restarted. The last one before that was at {time}."),
    Reason.DOWN_BY_ONE: "{b} gets no answer from {a}, and {absence}. This tunnel is affected.",
    Reason.ANSWER_LOST: (
        "{b}'s initiations reach {a} and {a} answers, but no answer reaches {b}. "
        "Check {b}'s input filter and the path in front of {b}."
    ),
    Reason.ANSWER_OR_KEYS: (
        "{b}'s answers do not reach {a}, or the preshared keys differ. The counters look the same in both cases."
    ),
    Reason.KEY_ON_ONE_SIDE: ("One side has a preshared key and the other has none, so no handshake completes."),
    Reason.NOTHING_COMPLETES: (
        "Packets arrive in both directions, but no handshake completes: the preshared keys differ."
    ),
    Reason.NEVER_ARRIVED: (
        "{a} has tried for {span} and nothing arrives at {b}. The two sides have never completed a handshake."
    ),
    Reason.NEVER_ANSWERED: (
        "They have never completed a handshake: {b}'s answers do not reach {a}, or the preshared keys differ. "
        "The counters look the same."
    ),
    Reason.NEVER_TRIED: "No handshake yet. Neither side has tried: no traffic and no keepalive.",
    Reason.NEVER_YET: "No handshake yet. {a} is trying to reach {b}.",
    Reason.NO_ENDPOINTS: "No handshake yet. Neither side knows the other's endpoint.",
    Reason.NEVER_BY_ONE: "{absence}. By {b}'s report there has been no handshake yet.",
    Reason.IDLE: ("Nothing was sent. Without a keepalive, a session is renewed only when there is something to send."),
    Reason.NO_ENDPOINT: (
        "Nothing was sent. {a} has a keepalive but knows no endpoint, so neither side has to keep the session alive."
    ),
    Reason.NOT_LISTED: (
        "{a} has {b} as a peer, but {b}'s {b_interface} does not have {a}. Add {a} on {b}, or remove {b} on {a}."
    ),
    Reason.REMOVED: (
        "{b} no longer has {a} as a peer. The last handshake is older than that, and {b} now refuses {a}'s packets."
    ),
    Reason.FORMER_KEY: "{a} uses {b}'s former key, which changed at {time}. {b}'s key is now {key}.",
    Reason.INTERFACE_GONE: (
        "{a} has {b} as a peer, but {b}'s interface {b_interface} does not exist since {time}. "
        "Start it on {b}, or remove {b} on {a}."
    ),
    # A rollout in progress looks the same.
    Reason.ABSENT_ONCE: "",
    Reason.STALE_ABSENCE: (
        "{b} did not list {a} in its last report, but that report is stale and {b} may have changed since."
    ),
    Reason.STALE_LISTING: (
        "{a} listed {b} in its last report, but that report is stale and {a} may have changed since. "
        "{b} does not list {a}."
    ),
    Reason.NOBODY_REPORTS: "{a} and {b} are both silent. Nothing is known since {time}.",
    Reason.UNREADABLE: (
        "{a}'s WireGuard data could not be read or is incomplete. "
        "The peer is unknown, never absent; the last known facts are shown."
    ),
    Reason.KEY_CLAIMED_TWICE: (
        "Two agents use this key: a cloned machine, or a failover pair whose standby is not down."
    ),
    Reason.TWO_AGENTS: "Two agents run on one machine and report the same key.",
    Reason.SHORT_RUN: (
        "Monitoring just restarted and has too little evidence for a new verdict, so the last state stays."
    ),
    Reason.EXTERNAL_UP: "The external peer completed a handshake {age} ago.",
    Reason.EXTERNAL_IDLE: ("No handshake for {age}, and no keepalive. A phone that is switched off looks the same."),
    Reason.EXTERNAL_DOWN: "This side has to keep the tunnel up and does not succeed.",
    Reason.EXTERNAL_NEVER: "The external peer has never completed a handshake.",
    Reason.EXTERNAL_UNKNOWN: "{absence}. Nothing is known since {time}.",
    Note.PACKET_LOSS: ("Packet loss makes this tunnel hardly usable. The alarm's count shows how often it failed."),
    Note.NOT_ALLOWED: (
        "Handshakes succeed, but {b} discards {a}'s packets: their source is not in {b}'s AllowedIPs for {a}."
    ),
    Note.INVALID_DATA: ("The direction {a}→{b} works: the handshakes that {a}'s unanswered data triggers arrive."),
    Note.STANDBY: "A second agent has this key on an interface that is down: a standby.",
    Note.UNMONITORED: "This peer has a working tunnel, and nobody monitors it.",
    Note.NOW_MONITORED: "An agent was installed on this peer.",
    Note.FORGOTTEN: "{a} was forgotten. Nobody monitors it any more.",
}

ABSENCES: Mapping[Standing, str] = {
    Standing.FRESH: "{a} reports",
    Standing.SILENT: "{a} is silent",
    Standing.UNHEARD: "{a} has not reported since the manager returned",
    Standing.LATE: "{a} counts as silent until a report arrives in order",
    Standing.UNREADABLE: "{a}'s WireGuard data could not be read or is incomplete",
}

# Commands by the end to run them on. Fields that the end does not know make a command drop out.
_SHOW = "wg show {interface}"
_ROUTE = "ip route get {endpoint}"
_FILTER = "nft list ruleset"
_BOTH_SHOW = (("a", _SHOW), ("b", _SHOW))
_PATH = (("a", _ROUTE), ("a", _FILTER), ("b", _FILTER))
_CLOCK = (("a", "timedatectl"),)
_AGENT = (("a", "journalctl -u kattila-agent -n 50"),)

COMMANDS: Mapping[Reason, tuple[tuple[str, str], ...]] = {
    Reason.CLOCK_JUMPED: _CLOCK,
    Reason.CLOCK_WENT_BACK: _CLOCK,
    Reason.TWO_LOST: _PATH,
    Reason.TRYING: _PATH,
    Reason.NOTHING_TO_SEND: _PATH,
    Reason.OTHER_NOT_TRIED: _PATH,
    Reason.NOTHING_ARRIVES: (*_PATH, ("b", _ROUTE)),
    Reason.NEITHER_RECEIVES: (*_PATH, ("b", _ROUTE)),
    Reason.THREE_LOST: _PATH,
    Reason.NOT_ARRIVED: _PATH,
    Reason.TRIED: _PATH,
    Reason.NOT_SENDING: (("a", _ROUTE), ("a", _FILTER)),
    Reason.INTERFACE_DOWN: (("a", "ip link show dev {interface}"),),
    Reason.CLOCK_BEHIND: _CLOCK,
    Reason.DOWN_BY_ONE: (("b", _ROUTE), *_AGENT),
    Reason.UP_BY_ONE: _AGENT,
    Reason.ANSWER_LOST: (("b", _FILTER), ("b", _SHOW)),
    Reason.ANSWER_OR_KEYS: (("a", _FILTER), *_BOTH_SHOW),
    Reason.NEVER_ARRIVED: _PATH,
    Reason.NEVER_ANSWERED: (("a", _FILTER), *_BOTH_SHOW),
    Reason.NOT_LISTED: (("b", _SHOW), ("a", _SHOW)),
    Reason.REMOVED: (("b", _SHOW),),
    Reason.FORMER_KEY: (("a", _SHOW), ("b", _SHOW)),
    Reason.INTERFACE_GONE: (("b", "ip link show dev {interface}"), ("a", _SHOW)),
    Reason.STALE_ABSENCE: (("b", "journalctl -u kattila-agent -n 50"),),
    Reason.STALE_LISTING: _AGENT,
    Reason.NOBODY_REPORTS: (*_AGENT, ("b", "journalctl -u kattila-agent -n 50")),
    Reason.UNREADABLE: (("a", _SHOW), *_AGENT),
    Reason.EXTERNAL_UP: (("a", _SHOW),),
    Reason.EXTERNAL_IDLE: (("a", _SHOW),),
    Reason.EXTERNAL_DOWN: (("a", _ROUTE), ("a", _SHOW)),
    Reason.EXTERNAL_NEVER: (("a", _SHOW),),
    Reason.EXTERNAL_UNKNOWN: _AGENT,
}
# All other reasons.
DEFAULT_COMMANDS = _BOTH_SHOW
