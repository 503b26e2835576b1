"""An example of every answer, and of every body that has none beside its schema, for the OpenAPI document.

They stand here rather than beside the routes because many routes answer with the same thing. A test holds
each against its schema, and names the route that has none.
"""

from typing import Any

_MOVIE = {"movie_id": "50", "title": "Star Wars", "year": 1977, "genres": ["Action", "Sci-Fi"]}
_AT = "2026-03-01T20:15:00Z"
_LIST = {
    "user_id": "42",
    "model_version": 7,
    "strategy": "rbm",
    "ignored_movie_ids": [],
    "items": [{"rank": 1, **_MOVIE, "score": -0.42, "like_probability": 0.93, "confidence": 0.81}],
}
_POPULAR = _LIST | {
    "user_id": None,
    "strategy": "popular",
    "items": [{"rank": 1, **_MOVIE, "score": -1.1, "like_probability": 0.86, "confidence": 0.36}],
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
    "counts": _COUNTS | {"inserted": 100_836},
    "errors": [],
    "error": None,
    "created_at": _AT,
    "started_at": _AT,
    "finished_at": _AT,
}
_RUN = {
    "id": 4,
    "job_id": 13,
    "state": "queued",
    "progress": 0.0,
    "attempt": 0,
    "error": None,
    "overrides": {"epochs": 60},
    "configuration": None,
    "snapshot": None,
    "environment": None,
    "evaluation": None,
    "model_version": None,
    "note": "after the import",
    "created_at": _AT,
    "started_at": None,
    "finished_at": None,
}
_FINISHED_RUN = _RUN | {
    "state": "succeeded",
    "progress": 1.0,
    "attempt": 1,
    "model_version": 7,
    "evaluation": {"outcome": "activated", "words": "nDCG@10 .412, above popularity's .193"},
    "started_at": _AT,
    "finished_at": _AT,
}
_VERSION = {
    "version": 7,
    "active": True,
    "training_run_id": 4,
    "parent_version": 6,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "n_bytes": 2_790_112,
    "n_movies": 1_682,
    "configuration": {"design": "joint", "hidden_units": 200},
    "metrics": {"reconstruction_error": 0.021},
    "verdict": {"outcome": "activated", "words": "nDCG@10 .412, above popularity's .193"},
    "note": None,
    "created_at": _AT,
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
    "recommend": _LIST | {"user_id": None},
    "list_popular": _POPULAR,
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
    | {"state": "queued", "progress": 0.0, "rows": 0, "counts": _COUNTS | {"inserted": 0}},
    "list_imports": _page(_IMPORT),
    "get_import": _IMPORT,
    "retrain": _RUN,
    "list_training_runs": _page(_FINISHED_RUN),
    "get_training_run": _FINISHED_RUN
    | {
        "epoch_reports": [
            {"epoch": 1, "reported_at": _AT, "report": {"reconstruction_error": 0.043, "learning_rate": 0.1}}
        ]
    },
    "cancel_training_run": _RUN | {"state": "cancelled"},
    "list_model_versions": _page(_VERSION),
    "get_model_version": _VERSION,
    "activate_model_version": {"version": 7, "activated_at": _AT},
    "list_jobs": _page(_JOB),
    "get_job": _JOB_DETAIL,
    "cancel_job": _JOB_DETAIL | {"cancel_requested": True},
    "list_api_keys": _page(_KEY),
    "create_api_key": _KEY | {"key": "hm_Zk3xQ…"},
    "revoke_api_key": _KEY | {"revoked_at": _AT},
    "export_ratings": "user_id,movie_id,stars,rated_at\n42,50,4.5,2026-03-01T20:15:00.000000Z\n",
    "live": {"status": "live"},
    "ready": {"ready": True, "database": "ok", "model_version": 7, "trouble": None},
    "metrics": "# TYPE harmonium_model_version gauge\nharmonium_model_version 7.0\n",
}
"""By operation id: the body of the answer when all goes well. Answers without a body need none."""

REQUESTS: dict[str, Any] = {
    "create_import": "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n",
    "retrain": {"epochs": 60, "hidden_units": 200},
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
