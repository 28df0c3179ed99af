"""Layers: imports go downwards only, and nothing of one machine gets in."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "iroh_fast"

pytestmark = pytest.mark.source_tree

# From the bottom.  A module may import at run time what stands in a lower row, or in its own
# row where `within` allows it.  A folder stands for all modules below it.
ROWS: tuple[tuple[tuple[str, ...], bool], ...] = (
    (("errors",), False),
    (("_check", "_later", "_view", "keys", "addr", "ticket"), True),
    (("_packet", "_crypto", "_batch", "_relay", "_probe", "_dns"), False),
    (("quic",), True),
    (("aio",), True),
    (("net",), True),
    (("web",), True),
    (("net_report", "portmapper", "relay", "lookup"), True),
    (("buildinfo", "metrics", "stats"), False),
    (("events", "paths", "streams"), False),
    (("connection",), False),
    (("hooks",), False),
    (("_option_checks",), False),
    (("config",), False),
    (("presets", "_why"), False),
    (("_context",), False),
    (("_handshaking", "_remote_info", "_ways"), False),
    (("zero_rtt",), False),
    (("handshake",), False),
    (("_dial", "incoming", "_assembly", "_bind_options"), False),
    (("_ending",), False),
    (("_endpoint_network",), False),
    (("endpoint",), False),
    (("router",), False),
    (("dns_server", "blobs", "gossip"), False),
    (("__init__",), False),
    (("cli", "__main__"), True),
)
RANK = {name: rank for rank, (names, _) in enumerate(ROWS) for name in names}
WITHIN = {name: within for names, within in ROWS for name in names}

SOURCES = [
    path
    for path in sorted(PACKAGE.rglob("*"))
    if path.suffix in (".py", ".pyx", ".pxd") and path.stat().st_size
]
CIMPORT = re.compile(r"^[ \t]*(?:from[ \t]+([.\w]+)[ \t]+)?c?import[ \t]+(\(?[^#\n]*)", re.M)
INCLUDE = re.compile(r"^[ \t]*include[ \t]+[\"']", re.M)


def room(module: str) -> str:
    """The first name below the package."""
    return module.partition(".")[0] or "__init__"


def module_name(path: Path) -> str:
    """Dotted name below the package; empty for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    path = PACKAGE.joinpath(*name.split("."))
    return path.is_dir() or any(path.with_suffix(s).exists() for s in (".py", ".pyx", ".pxd"))


def resolve(path: Path, source: str, names: list[str]) -> Iterator[str]:
    """Yield the modules below the package that `from source import names` touches."""
    dots = len(source) - len(source.lstrip("."))
    rest = source.lstrip(".")
    if dots:
        parent = list(path.relative_to(PACKAGE).parent.parts)
        assert dots - 1 <= len(parent), f"{path} imports from above the package"
        base = ".".join([*parent[: len(parent) - (dots - 1)], *([rest] if rest else [])])
    elif rest == "iroh_fast" or rest.startswith("iroh_fast."):
        base = rest.removeprefix("iroh_fast").removeprefix(".")
    else:
        return
    for name in names:
        if not base and name == "__version__":
            continue  # a constant of the package, which is always loaded first
        inner = f"{base}.{name}" if base else name
        yield inner if is_module(inner) else base


def python_imports(path: Path, tree: ast.AST) -> Iterator[str]:
    """What a Python file imports: early, late, or for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            yield from resolve(path, source, [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "iroh_fast":
                    yield alias.name.removeprefix("iroh_fast").removeprefix(".")
        else:
            yield from python_imports(path, node)


def cython_imports(path: Path, text: str) -> Iterator[str]:
    text = re.sub(r'("""|\'\'\')(.*?)\1', "", text, flags=re.S)
    for match in CIMPORT.finditer(text):
        source, names = match[1], match[2]
        if source is None:
            for name in names.split(","):
                name = name.split(" as ")[0].strip()
                if name.partition(".")[0] == "iroh_fast":
                    yield name.removeprefix("iroh_fast").removeprefix(".")
            continue
        if names.startswith("("):
            names = text[match.start(2) + 1 : text.index(")", match.start(2))]
            names = re.sub(r"#.*", "", names)
        wanted = [name.split(" as ")[0].strip() for name in names.split(",")]
        yield from resolve(path, source, [name for name in wanted if name])


def imports(path: Path) -> set[str]:
    text = path.read_text(encoding="utf-8")
    found = (
        python_imports(path, ast.parse(text))
        if path.suffix == ".py"
        else cython_imports(path, text)
    )
    return set(found) - {module_name(path)}


