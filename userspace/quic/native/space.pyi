class Space:
    id: int
