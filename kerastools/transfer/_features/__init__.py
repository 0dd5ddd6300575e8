"""Cached features of a frozen trunk."""
