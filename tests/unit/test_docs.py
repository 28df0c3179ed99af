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
    from iroh_fast.metrics import COUNTERS, GAUGES

    named = {
        name
        for path in PAGES
        for name in re.findall(r"`((?:socket|address_lookup|portmap)[:_]\w+)`", path.read_text("utf-8"))
    }
    assert len(named) >= 6
    exported = {f"{name.replace(':', '_')}_total" for name in COUNTERS}
    assert named <= set(COUNTERS) | set(GAUGES) | exported


def test_every_error_is_in_a_page_under_what_it_is_a_kind_of() -> None:
    told = set(re.findall(r"`([A-Z]\w+)`", page("api.md") + page("relay.md")))
    classes = {name: getattr(errors, name) for name in errors.__all__}
    kinds = {
        name
        for name, value in classes.items()
        if isinstance(value, type) and issubclass(value, iroh_fast.IrohError)
    }
    assert kinds - told == {"IrohError"}
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


DOCTOR = ("accept", "connect", "lookup", "path", "ping", "port-map", "port-map-probe", "relay-urls", "report")


@pytest.mark.parametrize(
    "command",
    ["", "demo", "dns-server", "doctor", "info", "relay", *(f"doctor {name}" for name in DOCTOR)],
)
def test_every_option_of_the_commands_is_in_the_pages(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from iroh_fast.__main__ import main

    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    told = "".join(path.read_text("utf-8") for path in PAGES)
    shown = capsys.readouterr().out
    for option in set(re.findall(r"(?<!\w)(--[a-z-]+)", shown)) - {"--help"}:
        assert option in told, f"{command} {option}"
    ours = "iroh-fast doctor" if command == "doctor" else "iroh_fast"
    for word in re.findall(r"^    ([a-z-]+)(?: |$)", shown, re.M):
        assert f"{ours} {word}" in told


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
    assert own - told - {"APPDATA", "SystemRoot", "XDG_DATA_HOME"} == set()  # of the system


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


# What a page says, the files with the numbers, and their names there. {} stand for the numbers.
FACTS = [
    ("security.md", "512 ranges", "quic/_received.pxd", {"MAX_RANGES": 512}),
    ("security.md", "16,384 numbers (2 KiB)", "quic/_received.pxd", {"DEDUP_WORDS": 256}),
    ("security.md", "32,768 (512 KiB)", "quic/_sent.pxd", {"MAX_LOST": 32768}),
    ("security.md", "2,048 (32 KiB)", "quic/_sent.pxd", {"MAX_QUIET": 2048}),
    (
        "security.md",
        "5 of the peer, 8 of ours; 2 while the path is not open",
        "quic/_paths.pxd",
        {"REMOTE_CIDS": 5, "LOCAL_CIDS": 8, "UNOPENED_CIDS": 2},
    ),
    ("security.md", "| abandoned paths that still listen | 32 |", "quic/_paths.pxd", {"MAX_DRAINING": 32}),
    (
        "security.md",
        "| 32, and as many probes that wait for them |",
        "quic/_paths.pxd",
        {"MAX_BUDGETS": 32, "MAX_OFF_PATH": 32},
    ),
    ("security.md", "4,096 per stream", "quic/_receive_buffer.pxd", {"RECVBUF_MAX_GAPS": 4096}),
    ("security.md", "16,384 per connection", "quic/_stream_frames.pyx", {"MAX_GAPS": 16384}),
    ("security.md", "| 65,536 with the connections that came in", "quic/_admission.pyx", {"DEFAULT_MAX_INCOMING": 65536}),
    (
        "security.md",
        "10 MiB each, 100 MiB together",
        "quic/_admission.pyx",
        {"DEFAULT_INCOMING_BUFFER": 10 << 20, "DEFAULT_INCOMING_TOTAL": 100 << 20},
    ),
    (
        "security.md",
        "| a TLS message | 16 KiB; all messages of a handshake 64 KiB |",
        "quic/tls/session.py",
        {"MAX_MESSAGE_BYTES": 16384, "MAX_HANDSHAKE_BYTES": 65536},
    ),
    ("security.md", "| 24 of those in a ticket", "net/reach.py", {"MAX_DIALED": 24}),
    ("security.md", "at most 32 ways in all", "_context.py", {"MAX_WAYS": 32}),
    ("security.md", "find meanwhile 64, of which 16 get", "_ways.py", {"MAX_DIALED": 64}),
    ("security.md", "for one remote | 24; 64 of all services", "lookup/shared.py", {"PER_SERVICE": 24, "MAX_FOUND": 64}),
    ("security.md", "| 1,024, a minute each |", "lookup/shared.py", {"MAX_REMOTES": 1024, "KEPT_S": 60.0}),
    ("security.md", "| 16, then the services wait |", "lookup/merge.py", {"MAX_WAITING": 16}),
    ("lookup.md", "up to 15 seconds", "lookup/shared.py", {"LINGER_S": 15.0}),
    (
        "security.md",
        "64 untried, 30 that never worked, 10 that did;",
        "net/remote/inventory.py",
        {"MAX_UNKNOWN": 64, "MAX_UNUSABLE": 30, "MAX_INACTIVE": 10},
    ),
    (
        "security.md",
        "a minute after its last connection, of 1,024 remotes |",
        "net/remote/resting.py",
        {"KEPT_S": 60.0, "MAX_REMOTES": 1024},
    ),
    (
        "security.md",
        "8 for new addresses, then one in 5 s |",
        "net/remote/punching.py",
        {"BURST": 8, "MIN_INTERVAL_S": 5.0},
    ),
    ("security.md", "16,384; the oldest give way", "net/transport.py", {"MAX_ROUTES": 16384}),
    ("security.md", "also those in addresses of others | 64 |", "relay/client/pool.py", {"MAX_RELAYS": 64}),
    ("security.md", "`ep.connections()`, 256", "config.py", {"MAX_PENDING": 256}),
    ("security.md", "1,024 attempts of a router", "incoming.py", {"MAX_HANDSHAKES": 1024}),
    (
        "security.md",
        "16 KiB and 64 headers; the server waits ten seconds",
        "web/reading.py",
        {"MAX_HEAD_BYTES": 16384, "MAX_HEADERS": 64},
    ),
    ("security.md", "the server waits ten seconds", "web/http.py", {"HEAD_TIMEOUT_S": 10}),
    (
        "security.md",
        "4 KiB of body, 30 seconds; one answer at a time, ten seconds to read it",
        "dns_server/server.py",
        {"MAX_BODY": 4096, "IDLE_S": 30},
    ),
    (
        "security.md",
        "2 at once and one per 4 seconds; 131,072 addresses",
        "dns_server/rate.py",
        {"BURST": 2, "PERIOD_S": 4, "MAX_CLIENTS": 131072},
    ),
    ("relay.md", "the relay path ends after 30 s", "net/remote/state.py", {"RELAY_PATH_IDLE_S": 30}),
    (
        "relay.md",
        "tried again after 5 s, then every 60 s",
        "net/remote/state.py",
        {"REOPEN_S": 5, "RECHECK_S": 60},
    ),
    (
        "relay.md",
        "when it is 5 ms better; IPv6 has a bonus of 3 ms",
        "net/remote/selection.py",
        {"SWITCH_MARGIN_S": 0.005, "IPV6_BONUS_S": 0.003},
    ),
    ("relay.md", "left after a minute without use", "relay/client/active.py", {"INACTIVE_S": 60}),
    (
        "relay.md",
        "at least twice a second during the fifteen seconds after a connection was lost",
        "relay/client/active.py",
        {"OUTAGE_S": 15, "OUTAGE_PAUSE_S": 0.25},
    ),
    ("relay.md", "gone for more than three seconds", "relay/client/home.py", {"PATIENCE_S": 3}),
    ("relay.md", "not read for ten seconds", "web/http.py", {"UNREAD_TIMEOUT_S": 10}),
    ("relay.md", "get half a millisecond per turn", "web/http.py", {"SLICE_S": 0.0005}),
    ("relay.md", "One endpoint id may have sixteen connections", "relay/server/_state.pxd", {"MAX_INACTIVE": 15}),
    ("lookup.md", "What changes within 50 ms is published once", "lookup/dht/service.py", {"DEBOUNCE_S": 0.05}),
    ("lookup.md", "the next attempt follows after a minute", "lookup/dht/service.py", {"RETRY_S": 60}),
    (
        "lookup.md",
        "a search asks at most 200 nodes (16 at once, 120 that chose their ids), knows 400",
        "lookup/dht/search.py",
        {"MAX_REQUESTS": 200, "AT_ONCE": 16, "MAX_INSECURE": 120, "MAX_CANDIDATES": 400, "MAX_OF_HOST": 9},
    ),
    ("lookup.md", "ends after ten seconds", "lookup/dht/client.py", {"BUDGET_S": 10, "MAX_TASKS": 128}),
    ("lookup.md", "have 1024 requests open, and 128 run at once", "lookup/dht/core.py", {"MAX_OPEN": 1024}),
    ("lookup.md", "the twenty nearest nodes", "lookup/dht/routing.py", {"K": 20}),
    ("logging.md", "256 events late", "events.py", {"LIMIT": 256}),
]


@pytest.mark.parametrize(("name", "words", "file", "values"), FACTS, ids=lambda value: str(value)[:40])
def test_number_of_a_page_is_the_one_in_the_source(
    name: str, words: str, file: str, values: dict[str, float]
) -> None:
    assert words in " ".join(page(name).split())
    text = (SOURCE / file).read_text("utf-8")
    for constant, value in values.items():
        (found,) = re.findall(rf"\b{constant}(?:: Final)? = ([\d_.]+(?: (?:<<|\*) \d+)*)", text)
        assert eval(found) == value, constant


def test_limits_of_a_relay_server_in_the_page_are_the_defaults() -> None:
    from iroh_fast.relay import RelayLimits

    limits, text = RelayLimits(), " ".join(page("relay.md").split())
    assert (limits.queue_packets, limits.queue_bytes) == (512, 4 << 20)
    assert "at most 512 datagram frames and 4 MiB wait for it" in text
    assert limits.write_timeout == 2 and "reads nothing for two seconds is disconnected" in text
    assert limits.establish_timeout == 30 and "A connection has thirty seconds" in text
    assert (limits.ping_interval, limits.ping_jitter) == (15, 5)
    assert "Silent clients are pinged after 16 to 20 seconds" in text


def test_whatever_an_object_can_do_is_in_a_page() -> None:
    words = set(re.findall(r"\w+", "".join(path.read_text("utf-8") for path in PAGES if path.name != "CHANGELOG.md")))
    from iroh_fast import relay

    classes = [*OBJECTS.values(), relay.RelayServer]
    names = {name for cls in classes for name in dir(cls) if not name.startswith("_")} | set(relay.__all__)
    # Of tuples, of what the Router does by itself, and types that only annotations name.
    left_out = {"count", "index", "is_shutdown", "is_answered"}
    assert names - words - left_out == set()
