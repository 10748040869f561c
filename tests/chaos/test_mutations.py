"""Every mutation still finds the code that it changes."""

from __future__ import annotations

import pytest
from chaos.mutations import MUTATIONS, TOP, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.protection)
def test_a_mutation_changes_one_place_and_names_a_test_that_there_is(mutation: Mutation) -> None:
    """Otherwise it would change nothing, or no test would notice."""
    assert (TOP / mutation.path).read_text(encoding="utf-8").count(mutation.old) == 1
    path, _, test = mutation.test.partition("::")
    name = test.partition("[")[0] or "test_"  # or all of a file
    assert f"def {name}" in (TOP / path).read_text(encoding="utf-8")
