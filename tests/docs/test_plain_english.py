"""The lint for stilted phrases finds them in prose however it is wrapped, and nowhere else."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import plain_english
import pytest
from plain_english import ALLOWED, MOST_QUOTATIONS, PHRASES, Quotation, check, findings

SCRIPT = Path(plain_english.__file__)

# A sentence for each phrase, in their order, and the words in it that are found.
SENTENCES = [
    ("the kernel is told the address", "is told"),
    ("as large as the kernel told us", "told"),
    ("the answer tells the state", "tells"),
    ("return or tell whether it works", "tell whether"),
    ("agents that it never heard of", "heard of"),
    ("all that it knows of a node", "knows of"),
    ("a node that was heard once", "was heard"),
    ("what it says of itself", "says of"),
    ("here are the words for each state", "the words for"),
    ("the workers ask DNS again", "ask dns"),
    ("it asked the kernel for links", "asked the kernel"),
    ("each relay is asked once", "is asked"),
    ("a value that is looked at twice", "is looked at"),
    ("it ends without a word", "without a word"),
    ("where that is so, stop", "that is so"),
    ("it sends what waited there", "what waited"),
    ("What is too large is cut", "what is"),
    ("this became of the report", "became of"),
    ("it holds that which came", "that which"),
    ("peers, of which nobody answers", "of which nobody"),
    ("it waits until who has it ends", "who has it"),
    ("pages are shown to who asks", "to who"),
    ("it serves whoever asks", "whoever"),
    ("a port that nobody uses", "that nobody"),
    ("that is nobody's business", "nobody's"),
    ("a failure leaves nothing of it", "nothing of it"),
    ("it is none of these", "is none of"),
    ("the file is no database", "is no"),
    ("Of a key only the name is shown", "of"),
    ("it keeps the count of that.", "of that"),
    ("a file, else the folder", ", else"),
    ("it filters, as it does elsewhere", "as it does"),
    ("it returns after so many seconds", "so many"),
    ("the file exists no more.", "no more"),
    ("all fields in front of it", "in front of it"),
    ("a process of its own", "of its own"),
    ("if the file is not there, stop", "is not there"),
    ("it follows the way of reports", "the way of"),
    ("what a role promises to do", "promises"),
    ("the thread goes on until then", "goes on"),
    ("two samples were given up so far", "given up"),
    ("an agent that is not quite well", "not quite well"),
    ("it reads the file again, which costs time", "which costs"),
    ("the command looks at the settings", "looks at"),
    ("an agent that is not well ends it", "is not well"),
    ("requests from near only", "from near"),
    ("this will join the parts", "join the parts"),
    ("This may live here: rules", "may live here"),
    ("it is cut all the same", "all the same"),
    ("there is none as yet", "as yet"),
    ("it stays for the next time", "for the next time"),
    ("a second try does no harm", "does no harm"),
    ("a restart mends this", "mends"),
    ("a row is taken apart later", "taken apart"),
    ("it is written anew each time", "anew"),
    ("the agent tries once more", "once more"),
    ("it does not wait for ever", "for ever"),
    ("relays that were tried in vain", "in vain"),
    ("requests from elsewhere", "from elsewhere"),
    ("the number stands in the name", "stands in"),
    ("the file lies beside it", "lies beside"),
]


def found(file: str, text: str) -> list[tuple[int, str]]:
    return [(finding.line, finding.phrase) for finding in findings(file, text)]


def wrapped(sentence: str, margin: str = "") -> str:
    return sentence.replace(" ", f"\n{margin}")


def test_each_phrase_has_a_sentence() -> None:
    expressions = [re.compile(f"(?:{phrase.expression})", re.IGNORECASE) for phrase in PHRASES]
    assert len(expressions) == len(SENTENCES)
    for expression, (sentence, words) in zip(expressions, SENTENCES, strict=True):
        assert expression.search(sentence), words


@pytest.mark.parametrize(("sentence", "words"), SENTENCES, ids=[words for _, words in SENTENCES])
def test_each_is_found_wrapped_and_unwrapped(sentence: str, words: str) -> None:
    line = len(sentence[: sentence.lower().index(words)].split()) + 1
    if words.startswith(","):
        line -= 1
    assert found("a.md", f"{sentence}\n") == [(1, words)]
    assert found("a.md", f"{wrapped(sentence)}\n") == [(line, words)]
    assert found("a.md", f"> {wrapped(sentence, '> ')}\n") == [(line, words)]
    for name in ("a.py", "a.yml", "a.sh", "Makefile", "a.toml"):
        assert found(name, f"# {wrapped(sentence, '# ')}\n") == [(line, words)], name
    assert found("a.py", f'    """{wrapped(sentence, "    ")}\n    """\n'.lstrip()) == [(line, words)]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("a.py", 'raise Refused(\n    f"{name}: the agent is not "\n    f"well, and {reason}"\n)\n'),
        ("a.py", 'text = (\n    "one is not\\n"\n    "well"\n)\n'),
        ("a.py", "def f() -> None:\n    # The agent\n    # is not\n    # well.\n    pass\n"),
        ("a.py", "x = 1  # first\ny = 2  # is not well\n"),
        ("a.py", "def f() -> None:\n    r'''First line.\n\n    The agent is\n    not well.\n    '''\n"),
        ("a.html", "<p title='x'>The agent\n  is not well.</p>\n"),
        ("page.html.j2", "{% if a %}\n{# b #}\n<p>{{ name }} is not well</p>\n"),
        ("a.yml", "- name: see\n  fail:\n    msg: it is not well\n"),
        ("Makefile", "a: b\n\t@echo\ncheck: setup ## what is not well\n"),
        ("a.sh", "#!/bin/sh\n\necho 'it is not well'\n"),
    ],
)
def test_every_kind_of_prose_is_read(file: str, text: str) -> None:
    finding = findings(file, text)[-1]
    assert finding.phrase == "is not well"
    assert re.search(r"\bis\b", text.splitlines()[finding.line - 1])


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("a.py", "told = tells(whoever.anew, lies in beside)\n"),
        ("a.py", "if x is near: pass\nreturn a if b else c\n"),
        ("a.py", 'members["told"] = f"{told}"\n'),
        ("a.py", 'text = f"a report: {is_told if told else whoever}"\n'),
        ("a.py", 'RAW = b"the kernel is told the address"\n'),
        ("a.py", '"""See `whoever` and `told.anew`."""\n'),
        ("a.py", 'both = ["the agent is not", "well known"]\n'),
        ("a.py", "# it is not\nwell = 1\n"),
        ("a.py", "# it is not\n\n# well\n"),
        ("a.md", "The agent is not\n\nwell.\n"),
        ("a.md", "Call `tells whoever` and ``is told``.\n"),
        ("a.md", "What is it? A well-known port. Of course what went wrong is shown; there is no key.\n"),
        ("a.md", "The foretold retells.\n"),
    ],
)
def test_code_and_plain_words_are_left_alone(file: str, text: str) -> None:
    assert found(file, text) == []


def test_a_longer_phrase_hides_those_in_it() -> None:
    assert found("a.md", "what became of it, and is told\n") == [(1, "what became"), (1, "is told")]


def test_a_finding_names_place_phrase_and_remedy() -> None:
    [finding] = findings("docs/a.md", "one\nit is written anew\n")
    assert str(finding) == 'docs/a.md:2: anew: write "again", or "from scratch" instead'


def test_a_quotation_may_stay_in_its_file_alone() -> None:
    allowed = [Quotation("a.md", "is told", "a message of another program")]
    files = [("a.md", "it is\ntold anew"), ("b.md", "it is told")]
    left = [(finding.file, finding.phrase) for finding in check(files, allowed)]
    assert left == [("a.md", "anew"), ("b.md", "is told")]


def test_a_quotation_that_is_not_used_is_refused() -> None:
    allowed = [Quotation("a.md", "is told", "why"), Quotation("b.md", "anew", "why")]
    with pytest.raises(ValueError, match=r"a\.md has no 'is told' any more: remove it from the allow-list"):
        list(check([("a.md", "it is reported")], allowed))
    # The other one's file is not among those that are read.
    assert list(check([("a.md", "it is told")], allowed)) == []


def test_a_sixteenth_quotation_is_refused() -> None:
    allowed = [Quotation(f"{number}.md", "is told", "why") for number in range(MOST_QUOTATIONS + 1)]
    assert list(check([], allowed[:15])) == []
    with pytest.raises(ValueError, match="the allow-list has 16 entries, the limit is 15"):
        list(check([], allowed))
    assert all(quotation.reason for quotation in ALLOWED)


def test_the_command_does_not_read_its_own_phrases() -> None:
    command = [sys.executable, str(SCRIPT), str(SCRIPT)]
    clean = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (clean.returncode, clean.stdout, clean.stderr) == (0, "", "")


def test_the_command_fails_if_it_finds_something(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    script = tmp_path / "docs" / SCRIPT.name
    script.write_bytes(SCRIPT.read_bytes())
    (tmp_path / "README.md").write_text("The kernel\nis told.\n")
    (tmp_path / "run").write_text("#!/bin/sh\n# written anew\n")
    (tmp_path / "data").write_text("written anew\n")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert [line.partition(": write")[0] for line in lines] == ["README.md:2: is told", "run:2: anew"]
    assert done.returncode == 1
    assert done.stderr == "2 stilted phrases: README.md 1, run 1\n"


def test_a_path_that_does_not_exist_is_refused() -> None:
    command = [sys.executable, str(SCRIPT), "agnet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "plain_english: agnet does not exist: name a file or folder of the repository\n"
