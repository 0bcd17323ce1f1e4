from pathlib import Path

import numpy as np
import pytest

from dasrec.cli.sids import decode
from dasrec.tokenizer import AssignConfig, DasConfig, SidTokenizer, TigerConfig
from dasrec.tokenizer.lookup import SidLookup

SMALL = DasConfig(
    level_sizes=(4, 4), code_dim=4, hidden=(16,), epochs=2, continuous_epochs=1, batch_size=64
)


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    items = rng.normal(size=(30, 6)).astype(np.float32)
    items[7] = items[3]  # two items of one content: one SID before the policy
    clicks = np.stack([rng.integers(20, size=200), rng.integers(30, size=200)], 1)
    return {"items": items, "clicks": clicks}


@pytest.fixture(scope="module")
def fitted(arrays: dict[str, np.ndarray]) -> SidTokenizer:
    ids = [f"sku{row}" for row in range(30)]
    return SidTokenizer.fit(SMALL, arrays["items"], arrays["clicks"], item_ids=ids)


def test_a_saved_tokenizer_is_the_same_tokenizer(
    fitted: SidTokenizer, arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    fitted.save_pretrained(tmp_path / "saved")
    loaded = SidTokenizer.from_pretrained(tmp_path / "saved")
    assert loaded.sids.fingerprint == fitted.sids.fingerprint
    for one, two in zip(
        loaded.assign(arrays["items"]), fitted.assign(arrays["items"]), strict=True
    ):
        np.testing.assert_array_equal(one, two)
    with pytest.raises(FileExistsError):
        fitted.save_pretrained(tmp_path / "saved")
    loaded.save_pretrained(tmp_path / "saved", replace=True)  # over its own source
    assert SidTokenizer.from_pretrained(tmp_path / "saved").decode([])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["saved"]


def test_content_gets_the_published_codes_without_the_extra_level(
    fitted: SidTokenizer, arrays: dict[str, np.ndarray]
) -> None:
    given = fitted.assign(arrays["items"])
    assert given.codes.shape == (30, 2)
    np.testing.assert_array_equal(given.codes, fitted.sids.items.codes[:, :2])
    books = fitted.sids.items.codebooks
    z = books[0][given.codes[:, 0]] + books[1][given.codes[:, 1]]
    np.testing.assert_allclose(given.vectors, z, atol=1e-6)
    new = fitted.assign(np.random.default_rng(1).normal(size=(5, 6)))
    assert new.codes.shape == (5, 2)
    assert fitted.assign(users=np.zeros((2, 6))).codes.shape == (2, 2)


def test_every_prefix_decodes_to_the_items_that_have_it(fitted: SidTokenizer) -> None:
    codes = fitted.sids.items.codes
    for length in range(codes.shape[1] + 1):
        for prefix in np.unique(codes[:, :length], axis=0):
            expected = {f"sku{n}" for n in range(30) if (codes[n, :length] == prefix).all()}
            assert set(fitted.decode(prefix)) == expected
    whole = codes[7].tolist()
    assert fitted.decode(whole) == ["sku7"]
    assert {"sku3", "sku7"} <= set(fitted.decode(whole[:2]))
    assert fitted.decode([9]) == []
    assert set(fitted.decode([], "users")) == {str(u) for u in range(20)}
    with pytest.raises(ValueError, match="SIDs have 3 codes, got 4"):
        fitted.decode([0, 0, 0, 0])


def test_shared_sids_decode_to_all_their_items(arrays: dict[str, np.ndarray]) -> None:
    config = TigerConfig(level_sizes=(4,), code_dim=4, hidden=(16,), epochs=2, continuous_epochs=1)
    tokenizer = SidTokenizer.fit(
        config,
        {"text": arrays["items"], "image": arrays["items"][:, :2]},
        arrays["clicks"],
        assign_config=AssignConfig(collisions="share"),
    )
    found = tokenizer.decode(tokenizer.sids.items.codes[3])
    assert {"3", "7"} <= set(found)
    assert found == sorted(found, key=int)  # by row within a SID
    assert tokenizer.sids.users is None
    with pytest.raises(ValueError, match="no user side"):
        tokenizer.decode([0], "users")


def test_lookup_is_a_filter_over_the_rows() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(3, size=(200, 4)).astype(np.uint16)
    lookup = SidLookup(codes)
    for _ in range(100):
        prefix = rng.integers(4, size=rng.integers(5))
        expected = np.flatnonzero((codes[:, : len(prefix)] == prefix).all(1))
        assert sorted(lookup.rows(prefix.tolist())) == expected.tolist()


def test_arrays_that_do_not_fit_are_refused(arrays: dict[str, np.ndarray]) -> None:
    items, clicks = arrays["items"], arrays["clicks"]
    with pytest.raises(ValueError, match=r"clicks must be \(C, 2\) integers"):
        SidTokenizer.fit(SMALL, items, clicks.astype(float))
    with pytest.raises(ValueError, match="items has 5 rows, got row number"):
        SidTokenizer.fit(SMALL, items[:5], clicks)
    with pytest.raises(ValueError, match="item_ids must be 30 different ids"):
        SidTokenizer.fit(SMALL, items, clicks, item_ids=["a"] * 30)
    with pytest.raises(ValueError, match=r"text must be a matrix, got shape \(30,\)"):
        SidTokenizer.fit(SMALL, items[:, 0], clicks)
    with pytest.raises(ValueError, match="different lengths"):
        SidTokenizer.fit(SMALL, {"a": items, "b": items[:3]}, clicks)


def test_modalities_are_taken_by_name(arrays: dict[str, np.ndarray]) -> None:
    items, other = arrays["items"], arrays["items"][::-1].copy()
    config = TigerConfig(**SMALL.model_dump(include=set(TigerConfig.model_fields) - {"method"}))
    fitted = SidTokenizer.fit(config, {"text": items, "image": other}, arrays["clicks"])
    given = fitted.assign({"image": other, "text": items})
    np.testing.assert_array_equal(given.codes, fitted.assign(items).codes)
    with pytest.raises(ValueError, match="items lack the modality 'text'"):
        fitted.assign({"image": other})


def test_assign_refuses_what_it_was_not_trained_on(fitted: SidTokenizer) -> None:
    with pytest.raises(ValueError, match=r"items must be \(N, 6\), got shape \(2, 5\)"):
        fitted.assign(np.zeros((2, 5)))
    with pytest.raises(ValueError, match="not finite"):
        fitted.assign(np.full((2, 6), np.nan))
    with pytest.raises(ValueError, match="either items or users"):
        fitted.assign()


def test_the_command_decodes_a_prefix(fitted: SidTokenizer, tmp_path: Path) -> None:
    fitted.save_pretrained(tmp_path / "saved")
    sids = tmp_path / "saved" / "sids"
    codes = fitted.sids.items.codes
    lines = decode(sids, str(codes[7, 0]), users=False)
    expected = {f"sku{n}" for n in range(30) if codes[n, 0] == codes[7, 0]}
    assert {line.split("\t")[1] for line in lines} == expected
    whole = "-".join(map(str, codes[7]))
    assert decode(sids, whole, users=False) == [f"{whole}\tsku7"]
    assert len(decode(sids, str(fitted.sids.users.codes[0, 0]), users=True)) >= 1  # type: ignore[union-attr]
    for text, message in (("1-x", "expected codes like"), ("9", "no SID of .* starts with 9")):
        with pytest.raises(ValueError, match=message):
            decode(sids, text, users=False)
