"""An entry point's settings: written, read back, and refused when they are not understood."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from bootstrap.config import (
    BootstrapConfig,
    BootstrapConfigError,
    load_bootstrap_config,
    prepare_data_dir,
    save_bootstrap_config,
)
from bootstrap.node import main

if TYPE_CHECKING:
    from pathlib import Path


def test_settings_are_read_back(tmp_path: Path) -> None:
    plain = load_bootstrap_config(tmp_path)
    assert plain == BootstrapConfig(tmp_path, tmp_path / "network.toml")
    changed = replace(plain, listen=("/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1"), mdns=True, log="debug")
    save_bootstrap_config(changed)
    assert load_bootstrap_config(tmp_path) == changed


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("lisen = []", "did you mean 'listen'?"),
        ("listen = []", "listen cannot be []"),
        ("listen = ['0.0.0.0:1']", "listen cannot be"),
        ("mdns = 1", "mdns cannot be 1"),
        ("log = 'loud'", "log cannot be"),
        ("network = ''", "network cannot be"),
        ("lisen = 1\nmdns = 1", "mdns cannot be 1"),
        ("x", "not TOML"),
        ("#" * 70_000, "longer than"),
    ],
)
def test_settings_that_are_not_understood_are_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "bootstrap.toml").write_text(text)
    with pytest.raises(BootstrapConfigError) as caught:
        load_bootstrap_config(tmp_path)
    assert why in caught.value.why
    assert caught.value.next_step


def test_a_folder_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    prepare_data_dir(tmp_path / "a" / "b")
    (tmp_path / "a").chmod(0o755)
    with pytest.raises(BootstrapConfigError, match="open to other users"):
        prepare_data_dir(tmp_path / "a")
    (tmp_path / "file").touch()
    with pytest.raises(BootstrapConfigError, match="not a folder of yours"):
        prepare_data_dir(tmp_path / "file")


def test_an_entry_point_that_cannot_start_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    assert main(["--data", str(data)]) == 2
    assert "no key file" in capsys.readouterr().err
    (data / "node.key").write_bytes(bytes(range(32)))
    (data / "node.key").chmod(0o600)
    assert main(["--data", str(data), "--json"]) == 2
    assert '"what": "there is no network file at' in capsys.readouterr().out
    (data / "bootstrap.toml").write_text("mdns = 3")
    assert main(["--data", str(data)]) == 2
    assert "next: edit" in capsys.readouterr().err
