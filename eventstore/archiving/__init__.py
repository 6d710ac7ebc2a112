"""Files of archived partitions: writing, comparing, finding and reading them."""
