"""The option `--model` of the commands that take one. Needs no torch."""

from __future__ import annotations

from diffusolve.denoisers.named import MODELS, classes_of, label_of, makes_emoji

__all__ = ["MODELS", "MODEL_HELP", "classes_of", "label_of", "makes_emoji"]

MODEL_HELP = f"{', '.join(MODELS)}, a file that examples.train_emoji wrote, a diffusers pipeline folder or a Hub id."
