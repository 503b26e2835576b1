"""Who is reserved is decided by the user's id alone."""

from app.training.reserved_users import reserved_users


def test_reserved_users_stay_reserved_when_others_join() -> None:
    ids = [f"user{n}" for n in range(20_000)]
    chosen = {ids[place] for place in reserved_users(ids, share=0.05, most=10_000)}
    assert 0.045 < len(chosen) / len(ids) < 0.055
    fewer = ids[::3]
    again = {fewer[place] for place in reserved_users(fewer, share=0.05, most=10_000)}
    assert again == chosen & set(fewer)
    capped = reserved_users(ids, share=0.05, most=100)
    assert len(capped) == 100
    assert {ids[place] for place in capped} < chosen
    assert len(reserved_users(ids, share=0.0, most=100)) == 0
    assert len(reserved_users([], share=0.05, most=100)) == 0
