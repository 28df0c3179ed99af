from typing_extensions import disjoint_base

@disjoint_base
class ReceivedNumbers:
    def receive(
        self,
        pn: int,
        eliciting: bool = True,
        now: int = 1,
        max_ack_delay: int = 25,
        threshold: int = 1,
        reorder: int = 1,
    ) -> bool: ...
    def ack_due(self, now: int) -> bool: ...
    def ack_sent(self) -> None: ...
    def forget(self, upto: int) -> None: ...
    @property
    def ranges(self) -> list[tuple[int, int]]: ...
