"""The built-in read models, one file each; docs/where-to-add.md says how to add a column or a read model."""
