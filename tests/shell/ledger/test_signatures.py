"""A crew of processes verifies what one would: the same answer, whichever member is quick, slow or dead."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ledger import signatures
from ledger.core.encoding import Kind, NetworkId
from ledger.core.keys import SigningKey
from ledger.signatures import SignatureCrew, first_wrong_in

KEY = SigningKey(bytes(31) + b"\1")
MESSAGE = b"m" * 100
COUNT = 60


def signed() -> tuple[bytes, bytes, bytes]:
    network = NetworkId(bytes(32))
    signature = KEY.sign(Kind.ENTRY, network, MESSAGE)
    return KEY.account, signature, b"millrace/1\0" + bytes((Kind.ENTRY,)) + network + MESSAGE


RIGHT = signed()
WRONG = (RIGHT[0], RIGHT[1], RIGHT[2][:-1] + b"x")


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "BATCH_BYTES", 600)  # three signatures each: many batches of a few


def ask(crew: SignatureCrew, wrong: set[int]) -> int | None:
    for number in range(COUNT):
        if not crew.check(*(WRONG if number in wrong else RIGHT)):
            break
    return crew.first_wrong()


@pytest.mark.parametrize("processes", [0, 1, 3])
@pytest.mark.parametrize(
    ("wrong", "first"),
    [(set(), None), ({0}, 0), ({COUNT - 1}, COUNT - 1), ({7, 8, 31, 59}, 7), ({30, 29}, 29)],
    ids=str,
)
def test_the_first_wrong_signature_is_named(processes: int, wrong: set[int], first: int | None) -> None:
    with SignatureCrew(processes) as crew:
        assert crew.cores == processes + 1
        assert ask(crew, wrong) == first


def test_once_one_is_wrong_asking_is_no_use() -> None:
    with SignatureCrew(0) as crew:
        answers = [crew.check(*WRONG) for _ in range(10)]
    assert answers[0]
    assert not answers[-1]


@pytest.mark.parametrize("wrong", [set(), {4}, {50}], ids=str)
def test_a_member_that_dies_loses_nothing(wrong: set[int]) -> None:
    with SignatureCrew(2) as crew:
        for member in crew._members:
            os.kill(member.process.pid, signal.SIGKILL)
            member.process.wait()
        assert ask(crew, wrong) == min(wrong, default=None)
        assert crew.cores == 1


def test_a_member_that_dies_with_work_in_hand_loses_nothing() -> None:
    with SignatureCrew(1) as crew:
        (member,) = crew._members
        os.kill(member.process.pid, signal.SIGSTOP)
        for number in range(COUNT // 2):
            crew.check(*(WRONG if number == 1 else RIGHT))
        assert len(member.batches) == signatures.BATCHES_AHEAD
        os.kill(member.process.pid, signal.SIGKILL)
        assert crew.first_wrong() == 1


def test_no_process_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt), SignatureCrew(2) as crew:
        pids = [member.process.pid for member in crew._members]
        crew.check(*RIGHT)
        raise KeyboardInterrupt
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_killed_caller_leaves_no_process_behind() -> None:
    """SIGKILL runs no cleanup: the members end because their input does."""
    code = (
        "import sys\nfrom ledger.signatures import SignatureCrew\nwith SignatureCrew(2) as crew:\n"
        "    print(*(member.process.pid for member in crew._members), flush=True)\n    sys.stdin.read()"
    )
    caller = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert caller.stdout is not None
    ends = [os.pidfd_open(int(pid)) for pid in caller.stdout.readline().split()]
    caller.kill()
    caller.communicate()
    for end in ends:
        assert select.select([end], [], [], 20)[0]
        os.close(end)
    assert len(ends) == 2


def test_without_processes_the_caller_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(signatures, "_start", refuse)
    with SignatureCrew(2) as crew:
        assert crew.cores == 1
        assert ask(crew, {9}) == 9


def test_a_batch_of_nothing_holds() -> None:
    assert first_wrong_in(b"") is None
