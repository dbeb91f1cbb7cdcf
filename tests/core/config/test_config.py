"""The configuration: defaults that are true, every problem at once, who said what, edits that keep comments."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millrace.config import ConfigError, NodeConfig, load_config, set_value, template
from millrace.config_check import CONFIG_BYTES_MAX, check_config
from millrace.errors import UsageError
from millrace.paths import HOME_ENV, SOCKET_PATH_BYTES_MAX, PathError, Paths, find_paths, private_dir
from millrace.settings import SECTIONS, SETTINGS, env_name

NOWHERE = Path("/nonexistent/config.toml")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return find_paths({HOME_ENV: str(tmp_path)})


def load(
    paths: Paths, text: str = "", env: dict[str, str] | None = None, flags: dict[str, str] | None = None
) -> NodeConfig:
    if text:
        paths.config.write_text(text)
    return load_config(paths, env or {}, flags, system=NOWHERE)


def problems(paths: Paths, text: str, env: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(paths, text, env)
    return [str(problem) for problem in caught.value.problems]


def test_the_defaults_have_no_problem_and_lend_nothing(paths: Paths) -> None:
    config = load(paths)
    assert not config.share.lends
    assert (config.share.kinds, config.price.mode) == (("wasm",), "fixed")
    assert (config.price.core_hour, config.spend.max_per_job) == (1_000_000, 1_000_000)
    assert config.api.socket == paths.data / "api.sock"


def test_the_template_is_the_defaults(paths: Paths) -> None:
    plain = load(paths)
    assert load(paths, template()) == plain
    # uncommented, every line is still its default: what the template says is what happens
    live = "\n".join(
        line[2:] if line.startswith("# ") and "=" in line else line for line in template().splitlines()[2:]
    )
    values, found = check_config(paths, {}, system=NOWHERE)
    assert load(paths, live) == plain
    assert not found
    assert len(values) == len(SETTINGS)


def test_all_problems_come_at_once_each_with_what_why_and_next(paths: Paths) -> None:
    text = """
