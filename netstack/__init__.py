"""A small TCP/IP toolbox: packets in, packets out, no sockets and no clock of its own."""
