"""Stored objects: which account made them, whose they are, and how later requests find their way back."""
