"""The default resolver on a machine of its own: its resolv.conf, its hosts, servers that are silent or lie."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lab import resolving
from tests.lab.namespaces import Namespace, missing

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(missing() is not None, reason=f"no lab: {missing()}"),
]

HERE = "".join(f"nameserver 127.0.0.{n}\n" for n in (1, 2, 3))


def run(scenario: str, folder: Path, resolv_conf: str, hosts: str = "") -> Any:
    """What a scenario of `resolving` prints, in a network and with files of its own."""
    (folder / "resolv.conf").write_text(resolv_conf)
    (folder / "hosts").write_text(hosts)
    mount = "".join(
        f"mount --bind '{folder / name}' /etc/{name} && " for name in ("resolv.conf", "hosts")
    )
    network = Namespace("resolver")
    try:
        done = network.run(
            ["unshare", "-m", "sh", "-ec", mount + 'exec "$@"', "sh"]
            + [sys.executable, "-X", "dev", str(resolving.__file__), scenario],
            capture_output=True,
            text=True,
            timeout=60,
            env={
                "PYTHONPATH": ":".join(path for path in sys.path if path),
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            },
        )
    finally:
        network.close()
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["threads"] == 1
    return told["result"]


def test_silent_and_lying_servers_hide_no_answer_and_are_asked_last(tmp_path: Path) -> None:
    result = run("mixed", tmp_path, HERE)
    assert result["found"] == [[resolving.RIGHT]] * 5
    silent, lying, good = result["asked"]
    # Each was tried; then the good one was asked alone, but for what was under way.
    assert silent >= 1 and lying >= 1 and good == 5
    assert silent < 5 and lying < 5


def test_change_of_the_file_is_noticed_at_the_next_question(tmp_path: Path) -> None:
    result = run("changed", tmp_path, "nameserver 127.0.0.1\n")
    assert result["before"][0] == "DnsTimeout" and "127.0.0.1" in result["before"][1]
    assert result["after"] == [resolving.RIGHT]


def test_silent_servers_are_a_timeout_that_names_them(tmp_path: Path) -> None:
    kind, text = run("all_silent", tmp_path, "nameserver 127.0.0.1\nnameserver 127.0.0.2\n")
    assert kind == "DnsTimeout" and "127.0.0.1, 127.0.0.2" in text


def test_domains_to_search_and_table_of_hosts_are_those_of_the_system(tmp_path: Path) -> None:
    result = run(
        "searching",
        tmp_path,
        "nameserver 127.0.0.1\nsearch a.example b.example\noptions ndots:2\n",
        "192.0.2.77 listed\n",
    )
    right = [resolving.RIGHT]
    assert result["found"] == [right, right, right, ["192.0.2.77"], ["127.0.0.1"]]
    assert result["asked"] == ["box.a.example.", "box.", "x.box.a.example."]


@pytest.mark.parametrize("server", ["127.0.0.1", "192.0.2.53", "2001:db8::53"])
def test_server_that_is_not_there_is_told_at_once(tmp_path: Path, server: str) -> None:
    kind, text = run("nobody", tmp_path, f"nameserver {server}\n")
    assert kind == "DnsResolveFailed" and server in text


def test_machine_without_configuration_and_network_says_whom_it_asked(tmp_path: Path) -> None:
    kind, text = run("nobody", tmp_path, "")
    assert kind == "DnsResolveFailed" and "8.8.8.8" in text
