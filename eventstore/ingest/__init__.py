"""Follows upstreams: for each app, one reader of its stream and one writer to the event table."""
