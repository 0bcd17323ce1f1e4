"""Semantic IDs of items and users: DAS, and the tokenizers it is compared with."""

from dasrec.tokenizer.assign import assign
from dasrec.tokenizer.churn import churn
from dasrec.tokenizer.icdm import IcdmConfig
from dasrec.tokenizer.methods import METHODS, TokenizerConfig
from dasrec.tokenizer.methods.das import AlignmentConfig, DasConfig
from dasrec.tokenizer.methods.tiger import TigerConfig
from dasrec.tokenizer.policies import AssignConfig
from dasrec.tokenizer.pretrained import SidTokenizer
from dasrec.tokenizer.report import render_report, sid_report
from dasrec.tokenizer.train import load_tokenizer, train_tokenizer

__all__ = [
    "METHODS",
    "AlignmentConfig",
    "AssignConfig",
    "DasConfig",
    "IcdmConfig",
    "SidTokenizer",
    "TigerConfig",
    "TokenizerConfig",
    "assign",
    "churn",
    "load_tokenizer",
    "render_report",
    "sid_report",
    "train_tokenizer",
]
