"""Samplers of token models: integers that are masked, corrupted and predicted, not numbers that are scaled and added.

No step here is linear in the sample, so none has a plan; configuration and saving are all that is shared with the other
schedulers.
"""
