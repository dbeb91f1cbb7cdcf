"""What a machine offers and for how much; and that one folder has one node."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.core.keys import SigningKey
from millrace.capacity import Capacity, Machine, compose_advert, fuel_price, measure_machine, offered
from millrace.config import load_config
from millrace.datadir import claimed
from millrace.errors import MillraceError, UsageError
from millrace.paths import find_paths
from p2p.core.adverts import decode_advert

if TYPE_CHECKING:
    from pathlib import Path


def test_this_machine_has_something() -> None:
    machine = measure_machine()
    assert machine.cores >= 1
    assert machine.memory_bytes > 1 << 26


@pytest.mark.parametrize(
    ("cores", "percent", "slots"),
    [(2, 50, 1), (1, 50, 1), (8, 50, 4), (8, 0, 0), (3, 100, 3), (64, 1, 1), (256, 100, 64)],
)
def test_slots_are_whole_cores_and_at_least_one_if_any(cores: int, percent: int, slots: int) -> None:
    assert offered(Machine(cores, 1_000), percent, 25) == Capacity(slots, 250)


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(1, 10**12))
def test_an_hour_of_work_never_earns_less_than_the_owner_asks(hour: int, least: int, speed: int) -> None:
    price = fuel_price(hour, least, speed)
    assert price * speed * 3600 >= max(hour, least) * 10**12
    assert (price - 1) * speed * 3600 < max(hour, least) * 10**12


def test_no_speed_has_no_price() -> None:
    with pytest.raises(ValueError, match="no speed"):
        fuel_price(1, 1, 0)


def test_the_advert_says_only_what_the_owner_published(tmp_path: Path) -> None:
    paths = find_paths({"MILLRACE_HOME": str(tmp_path)})
    config = load_config(paths, {}, {"node.name": "desk"}, system=tmp_path / "none")
    me = SigningKey(bytes([7]) * 32).account
    advert = compose_advert(config, me, Capacity(2, 1 << 30, 10**9), slots_free=1, addresses=())
    body = advert.encode()
    assert decode_advert(body) == advert
    assert (advert.name, advert.slots_free, advert.rates["wasm"]) == ("desk", 1, 10**9)
    for secret in (os.uname().nodename, str(tmp_path), os.environ.get("USER", "")):
        assert not secret or secret.encode() not in body


def test_a_folder_is_claimed_once_and_released(tmp_path: Path) -> None:
    paths = find_paths({"MILLRACE_HOME": str(tmp_path / "home")})
    with claimed(paths):
        assert paths.pid.read_text().strip() == str(os.getpid())
        with pytest.raises(UsageError, match="another node"), claimed(paths):
            pytest.fail("two nodes in one folder")
        assert paths.pid.exists()
    assert not paths.pid.exists()
    with claimed(paths):
        paths.pid.write_text("1\n")  # somebody else's by now
    assert paths.pid.read_text() == "1\n"


def test_an_open_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with (
        pytest.raises(MillraceError, match="chmod 700"),
        claimed(find_paths({"MILLRACE_HOME": str(tmp_path)})),
    ):
        pytest.fail("claimed an open folder")
