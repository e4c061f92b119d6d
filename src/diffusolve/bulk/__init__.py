"""Samples by the thousand and the million: rows in, shards out, on one machine or many."""

from diffusolve.bulk.generate import Summary, generate, read
from diffusolve.bulk.models import Model, load_model
from diffusolve.bulk.rows import FIELDS, Row
from diffusolve.bulk.shards import Record

__all__ = ["FIELDS", "Model", "Record", "Row", "Summary", "generate", "load_model", "read"]
