"""The built-in read models, one file each; docs/design.md says how to add a column or a read model."""
