"""An example of every answer, and of every body that has none beside its schema, for the OpenAPI document.

They stand here rather than beside the routes because many routes answer with the same thing. A test holds
each against its schema, and names the route that has none.
"""

from typing import Any

_MOVIE = {"movie_id": "50", "title": "Star Wars", "year": 1977, "genres": ["Action", "Sci-Fi"]}
_AT, _BEGUN, _ENDED = "2026-03-01T20:15:00Z", "2026-03-01T20:15:02Z", "2026-03-01T20:15:06Z"
_LIST: dict[str, Any] = {
    "user_id": "42",
    "model_version": 7,
    "strategy": "rbm",
    "ignored_movie_ids": [],
    "items": [
        {
            "rank": 1,
            **_MOVIE,
            "score": -0.42,
            "like_probability": 0.93,
            "confidence": 0.81,
            "reasons": [{"movie_id": "172", "title": "Alien", "stars": 5.0, "effect": 0.12}],
            "reasons_against": [{"movie_id": "97", "title": "Grease", "stars": 1.0, "effect": -0.07}],
        }
    ],
    "next_cursor": "Mg",
}
_UNEXPLAINED = {"reasons": None, "reasons_against": None}
_POPULAR = _LIST | {
    "user_id": None,
    "strategy": "popular",
    "items": [
        {
            "rank": 1,
            **_MOVIE,
            "score": -1.1,
            "like_probability": 0.86,
            "confidence": 0.36,
            **_UNEXPLAINED,
        }
    ],
}
_CHANGES = {
    "entered": [{"movie_id": "50", "title": "Star Wars", "rank": 1, "rank_before": None}],
    "left": [{"movie_id": "97", "title": "Grease", "rank": None, "rank_before": 10}],
    "moved": [{"movie_id": "181", "title": "Return of the Jedi", "rank": 2, "rank_before": 5}],
}
_GROUP = {
    "model_version": 7,
    "strategy": "least_misery",
    "members": [
        {"user_id": "42", "strategy": "rbm", "ignored_movie_ids": []},
        {"user_id": None, "strategy": "blended", "ignored_movie_ids": []},
    ],
    "items": [
        {
            "rank": 1,
            **_MOVIE,
            "score": 1.9,
            "like_probability": 0.81,
            "members": [
                {"user_id": "42", "like_probability": 0.93},
                {"user_id": None, "like_probability": 0.81},
            ],
        }
    ],
    "next_cursor": "Mg",
}
_SIMILAR = {
    "movie_id": "172",
    "title": "Alien",
    "model_version": 7,
    "items": [{"rank": 1, **_MOVIE, "similarity": 0.61, "score": 0.43}],
}
_COUNTS = {"inserted": 1, "updated": 0, "unchanged": 0, "superseded": 0, "rejected": 0}
_PREDICTIONS = {
    "model_version": 7,
    "items": [
        {"movie_id": "172", "like_probability": 0.91},
        {"movie_id": "unheard-of", "like_probability": None},
    ],
}
_QUESTIONS = {
    "user_id": "42",
    "model_version": 7,
    "items": [{**_MOVIE, "information": 1.9, "seen_probability": 0.61, "like_probability": 0.84}],
}
_STORED_MOVIE = {**_MOVIE, "imdb_id": "tt0076759", "tmdb_id": "11"}
_IMPORT = {
    "id": 3,
    "job_id": 12,
    "state": "succeeded",
    "progress": 1.0,
    "file_name": "ratings.csv",
    "file_bytes": 2_483_723,
    "kind": "ratings",
    "format": "movielens-csv",
    "rows": 100_836,
    "rows_per_second": 25_209.0,
    "counts": _COUNTS | {"inserted": 100_836},
    "errors": [],
    "error": None,
    "created_at": _AT,
    "started_at": _BEGUN,
    "finished_at": _ENDED,
}
_CONFIGURATION = {
    "design": "rated",
    "hidden_units": 200,
    "linear_units": 562,
    "linear_strength": 6.0,
    "weighted_units": 64,
    "weighted_strength": 12.0,
    "like_strength": 0.4,
    "grade_slope": 0.22,
    "epochs": 60,
    "batch_size": 38,
    "learning_rate": 0.15,
    "final_rate_share": 0.01,
    "momentum": 0.5,
    "weight_decay": 0.064768,
    "k": 1,
    "algorithm": "cd",
    "chains": None,
    "negative_sample": 0,
    "liked_at_least": 3.0,
    "rank_liked_at_least": 4.0,
    "fold_in_length_power": 0.75,
    "popularity_ratings": 4.0,
    "seed": 0,
}
_SHA256 = "daec2c16357b5c8858b39843795862d5058c6af01fee4b143b28cf3cbddb8acc"
_VERDICT = (
    "nDCG@10 0.174 against 0.173 of active version 6, popularity 0.066 (stars >= 4, 43 reserved users); "
    "activated"
)
_FIGURES = {
    "state": "evaluated",
    "n_users": 43,
    "relevant_at_least": 4.0,
    "machine": {"any": 0.24, "relevant": 0.174},
    "popularity": {
        "any": 0.121,
        "relevant": 0.066,
        "difference": {"mean": 0.109, "low": 0.055, "high": 0.163},
    },
    "like_probability": {
        "liked_at_least": 3.0,
        "n_ratings": 1_180,
        "auc": 0.761,
        "auc_relevant": 0.746,
        "brier": 0.139,
        "calibration_error": 0.025,
        "absolute_difference": 0.274,
        "reliability": [
            {"predicted": 0.46, "observed": 0.456, "n": 79},
            {"predicted": 0.97, "observed": 0.987, "n": 78},
        ],
    },
    "active": {
        "any": 0.239,
        "relevant": 0.173,
        "version": 6,
        "difference": {"mean": 0.001, "low": -0.005, "high": 0.007},
    },
}
_RUN = {
    "id": 4,
    "job_id": 13,
    "state": "queued",
    "progress": 0.0,
    "attempt": 0,
    "error": None,
    "overrides": {"epochs": 60, "hidden_units": 200},
    "configuration": None,
    "snapshot": None,
    "environment": None,
    "evaluation": None,
    "model_version": None,
    "note": "after the import",
    "trigger": "request",
    "estimate": {
        "memory_bytes": 124_162_498,
        "available_bytes": 8_589_934_592,
        "memory": {
            "ratings": 2_431_510,
            "parameters": 20_104_252,
            "minibatch": 414_336,
            "linear_units": 28_139_760,
            "evaluation": 5_963_776,
            "fixed": 67_108_864,
            "model_file": 2_901_156,
        },
        "seconds": 1.698,
        "seconds_from": "the speed of the last 3 finished training runs",
        "shape": {"n_users": 605, "n_movies": 728, "n_ratings": 32_143},
    },
    "parent_version": None,
    "warm_start": False,
    "rerun_of": None,
    "sha256": None,
    "created_at": _AT,
    "started_at": None,
    "finished_at": None,
}
_FINISHED_RUN = _RUN | {
    "state": "succeeded",
    "progress": 1.0,
    "attempt": 1,
    "configuration": _CONFIGURATION,
    "snapshot": {
        "n_users": 605,
        "n_movies": 728,
        "n_ratings": 32_143,
        "n_reserved_users": 43,
        "newest_rated_at": "2026-03-01T20:14:51+00:00",
        "sha256": "0f780d8310d8d86e11ed7cc07df6a0e17613effc25a3138533e6dc20be8dbc77",
    },
    "environment": {
        "harmonium": "0.1.0",
        "learning_code": "5094ac099155ef8729b37337efae37c8da81ac84b24d9fd37547448241bc37ec",
        "python": "3.11.7",
        "numpy": "2.4.6",
        "scipy": "1.17.1",
        "machine": "x86_64",
        "blas": [
            {
                "internal_api": "openblas",
                "version": "0.3.31.188.0",
                "num_threads": 1,
                "architecture": "SkylakeX",
            }
        ],
    },
    "evaluation": _FIGURES | {"words": _VERDICT},
    "model_version": 7,
    "parent_version": 6,
    "sha256": _SHA256,
    "started_at": _BEGUN,
    "finished_at": _ENDED,
}
_RERUN = _RUN | {
    "id": 5,
    "job_id": 14,
    "overrides": _CONFIGURATION,
    "note": "the same on the new server?",
    "trigger": "rerun",
    "parent_version": 6,
    "rerun_of": 4,
}
_VERSION = {
    "version": 7,
    "active": True,
    "training_run_id": 4,
    "parent_version": 6,
    "sha256": _SHA256,
    "n_bytes": 2_775_336,
    "n_movies": 728,
    "configuration": _CONFIGURATION,
    "metrics": _FIGURES
    | {
        "reliability": {
            "predicted": [0.46, 0.976],
            "came_true": [0.415, 0.977],
            "n": [395, 394],
            "calibration_error": 0.017,
        }
    },
    "verdict": {"outcome": "activated", "words": _VERDICT},
    "note": "after the import",
    "created_at": _ENDED,
}
_COMPARISON = {
    "first": 7,
    "second": 6,
    "settings": {
        "hidden_units": {"first": 200, "second": 310},
        "epochs": {"first": 60, "second": 127},
    },
    "metrics": {
        "n_users": {"first": 43.0, "second": 43.0, "difference": 0.0},
        "machine.any": {"first": 0.24, "second": 0.239, "difference": -0.001},
        "machine.relevant": {"first": 0.174, "second": 0.173, "difference": -0.001},
        "active.relevant": {"first": 0.173, "second": None, "difference": None},
    },
    "shared_movies": 728,
    "only_first": 0,
    "only_second": 0,
    "lists": {"n_users": 200, "length": 10, "mean": 0.9695, "least": 0.8, "identical": 52, "disjoint": 0},
}
_ACTIVATIONS = {
    "items": [
        {"version": 7, "activated_at": _ENDED, "generation": 2, "cause": "gate", "until": None},
        {
            "version": 6,
            "activated_at": "2026-02-28T20:15:06Z",
            "generation": 1,
            "cause": "request",
            "until": _ENDED,
        },
    ],
    "next_cursor": None,
}
_STANDING = {
    "ratings": 32_543,
    "active_version": {
        "version": 7,
        "trained_at": _AT,
        "newest_rated_at": "2026-03-01T20:14:51Z",
        "ratings": 32_143,
        "changes_since": 400,
    },
    "schedule": {
        "retrain_after_ratings": 10_000,
        "retrain_every_hours": 24.0,
        "retrain_jitter": 0.1,
        "full_fit_every": 5,
        "next_run": {
            "why": "after 9600 more changed ratings or at 2026-03-02 21:03 UTC, whichever comes first; "
            "400 ratings have changed since the last run",
            "due": None,
            "waits_for": None,
            "changes_since": 400,
            "more_changes": 9_600,
            "next_at": "2026-03-02T21:03:00Z",
            "is_warm_start": True,
            "refusal": None,
            "refused_at": None,
        },
    },
    "jobs": {"import": {"queued": 0, "running": 1}},
}
_JOB = {
    "job_id": 13,
    "kind": "training",
    "state": "running",
    "progress": 0.4,
    "attempt": 1,
    "max_attempts": 3,
    "worker": "worker-1",
    "error": None,
    "result": None,
    "cancel_requested": False,
    "run_after": None,
    "created_at": _AT,
    "started_at": _AT,
    "finished_at": None,
}
_JOB_DETAIL = _JOB | {"log": [{"attempt": 1, "level": "info", "message": "fitting", "logged_at": _AT}]}
_KEY = {
    "id": 2,
    "name": "site",
    "role": "write",
    "prefix": "hm_Zk3xQ",
    "created_at": _AT,
    "revoked_at": None,
}


