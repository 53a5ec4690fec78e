"""Prompt sets: the embedded model's grammar and files (text, csv, jsonl, parquet)."""

from sinkscope.prompts._files import read_file
from sinkscope.prompts._load import load
from sinkscope.prompts._record import PromptRecord
from sinkscope.prompts._shapes import shapes_prompts

__all__ = ["PromptRecord", "load", "read_file", "shapes_prompts"]
