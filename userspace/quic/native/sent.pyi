class SentPackets:
    first: int
    next: int
    outstanding_eliciting: int
