"""Prompt sets: GenEval (generated), the embedded model's grammar, and files."""

from sinkscope.prompts._files import read_file
from sinkscope.prompts._geneval import geneval, geneval_balanced
from sinkscope.prompts._load import load
from sinkscope.prompts._record import PromptRecord
from sinkscope.prompts._shapes import shapes_prompts

__all__ = ["PromptRecord", "geneval", "geneval_balanced", "load", "read_file", "shapes_prompts"]
