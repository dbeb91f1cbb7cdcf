"""The command line; it never imports libp2p and talks to the daemon over a Unix socket."""
