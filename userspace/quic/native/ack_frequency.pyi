# Everything in ack_frequency.pyx is for other Cython modules only: see ack_frequency.pxd.
