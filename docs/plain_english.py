"""Find stilted phrases in documents, comments, docstrings, messages, pages and help texts.

Usage: .venv/bin/python docs/plain_english.py [PATH ...]; without a path it reads the whole repository.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import token
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MOST_QUOTATIONS = 15

_TEXT_SUFFIXES = frozenset(
    (".cfg", ".css", ".html", ".in", ".ini", ".j2", ".js", ".md", ".sh", ".toml", ".yaml", ".yml")
)
_TEXT_NAMES = frozenset(("Makefile",))
# They quote every phrase.
_UNREAD = frozenset(("docs/plain_english.py", "tests/docs/test_plain_english.py"))


@dataclass(frozen=True, slots=True)
class Phrase:
    """A phrase to avoid: a regular expression, and what to write instead.

    A space in the expression stands for any white space inside a paragraph. Case is ignored.
    """

    expression: str
    instead: str


@dataclass(frozen=True, slots=True)
class Quotation:
    """A phrase that may stay in one file, and why."""

    file: str
    phrase: str
    reason: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A phrase in a file, with the words as they are there, in lower case on one line."""

    file: str
    line: int
    phrase: str
    instead: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.phrase}: write {self.instead} instead"


ALLOWED: tuple[Quotation, ...] = ()

PHRASES = (
    # Telling, asking, hearing: a program reports, returns, queries, receives.
    Phrase("(?:is|are|was|were|be|been|being|gets?|got) told", '"is reported", or who reports it'),
    Phrase("told", '"reported", "shown" or "returned"'),
    Phrase("tells", '"reports", "shows" or "returns"'),
    Phrase("tell (?:whether|if|of|what|how|which|who|when|where|why|that)", '"return", "report" or "show"'),
    Phrase("(?:hear|hears|heard) of", '"receives a report from", or "knows"'),
    Phrase("(?:know|knows|knew|known) of", '"knows about", or "known"'),
    Phrase("(?:is|are|was|were|be) heard", '"has reported", or "is received"'),
    Phrase("(?:say|says|said) (?:nothing |something |more )?of", '"says about", or "reports"'),
    Phrase("the words (?:of|for|that)", '"the text", "the terms", or the words themselves'),
    Phrase("ask(?:s|ed|ing)? DNS", '"query DNS"'),
    Phrase(
        "ask(?:s|ed|ing)? (?:the |a |an |another |its |their |one |other )?"
        "(?:kernel|managers?|servers?|resolvers?|relays?|siblings?|neighbou?rs?|agents?|nodes?|peers?)",
        '"query", "request from" or "send to"',
    ),
    Phrase("(?:is|are|was|were|be|been|being) asked", '"is queried", or who sends the request'),
    Phrase("(?:is|are|was|were|be|been|being) looked at", '"is checked" or "is inspected"'),
    Phrase("without a word", '"silently"'),
    # Clauses in place of a noun.
    Phrase(
        "what is so|(?:it|that|this) (?:is|was) so|was so at|how it is(?=[.,;)])", '"state", or the condition itself'
    ),
    Phrase(
        "what (?:waits|waited|comes|came|went(?! wrong)|goes|stands|stood|became|becomes"
        "|is (?:there|put|left|missing))",
        'the noun: "the samples that wait", "the outcome"',
    ),
    Phrase("(?-i:What) (?:is|are|was|were|has|had)(?![^.?!]*\\?)", "the noun that the clause describes"),
    Phrase("(?:became|becomes?) of", '"the outcome of", or "happens to"'),
    Phrase("that which|those of which", "the noun"),
    Phrase("of which (?:nobody|nothing|none|only|one|some|each)", "a second sentence"),
    Phrase("who has (?:it|the|an?|no)", '"a PSK holder", "a client with the token"'),
    Phrase("(?:to|by|from|of|for|only) who", "the noun: the client, the operator, the holder of the token"),
    Phrase("whoever", '"anyone who", or the noun: the client, the operator'),
    Phrase("(?:which|that|what|whose|whom) nobody", "who does it, or the passive"),
    Phrase("nobody's", "the noun"),
    Phrase("nothing of (?:it|that|them|the|an?|what|his|its)", '"nothing remains", "no part of"'),
    Phrase("(?:is|are|was|were|as) none of", '"is not a"'),
    Phrase(
        "(?<!there\\s)(?:is|are|was|were) no(?! (?:longer|more|less|one|better|worse|later|larger)\\b)", '"is not a"'
    ),
    # Inverted and clipped syntax.
    Phrase("(?-i:Of)(?! course)", 'subject first: "Only the presence of a key is reported"'),
    Phrase("of that(?=[.,;:)])", "the noun, or nothing"),
    Phrase("(?-i:Else)|, else", '"otherwise", "or"'),
    Phrase("as it does", "nothing, or say what it does"),
    Phrase(
        "so many(?! that)|(?:for|after|by|of|in|takes?|every|within|at) so (?:long|much|often)",
        "the amount, or its name",
    ),
    Phrase("no more(?=[.,;:)])", '"no longer", "any more"'),
    Phrase("in front of (?:it|them)", '"before it"'),
    Phrase("(?:of|with) (?:its|their|his|our|your) own", '"its own" before the noun: "its own process"'),
    Phrase("(?:is|are|was|were|be) (?:not |still |already |now )?there(?=[.,;:)])", '"exists", "is installed"'),
    # Words of the dialect.
    Phrase("the way of", '"the delivery path of"'),
    Phrase("promise[sd]?", '"check", "guarantee" or "requirement"'),
    Phrase("(?:goes|go|going|went|gone) on(?! (?:a|an|the|each|every|this)\\b)", '"continues"'),
    Phrase("(?:give|gives|gave|given|giving) up|had to give", '"drop", "stop trying"'),
    Phrase("not (?:quite )?(?:well|heard)", '"unhealthy", "has not reported"'),
    Phrase("which costs?", '"this costs", in a sentence of its own'),
    Phrase("looks? at", '"inspect", "check" or "read"'),
    Phrase(
        "(?:is|are|was|were|being) (?:not |no longer )?well(?!-)(?! (?:known|above|below|under|over|before|within))",
        '"healthy" or "unhealthy"',
    ),
    Phrase("(?:from|is|are|be) near(?! (?:the|a|an|its)\\b)", '"local peer", "allowed source"'),
    Phrase("join(?:s|ed|ing)? (?:the |all |all the |its )?parts", '"compose", "build"'),
    Phrase("may live here|not here(?=:)", "one or two sentences on what the module is for"),
    Phrase("all the same", '"still" or "anyway"'),
    Phrase("as yet", '"yet" or "so far"'),
    Phrase("for the next time", '"for next time", or delete it'),
    Phrase("(?:does|do) no harm", '"is harmless"'),
    Phrase("mend(?:s|ed|ing)?", '"fix", "repair" or "correct"'),
    Phrase("(?:take|takes|taken|taking|took) apart", '"parse"'),
    Phrase("anew", '"again", or "from scratch"'),
    Phrase("once more", '"again"'),
    Phrase("for ever", '"forever"'),
    Phrase("in vain", '"without success"'),
    Phrase("from elsewhere", '"remote"'),
    Phrase("(?:stands?|stood) (?:in|at|on|there|here|once|beside|above|below|two)", '"is in", "appears once"'),
    Phrase("(?:lies?|lay) (?:in|on|at|beside|there|within)", '"is in"'),
)

