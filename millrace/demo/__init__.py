"""`millrace demo`: a whole network on this machine, from discovery to an audited ledger, with the proofs shown."""
