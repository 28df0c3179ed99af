from typing import Final

FRAME_NAMES: Final[tuple[str, ...]]
ABANDON_REASONS: Final[dict[int, str]]
