"""What people do with quarantined messages: look at them, retry, export or drop them."""
