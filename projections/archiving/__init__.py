"""Takes old partitions of the event table out of the database, into files."""
