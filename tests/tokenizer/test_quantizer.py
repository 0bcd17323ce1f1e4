import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dasrec.tokenizer.autoencoder import rq_vae, unit
from dasrec.tokenizer.balance import usage_gap
from dasrec.tokenizer.config import AutoencoderConfig
from dasrec.tokenizer.kmeans import init_codebooks, restart_unused
from dasrec.tokenizer.quantizer import ResidualQuantizer, squared_distances

SIZES, DIM = (7, 5, 6), 4


@pytest.fixture
def quantizer() -> ResidualQuantizer:
    torch.manual_seed(0)
    return make(SIZES, DIM)


def make(sizes: tuple[int, ...], dim: int, **options: object) -> ResidualQuantizer:
    return ResidualQuantizer(
        AutoencoderConfig(level_sizes=sizes, code_dim=dim, **options)  # type: ignore[arg-type]
    )


def brute_force(h: Tensor, books: list[Tensor]) -> tuple[list[list[int]], Tensor]:
    """Codes and z, one row, one level and one codeword at a time."""
    codes, z = [], torch.zeros_like(h)
    for n, row in enumerate(h):
        residual, chosen = row.clone(), []
        for book in books:
            distances = [float(((residual - word) ** 2).sum()) for word in book]
            chosen.append(distances.index(min(distances)))
            residual = residual - book[chosen[-1]]
            z[n] += book[chosen[-1]]
        codes.append(chosen)
    return codes, z


def test_codes_and_z_are_those_of_a_plain_loop(quantizer: ResidualQuantizer) -> None:
    h = torch.randn(50, DIM)
    books = [book.detach() for book in quantizer.codebooks]
    codes, z = brute_force(h, books)
    out = quantizer(h)
    assert out.codes_BL.tolist() == codes
    torch.testing.assert_close(out.quantized_BD.detach(), z)
    encoded, z_encoded, residuals = quantizer.encode(h)
    assert encoded.tolist() == codes
    torch.testing.assert_close(z_encoded, z)
    torch.testing.assert_close(quantizer.decode(encoded), z)
    torch.testing.assert_close(residuals[1], h - books[0][encoded[:, 0]])


