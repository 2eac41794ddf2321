"""camaudit: what an image classifier really looks at, over a whole dataset."""

__version__ = "0.2.0.dev0"
