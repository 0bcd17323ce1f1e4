"""Tokenizers of models that are built here: byte-level BPE on the catalogue, or no text at all."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dasrec.core import Corpus
from dasrec.generative.data.texts import catalogue_texts

END = "<|end|>"
PAD = "<|pad|>"


def train_tokenizer(vocab_size: int, corpus: Corpus) -> PreTrainedTokenizerFast:
    """Byte-level BPE on the item texts (catalogue content; no interactions are seen)."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(catalogue_texts(corpus), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=PAD, eos_token=END)


def empty_tokenizer() -> PreTrainedTokenizerFast:
    """Two tokens, padding (id 0) and end (id 1); every text encodes to nothing."""
    empty = Tokenizer(models.BPE(vocab={PAD: 0, END: 1}, merges=[]))
    return PreTrainedTokenizerFast(tokenizer_object=empty, pad_token=PAD, eos_token=END)
