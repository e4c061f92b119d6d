"""The walk through a table: nothing that fails is lost, nothing is left out."""

from __future__ import annotations

import itertools

import pytest

from tests.tables import LISTED, for_each, in_pairs


def test_every_row_of_one_table_meets_every_row_of_the_other() -> None:
    met = []

    @for_each("a", [1, 2])
    @for_each(("b", "c"), [(3, 4), (5, 6)])
    def walk(a: int, b: int, c: int) -> None:
        met.append((a, b, c))

    walk()
    assert met == [(1, 3, 4), (1, 5, 6), (2, 3, 4), (2, 5, 6)]


def test_every_row_that_fails_is_listed_and_the_rows_after_it_are_walked() -> None:
    @for_each("number", range(6))
    @for_each("word", ["yes", "no"], ids=["first", "second"])
    def walk(number: int, word: str) -> None:
        if word == "no" and number == 1:
            pytest.fail("not with 1")
        assert word == "yes" or number < 4, f"{number} is too large"

    with pytest.raises(AssertionError, match="3 of 12 rows fail:") as failure:
        walk()
    assert "number=1, second: Failed: not with 1" in str(failure.value)
    for number in (4, 5):
        assert f"number={number}, second: AssertionError: {number} is too large" in str(failure.value)
    assert isinstance(failure.value.__cause__, pytest.fail.Exception)


def test_a_long_list_of_failures_ends_with_their_number() -> None:
    @for_each("number", range(LISTED + 7))
    def walk(number: int) -> None:
        raise KeyError(number)

    with pytest.raises(AssertionError, match="and 7 more"):
        walk()


def test_a_test_is_skipped_only_when_all_its_rows_are() -> None:
    @for_each("present", [False, True])
    def some(present: bool) -> None:
        if not present:
            pytest.skip("not here")

    @for_each("present", [False, False])
    def none(present: bool) -> None:
        pytest.skip("not here")

    some()
    with pytest.raises(pytest.skip.Exception, match="not here"):
        none()


def test_a_table_that_would_test_nothing_or_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="the table of name has no rows"):
        for_each("name", [])
    with pytest.raises(ValueError, match="has 1 values: expected one for each of a, b"):
        for_each("a, b", [(1, 2), (3,)])
    with pytest.raises(TypeError, match="expected plain values, with ids beside them"):
        for_each("name", [pytest.param(1, id="one")])
    with pytest.raises(ValueError, match="takes no argument nmae"):
        for_each("nmae", [1])(lambda name: None)


@pytest.fixture
def shared() -> list[int]:
    return []


@pytest.mark.parametrize("factor", [1, 2])
@for_each("number", [1, 2, 3])
def test_fixtures_and_parameters_go_with_tables(factor: int, number: int, shared: list[int]) -> None:
    shared.append(factor * number)
    assert shared == [factor * k for k in range(1, number + 1)], "one fixture for all rows"


def test_in_pairs_each_two_values_meet_in_few_rows() -> None:
    tables = ("abc", range(4), (None, True), "xyz")
    rows = in_pairs(*tables)
    for first, second in itertools.combinations(range(len(tables)), 2):
        assert {(row[first], row[second]) for row in rows} == set(itertools.product(tables[first], tables[second]))
    assert len(rows) <= 14  # of 72
    assert in_pairs("ab", range(2)) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert in_pairs("ab") == [("a",), ("b",)]