_MASK = "\N{OBJECT REPLACEMENT CHARACTER}"
_GAP = r"(?:[ \t]+|[ \t]*\n[ \t]*)"
_SEARCHES = [
    (re.compile(rf"\b(?:{phrase.expression.replace(' ', _GAP)})(?!\w)", re.IGNORECASE), phrase.instead)
    for phrase in PHRASES
]
_CODE = re.compile(r"`+[^`\n]+`+")
_FIELD = re.compile(r"\{[^{}\n]*\}")
_LINE_BREAK = re.compile(r"\\[nt]")
_STRING = re.compile(r"([A-Za-z]*)(\"\"\"|'''|\"|')(.*)\2", re.DOTALL)
_MARKDOWN_QUOTE = re.compile(r"^[ \t]*>+", re.MULTILINE)
_COMMENT_MARK = re.compile(r"^[ \t]*#+", re.MULTILINE)
# Python 3.12 splits a string with replacement fields into several tokens.
_PART_OF_STRING = getattr(token, "FSTRING_MIDDLE", None)


def findings(file: str, text: str) -> list[Finding]:
    """Return the phrases in a file's text, each place once, in order.

    Where two phrases overlap, the one that begins first counts, and of those the longest.
    """
    prose = prose_of(file, text)
    matches = [(match, instead) for search, instead in _SEARCHES for match in search.finditer(prose)]
    matches.sort(key=lambda found: (found[0].start(), -found[0].end()))
    found: list[Finding] = []
    end = 0
    for match, instead in matches:
        if match.start() >= end:
            end = match.end()
            line = prose.count("\n", 0, match.start()) + 1
            found.append(Finding(file, line, " ".join(match[0].lower().split()), instead))
    return found


