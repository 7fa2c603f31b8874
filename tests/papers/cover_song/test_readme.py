"""The README's example runs and finds what it says."""

from __future__ import annotations

import numpy as np

from tests.papers.pages import run


def test_versions_are_found_and_where_they_match() -> None:
    names = run("papers/cover_song/README.md", parts=2)
    assert names["found"].map > 0.95  # of Qmax, the last
    path = names["match"].path
    assert len(np.unique(path[:, 1] - path[:, 0])) == 1
    assert len(path) > 20
    of_candidates = np.array(names["works"])[names["candidates"]]
    own = np.array(names["works"])[names["queries"]][:, None]
    assert ((of_candidates == own).sum(axis=1) == 2).all()  # both other versions
