"""Default `PrepareConfig` values for public datasets; a config's own keys win over them.

Paths are patterns, so that a preset fits any category and any place of the unpacked archive
below the data directory.
"""

from typing import Any

_MOVIELENS: dict[str, Any] = {
    "positive_label": 4.0,  # ratings of 4 and 5, the usual binarisation
    "catalogue": "all",
}

_ML_100K_GENRES = (
    "unknown action adventure animation children comedy crime documentary drama fantasy "
    "film_noir horror musical mystery romance sci_fi thriller war western"
).split()

_AMAZON: dict[str, Any] = {
    "catalogue": "seen",  # metadata files list many products that nobody in the log bought
    "repeated_ids": "first",
    "unknown_ids": "drop",  # products without metadata
    "min_user_interactions": 5,
    "min_item_interactions": 5,
}

_RATINGS_CSV: dict[str, Any] = _MOVIELENS | {
    "interactions": {
        "path": "**/ratings.csv",
        "columns": {"user_id": "userId", "item_id": "movieId", "label": "rating"},
    },
    "items": {"path": "**/movies.csv", "columns": {"item_id": "movieId"}},
}

PRESETS: dict[str, dict[str, Any]] = {
    # He & McAuley 2016: reviews are JSON lines, metadata are Python dicts
    "amazon_2014": _AMAZON
    | {
        "interactions": {
            "path": "reviews_*_5.json.gz",
            "columns": {
                "user_id": "reviewerID",
                "item_id": "asin",
                "timestamp": "unixReviewTime",
            },
        },
        "items": {
            "path": "meta_*.json.gz",
            "format": "python",
            "columns": {"item_id": "asin"},
            "keep": ("title", "brand", "categories", "description", "price"),
        },
    },
    # Ni, Li & McAuley 2019
    "amazon_2018": _AMAZON
    | {
        "interactions": {
            "path": "[!m]*_5.json.gz",
            "columns": {
                "user_id": "reviewerID",
                "item_id": "asin",
                "timestamp": "unixReviewTime",
            },
        },
        "items": {
            "path": "meta_*.json.gz",
            "columns": {"item_id": "asin", "categories": "category"},
            "keep": ("title", "brand", "description", "price"),
        },
    },
    # Hou et al. 2024; the raw files are not filtered
    "amazon_2023": _AMAZON
    | {
        "interactions": {
            "path": "[!m]*.jsonl.gz",
            "columns": {"item_id": "parent_asin"},
            "time": "milliseconds",
        },
        "items": {
            "path": "meta_*.jsonl.gz",
            "columns": {"item_id": "parent_asin", "brand": "store"},
            "keep": ("title", "main_category", "categories", "features", "description", "price"),
        },
    },
    "ml_100k": _MOVIELENS
    | {
        "interactions": {
            "path": "**/u.data",
            "format": "tsv",
            "header": ("user_id", "item_id", "rating", "timestamp"),
            "columns": {"label": "rating"},
        },
        "items": {
            "path": "**/u.item",
            "format": "tsv",
            "delimiter": "|",
            "encoding": "latin-1",
            "header": ("item_id", "title", "release", "video_release", "url", *_ML_100K_GENRES),
        },
        "users": {
            "path": "**/u.user",
            "format": "tsv",
            "delimiter": "|",
            "header": ("user_id", "age", "gender", "occupation", "zip_code"),
        },
    },
    "ml_1m": _MOVIELENS
    | {
        "interactions": {
            "path": "**/ratings.dat",
            "format": "tsv",
            "delimiter": "::",
            "header": ("user_id", "item_id", "rating", "timestamp"),
            "columns": {"label": "rating"},
        },
        "items": {
            "path": "**/movies.dat",
            "format": "tsv",
            "delimiter": "::",
            "encoding": "latin-1",
            "header": ("item_id", "title", "genres"),
        },
        "users": {
            "path": "**/users.dat",
            "format": "tsv",
            "delimiter": "::",
            "header": ("user_id", "gender", "age", "occupation", "zip_code"),
        },
    },
    "ml_20m": _RATINGS_CSV,
    "ml_25m": _RATINGS_CSV,
}
