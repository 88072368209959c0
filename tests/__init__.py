"""Tests, in folders that mirror the package; `builders` is what they share."""
