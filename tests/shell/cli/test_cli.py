"""The command line as people and programs meet it: help, flags, errors, JSON, exit codes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from millrace.cli.main import DEFAULT_VERB, GROUPS, VERBS, main

COMMON = ("--json", "--quiet", "--no-input", "--timeout", "--profile", "--config", "--endpoint")
EVERY_VERB = [
    *([name] for name in VERBS if name not in GROUPS),
    *([group, name] for group, names in GROUPS.items() for name in names),
]
HELP_CPU_S_MAX = 0.3
BANNED = ("libp2p", "multiaddr", "zeroconf", "trio", "wasmtime", "sqlite3", "millrace.node")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("MILLRACE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def document(out: str) -> dict[str, object]:
    lines = out.strip().splitlines()
    assert len(lines) == 1, out
    read: dict[str, object] = json.loads(lines[0])
    assert read["schema"] == 1
    return read


@pytest.mark.parametrize("verb", EVERY_VERB, ids=" ".join)
def test_every_verb_has_help_and_the_common_flags(
    verb: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*verb, "--help"]) == 0
    out = capsys.readouterr().out
    for flag in COMMON:
        assert flag in out
    assert f"millrace {' '.join(verb)}" in out


def test_help_of_every_verb_imports_nothing_heavy() -> None:
    """One process asks for every help text, then looks at what was imported (SPEC: the CLI is quick)."""
    script = (
        "import sys\nfrom millrace.cli.main import main\n"
        f"for verb in {[[], *EVERY_VERB, *([group] for group in GROUPS)]!r}:\n"
        "    main([*verb, '--help'])\n"
        f"heavy = [name for name in {BANNED!r} if name in sys.modules]\n"
        "print('HEAVY', heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_help_costs_little_cpu() -> None:
    best = min(_cpu_s([sys.executable, "-m", "millrace.cli.main", "--help"]) for _ in range(3))
    assert best < HELP_CPU_S_MAX


def _cpu_s(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["statsu"], "'status'"),
        (["ledger", "audti"], "'audit'"),
        (["status", "--wathc"], "--watch"),
        (["wasm"], ""),
        ([], ""),
        (["status", "--timeout", "soon"], "not a time"),
        (["up", "--set", "share.cpu"], "has no ="),
        (["ledger", "receipt", "xyz"], "64 hex digits"),
        (["send", "nobody", "1"], "not the peer id"),
        (["send", "nobody", "-3"], "above zero"),
        (["send", "nobody", "-0.5", "--yes"], "above zero"),
        (["send", "nobody", "1", "--yse"], "--yse"),
        (["status", "--profile", "A B"], "not a profile name"),
        (["balance", "nobody"], "not the peer id"),
        (["network", "create", "n", "--witness", "x"], "not an address"),
        (["network", "create"], ""),
        (["completion", "tcsh"], "tcsh"),
        (["wasm", "run", "/nonexistent.wasm"], "cannot read"),
    ],
)
def test_mistakes_in_the_command_are_usage_errors(
    args: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 2
    caught = capsys.readouterr()
    assert not caught.out
    assert hint in caught.err
    assert main([*args, "--json"]) == 2
    if args not in ([], ["wasm"]):
        error = document(capsys.readouterr().out)["error"]
        assert isinstance(error, dict)
        assert error["code"] == "usage"
        assert error["exit_code"] == 2
        assert hint in error["what"]


NEEDS_NODE = [
    ["status"],
    ["peers"],
    ["peers", "ls"],
    ["offers"],
    ["jobs"],
    ["jobs", "show", "x"],
    ["balance"],
    ["ledger", "head"],
    ["ledger", "show"],
    ["ledger", "audit"],
    ["ledger", "receipt"],
]


@pytest.mark.parametrize("args", NEEDS_NODE, ids=" ".join)
def test_without_a_node_verbs_say_so_and_how_to_start_one(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 3
    caught = capsys.readouterr()
    assert not caught.out
    assert "why:" in caught.err
    assert "millrace up" in caught.err
    assert main(["--json", *args]) == 3
    error = document(capsys.readouterr().out)["error"]
    assert isinstance(error, dict)
    assert error["code"] == "daemon_unavailable"
    assert error["next"]


def test_defaults_of_groups_are_verbs() -> None:
    for group, name in DEFAULT_VERB.items():
        assert name in GROUPS[group]


def test_flags_before_and_after_the_verb_and_in_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    assert main(["--profile", "second", "config", "path", "--json"]) == 0
    assert document(capsys.readouterr().out)["data"] == str(home / "profiles" / "second")
    assert main(["--profile", "second", "config", "path", "--json", "--profile", "third"]) == 0
    assert document(capsys.readouterr().out)["data"] == str(home / "profiles" / "third")
    monkeypatch.setenv("MILLRACE_PROFILE", "fourth")
    monkeypatch.setenv("MILLRACE_JSON", "1")
    assert main(["config", "path"]) == 0
    assert document(capsys.readouterr().out)["data"] == str(home / "profiles" / "fourth")
    assert main(["--profile", "fifth", "config", "path"]) == 0
    assert document(capsys.readouterr().out)["data"] == str(home / "profiles" / "fifth")
    assert main(["--endpoint", "/tmp/x.sock", "config", "path"]) == 0
    assert document(capsys.readouterr().out)["socket"] == "/tmp/x.sock"
    assert main(["--profile", "../x", "config", "path"]) == 2


def test_the_configuration_is_checked_changed_and_explained(
    capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    assert main(["config", "check"]) == 0
    assert main(["set", "share.cpu", "30%"]) == 0
    assert main(["set", "share.cpuu", "30%"]) == 2
    assert "did you mean share.cpu?" in capsys.readouterr().err
    assert main(["config", "show", "share.cpu", "--json", "--set", "share.memory=10%"]) == 0
    shown = document(capsys.readouterr().out)["settings"]
    assert isinstance(shown, dict)
    assert shown["share.cpu"] == {"value": "30%", "origin": "user", "where": str(home / "config.toml")}
    (home / "config.toml").write_text('[share]\nwhen = "idle"\ncpuu = 1\n')
    assert main(["config", "check"]) == 2
    out = capsys.readouterr().out
    assert "not available yet" in out
    assert "did you mean share.cpu?" in out
    assert main(["up"]) == 2
    assert "2 problems" in capsys.readouterr().err
    assert main(["config", "show", "price", "--origin"]) == 0
    assert "default" in capsys.readouterr().out
    assert main(["config", "show", "nothing"]) == 2


def init(capsys: pytest.CaptureFixture[str], folder: Path, port: int = 4710) -> str:
    listen = f"/ip4/127.0.0.1/tcp/{port}"
    assert main(["bootstrap", "init", "--data", str(folder), "--listen", listen, "--json"]) == 0
    return str(document(capsys.readouterr().out)["witness"])


def test_a_network_is_made_joined_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    witness = init(capsys, tmp_path / "w")
    assert init(capsys, tmp_path / "w") == witness  # repeating is safe
    peer, file = witness.partition("@")[0], str(tmp_path / "net.toml")
    assert main(["network", "show"]) == 1
    assert "millrace network join" in capsys.readouterr().err
    assert main(["up"]) == 1
    assert "has not joined a network" in capsys.readouterr().err
    make = ["network", "create", "home", "--witness", witness, "--limit", f"{peer}=5.5", "-o", file]
    assert main(make) == 0
    assert "no fault tolerated" in capsys.readouterr().out
    assert main(make) == 1  # never silently over an old one: every run is another network
    assert "exists" in capsys.readouterr().err
    assert main(["network", "join", file, "--json"]) == 0
    joined = document(capsys.readouterr().out)
    assert joined["limits"] == {peer: 5_500_000}
    assert joined["faults_tolerated"] == 0
    assert main(["network", "join", file]) == 0  # again is no error
    assert main(["network", "show", "--toml"]) == 0
    assert Path(file).read_text() in capsys.readouterr().out
    assert main([*make, "--force"]) == 0
    assert main(["network", "join", file]) == 1
    assert "belongs to 'home' already" in capsys.readouterr().err
    assert main(["network", "join", file, "--profile", "other"]) == 0
    (home / "ledger.db").touch()
    assert main(["network", "join", file, "--force"]) == 1
    assert "must not mix" in capsys.readouterr().err
    Path(file).write_text(Path(file).read_text().replace('name = "home"', 'name = "evil"'))
    assert main(["network", "join", file]) == 1
    assert "cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize(
    "bad",
    [
        ["--limit", "x=1"],
        ["--limit", "PEER"],
        ["--limit", "PEER=-1"],
        ["--limit", "PEER=lots"],
        ["--witness", "WITNESS"],
    ],
)
def test_a_network_that_cannot_be_is_not_made(
    bad: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    witness = init(capsys, tmp_path / "w")
    bad = [text.replace("WITNESS", witness).replace("PEER", witness.partition("@")[0]) for text in bad]
    file = tmp_path / "net.toml"
    assert main(["network", "create", "n", "--witness", witness, *bad, "-o", str(file)]) == 2
    assert not file.exists()


def test_a_key_can_be_made_before_there_is_a_network(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert main(["key", "create"]) == 0
    made = capsys.readouterr().out
    assert main(["key", "create"]) == 0
    assert main(["key", "show"]) == 0
    assert capsys.readouterr().out == made * 2
    (home / "node.key").chmod(0o644)
    assert main(["key", "create"]) == 1


@pytest.mark.parametrize("flag", ["--listen", "--announce"])
def test_an_entry_point_is_not_made_where_nobody_can_reach_it(
    flag: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["bootstrap", "init", "--data", str(tmp_path / "w"), flag, "nonsense"]) == 2
    assert flag in capsys.readouterr().err
    assert not (tmp_path / "w" / "bootstrap.toml").exists()


def test_a_key_is_shown_and_a_loose_one_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    assert main(["key", "show"]) == 1
    assert "millrace key create" in capsys.readouterr().err
    witness = init(capsys, home)
    assert main(["key", "show"]) == 0
    assert capsys.readouterr().out.strip() == witness.partition("@")[0]
    (home / "node.key").chmod(0o644)
    assert main(["key", "show"]) == 1
    err = capsys.readouterr().err
    assert "mode 0644" in err
    assert "chmod 600" in err
    assert main(["bootstrap", "run", "--data", str(home)]) == 1


def test_a_data_folder_open_to_others_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    witness = init(capsys, tmp_path / "w")
    file = str(tmp_path / "net.toml")
    assert main(["network", "create", "n", "--witness", witness, "-o", file]) == 0
    home.mkdir(mode=0o755)
    home.chmod(0o755)
    assert main(["network", "join", file]) == 1
    assert f"chmod 700 {home}" in capsys.readouterr().err
    assert main(["bootstrap", "init", "--data", str(home)]) == 1
    assert f"chmod 700 {home}" in capsys.readouterr().err


def test_a_payment_needs_a_yes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    peer = init(capsys, tmp_path / "w").partition("@")[0]
    for amount in ("0", "-1", "lots", "0.0000001"):
        assert main(["send", peer, "--", amount]) == 2
    assert main(["send", peer, "1", "--no-input"]) == 2
    assert "add --yes" in capsys.readouterr().err
    assert main(["send", peer, "1", "--yes"]) == 3


def test_stopping_what_does_not_run_is_no_error(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert main(["down"]) == 0
    home.mkdir(mode=0o700)
    for stale in ("1", "x", str(os.getpid()), "999999999"):
        (home / "node.pid").write_text(stale)
        assert main(["down", "--json"]) == 0
        assert not (home / "node.pid").exists()
    assert "no node was running" in capsys.readouterr().out


def test_version_and_completion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "--json"]) == 0
    assert document(capsys.readouterr().out)["node"] is None
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell, "--quiet"]) == 0
        assert "_MILLRACE_COMPLETE" in capsys.readouterr().out


def test_the_shell_completes_verbs() -> None:
    environment = {
        **os.environ,
        "_MILLRACE_COMPLETE": "bash_complete",
        "COMP_WORDS": "millrace led",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "millrace.cli.main"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "plain,ledger"


def test_a_closed_pipe_and_an_interrupt_are_quiet() -> None:
    command = f"{sys.executable} -m millrace.cli.main config show | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert not done.stderr


def test_a_terminal_without_unicode_gets_escapes_not_a_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "millrace.cli.main", "config", "check"],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout.startswith("\\u2713")


def test_a_defect_is_called_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_session: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("millrace.cli.configuration.config_path_verb.callback", broken)
    assert main(["config", "path"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "this is a defect of millrace" in err


def test_doctor_names_what_is_wrong_and_the_command_to_mend_it(
    capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init(capsys, home)
    (home / "node.key").chmod(0o640)
    (home / "config.toml").write_text("[share]\ncpuu = 1\n")
    (home / "network.toml").write_text("nonsense")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert main(["doctor", "--quick", "--json"]) == 1
    findings = document(capsys.readouterr().out)["findings"]
    assert isinstance(findings, list)
    by_name = {finding["name"]: finding for finding in findings}
    for name in ("bubblewrap", "key", "config", "network"):
        assert by_name[name]["standing"] == ("poor" if name == "bubblewrap" else "bad"), name
        assert by_name[name]["cost"]
        assert by_name[name]["mend"]
    for finding in findings:
        assert finding["standing"] == "good" or (finding["cost"] and finding["mend"])
    assert main(["doctor", "--quick"]) == 1
    assert "mend:" in capsys.readouterr().out
