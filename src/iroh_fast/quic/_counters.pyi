from typing import Final

FRAME_NAMES: Final[tuple[str, ...]]