def test_gradients_are_those_of_the_written_formula(quantizer: ResidualQuantizer) -> None:
    """Autograd through a loop that spells out r_{l+1} = r_l - sg(e_l) and every stop-gradient."""
    h = torch.randn(20, DIM, requires_grad=True)
    pull = torch.randn(20, DIM)
    out = quantizer(h)
    loss = (out.quantized_BD * pull).sum()
    (loss + out.losses["codebook"] + 0.25 * out.losses["commitment"]).backward()

    h2 = h.detach().clone().requires_grad_()
    books = [book.detach().clone().requires_grad_() for book in quantizer.codebooks]
    codes, z = brute_force(h2.detach(), [book.detach() for book in books])
    loss = ((h2 + (z - h2).detach()) * pull).sum()
    for n in range(20):
        residual = h2[n]
        for level, book in enumerate(books):
            word = book[codes[n][level]]
            loss = loss + ((residual.detach() - word) ** 2).sum() / 20
            loss = loss + 0.25 * ((residual - word.detach()) ** 2).sum() / 20
            residual = residual - word.detach()
    loss.backward()
    torch.testing.assert_close(h.grad, h2.grad)
    for mine, theirs in zip(quantizer.codebooks, books, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_commitment_of_every_level_reaches_the_encoder(quantizer: ResidualQuantizer) -> None:
    h = torch.randn(9, DIM, requires_grad=True)
    quantizer(h).losses["commitment"].backward()
    _, _, residuals = quantizer.encode(h.detach())
    codes = quantizer.encode(h.detach())[0]
    books = list(quantizer.codebooks)
    expected = sum(2 * (residuals[k] - books[k][codes[:, k]].detach()) / 9 for k in range(3))
    torch.testing.assert_close(h.grad, expected)


def test_usage_gap_is_zero_for_even_use_and_large_for_one_code() -> None:
    book = torch.eye(4) * 10
    even = torch.eye(4) * 10 + 0.01
    assert usage_gap(squared_distances(even, book)) < 0.01
    assert usage_gap(squared_distances(even[:1].expand(4, 4), book)) > 1.3  # log 4 = 1.386


def test_kmeans_finds_separated_clusters_on_both_levels() -> None:
    rng = np.random.default_rng(0)
    coarse = np.array([[100, 0], [-100, 0], [0, 100]])
    fine = np.array([[1, 1], [-1, -1]])
    points = (coarse[:, None] + fine).reshape(-1, 2)
    h = torch.tensor(points[rng.integers(6, size=300)], dtype=torch.float32)
    quantizer = make((3, 2), 2)
    init_codebooks(quantizer, h, seed=1)
    _, z, _ = quantizer.encode(h)
    # Level 1 gives cluster means (a sample's, so not exactly the centres); both levels, the points.
    assert (quantizer.codebooks[0] - torch.tensor(coarse)).norm(dim=1).shape == (3,)
    assert (z - h).norm(dim=1).max() < 0.5
    again = make((3, 2), 2)
    init_codebooks(again, h, seed=1)
    for one, two in zip(quantizer.codebooks, again.codebooks, strict=True):
        assert torch.equal(one, two)


def test_unused_codewords_move_onto_residuals_and_used_ones_stay() -> None:
    torch.manual_seed(0)
    quantizer = make((4, 3), 2)
    with torch.no_grad():
        quantizer.codebooks[0][2:] = 1e6  # out of reach
    optimizer = torch.optim.AdamW(quantizer.parameters(), lr=0.1)
    quantizer(torch.randn(30, 2)).losses["codebook"].backward()
    optimizer.step()
    h = torch.randn(30, 2)
    codes, _, residuals = quantizer.encode(h)
    used = codes[:, 0].unique()
    before = quantizer.codebooks[0].detach().clone()
    moved = restart_unused(quantizer, codes, residuals, optimizer, np.random.default_rng(0))
    after = quantizer.codebooks[0].detach()
    unused = [k for k in range(4) if k not in used.tolist()]
    assert moved >= len(unused) == 2
    assert torch.equal(before[used], after[used])
    for k in unused:
        assert (h == after[k]).all(1).any()  # level 1 quantizes h itself
        assert optimizer.state[quantizer.codebooks[0]]["exp_avg"][k].abs().sum() == 0
    assert len(quantizer.encode(h)[0][:, 0].unique()) > len(used)


def test_reconstruction_loss_sums_dimensions_and_averages_rows() -> None:
    torch.manual_seed(0)
    config = AutoencoderConfig(level_sizes=(4,), code_dim=3, hidden=(5,))
    autoencoder = rq_vae(config, (6,))
    x = 3 * torch.randn(8, 6)
    z, losses = autoencoder(x, quantize=True)
    unit = x / x.norm(dim=1, keepdim=True)
    decoded = autoencoder.decoder(z).detach()
    expected = sum(float(((unit[n] - decoded[n]) ** 2).sum()) for n in range(8)) / 8
    assert losses["recon"].item() == pytest.approx(expected, rel=1e-5)
    assert isinstance(autoencoder.encoder, nn.Sequential)
    h, plain = autoencoder(x, quantize=False)
    torch.testing.assert_close(h, autoencoder.encode(x))
    assert set(plain) == {"recon"}


def test_only_the_first_rows_are_decoded_where_asked() -> None:
    torch.manual_seed(0)
    autoencoder = rq_vae(AutoencoderConfig(level_sizes=(4,), code_dim=3, hidden=(5,)), (6,))
    x = torch.randn(8, 6)
    _, all_rows = autoencoder(x[:5], quantize=True)
    z, some = autoencoder(x, quantize=True, decoded=5)
    assert len(z) == 8
    torch.testing.assert_close(some["recon"], all_rows["recon"])


def test_modalities_weigh_the_same_whatever_their_scale() -> None:
    x = torch.tensor([[3.0, 4.0, 100.0, 0.0, 0.0]])
    expected = torch.tensor([[0.6, 0.8, 1.0, 0.0, 0.0]]) / 2**0.5
    torch.testing.assert_close(unit(x, (2, 3)), expected)


def test_moving_average_codebooks_follow_the_recursion() -> None:
    torch.manual_seed(0)
    quantizer = make((3,), 2, codebook_update="ema", ema_decay=0.9)
    words = quantizer.codebooks[0].detach().clone()
    count, total = [1.0] * 3, [word.clone() for word in words]
    for _ in range(4):
        h = torch.randn(20, 2)
        codes = [int(((row - words) ** 2).sum(1).argmin()) for row in h]
        out = quantizer(h)
        assert out.codes_BL[:, 0].tolist() == codes
        assert set(out.losses) == {"commitment"}
        for k in range(3):
            mine = [h[n] for n in range(20) if codes[n] == k]
            count[k] = 0.9 * count[k] + 0.1 * len(mine)
            added = torch.stack(mine).sum(0) if mine else torch.zeros(2)
            total[k] = 0.9 * total[k] + 0.1 * added
            words[k] = total[k] / count[k]
        torch.testing.assert_close(quantizer.codebooks[0].detach(), words)
    quantizer.eval()
    quantizer(torch.randn(20, 2))
    torch.testing.assert_close(quantizer.codebooks[0].detach(), words)


def test_levels_that_do_not_count_leave_z_but_not_the_codes(quantizer: ResidualQuantizer) -> None:
    h = torch.randn(6, DIM)
    keep = torch.tensor([1, 2, 3, 1, 2, 3])
    out = quantizer(h, keep)
    codes, _, _ = quantizer.encode(h)
    assert torch.equal(out.codes_BL, codes)
    for n in range(6):
        z = sum(quantizer.codebooks[k][codes[n, k]] for k in range(int(keep[n])))
        torch.testing.assert_close(out.quantized_BD[n].detach(), z.detach())
