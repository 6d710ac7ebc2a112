"""Read models as ``.sql`` files: reading, checking and translating them."""
