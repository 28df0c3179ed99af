"""What is installed: public names, light imports, stubs, metadata."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

import iroh_fast

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "iroh_fast"
HEAVY = (
    *("ada_url", "aioquic", "asyncio", "cryptography", "dataclasses", "nacl", "psutil"),
    *("socket", "ssl", "typing", "typing_extensions", "uvloop", "iroh_fast._crypto"),
)


def loaded_after(statement: str) -> set[str]:
    """Modules in a new interpreter without site packages' start-up hooks after a statement."""
    # A hook of an editable install may import things of its own: what is loaded before counts
    # for nothing.
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]; before = set(sys.modules); "
        f"{statement}; print('\\n'.join(set(sys.modules) - before))"
    )
    paths = [str(Path(iroh_fast.__file__).parents[1]), *(p for p in sys.path if p)]
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, *paths], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_import_loads_nothing_heavy() -> None:
    loaded = loaded_after("import iroh_fast")
    assert "iroh_fast" in loaded
    assert sorted(loaded & set(HEAVY)) == []


def test_import_of_the_identity_part_needs_no_network_code() -> None:
    loaded = loaded_after("from iroh_fast import SecretKey, EndpointTicket")
    assert {"iroh_fast.keys", "iroh_fast.ticket"} <= loaded
    unwanted = {"aioquic", "cryptography", "psutil", "iroh_fast.endpoint", "iroh_fast.quic"}
    assert sorted(loaded & unwanted) == []


# What an endpoint needs only once it is bound, or not at all.
LATE = (
    *("ada_url", "aioquic", "certifi", "cryptography", "nacl", "OpenSSL", "psutil"),
    *("hmac", "datetime", "random", "urllib.parse", "typing_extensions", "uvloop"),
    *("iroh_fast._batch", "iroh_fast._crypto", "iroh_fast.connection", "iroh_fast.events"),
    *("iroh_fast.handshake", "iroh_fast.incoming", "iroh_fast.net.socket", "iroh_fast.stats"),
    *(
        "iroh_fast.quic._connection",
        "iroh_fast.quic.tls",
        "iroh_fast.web.ca",
        "iroh_fast.web.proxy",
        *("aiohttp", "bencode2", "dns", "iroh_fast.web.client", "iroh_fast.web.resolver"),
        *("iroh_fast.portmapper", "iroh_fast.net.stun", "xml.parsers.expat"),
    ),
)


def test_import_of_the_endpoint_leaves_out_what_binding_one_loads() -> None:
    loaded = loaded_after("from iroh_fast import Endpoint")
    assert "iroh_fast.endpoint" in loaded
    assert sorted(loaded & set(LATE)) == []


def test_relay_server_without_address_discovery_loads_no_engine() -> None:
    """Seven megabytes of an idle relay."""
    run = (
        "import asyncio; from iroh_fast.relay import RelayServer as S, RelayServerConfig as C\n"
        "async def main():\n async with S(C.dev(port=0)): pass\n"
        "asyncio.run(main())"
    )
    loaded = loaded_after(f"exec({run!r})")
    assert "iroh_fast.relay.server.server" in loaded
    unwanted = {"iroh_fast._crypto", "iroh_fast.quic._connection", "cryptography", "aiohttp", "dns"}
    assert sorted(loaded & unwanted) == []


@pytest.mark.parametrize("name", iroh_fast.__all__)
def test_public_name_resolves(name: str) -> None:
    value = getattr(iroh_fast, name)
    assert value is getattr(iroh_fast, name)
    assert name in dir(iroh_fast)


def test_public_names_are_sorted_and_complete() -> None:
    names = iroh_fast.__all__
    assert names == sorted(names) and len(set(names)) == len(names)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = iroh_fast.no_such_name


def test_public_names_have_docstrings() -> None:
    missing = [
        name
        for name in iroh_fast.__all__
        if isinstance(getattr(iroh_fast, name), type) and not getattr(iroh_fast, name).__doc__
    ]
    assert missing == []


