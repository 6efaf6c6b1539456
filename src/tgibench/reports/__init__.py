"""Measurements for people and programs to read."""
