"""Documents are true: links lead somewhere, names exist, Python in them compiles and imports."""

from __future__ import annotations

import ast
import builtins
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

OTHERS = ("py",)  # files

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
    if page.name == "interop.md":  # the left column is the official package's
        text = re.sub(r"^\| .*? \|", "|", text, flags=re.M)
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


# --- tables -------------------------------------------------------------------------------

SOURCE = ROOT / "src" / "iroh_fast"


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


def section(text: str, title: str) -> str:
    (found,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    return str(found)


def sources() -> Iterator[str]:
    for suffix in ("*.py", "*.pyx"):
        for path in sorted(SOURCE.rglob(suffix)):
            module = ".".join(["iroh_fast", *path.relative_to(SOURCE).with_suffix("").parts])
            yield path.read_text("utf-8").replace("(__name__)", f'("{module}")')


def test_every_logger_is_in_the_page_and_every_logger_of_the_page_exists() -> None:
    used = {name for text in sources() for name in re.findall(r'getLogger\("([\w.]+)"\)', text)}
    rows = re.findall(r"^\| (`iroh_fast.*?) \|", page("logging.md"), re.M)
    told = {name for row in rows for name in re.findall(r"`([\w.]+)`", row)}
    assert {name for name in used if not any(f"{name}.".startswith(f"{row}.") for row in told)} == set()
    assert {row for row in told if not any(f"{name}.".startswith(f"{row}.") for name in used)} == set()


def test_every_counter_named_in_the_pages_exists() -> None:
    from iroh_fast.metrics import COUNTERS

    named = {
        name
        for path in PAGES
        for name in re.findall(r"`(socket[:_]\w+)`", path.read_text("utf-8"))
    }
    assert len(named) >= 6
    exported = {f"{name.replace(':', '_')}_total" for name in COUNTERS}
    assert named <= set(COUNTERS) | exported


def test_every_error_is_in_a_page_under_what_it_is_a_kind_of() -> None:
    told = set(re.findall(r"`([A-Z]\w+)`", page("api.md") + page("relay.md")))
    classes = {name: getattr(errors, name) for name in errors.__all__}
    kinds = {
        name
        for name, value in classes.items()
        if isinstance(value, type) and issubclass(value, iroh_fast.IrohError)
    }
    # Of parts that are not there yet.
    planned = {"AddressLookupError", "PortmapError", "UserDataTooLong"}
    assert kinds - told - {"IrohError"} == planned
    for row in re.findall(r"^\| (`[A-Z].*)$", section(page("api.md"), "Errors"), re.M):
        first, rest = row.split(" | ", 1)
        built_in = re.search(r"\(`(\w+)`\)", first)
        for name in re.findall(r"(?<!\()`([A-Z]\w+)`", first):
            if built_in:
                assert issubclass(classes[name], getattr(builtins, built_in[1])), row
            for part in re.findall(r"`([A-Z]\w+)`", rest):
                if part in kinds:
                    assert issubclass(classes[part], classes[name]), (name, part)


def test_numbers_of_options_in_the_pages_are_the_defaults() -> None:
    config = iroh_fast.QuicTransportConfig()
    found = 0
    for name in ("security.md", "relay.md", "api.md"):
        for option, number in re.findall(r"`(\w+)`, ([\d,]+) (?:bytes|each|\|)", page(name)):
            assert getattr(config, option) == int(number.replace(",", "")), option
            found += 1
        for option, number in re.findall(r"`(\w+)` \((\d+) s", page(name)):
            assert getattr(config, option) == int(number), option
            found += 1
    assert found >= 4


@pytest.mark.parametrize("command", ["", "demo", "info", "relay"])
def test_every_option_of_the_commands_is_in_the_pages(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from iroh_fast.__main__ import main

    with pytest.raises(SystemExit):
        main([command, "--help"] if command else ["--help"])
    told = "".join(path.read_text("utf-8") for path in PAGES)
    shown = capsys.readouterr().out
    for option in set(re.findall(r"(?<!\w)(--[a-z-]+)", shown)) - {"--help"}:
        assert option in told, f"{command} {option}"
    for word in re.findall(r"^    (\w+) ", shown, re.M):
        assert f"iroh_fast {word}" in told


def test_every_variable_of_the_environment_is_in_a_page_and_read_somewhere() -> None:
    code = "".join(sources()) + (ROOT / "setup.py").read_text("utf-8")
    scripts = [*(ROOT / "tools").iterdir(), *(ROOT / "tests").rglob("*.py"), ROOT / ".ci" / "run"]
    more = "".join(path.read_text("utf-8") for path in scripts if path.is_file())
    more += "".join(path.read_text("utf-8") for path in (ROOT / "bench").rglob("*.py"))
    told = {
        name
        for path in PAGES
        for name in re.findall(r"\b(IROH_\w+|[A-Z_]+_DIR|SSLKEYLOGFILE|QLOGDIR)\b", path.read_text("utf-8"))
    }
    for name in told:
        assert f'"{name}"' in code or name in more, f"nothing reads {name}"
    read = set(re.findall(r'environ\.get\("(\w+)"|env\.get\("(\w+)"|_\w+ = "(IROH_\w+)"', code))
    own = {name for names in read for name in names if name}
    own |= set(re.findall(r"(?:enabled|flag|switch)\(\"(IROH_\w+)\"", code))
    assert own - told - {"SystemRoot"} == set()


def test_every_module_has_its_place_in_the_map_of_the_architecture() -> None:
    left = re.findall(r"^\| (`.*?) \|", page("architecture.md"), re.M)
    modules = {
        path.relative_to(SOURCE).with_suffix("").as_posix()
        for path in SOURCE.rglob("*")
        if path.suffix in (".py", ".pyx") and path.name != "__init__.py"
    }
    told: set[str] = set()
    for cell in left:
        folder = ""
        for name in re.findall(r"`([^`]+)`", cell):
            # The folder of the first name of a row is that of the others.
            stem = re.sub(r"\.pyx?$", "", name.rstrip("/"))
            if "/" in stem and not name.endswith("/"):
                folder = stem.rpartition("/")[0] + "/"
            elif folder and not name.endswith("/"):
                stem = folder + stem
            found = {one for one in modules if one == stem or one.startswith(f"{stem}/")}
            if not found:  # a table in C, of which Python sees nothing
                assert (SOURCE / f"{stem}.pxd").exists(), name
            told |= found
    assert modules - told == set()


def test_every_name_of_the_drawing_exists() -> None:
    drawing = " ".join(re.findall(r">([^<]*)</text>", page("architecture.svg")))
    modules = {path.stem for path in SOURCE.rglob("*") if path.suffix in ("", ".py", ".pyx", ".pxd")}
    assert set(re.findall(r"(?<!\w)_[a-z]\w+", drawing)) <= modules


def test_every_file_that_a_page_names_exists() -> None:
    places = (ROOT, ROOT / "docs", ROOT / "bench", SOURCE, *(SOURCE / one for one in ("quic", "net")))
    named = 0
    for path in PAGES:
        for name in re.findall(r"`([\w./-]+)`", path.read_text("utf-8")):
            folder = name.partition("/")[0] + "/" if "/" in name else ""
            known = folder and any((place / folder).is_dir() for place in places)
            if name[0] in "/." or not (known or re.search(r"\.(py|pyx|pxd|md|sh|json|svg)$", name)):
                continue
            if name.startswith(("bench/results", "build/")):  # made by what is described
                continue
            named += 1
            if "/" not in name and list(SOURCE.rglob(name)):
                continue
            assert any(
                (place / name).exists() or list(place.glob(f"{name}.*")) for place in places
            ), f"{path.name}: {name}"
    assert named > 50


def test_modules_of_the_build_switch_exist() -> None:
    texts = [*(path.read_text("utf-8") for path in PAGES), (ROOT / "setup.py").read_text("utf-8")]
    named = {name for text in texts for some in re.findall(r"IROH_FAST_ONLY=([\w.,]+)", text) for name in some.split(",")}
    assert len(named) >= 2
    for name in named:
        assert (SOURCE / f"{name.replace('.', '/')}.pyx").exists(), name