def violations(importer: str, imported: set[str]) -> list[str]:
    here = room(importer)
    return [
        f"{importer or '__init__'} imports {name or '__init__'}"
        for name in sorted(imported)
        if RANK[room(name)] > RANK[here]
        or (
            RANK[room(name)] == RANK[here]
            and name != importer
            and not WITHIN[here]
            and room(name) != here
        )
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_layout_imports_go_downwards(path: Path) -> None:
    importer = module_name(path)
    assert room(importer) in RANK, f"{importer} has no place in the layers"
    # The package itself loads the public names when they are first used.
    assert violations(importer, imports(path)) == []


def test_layout_rule_sees_upward_imports_of_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    path = PACKAGE / "quic" / "example.py"
    python = """
from __future__ import annotations
import iroh_fast.net.socket
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from ..endpoint import Endpoint
else:
    from .. import router
def late():
    from ..streams import SendStream
    from .tls import TlsSession
"""
    found = set(python_imports(path, ast.parse(python)))
    assert found == {"endpoint", "net.socket", "router", "streams", "quic.tls"}
    assert violations("quic.example", found) == [
        "quic.example imports endpoint",
        "quic.example imports net.socket",
        "quic.example imports router",
        "quic.example imports streams",
    ]
    cython = '''
"""from iroh_fast.cli cimport nothing"""
from libc.string cimport memcpy
from iroh_fast._packet cimport *
from iroh_fast.quic._send_buffer cimport (
    SendBuf,  # from iroh_fast.cli cimport y
    RecvBuf,
)
cimport iroh_fast._crypto as c, cython
from ..connection import Connection
'''
    found = set(cython_imports(path, cython))
    assert found == {"_packet", "quic._send_buffer", "_crypto", "connection"}
    assert violations("_packet", {"_crypto", "errors"}) == ["_packet imports _crypto"]


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in index:
            visit(name)
    return found


def test_layout_no_module_imports_itself_through_others() -> None:
    """Imports for type checkers count: whoever reads a module reads what its types are."""
    graph = {
        module_name(path): imports(path)
        for path in SOURCES
        if path.suffix == ".py" and path.name not in ("__init__.py", "__main__.py")
    }
    for name, imported in graph.items():
        graph[name] = {other for other in imported if other in graph}
    assert circles(graph) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


# The compiled rooms of the core from the bottom: one imports what stands in rows below its own.
CORE: tuple[tuple[str, ...], ...] = (
    # what needs nothing of the core
    ("_agreed", "_budget", "_client_hello", "_closing_state", "_codes", "_counters", "_datagrams", "_delivery"),
    ("_keys", "_parameters", "_random", "_ranges", "_receive_buffer", "_received", "_sent", "_time"),
    ("_id_table", "_ledger", "_mtud", "_probe_limit", "_rtt", "_send_buffer", "_space", "_stateless", "_timers", "_traversal_state"),
    # congestion control, and the handshake's state
    ("_controller", "_handshake_state", "_reordering"),
    ("_bbr_model", "_hystart", "_pacer"),
    ("_bbr_loss", "_cubic", "_newreno"),
    ("_bbr_probe",),
    ("_bbr",),
    ("_controllers",),
    ("_config", "_recovery_state"),
    ("_paths",),
    # streams
    ("_stream",),
    ("_schedule",),
    ("_flow",),
    ("_stream_table",),
    ("_stream_frames", "_stream_packets"),
    ("_streams",),
    # a connection is composed of what stands above; what happens to it, from the parts to the whole
    ("_core",),
    ("_control_queue", "_path_queries", "_trace"),
    ("_cids", "_packets", "_traversal_addresses"),
    ("_control",),
    ("_fates",),
    ("_loss", "_routing"),
    ("_recovery", "_refused"),
    ("_acknowledged", "_path_table"),
    ("_validation", "_closing", "_opening"),
    ("_handshake", "_network", "_traversal"),
    ("_first_flight", "_frames", "_timeouts", "_write"),
    ("_off_path",),
    ("_receive", "_transmit"),
    # the handle for the layers above, and where connections begin
    ("_connection",),
    ("_admission",),
    ("_endpoint",),
)


def core_violations(rank: dict[str, int], room: str, imported: set[str]) -> list[str]:
    return sorted(
        f"{room} imports {other}"
        for other in imported
        if other in rank and other != room and rank[other] >= rank[room]
    )


def test_layout_rooms_of_the_core_import_downwards() -> None:
    rank = {name: row for row, names in enumerate(CORE) for name in names}
    rooms: dict[str, set[str]] = {}
    for path in sorted((PACKAGE / "quic").glob("*.p[yx][xd]")):
        if path.stat().st_size:
            found = cython_imports(path, path.read_text(encoding="utf-8"))
            rooms.setdefault(path.stem, set()).update(
                name.removeprefix("quic.") for name in found if name.startswith("quic.")
            )
    assert sorted(rooms) == sorted(rank)
    assert [
        v for room, imported in rooms.items() for v in core_violations(rank, room, imported)
    ] == []
    assert core_violations(rank, "_loss", {"_core", "_receive"}) == ["_loss imports _receive"]


def test_layout_rows_name_every_part_of_the_package() -> None:
    present = {room(module_name(path)) for path in SOURCES}
    assert {"errors", "keys", "_packet", "quic", "__init__"} <= present
    assert present <= set(RANK)


@pytest.mark.parametrize(
    "path",
    [p for p in SOURCES if p.parts[len(PACKAGE.parts)] == "quic"],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_layout_core_knows_no_socket_and_no_thread(path: Path) -> None:
    """Time, randomness and datagrams come in as arguments."""
    text = path.read_text(encoding="utf-8")
    found = set(
        re.findall(r"^[ \t]*(?:from|import)[ \t]+(socket|select|threading|selectors)\b", text, re.M)
    )
    assert found == set()


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if p.suffix != ".py"], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_layout_no_textual_inclusion_in_cython(path: Path) -> None:
    assert INCLUDE.search(path.read_text(encoding="utf-8")) is None


def tracked() -> list[Path]:
    """Text files that belong to the project."""
    folders = ("src", "tests", "bench", "examples", "docs", "tools", ".ci", ".github")
    files = [p for folder in folders for p in sorted((ROOT / folder).rglob("*"))]
    files += [p for p in sorted(ROOT.iterdir()) if p.suffix in (".py", ".md", ".toml", ".in")]
    skipped = {".so", ".pyd", ".pyc", ".c", ".hex", ".bin", ".html", ".svg"}
    return [
        p
        for p in files
        if p.is_file()
        and p.suffix not in skipped
        and "__pycache__" not in p.parts
        and "results" not in p.parts
    ]


FUTURES = re.compile(r"\b(create_future|Future\(|call_soon|call_later|get_running_loop|asyncio)\b")


def test_layout_core_creates_no_future_and_knows_no_loop() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}: {match}"
        for path in SOURCES
        if path.relative_to(PACKAGE).parts[0] == "quic"
        for match in FUTURES.findall(path.read_text(encoding="utf-8"))
    ]
    assert found == []


