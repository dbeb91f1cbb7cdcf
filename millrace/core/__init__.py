"""The deterministic part of the peer: leases, market and jobs as values and tables."""