def test_error_classes_are_all_exported() -> None:
    errors = importlib.import_module("iroh_fast.errors")
    classes = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type)
        and issubclass(value, errors.IrohError)
        and not name.startswith("_")
    }
    assert classes <= set(errors.__all__)


def test_package_is_marked_as_typed() -> None:
    assert files("iroh_fast").joinpath("py.typed").is_file()


MODELS = {"iroh_fast.quic._buffers", "iroh_fast.quic._congestion", "iroh_fast.quic._models"}
LAB = {"tests.lab._link", *(["tests.lab._wire"] if sys.platform == "linux" else [])}


@pytest.mark.source_tree
def test_models_of_the_core_are_built_by_a_checkout_and_for_no_release(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from setuptools import Distribution
    from setuptools.command.build_ext import build_ext

    monkeypatch.chdir(ROOT)
    spec = importlib.util.spec_from_file_location("iroh_fast_setup", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    monkeypatch.setattr(build_ext, "run", lambda self: None)

    # What builds in place have left in the folder that wheels are made of.
    left = tmp_path / "iroh_fast" / "quic" / "_models.abi.so"
    left.parent.mkdir(parents=True)
    left.touch()

    def built(**options: bool) -> set[str]:
        command = build.BuildExt(Distribution({"name": "x", "ext_modules": build.extensions()}))
        for name, value in options.items():
            setattr(command, name, value)
        command.build_lib = str(tmp_path)
        command.ensure_finalized()
        command.run()
        return {extension.name for extension in command.extensions or ()}

    assert set(build.MODELS) == MODELS and set(build.LAB) == LAB
    monkeypatch.setattr(build, "RELEASE", False)
    assert MODELS < built() and left.exists() and not LAB & built()
    monkeypatch.setattr(build, "RELEASE", True)
    for options in ({"inplace": True}, {"editable_mode": True}):
        assert MODELS | LAB < built(**options) and left.exists()
    assert "iroh_fast.quic._core" in built()
    assert not (MODELS | LAB) & built() and not left.exists()


@pytest.mark.source_tree
def test_models_of_the_core_leave_nothing_in_the_package_but_what_was_compiled() -> None:
    for name in MODELS:
        assert importlib.import_module(name).__name__ == name
        stem = name.removeprefix("iroh_fast.").replace(".", "/")
        assert [
            s for s in (".py", ".pyx", ".pxd", ".pyi") if (SOURCE / f"{stem}{s}").exists()
        ] == []


def test_stubs_are_installed_for_what_python_sees_of_compiled_modules() -> None:
    package = Path(iroh_fast.__file__).parent
    found = [p for suffix in ("*.so", "*.pyd") for p in package.rglob(suffix)]
    seen = []
    for path in found:
        parts = path.relative_to(package).parent.joinpath(path.name.partition(".")[0]).parts
        module = importlib.import_module(".".join(("iroh_fast", *parts)))
        # A module that is only an interface in C for others defines nothing here.
        own = [v for v in vars(module).values() if getattr(v, "__module__", "") == module.__name__]
        if own and module.__name__ not in MODELS:
            seen.append(module.__name__)
            assert package.joinpath(*parts).with_suffix(".pyi").is_file(), module.__name__
    assert {"iroh_fast._packet._dicts", "iroh_fast._crypto", "iroh_fast._batch"} <= set(seen)


@pytest.mark.source_tree
@pytest.mark.parametrize(
    "path", sorted(SOURCE.rglob("*.pyx")), ids=lambda p: str(p.relative_to(SOURCE))
)
def test_cython_module_has_a_stub_if_python_sees_anything_of_it(path: Path) -> None:
    public = re.findall(
        r"^(?:def|cpdef|class|cdef class)[ \t]+\w+", path.read_text(encoding="utf-8"), re.M
    )
    assert path.with_suffix(".pyi").exists() or not public, public


def test_installed_metadata_has_version_and_licence() -> None:
    try:
        meta = importlib.metadata.metadata("iroh-fast")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("run from the source tree by PYTHONPATH: nothing is installed")
    assert meta["Version"] == iroh_fast.__version__
    assert meta["License-Expression"] == "MIT OR Apache-2.0"
    texts = {"LICENSE-APACHE", "LICENSE-MIT", "licenses/intel-ipsec-mb.txt", "licenses/openssl.txt"}
    assert set(meta.get_all("License-File", [])) == texts
    assert len(meta.get_all("Project-URL", [])) >= 3
    # A package page knows no files beside it.
    assert re.findall(r"\]\((?![a-z]+:|#)[^)]*", meta.get_payload()) == []


def configuration() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.source_tree
def test_version_is_the_same_everywhere() -> None:
    assert configuration()["project"]["version"] == iroh_fast.__version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"[{iroh_fast.__version__}]" in changes or "## Unreleased" in changes


@pytest.mark.source_tree
def test_every_dependency_has_its_reason_in_the_docs() -> None:
    project = configuration()["project"]
    extras = [spec for specs in project["optional-dependencies"].values() for spec in specs]
    names = {re.split(r"[<>=!;\[ ]", spec)[0] for spec in [*project["dependencies"], *extras]}
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    missing = [name for name in sorted(names - {"iroh-fast"}) if f"`{name}`" not in text]
    assert missing == []


@pytest.mark.source_tree
def test_readme_starts_with_the_demo_and_the_tests_and_ci_runs_them() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [
        line.removeprefix("$ ")
        for block in re.findall(r"```(?:sh|console|bash)\n(.*?)```", text, re.S)
        for line in block.splitlines()
        if line and not line.startswith("#")
    ]
    assert commands[0] == "pip install . && python -m iroh_fast demo"
    assert commands[1] == "pip install -e '.[test]' && pytest"
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for part in commands[1].split(" && "):
        assert re.search(rf"^(?:\S+ )?{re.escape(part)}$", script, re.M), part


@pytest.mark.source_tree
def test_documents_link_only_to_files_that_exist() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    assert len(documents) >= 9
    broken = [
        f"{document.name}: {target}"
        for document in documents
        for target in re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8"))
        if not re.match(r"[a-z]+:", target) and not (document.parent / target).exists()
    ]
    assert broken == []


@pytest.mark.source_tree
def test_documents_name_only_methods_that_exist() -> None:
    classes = {
        "ep": iroh_fast.Endpoint,
        "conn": iroh_fast.Connection,
        "send": iroh_fast.SendStream,
        "recv": iroh_fast.RecvStream,
        "early": iroh_fast.OutgoingZeroRttConnection,
        "connecting": iroh_fast.Connecting,
        "incoming": iroh_fast.Incoming,
    }
    text = "".join(
        (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/api.md")
    )
    named = set(re.findall(rf"(?<![\w.])({'|'.join(classes)})\.(\w+)", text))
    assert len(named) > 30
    missing = [f"{name}.{member}" for name, member in named if not hasattr(classes[name], member)]
    assert sorted(missing) == []


@pytest.mark.source_tree
def test_readme_example_runs() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code, *_ = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(code.splitlines()) <= 25
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert (done.stdout, done.stderr) == ("b'Hello, world!'\n", "")


def test_rooms_that_relays_need_are_loaded_in_steps_and_none_is_left_for_later() -> None:
    from iroh_fast import _assembly

    named = {f"iroh_fast{name}" for name in _assembly._RELAY_ROOMS}
    steps = ", ".join(sorted(named))
    loaded = loaded_after(f"from iroh_fast.endpoint import Endpoint; import {steps}")
    assert named <= loaded
    # What choosing the service imports beyond them would hold up the loop in one piece.
    late = loaded_after(
        "import asyncio; from iroh_fast import Endpoint, presets\n"
        "async def main():\n"
        "    ep = await Endpoint.bind(preset=presets.minimal, relays=['https://relay.test'],"
        " bind_addrs=['127.0.0.1:0'])\n"
        "    await ep.close()\n"
        "asyncio.run(main())"
    )
    relay_only = {name for name in late if name.startswith(("iroh_fast.web.", "iroh_fast.relay."))}
    assert relay_only - loaded == set()
