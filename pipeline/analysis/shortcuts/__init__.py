"""Shortcuts: where a class's images are unusual, what is changed in pictures, what that proves."""
