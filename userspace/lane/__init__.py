"""The datagram lane: IP packets in QUIC DATAGRAMs, made and taken by a stack at each end."""
