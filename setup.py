"""Extension list and build switches; everything else is in pyproject.toml.

Switches (environment variables, unset or 0 means off):

IROH_FAST_DEBUG=1                       no optimisation, all Cython checks, asserts on
IROH_FAST_TRACE=1                       line tracing, for coverage
IROH_FAST_SANITIZE=address,undefined    compiler sanitizers
IROH_FAST_ANNOTATE=1                    annotated HTML into build/annotate
IROH_FAST_NO_IPSEC_MB=1                 without the intel-ipsec-mb AES-GCM backend
IROH_FAST_PROFILE=1                     line numbers for profilers
IROH_FAST_ONLY=_crypto,quic._streams    build these extensions only
OPENSSL_DIR, IPSEC_MB_DIR               prefixes holding include/ and lib/
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import Cython
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, ExecError, LinkError, PlatformError, SetupError

ROOT = Path(__file__).parent
SRC = ROOT / "src"
# Structures of the core as Python objects, for tests and benchmarks: part of what a checkout installs, in place or not,
# and of no release. They are modules of the package so that they link to its compiled interfaces.
MODELS = {
    f"iroh_fast.quic.{path.stem}": path
    for path in sorted((ROOT / "tests" / "models").glob("*.pyx"))
}
# The emulated links of the tests: built beside their sources by what builds in place, and part of no package.
LAB = {
    f"tests.lab.{path.stem}": path
    for path in sorted((ROOT / "tests" / "lab").glob("*.pyx"))
    if path.stem != "_wire" or sys.platform == "linux"
}
# Wheels of a release are made by cibuildwheel, or from the source distribution, which alone has this file.
RELEASE = "CIBUILDWHEEL" in os.environ or (ROOT / "PKG-INFO").exists()
CRYPTO = "iroh_fast._crypto"
# What runs once per handshake, connection or request: compiled for size, a third less of it. (`_packet._dicts` is not among
# them: the gate's loops over the decoders are there, and have to be compiled as in the rooms where packets pass.)
SMALL = {
    f"iroh_fast.{name}"
    for name in (
        *("_dns._messages", "_packet._numbers", "quic._admission", "quic._agreed", "quic._cids"),
        *("quic._client_hello", "quic._closing", "quic._config", "quic._first_flight"),
        *("quic._handshake", "quic._handshake_state", "quic._parameters", "quic._path_queries"),
        *("quic._network", "quic._off_path", "quic._opening", "quic._probe_limit", "quic._random", "quic._stateless", "quic._trace"),
        *("quic._traversal", "quic._traversal_addresses", "quic._traversal_state"),
        *("_probe", "lookup.mdns._message", "quic._validation", "quic.tls._schedule"),
        *("quic.tls._wire", "relay.server._connection"),
    )
}
WINDOWS = sys.platform == "win32"
MACOS = sys.platform == "darwin"


def flag(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


DEBUG = flag("IROH_FAST_DEBUG")
TRACE = flag("IROH_FAST_TRACE")
ANNOTATE = flag("IROH_FAST_ANNOTATE")
PROFILE = flag("IROH_FAST_PROFILE")
NO_IPSEC_MB = flag("IROH_FAST_NO_IPSEC_MB")
SANITIZE = os.environ.get("IROH_FAST_SANITIZE", "")
ONLY = [name for name in os.environ.get("IROH_FAST_ONLY", "").split(",") if name]

DIRECTIVES = {
    "language_level": 3,
    "embedsignature": True,
    "embedsignature.format": "clinic",  # what `inspect.signature` reads of built-in functions
    "binding": False,  # faster to call, and each module is 10 KB (packed) smaller
    "auto_pickle": False,  # nothing compiled is pickled, and code that says so is a tenth of a module
    "linetrace": TRACE,
    "boundscheck": DEBUG,
    "wraparound": False,
    "cdivision": not DEBUG,
    "initializedcheck": DEBUG,
}

MACROS: list[tuple[str, str | None]] = []
if not DEBUG:
    MACROS.append(("CYTHON_WITHOUT_ASSERTIONS", "1"))
if TRACE:
    # Line tracing of Cython needs the classic tracer; sys.monitoring sees no nogil code.
    MACROS += [
        ("CYTHON_TRACE", "1"),
        ("CYTHON_TRACE_NOGIL", "1"),
        ("CYTHON_USE_SYS_MONITORING", "0"),
    ]

NO_COMPILER = (
    "iroh_fast needs a C compiler: install gcc and libc6-dev (Debian/Ubuntu), gcc (Fedora), "
    "the Xcode command line tools (macOS) or the Visual Studio Build Tools (Windows), "
    "or set CC to a working one"
)
NO_PYTHON = "iroh_fast needs the Python headers: install python3-dev (Debian/Ubuntu) or python3-devel (Fedora)"
NO_OPENSSL = (
    "iroh_fast needs the OpenSSL headers and libcrypto, 3.0 or later: install libssl-dev (Debian/Ubuntu), "
    "openssl-devel (Fedora) or openssl@3 (Homebrew), or set OPENSSL_DIR"
)

PYTHON_PROBE = "#include <Python.h>\nint main(void) { return 0; }\n"
OPENSSL_PROBE = """
#include <openssl/evp.h>
#if OPENSSL_VERSION_MAJOR < 3
#error "too old"
#endif
int main(void) { return EVP_MAC_fetch(NULL, "HMAC", NULL) == NULL; }
"""
IPSEC_MB_PROBE = """
#include <intel-ipsec-mb.h>
int main(void) {
    static struct gcm_key_data key;
    static const unsigned char raw[16];
    IMB_ARCH arch;
    IMB_MGR *mb = alloc_mb_mgr(0);
    if (mb == NULL || !(mb->features & IMB_FEATURE_AESNI)) return 1;
    init_mb_mgr_auto(mb, &arch);
    IMB_AES128_GCM_PRE(mb, raw, &key);
    return imb_get_errno(mb) || imb_get_version_str() == NULL;
}
"""


def compile_flags() -> tuple[list[str], list[str]]:
    """Compiler and linker arguments of all extensions."""
    if WINDOWS:
        compile_args = ["/Od", "/Zi"] if DEBUG else ["/O2"]
        compile_args.append("/W3")
        link_args = ["/DEBUG"] if DEBUG else []
        if SANITIZE:
            compile_args += [f"/fsanitize={SANITIZE}", "/Zi"]
        return compile_args, link_args
    # Python's own flags often ask for symbols, which would be half of a wheel.
    compile_args = ["-O0", "-g"] if DEBUG else ["-O3", "-g1" if PROFILE else "-g0"]
    compile_args += ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unused-function"]
    link_args = []
    if RELEASE and not (DEBUG or PROFILE):
        link_args = ["-Wl,-x"] if MACOS else ["-Wl,-s"]  # names of functions: a tenth of a wheel
    if SANITIZE:
        compile_args += [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-g"]
        link_args += [f"-fsanitize={SANITIZE}"]
    return compile_args, link_args


def for_size(compile_args: list[str]) -> list[str]:
    """The same arguments, but for small code instead of the fastest."""
    return [{"-O3": "-Os", "/O2": "/O1"}.get(arg, arg) for arg in compile_args]


def prefix_dirs(variable: str, guesses: list[str]) -> tuple[list[str], list[str]]:
    """Include and library directories of the prefix in `variable`, or of the first guess that exists."""
    named = os.environ.get(variable, "")
    if named and not Path(named, "include").is_dir():
        raise SetupError(f"{variable}={named} is not a prefix: it has no include directory")
    for prefix in [Path(named)] if named else [Path(g) for g in guesses]:
        if named or (prefix / "include").is_dir():
            libs = [prefix / "lib" / "VC" / "x64" / "MD", prefix / "lib", prefix / "lib64"]
            return [str(prefix / "include")], [str(d) for d in libs if d.is_dir()]
    return [], []


def extensions() -> list[Extension]:
    compile_args, link_args = compile_flags()
    found = []
    sources = {
        ".".join(pyx.relative_to(SRC).with_suffix("").parts): pyx
        for pyx in sorted(SRC.rglob("*.pyx"))
    }
    for name, pyx in {**sources, **MODELS, **LAB}.items():
        if ONLY and name.removeprefix("iroh_fast.") not in ONLY:
            continue
        found.append(
            Extension(
                name,
                [str(pyx.relative_to(ROOT))],
                depends=[str(h.relative_to(ROOT)) for h in sorted(pyx.parent.glob("native/*.h"))],
                # A .pxd names its C header as seen from the package, whoever uses it.
                include_dirs=[str((SRC / "iroh_fast").relative_to(ROOT))],
                define_macros=list(MACROS),
                extra_compile_args=for_size(compile_args) if name in SMALL else list(compile_args),
                extra_link_args=list(link_args),
            )
        )
    missing = set(ONLY) - {ext.name.removeprefix("iroh_fast.") for ext in found}
    if missing:
        raise SystemExit(
            f"IROH_FAST_ONLY names no extension of this tree: {', '.join(sorted(missing))}"
        )
    return found


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep the output of failing probes (also of child processes) off the terminal."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(fd) for fd in (1, 2)]
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        for fd in (1, 2):
            os.dup2(null, fd)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for fd, old in zip((1, 2), saved, strict=True):
            os.dup2(old, fd)
            os.close(old)
        os.close(null)


class BuildExt(build_ext):
    """Probes for what the extensions need, translates stale .pyx files, compiles in parallel."""

    def finalize_options(self) -> None:
        super().finalize_options()
        if self.parallel is None:
            self.parallel = os.cpu_count()

    def run(self) -> None:
        if self.inplace or self.editable_mode:
            forget_gone_modules()
            # For this command alone: the package consists of what is below src.
            places = self.get_finalized_command("build_py")
            places.package_dir = {**places.package_dir, "tests": "tests"}
        else:
            left_out = {*MODELS, *LAB} if RELEASE else {*LAB}
            self.extensions = [ext for ext in self.extensions if ext.name not in left_out]
            # A build in place leaves its modules here, and a wheel takes what it finds.
            for name in left_out:
                for old in Path(self.build_lib).glob(f"{name.replace('.', '/')}.*"):
                    old.unlink()
        super().run()

    def build_extensions(self) -> None:
        if not self.works("int main(void) { return 0; }\n"):
            raise SetupError(NO_COMPILER)
        if not self.works(PYTHON_PROBE, link=False):
            raise SetupError(NO_PYTHON)
        for ext in self.extensions:
            if ext.name == CRYPTO:
                self.set_up_crypto(ext)
        count, workers = len(self.extensions), self.parallel or 1
        print(
            f"iroh_fast: compiling {count} modules on {workers} cores, "
            f"about {max(1, round(count * 4 / workers / 60))} min",
            file=sys.stderr,
            flush=True,
        )
        self.translate()
        super().build_extensions()

    def works(self, source: str, *, link: bool = True, **options: list[str]) -> bool:
        """Compile (and link) a program with the given Extension options."""
        args = compile_flags()
        with tempfile.TemporaryDirectory() as folder, silence():
            path = Path(folder, "probe.c")
            path.write_text(source)
            try:
                objects = self.compiler.compile(
                    [str(path)],
                    output_dir=folder,
                    include_dirs=options.get("include_dirs", []),
                    extra_postargs=args[0],
                )
                if link:
                    self.compiler.link_executable(
                        objects,
                        "probe",
                        output_dir=folder,
                        libraries=options.get("libraries", []),
                        library_dirs=options.get("library_dirs", []),
                        extra_postargs=args[1],
                    )
            except (CompileError, LinkError, ExecError, PlatformError):
                return False
        return True

    def set_up_crypto(self, ext: Extension) -> None:
        guesses = []
        if MACOS:
            guesses = ["/opt/homebrew/opt/openssl@3", "/usr/local/opt/openssl@3"]
        elif WINDOWS:
            guesses = ["C:/Program Files/OpenSSL", "C:/Program Files/OpenSSL-Win64"]
        libraries = ["libcrypto" if WINDOWS else "crypto"]
        include, libs = prefix_dirs("OPENSSL_DIR", guesses)
        if not self.works(
            OPENSSL_PROBE, include_dirs=include, library_dirs=libs, libraries=libraries
        ):
            raise SetupError(NO_OPENSSL)
        ext.include_dirs += include
        ext.library_dirs += libs
        ext.libraries += libraries
        if not WINDOWS:
            ext.runtime_library_dirs += libs

        if not NO_IPSEC_MB and platform.machine() in ("x86_64", "AMD64") and sys.maxsize > 2**32:
            libraries = ["libIPSec_MB" if WINDOWS else "IPSec_MB"]
            include, libs = prefix_dirs("IPSEC_MB_DIR", [])
            if self.works(
                IPSEC_MB_PROBE, include_dirs=include, library_dirs=libs, libraries=libraries
            ):
                ext.include_dirs += include
                ext.library_dirs += libs
                ext.libraries += libraries
                ext.define_macros.append(("IROH_FAST_HAVE_IPSEC_MB", "1"))
                if not WINDOWS:
                    ext.runtime_library_dirs += libs

        flags = " ".join([*ext.extra_compile_args, *ext.extra_link_args])
        ext.define_macros += [
            ("IROH_FAST_BUILD_DEBUG", str(int(DEBUG))),
            ("IROH_FAST_BUILD_TRACE", str(int(TRACE))),
            ("IROH_FAST_BUILD_SANITIZE", f'"{SANITIZE}"'),
            ("IROH_FAST_BUILD_FLAGS", f'"{flags}"'),
        ]

    def translate(self) -> None:
        """Turn .pyx into .c where the source or the build switches changed."""
        for ext in self.extensions:
            self.forget_other_switches(ext)
        translated = cythonize(
            [Extension(ext.name, list(ext.sources)) for ext in self.extensions],
            include_path=["src", "."],
            annotate=ANNOTATE,
            # worker processes are cheap only where they are forked
            nthreads=min(self.parallel or 1, len(self.extensions)) if not (WINDOWS or MACOS) else 0,
            quiet=self.verbose == 0,
            compiler_directives=DIRECTIVES,
        )
        by_name = {ext.name: ext for ext in translated}
        for ext in self.extensions:
            if ANNOTATE:
                html = (ROOT / ext.sources[0]).with_suffix(".html")
                if html.exists():
                    folder = ROOT / "build" / "annotate"
                    folder.mkdir(parents=True, exist_ok=True)
                    shutil.move(html, folder / f"{ext.name}.html")
            ext.sources = by_name[ext.name].sources

    def forget_other_switches(self, ext: Extension) -> None:
        """Delete generated C made with other switches: time stamps alone would keep it."""
        state = json.dumps(
            [
                Cython.__version__,
                DIRECTIVES,
                ext.define_macros,
                ext.extra_compile_args,
                ext.libraries,
            ],
            sort_keys=True,
        )
        stamp = ROOT / "build" / "switches" / f"{ext.name}.json"
        generated = (ROOT / ext.sources[0]).with_suffix(".c")
        if ANNOTATE or not stamp.exists() or stamp.read_text() != state:
            generated.unlink(missing_ok=True)
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(state)


def forget_gone_modules() -> None:
    """Delete what was built in place from sources that are no longer there: it could be imported."""
    lab = ROOT / "tests" / "lab"
    for built in (
        path for folder in (SRC, lab) for end in ("so", "pyd") for path in folder.rglob(f"*.{end}")
    ):
        source = built.with_name(built.name.partition(".")[0] + ".pyx")
        name = ".".join(source.relative_to(ROOT).with_suffix("").parts).removeprefix("src.")
        if not source.exists() and name not in MODELS:
            built.unlink()
            source.with_suffix(".c").unlink(missing_ok=True)


def readme() -> str:
    """The README, with links into the repository in place of relative ones."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    home = project["urls"]["Homepage"]
    text = re.sub(r"(!\[[^\]]*\]\()(?![a-z]+:|#)", rf"\1{home}/raw/main/", text)
    return re.sub(r"((?<!!)\[[^\]]*\]\()(?![a-z]+:|#)", rf"\1{home}/blob/main/", text)


if __name__ == "__main__":
    setup(
        long_description=readme(),
        long_description_content_type="text/markdown",
        ext_modules=extensions(),
        cmdclass={"build_ext": BuildExt},
    )
