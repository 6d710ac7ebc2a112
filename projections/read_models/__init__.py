"""The built-in read models: one file each."""
