"""The peer itself: client library, node daemon, market, leases and command line."""
