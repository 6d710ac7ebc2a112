"""The read models that come along: one file each."""