MAKERS = re.compile(
    r"\bcreate_future\b|\bFuture\(|\b(?:wrap_future|run_coroutine_threadsafe)\b"
    r"|\basyncio\.(?:Event|Condition|Queue|LifoQueue|PriorityQueue|Lock|Barrier|(?:Bounded)?Semaphore)\b"
    r"|from asyncio import [^\n]*\b(?:Event|Condition|Queue|Lock|Barrier|Semaphore|Future)\b"
)


def makers(text: str) -> list[str]:
    """What in a source file makes futures, or waits by futures that nothing holds."""
    code = re.sub(r"#.*", "", re.sub(r'"""(.*?)"""', "", text, flags=re.S))
    return MAKERS.findall(code)


def test_layout_only_waiters_make_futures() -> None:
    """A task that waits must be held by its loop, which the things of asyncio do not see to."""
    found = {
        str(path.relative_to(PACKAGE)): made
        for path in SOURCES
        if (made := makers(path.read_text(encoding="utf-8")))
    }
    # The commands are programs on the public API, which keep what they wait for.
    others = {name for name in found if not name.startswith(("aio/_waiters.", "cli/"))}
    assert others == set() and "aio/_waiters.pyx" in found
    for line in (
        "self.x = asyncio.Event()",
        "from asyncio import CancelledError, Queue",
        "loop.create_future()",
        "x: asyncio.Future[None] = asyncio.Future()",
    ):
        assert makers(line), line
    assert not makers('"""Unlike asyncio.Event"""\nx = 1  # asyncio.Event\nt: asyncio.Future[None]')


def test_layout_nothing_of_one_machine_or_workplace_in_the_files() -> None:
    # Put together here, so that this file does not contain them.
    words = ["/" + "work/", "/" + "tmp/venv", "/" + "root/", "/" + "home/", "lib" + "rary/env"]
    pattern = re.compile("|".join(map(re.escape, words)))
    files = tracked()
    assert len(files) > 40
    found = []
    for path in files:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []
