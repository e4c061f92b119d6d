"""Scheduler classes: drop-in for diffusers."""
