def program(
    is_double: bool,
    inputs: int,
    outputs: tuple[tuple[float, tuple[tuple[int, float], ...]], ...],
    places: tuple[int, ...] | None = ...,
    kinds: bytes = ...,
    /,
) -> object: ...
def combine(program: object, count: int, threads: int, /, *addresses: int) -> None: ...
def combine_rows(rows: list[tuple[object, int] | None], count: int, threads: int, /, *stacks: int) -> None: ...
