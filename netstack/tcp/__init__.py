"""TCP (RFC 9293) for the stack: ``tcp.Tcp`` is what a stack owns, ``types`` what applications see."""
