"""Named consumers: programs that read the log for something other than a read model, each from a durable checkpoint."""
