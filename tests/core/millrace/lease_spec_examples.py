"""The example bytes of SPEC.md §12, every one computed: the network, Alice and Bob of the ledger's examples."""

from __future__ import annotations

from executor.core.limits import Limits
from executor.core.outcome import Outcome, Status
from ledger.core.encoding import Kind, NetworkId, digest, signing_bytes
from ledger.core.entries import sign_voucher
from ledger.core.genesis import Genesis
from millrace.core import messages
from millrace.core.lease import seal
from millrace.core.terms import Terms, job_digest, sign_terms
from tests.core.ledger.example_network import ALICE, BOB, CREATED_MS, EXPIRY_MS, WITNESS

LIMITS = Limits(fuel=20_000_000_000, memory_bytes=256 << 20, wall_s=60.0, output_bytes=1 << 20)


def example_terms() -> tuple[Terms, NetworkId]:
    network_id = Genesis(
        "example", CREATED_MS, (WITNESS.account,), ((ALICE.account, 1_000_000_000),)
    ).network_id
    module_sha256 = digest(b"module")
    job_id = job_digest(
        ALICE.account, bytes(range(16)), module_sha256, (digest(b"task 0"), digest(b"task 1"))
    )
    terms = Terms(
        buyer=ALICE.account,
        worker=BOB.account,
        job_id=job_id,
        nonce=bytes(range(16, 32)),
        module_sha256=module_sha256,
        module_bytes=2048,
        price_per_tfuel=50_000,
        amount=5_000_000,
        expiry_ms=EXPIRY_MS,
        fuel_max=LIMITS.fuel,
        memory_bytes_max=LIMITS.memory_bytes,
        wall_ms_max=60_000,
        output_bytes_max=LIMITS.output_bytes,
        window_units=8,
        replicas=2,
    )
    return terms, network_id


def examples() -> dict[str, str]:
    """Name → hex of everything that SPEC.md §12 shows."""
    terms, network_id = example_terms()
    outcome = Outcome(Status.OK, output=b"hello", fuel=1_234_567)
    salt = bytes(32)
    sealed = seal(terms.job_id, 1, BOB.account, salt, outcome.digest())
    lock_id = digest(b"lock")
    voucher = sign_voucher(ALICE, network_id, lock_id, 1)
    stream: dict[str, messages.Message] = {
        "propose": messages.Propose(terms, sign_terms(terms, ALICE, network_id)),
        "accept": messages.Accept(sign_terms(terms, BOB, network_id)),
        "refuse": messages.Refuse("all leases are taken"),
        "need_module": messages.NeedModule(),
        "module": messages.ModulePiece(0, b"\0asm"),
        "ready": messages.Ready(),
        "units": messages.Units((messages.Unit(1, b"task"),)),
        "committed": messages.Committed((messages.Commit(1, sealed),)),
        "reveal": messages.Reveal((1,)),
        "results": messages.Results((messages.Result(1, outcome.encode(), salt),)),
        "verdicts": messages.Verdicts((messages.Verdict(1, messages.VerdictCode.PAID, 1),), voucher),
        "end": messages.End("the job is done"),
    }
    return {
        "job id": terms.job_id.hex(),
        "terms": terms.encode().hex(),
        "terms signing bytes": signing_bytes(Kind.TERMS, network_id, terms.encode()).hex(),
        "terms hash": terms.terms_hash(network_id).hex(),
        "buyer signature": sign_terms(terms, ALICE, network_id).hex(),
        "worker signature": sign_terms(terms, BOB, network_id).hex(),
        "commitment": sealed.hex(),
        **{f"message {name}": messages.encode(message).hex() for name, message in stream.items()},
    }
