"""Backends of focal attention, one file each."""
