from typing import Any, Final, final

FRAME_NAMES: Final[tuple[str, ...]]
ABANDON_REASONS: Final[dict[int, str]]

@final
class PathStatistics:
    def as_dict(self) -> dict[str, Any]: ...
