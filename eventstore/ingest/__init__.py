"""Follows upstreams: one reader and one writer for each app, from the wire to the event table."""
