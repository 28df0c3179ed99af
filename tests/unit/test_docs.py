"""Documents are true: links lead somewhere, names exist, Python in them compiles and imports."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import iroh_fast
from iroh_fast import errors

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "bench").glob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
# The names that the pages use for objects, and what those are.
OBJECTS = {
    "conn": iroh_fast.Connection,
    "ep": iroh_fast.Endpoint,
    "send": iroh_fast.SendStream,
    "recv": iroh_fast.RecvStream,
    "router": iroh_fast.Router,
    "incoming": iroh_fast.Incoming,
    "connecting": iroh_fast.Connecting,
    "early": iroh_fast.OutgoingZeroRttConnection,
}

OTHERS = ("py", "read_exact", "closed", "accept_next", "finish")  # files, and the official package

pytestmark = pytest.mark.source_tree


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings."""
    found = re.findall(r"^#+ +(.+)$", page.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}


def blocks(page: Path, language: str) -> Iterator[str]:
    for kind, text in BLOCK.findall(page.read_text("utf-8")):
        if kind == language:
            yield text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text("utf-8")):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        place = (page.parent / name) if name else page
        assert place.exists(), target
        if anchor and place.suffix == ".md":
            assert anchor in anchors(place), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_documents_compiles_and_its_imports_exist(page: Path) -> None:
    for text in blocks(page, "python"):
        tree = compile(
            textwrap.dedent(text),
            page.name,
            "exec",
            ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        )
        # Some errors, such as patterns that bind different names, are found behind the parser.
        compile(tree, page.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("iroh_fast"):
                for alias in node.names:
                    assert hasattr(import_module(node.module or ""), alias.name), alias.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_attributes_in_documents_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    shown = " ".join([*re.findall(r"`([^`\n]+)`", text), *blocks(page, "python")])
    for name, attribute in re.findall(r"\b(\w+)\.([a-z]\w*)", shown):
        if name in OBJECTS and attribute not in OTHERS:
            assert hasattr(OBJECTS[name], attribute), f"{name}.{attribute}"


def test_errors_named_in_the_api_page_exist() -> None:
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    (section,) = re.findall(r"^## Errors\n(.*?)^## ", text, re.M | re.S)
    named = set(re.findall(r"`([A-Z]\w+)`", section)) - {"CloseReason"}
    assert len(named) > 20
    for name in named:
        assert hasattr(errors, name) or name in dir(__builtins__) or name in __builtins__, name


def test_options_named_in_the_documents_exist() -> None:
    import dataclasses

    options = {item.name for item in dataclasses.fields(iroh_fast.EndpointConfig)} | {"preset"}
    for page in PAGES:
        for call in re.findall(r"Endpoint\.bind\(([^`\n]*?)\)", page.read_text("utf-8")):
            for name in re.findall(r"(\w+)=", call):
                assert name in options, f"{page.name}: {name}"
