"""Makes a package with a read model of one's own, from templates."""