[share]
cpuu = "30%"
when = "idle"
memory = 50
[nod]
name = "x"
[price]
core_hour = -1
mode = "market"
"""
    found = problems(paths, text, {"MILLRACE_SHARE_KINDZ": "wasm"})
    assert len(found) == 7
    for part in (
        "there is no setting share.cpuu",
        "did you mean share.cpu?",
        "did you mean [node]?",
        "did you mean MILLRACE_SHARE_KINDS?",
        'share.when = "idle" is not available yet',
        'price.mode = "market" is not available yet',
        "share.memory cannot be 50",
        "price.core_hour cannot be -1",
    ):
        assert any(part in line for line in found), part


@pytest.mark.parametrize(
    "line",
    [
        'share.when = "schedule"',
        'share.cpu_in_use = "0%"',
        'share.gpus = ["all"]',
        "share.gpus = [0]",
        "share.on_battery = false",
        'share.stop_if_others_use = "25%"',
        'share.schedule = ["Sat-Sun"]',
        'share.kinds = ["wasm", "onnx"]',
        "share.kinds = []",
        'share.disk = "10GB"',
        "energy.watts_idle = 40",
        'price.accept_free_from = ["12D3Koo"]',
        "energy.carbon_g_per_kwh = 380",
        'energy.carbon_file = "x.csv"',
        'energy.electricity_price_file = "x.csv"',
        'api.dashboard = "127.0.0.1:8390"',
        'api.metrics = "127.0.0.1:9464"',
    ],
)
def test_what_cannot_be_kept_yet_is_refused_not_ignored(paths: Paths, line: str) -> None:
    found = problems(paths, line)
    assert len(found) == 1
    assert "is not available yet" in found[0]


@pytest.mark.parametrize(
    "text",
    [
        "[share]\nwhen = 1",
        "share = 3",
        "[[share]]\nwhen = 'never'",
        "[share]\nwhen = 'never'\nwhen = 'always'",
        "not toml",
        "[network]\nlisten = []",
        "[network]\nlisten = ['auto']",
        "[network]\nbootstrap = ['/ip4/1.2.3.4/tcp/4710']",
        "[price]\ncore_hour = 0.1\nmin = 0.5",
        "[spend]\nmax_per_job = 20\nmax_per_day = 10",
        "[log]\nlevel = 'loud'",
        "[node]\nname = '" + "x" * 33 + "'",
        "[share]\ncpu = '0%'",
        "[share]\nkinds = ['docker']",
        "[api]\nsocket = '/" + "x" * 120 + "'",
        "#" * (CONFIG_BYTES_MAX + 1),
    ],
)
def test_mistakes_are_one_precise_problem_each(paths: Paths, text: str) -> None:
    assert len(problems(paths, text)) == 1


def test_the_later_word_wins_and_is_named(paths: Paths, tmp_path: Path) -> None:
    system = tmp_path / "system.toml"
    system.write_text('[share]\ncpu = "10%"\nmemory = "11%"\nidle_after = "12s"\n[node]\nname = "sys"\n')
    paths.config.write_text('[share]\ncpu = "20%"\nmemory = "21%"\nidle_after = "22s"\n')
    values, found = check_config(
        paths,
        {"MILLRACE_SHARE_CPU": "30%", "MILLRACE_SHARE_MEMORY": "31%"},
        {"share.cpu": "40%"},
        system=system,
    )
    assert not found
    by_key = {value.setting.key: (value.value, value.source.kind) for value in values}
    assert by_key["share.cpu"] == (40, "flag")
    assert by_key["share.memory"] == (31, "env")
    assert by_key["share.idle_after"] == (22, "user")
    assert by_key["node.name"] == ("sys", "system")
    assert by_key["network.mdns"] == (True, "default")


def test_every_setting_has_an_environment_twin(paths: Paths) -> None:
    env = {env_name(setting.key): setting.toml for setting in SETTINGS}
    values, found = check_config(paths, env, system=NOWHERE)
    assert not found
    assert {value.source.kind for value in values} == {"env"}
    assert load(
        paths, env={"MILLRACE_NETWORK_LISTEN": "/ip4/127.0.0.1/tcp/1, /ip4/127.0.0.1/tcp/2"}
    ).network.listen == (
        "/ip4/127.0.0.1/tcp/1",
        "/ip4/127.0.0.1/tcp/2",
    )
    assert load(paths, env={"MILLRACE_NETWORK_CREATE_NAME": "a flag's twin, no setting"}).network.mdns


def test_an_edit_keeps_comments_and_refuses_what_is_wrong(paths: Paths) -> None:
    paths.config.write_text('# mine\n[share]\ncpu = "30%"  # quiet\n')
    set_value(paths.config, "share.when", "always")
    set_value(paths.config, "spend.max_per_job", "0.25")
    text = paths.config.read_text()
    assert "# mine" in text
    assert '"30%"  # quiet' in text
    config = load(paths)
    assert (config.share.when, config.share.cpu_percent, config.spend.max_per_job) == ("always", 30, 250_000)
    for key, value in (("share.cpuu", "1"), ("share.cpu", "lots"), ("share.when", "idle")):
        with pytest.raises(ConfigError):
            set_value(paths.config, key, value)
    assert paths.config.read_text() == text
    paths.config.write_text("not toml")
    with pytest.raises(ConfigError):
        set_value(paths.config, "share.when", "always")
    assert paths.config.read_text() == "not toml"


def test_an_unreadable_file_is_a_problem_not_a_default(paths: Paths) -> None:
    paths.config.mkdir()
    assert "cannot read" in problems(paths, "")[0]
    paths.config.rmdir()
    paths.config.write_bytes(b"[share]\nwhen = '\xff'")
    assert "not a TOML file" in problems(paths, "")[0]


def test_entry_points_resolve_auto(paths: Paths) -> None:
    mine = "/ip4/1.2.3.4/tcp/1/p2p/12D3KooWBRvp8ufrBHfMzMcWQ6FQP9QTeuFZJ8D5EphZwUUUHktw"
    config = load(paths, f'[network]\nbootstrap = ["{mine}", "auto"]')
    assert config.network.entry_points(["/file", mine]) == (mine, "/file")


def test_a_long_home_gets_a_short_socket_or_a_clear_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = find_paths({HOME_ENV: str(tmp_path / ("x" * 200))})
    short = deep.socket()
    assert len(os.fsencode(short)) <= SOCKET_PATH_BYTES_MAX
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert short == deep.socket(), "daemon and command line need not have the same environment"
    assert short != find_paths({HOME_ENV: str(tmp_path / ("y" * 200))}).socket()
    monkeypatch.setattr("millrace.paths._runtime_roots", lambda: (tmp_path / ("z" * 120),))
    with pytest.raises(PathError):
        deep.socket()
    assert "no place for the API socket" in problems(deep, "")[0]


def test_profiles_are_nodes_beside_each_other(tmp_path: Path) -> None:
    first, second = find_paths({HOME_ENV: str(tmp_path)}), find_paths({HOME_ENV: str(tmp_path)}, "second")
    assert first.data != second.data
    assert len({first.socket(), second.socket(), first.key, second.key}) == 4
    for bad in ("../x", "A", "", "x" * 33, "a b"):
        if bad:
            with pytest.raises(UsageError):
                find_paths({}, bad)
    private_dir(second.data)
    private_dir(first.data)  # its parent was made private too


def test_a_private_folder_is_refused_when_others_can_enter(tmp_path: Path) -> None:
    folder = private_dir(tmp_path / "a" / "b")
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o750)
    with pytest.raises(PathError, match="open to other users") as caught:
        private_dir(folder)
    assert caught.value.next_step == f"chmod 700 {folder}"
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(PathError, match="not a folder"):
        private_dir(tmp_path / "link")
    (tmp_path / "file").touch()
    with pytest.raises(PathError):
        private_dir(tmp_path / "file" / "below")


SCRAPS = st.sampled_from(
    [
        *(f"[{section}]" for section in SECTIONS),
        *(f"{s.name} = {s.toml}" for s in SETTINGS),
        "x = 1",
        "[[a]]",
        '"',
    ]
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(SCRAPS | st.text(max_size=20), max_size=8))
def test_any_file_is_a_configuration_or_a_list_of_problems(paths: Paths, lines: list[str]) -> None:
    paths.config.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    values, found = check_config(paths, {}, system=NOWHERE)
    assert len(values) == len(SETTINGS)
    for problem in found:
        assert problem.what
        assert problem.why
        assert problem.next_step


def test_every_setting_is_a_field(paths: Paths) -> None:
    config = load(paths)
    pairs = itertools.groupby(SETTINGS, lambda setting: setting.section)
    for section, group in pairs:
        for setting in group:
            assert hasattr(getattr(config, section), setting.field)
