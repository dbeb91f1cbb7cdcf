"""The deterministic part of the network layer: records, books and framing, without sockets."""
