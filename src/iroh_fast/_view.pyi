from typing import final

@final
class View: ...