def _page(item: dict[str, Any]) -> dict[str, Any]:
    return {"items": [item], "next_cursor": None}


RESPONSES: dict[str, Any] = {
    "recommend_for_user": _LIST,
    "recommend": _LIST | {"changes": _CHANGES},
    "recommend_for_users": {
        "items": [
            _LIST | {"items": [_LIST["items"][0] | _UNEXPLAINED]},
            _POPULAR | {"user_id": "43"},
        ]
    },
    "recommend_for_group": _GROUP,
    "list_popular": _POPULAR,
    "list_similar_movies": _SIMILAR,
    "predict_for_user": _PREDICTIONS,
    "predict": _PREDICTIONS,
    "get_taste": {
        "user_id": "42",
        "model_version": 7,
        "n_ratings": 31,
        "items": [
            {
                "unit": 118,
                "activity": 0.92,
                "usual_activity": 0.31,
                "stability": 1.0,
                "movies": [{**_MOVIE, "effect": 0.47}],
                "genres": [{"genre": "Sci-Fi", "share": 0.55, "usual_share": 0.07}],
            }
        ],
    },
    "list_questions_for_user": _QUESTIONS,
    "list_questions": _QUESTIONS | {"user_id": None},
    "put_rating": _COUNTS,
    "list_user_ratings": _page({"movie_id": "50", "stars": 4.5, "rated_at": _AT}),
    "post_ratings": _COUNTS,
    "delete_user": {"user_id": "42", "model_versions_trained_with_user": [6, 7]},
    "list_movies": _page(_STORED_MOVIE),
    "get_movie": _STORED_MOVIE,
    "put_movie": _STORED_MOVIE,
    "create_import": _IMPORT
    | {
        "state": "queued",
        "progress": 0.0,
        "rows": 0,
        "rows_per_second": None,
        "counts": _COUNTS | {"inserted": 0},
        "started_at": None,
        "finished_at": None,
    },
    "list_imports": _page(_IMPORT),
    "get_import": _IMPORT,
    "retrain": _RUN,
    "list_training_runs": _page(_FINISHED_RUN),
    "get_training_run": _FINISHED_RUN
    | {
        "epoch_reports": [
            {
                "epoch": 1,
                "reported_at": _BEGUN,
                "report": {
                    "epoch": 1,
                    "epochs": 60,
                    "seconds": 0.017,
                    "reconstruction_error": 0.0675,
                    "pseudo_log_likelihood": -0.264,
                    "held_out_pseudo_log_likelihood": None,
                    "free_energy_gap": None,
                    "mean_hidden_activity": 0.454,
                    "weight_norm": 0.0094,
                    "learning_rate": 0.1499,
                },
            }
        ]
    },
    "cancel_training_run": _RUN | {"state": "cancelled", "finished_at": _ENDED},
    "rerun_training_run": _RERUN,
    "list_model_versions": _page(_VERSION),
    "get_model_version": _VERSION,
    "annotate_model_version": _VERSION | {"note": "the one for the spring campaign"},
    "compare_model_versions": _COMPARISON,
    "list_activations": _ACTIVATIONS,
    "roll_back_model_version": {"version": 6, "activated_at": _ENDED},
    "activate_model_version": {"version": 7, "activated_at": _ENDED},
    "get_standing": _STANDING,
    "list_jobs": _page(_JOB),
    "get_job": _JOB_DETAIL,
    "cancel_job": _JOB_DETAIL | {"cancel_requested": True},
    "list_api_keys": _page(_KEY),
    "create_api_key": _KEY | {"key": "hm_Zk3xQ…"},
    "revoke_api_key": _KEY | {"revoked_at": _AT},
    "export_ratings": "user_id,movie_id,stars,rated_at\n42,50,4.5,2026-03-01T20:15:00.000000Z\n",
    "export_movies": "movie_id,plain_title,year,genres,imdb_id,tmdb_id\n"
    "50,Star Wars,1977,|Action|Sci-Fi|,tt0076759,11\n",
    "live": {"status": "live"},
    "ready": {"ready": True, "database": "ok", "model_version": 7, "trouble": None},
    "metrics": "# TYPE harmonium_model_version gauge\nharmonium_model_version 7.0\n",
}
"""By operation id: the body of the answer when all goes well. Answers without a body need none."""

REQUESTS: dict[str, Any] = {
    "create_import": "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n",
    "retrain": {"epochs": 60, "hidden_units": 200},
    "rerun_training_run": {"note": "the same on the new server?"},
    "annotate_model_version": {"note": "the one for the spring campaign"},
    "activate_model_version": {"force": False},
    "create_api_key": {"name": "site", "role": "write"},
}
"""By operation id: bodies whose schema has no example of its own."""


def add_examples(document: dict[str, Any]) -> None:
    """Put the examples into an OpenAPI document, where nothing says otherwise."""
    for operations in document["paths"].values():
        for operation in operations.values():
            if not isinstance(operation, dict):
                continue
            name = operation.get("operationId")
            if name in REQUESTS:
                for media in operation.get("requestBody", {}).get("content", {}).values():
                    if media.get("schema", {}).get("type") != "object":  # a form's parts are not one text
                        media.setdefault("example", REQUESTS[name])
            if name in RESPONSES:
                for status, answer in operation["responses"].items():
                    if status.startswith("2"):
                        for media in answer.get("content", {}).values():
                            media.setdefault("example", RESPONSES[name])
