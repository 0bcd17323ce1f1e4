"""The DAS tokenizer: semantic IDs of items and users, aligned with behaviour."""

from dasrec.tokenizer.assign import AssignConfig, assign
from dasrec.tokenizer.config import AlignmentConfig, IcdmConfig, TokenizerConfig, tiger_config
from dasrec.tokenizer.model import Das
from dasrec.tokenizer.report import render_report, sid_report
from dasrec.tokenizer.train import load_tokenizer, train_tokenizer

__all__ = [
    "AlignmentConfig",
    "AssignConfig",
    "Das",
    "IcdmConfig",
    "TokenizerConfig",
    "assign",
    "load_tokenizer",
    "render_report",
    "sid_report",
    "tiger_config",
    "train_tokenizer",
]
