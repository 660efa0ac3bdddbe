class Blocks:
    base: int
    held: int
