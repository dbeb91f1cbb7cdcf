"""How peers meet and talk: libp2p host, discovery, gossip and framed streams (SPEC.md §9-§11)."""
