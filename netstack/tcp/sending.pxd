"""Segments that leave, one at a time, when the stack asks for one."""

from .receiving cimport Receiving


cdef class Sending(Receiving):
    pass
