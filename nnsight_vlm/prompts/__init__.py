"""Prompts: an encoding, and which of its tokens is what."""
