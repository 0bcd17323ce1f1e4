"""Which text tokens stand for a code: the titles of the items that carry it.

Shape letters: I items, U users, N items or users, K codes of a level, V text tokens.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from dasrec.core import Corpus
from dasrec.generative.data.texts import catalogue_texts
from dasrec.generative.model.vocabulary import SidVocabulary


class ItemWords:
    """Shares of text tokens in the titles behind a code.

    Each item that has a text counts once for its code, however long its title. A user counts once
    too, with the mean of its training interactions.
    """

    def __init__(self, corpus: Corpus, tokenizer: Any, vocabulary: SidVocabulary) -> None:
        """Tokenize the catalogue."""
        self.words_IV = _title_words(corpus, tokenizer, min(vocabulary.new_token_ids))
        items_II = _nonempty(self.words_IV)
        self.items_NI = {
            "items": sparse.csr_array(items_II),
            "users": _mean_rows(_history(corpus) @ items_II),
        }

    def of_codes(
        self, side: str, codes_N: npt.NDArray[np.int64], num_codes: int
    ) -> sparse.csr_array:
        """(K, V) share of each text token behind each code; rows sum to 1, or are empty.

        Args:
            side: "items" or "users", whose codes they are.
            codes_N: the code of each row of that side.
            num_codes: K.
        """
        rows = np.arange(len(codes_N))
        carriers_KN = sparse.csr_array(
            (np.ones(len(rows)), (codes_N, rows)), (num_codes, len(rows))
        )
        items_NI = self.items_NI[side]
        weights_KI = _mean_rows(carriers_KN @ _nonempty(items_NI)) @ items_NI
        return _clean(weights_KI @ self.words_IV)


def _title_words(corpus: Corpus, tokenizer: Any, num_tokens: int) -> sparse.csr_array:
    """(I, V) share of each text token in each item's title."""
    encoded = tokenizer(catalogue_texts(corpus), add_special_tokens=False)["input_ids"]
    counts = [len(ids) for ids in encoded]
    flat = np.fromiter((token for ids in encoded for token in ids), np.int64, sum(counts))
    rows = np.repeat(np.arange(len(encoded)), counts)
    text = flat < num_tokens  # a title may spell a SID token
    shape = (len(encoded), num_tokens)
    return _mean_rows(sparse.csr_array((np.ones(text.sum()), (rows[text], flat[text])), shape))


def _history(corpus: Corpus) -> sparse.csr_array:
    """(U, I) how often each user has each item among the training interactions."""
    sequences = corpus.train_sequences
    users = np.repeat(np.arange(corpus.num_users), np.diff(sequences.starts))
    shape = (corpus.num_users, corpus.num_items)
    return sparse.csr_array((np.ones(len(users)), (users, sequences.values)), shape)


def _mean_rows(matrix: sparse.csr_array) -> sparse.csr_array:
    """The matrix with every row divided by its sum; empty rows stay empty."""
    matrix = _clean(matrix)
    matrix.data = matrix.data / np.repeat(matrix.sum(1), np.diff(matrix.indptr))
    return matrix


def _nonempty(rows: sparse.csr_array) -> sparse.dia_array:
    """A factor (on the right of a sum over these rows) that leaves out the empty ones."""
    return sparse.diags_array((np.diff(rows.indptr) > 0).astype(np.float64))


def _clean(matrix: Any) -> sparse.csr_array:
    matrix = sparse.csr_array(matrix)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix
