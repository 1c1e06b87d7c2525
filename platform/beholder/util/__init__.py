"""Errors, atomic files, paths, strict settings."""
