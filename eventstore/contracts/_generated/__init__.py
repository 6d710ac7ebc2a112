"""Stubs generated from proto/ by ``make stubs``; never edited, checked by ``make check-stubs``."""
