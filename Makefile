# Two commands matter: `make demo` and `make test`. Each sets everything up by itself on a fresh machine.
.PHONY: demo test check lint types setup guests simulate durability bench bench-ledger clean
PYTHONPATH :=
export PYTHONPATH

demo: setup ## a whole network on this machine: real processes, real jobs, audited (ARGS=--json for machines)
	@.venv/bin/millrace demo $(ARGS)

test: setup ## every test (ARGS="-k name" for some)
	@.venv/bin/python -m pytest $(ARGS)

check: lint types test ## what has to pass before a change lands

lint: setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .

types: setup
	@.venv/bin/mypy

setup:
	@scripts/setup

guests: ## rebuild the demo's WebAssembly modules and compare them with the committed bytes
	@scripts/build-guests

simulate: setup ## SEEDS=2000: the whole ledger under seeded faults, liars and hostile clients, on every core
	@.venv/bin/python -m tests.simulation.ledger.simulate --seeds $(or $(SEEDS),2000)

durability: setup ## the ledger file under every crash, failing disk, cut and flipped bit (minutes; samples are in `make test`)
	@DURABILITY=1 .venv/bin/python -m pytest tests/shell/ledger/test_durability.py $(ARGS)

bench: setup ## what an entry and a unit cost, beside the bare parts in the same run (short)
	@.venv/bin/python -m benchmarks.ledger --short
	@.venv/bin/python -m benchmarks.jobs

bench-ledger: setup ## every figure of the ledger beside its target (ARGS="append --json --entries 1000000")
	@.venv/bin/python -m benchmarks.ledger $(ARGS)

clean:
	rm -rf .venv .venv-guests .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
