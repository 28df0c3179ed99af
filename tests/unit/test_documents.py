"""Commands that the documents name are run somewhere: by the tests, by CI or every night."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "bench/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
# What runs things: workflows, the script of CI, and the tests themselves.
RUNNERS = [
    *sorted((ROOT / ".github" / "workflows").glob("*.yml")),
    ROOT / ".ci" / "run",
    *(path for path in sorted((ROOT / "tests").rglob("*.py")) if path != Path(__file__)),
]
PROGRAM = r"python|bash|pytest|iroh-fast|docker"

pytestmark = pytest.mark.source_tree


def commands(text: str) -> set[str]:
    """Of fenced shell blocks, and of code spans that begin with a program."""
    found: set[str] = set()
    for block in re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", text, re.S | re.M):
        found.update(block.splitlines())
    found.update(re.findall(rf"`((?:\w+=\S+ )*(?:{PROGRAM}) [^`\n]+)`", text))
    found.update(re.findall(rf"^    ((?:{PROGRAM}) .*)$", text, re.M))
    parts = (part.strip() for line in found for part in re.split(r"&&|\s#", line))
    return {part for part in parts if re.match(rf"(?:\w+=\S+ )*(?:{PROGRAM}) ", part)}


def essence(command: str) -> str:
    """What identifies a command: the script, module, subcommand or image, not its arguments."""
    words = [word for word in command.split() if not re.match(r"\w+=", word)]
    if words[0] in ("python", "bash"):
        if words[1] == "-m":
            own = words[2] == "iroh_fast"
            return words[3] if own else words[3].rstrip("/")
        return Path(words[1]).name if words[1].startswith(("examples/", "tests/")) else words[1]
    return words[1]


NAMED = {
    (path.relative_to(ROOT).as_posix(), command)
    for path in DOCUMENTS
    if path.exists()  # a copy of the tests alone has none
    for command in commands(path.read_text(encoding="utf-8"))
}


def test_documents_name_commands() -> None:
    assert len(NAMED) > 20


@pytest.mark.parametrize(("document", "command"), sorted(NAMED), ids=lambda text: text[:60])
def test_command_of_a_document_is_run_somewhere(document: str, command: str) -> None:
    wanted = essence(command)
    texts = (path.read_text(encoding="utf-8") for path in RUNNERS)
    assert any(wanted in text for text in texts), f"nothing runs {wanted}"


@pytest.mark.parametrize(("document", "command"), sorted(NAMED), ids=lambda text: text[:60])
def test_command_of_a_document_names_files_that_exist(document: str, command: str) -> None:
    # What a command writes need not be there.
    for word in re.sub(r"--(?:chart|json) \S+", "", command).split():
        if re.fullmatch(r"(?:examples|tests|tools|bench|docs|docker)/[\w./-]+", word):
            assert (ROOT / word).exists(), word
