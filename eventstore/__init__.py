"""The event store: what arrives over the wire lies in Postgres as it came, once, in commit order."""