def prose_of(file: str, text: str) -> str:
    """Return a text of the same length and lines in which all that is not prose is masked."""
    if file.endswith(".py"):
        text = _python(text)
    else:
        text = (_MARKDOWN_QUOTE if file.endswith(".md") else _COMMENT_MARK).sub(_blank, text)
    return _CODE.sub(_masked, text)


def _python(source: str) -> str:
    """Mask all but comments and strings of several words."""
    lines = [_kept_indentation(line) for line in source.splitlines(keepends=True)]
    prose = "".join(lines)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    after_string = False
    for each in tokenize.generate_tokens(io.StringIO(source).readline):
        kept = _kept(each, after_string)
        if each.type != tokenize.NL:
            after_string = each.type == tokenize.STRING
        if kept is not None:
            start = starts[each.start[0] - 1] + each.start[1]
            prose = prose[:start] + kept + prose[start + len(kept) :]
    return prose


def _kept_indentation(line: str) -> str:
    code = line.lstrip()
    return line[: len(line) - len(code)] + _MASK * len(code.rstrip("\n")) + "\n" * code.endswith("\n")


def _kept(each: tokenize.TokenInfo, after_string: bool) -> str | None:
    """Return the prose of a token, in the token's length; None if it has none.

    A string of one word is an identifier, unless it continues another string.
    """
    if each.type == tokenize.COMMENT:
        return re.sub(r"^#+", _blank, each.string)
    if each.type == _PART_OF_STRING and " " in each.string:
        return _LINE_BREAK.sub(_blank, each.string)
    string = _STRING.fullmatch(each.string) if each.type == tokenize.STRING else None
    if string is None or "b" in string[1].lower() or not (after_string or re.search(r"\s", string[3])):
        return None
    content = _FIELD.sub(_masked, string[3]) if "f" in string[1].lower() else string[3]
    quote = " " * len(string[2])
    return " " * len(string[1]) + quote + _LINE_BREAK.sub(_blank, content) + quote


def _blank(match: re.Match[str]) -> str:
    return " " * len(match[0])


def _masked(match: re.Match[str]) -> str:
    return _MASK * len(match[0])


def check(files: Iterable[tuple[str, str]], allowed: Sequence[Quotation]) -> Iterator[Finding]:
    """Yield the findings in files, given as (name, text), that are not allowed.

    Raises:
        ValueError: there are too many quotations, or one of them is not in its file.
    """
    if len(allowed) > MOST_QUOTATIONS:
        raise ValueError(f"the allow-list has {len(allowed)} entries, the limit is {MOST_QUOTATIONS}: rewrite a phrase")
    for file, text in files:
        unused = {quotation.phrase for quotation in allowed if quotation.file == file}
        phrases = frozenset(unused)
        for finding in findings(file, text):
            unused.discard(finding.phrase)
            if finding.phrase not in phrases:
                yield finding
        if unused:
            raise ValueError(f"{file} has no {sorted(unused)[0]!r} any more: remove it from the allow-list")


def _files(paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield name and text of all files under the paths that may hold prose."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *paths]
    for name in sorted(set(subprocess.check_output(command, cwd=ROOT, text=True).split("\0"))):
        path = ROOT / name
        if name and name not in _UNREAD and path.is_file() and _may_hold_prose(path):
            yield name, path.read_text(encoding="utf-8")


def _may_hold_prose(path: Path) -> bool:
    if path.suffix in _TEXT_SUFFIXES or path.suffix == ".py" or path.name in _TEXT_NAMES:
        return True
    # A script without a suffix.
    return not path.suffix and path.read_bytes().startswith(b"#!")


def _in_repository(path: str) -> str:
    found = Path(path).resolve()
    if not found.exists():
        raise ValueError(f"{path} does not exist: name a file or folder of the repository")
    return str(found.relative_to(ROOT))


def main(paths: Sequence[str]) -> int:
    """Print the findings under the paths; return 1 if there are any, or if a path or the allow-list is wrong."""
    folders: Counter[str] = Counter()
    try:
        for finding in check(_files([_in_repository(path) for path in paths]), ALLOWED):
            print(finding)
            folders[finding.file.partition("/")[0]] += 1
    except ValueError as error:
        print(f"plain_english: {error}", file=sys.stderr)
        return 1
    if folders:
        shares = ", ".join(f"{folder} {count}" for folder, count in sorted(folders.items()))
        print(f"{folders.total()} stilted phrases: {shares}", file=sys.stderr)
    return 1 if folders else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
