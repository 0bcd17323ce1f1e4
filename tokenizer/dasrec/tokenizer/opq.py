"""Optimised product quantization of residuals, as codewords that add up.

    min over R, C of sum_n ||R r_n - q(R r_n)||^2,  R R^T = I            (das-method 5.4)

q quantizes M equal parts of R r apart from each other. Turned back, the codeword o of part m is
R_m^T o, R_m the rows of R for that part. Parts are orthogonal: subtracting the codeword of one
leaves the others as they are, so that taking the nearest codeword of one part after the other
gives the very codes of the product quantizer.

Shape letters: N rows, D width, M parts, K codewords of a part.
"""

import faiss
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def opq_codewords(r_ND: Floats, parts: int, bits: int, seed: int) -> list[Floats]:
    """(K, D) codewords of each part, K = 2^bits, by faiss.

    Args:
        r_ND: at least K rows.
        parts: M, at most D. Where it does not divide D, R has only M floor(D / M) rows.
        bits: log2 K.
        seed: of the parts' k-means.
    """
    width = r_ND.shape[1] // parts * parts
    rotation = faiss.OPQMatrix(r_ND.shape[1], parts, width)
    draft = _quantizer(width, parts, bits, seed)
    rotation.pq = draft
    rotation.train(np.ascontiguousarray(r_ND))
    turn_XD = faiss.vector_to_array(rotation.A).reshape(width, r_ND.shape[1])
    final = _quantizer(width, parts, bits, seed)
    final.train(np.ascontiguousarray(r_ND @ turn_XD.T))
    words_MKX = faiss.vector_to_array(final.centroids).reshape(parts, 2**bits, width // parts)
    return [
        np.ascontiguousarray(words_KX @ part_XD)
        for words_KX, part_XD in zip(words_MKX, np.split(turn_XD, parts), strict=True)
    ]


def _quantizer(width: int, parts: int, bits: int, seed: int) -> faiss.ProductQuantizer:
    quantizer = faiss.ProductQuantizer(width, parts, bits)
    quantizer.cp.seed = seed % 2**31
    quantizer.cp.min_points_per_centroid = 1  # faiss would warn
    return quantizer
