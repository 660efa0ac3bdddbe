"""Read ``descriptor.pxd`` first. Blocks are what the kernel reads and writes; nothing is copied between."""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint64_t
from libc.string cimport memset

from .receive_buffer cimport ReceiveBuffer
from .send_buffer cimport SendBuffer


cdef extern from "<sys/socket.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len

    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen

    int MSG_DONTWAIT
    int MSG_NOSIGNAL
    ssize_t recvmsg(int descriptor, msghdr* message, int flags)
    ssize_t sendmsg(int descriptor, const msghdr* message, int flags)

cdef enum:
    READ_BLOCKS = 8
    # Blocks that are filled by one read when the one before filled its own: 128 KiB.
    WRITE_BLOCKS = 16
    # Blocks given to one write: 256 KiB.


cdef ssize_t fill_from(SendBuffer out, int descriptor, bint many, bint* filled, int* error) except -2:
    cdef iovec pieces[READ_BLOCKS]
    cdef msghdr message
    cdef uint64_t at = out.end
    cdef size_t room = 0, wanted = 0
    cdef ssize_t size
    cdef int count = 0
    while count < (READ_BLOCKS if many else 1):
        pieces[count].iov_base = out.blocks.room(at, &room)
        pieces[count].iov_len = room
        at += room
        wanted += room
        count += 1
    memset(&message, 0, sizeof(message))
    message.msg_iov = pieces
    message.msg_iovlen = <size_t>count
    size = recvmsg(descriptor, &message, MSG_DONTWAIT)
    error[0] = errno if size < 0 else 0
    if error[0] == EINTR:
        error[0] = EAGAIN
    if size < <ssize_t>wanted:
        out.blocks.drop_above(out.end + <uint64_t>(size if size > 0 else 0))
        if out.floor == out.end and size <= 0:
            out.blocks.trim()
    filled[0] = size > 0 and <size_t>size == wanted
    if size > 0:
        out.end += <uint64_t>size
    return -1 if size < 0 else size


cdef uint64_t drain_into(ReceiveBuffer into, int descriptor, int* error) noexcept:
    cdef iovec pieces[WRITE_BLOCKS]
    cdef msghdr message
    cdef uint64_t at, taken = 0
    cdef size_t room = 0
    cdef ssize_t size
    cdef int count
    error[0] = 0
    memset(&message, 0, sizeof(message))
    message.msg_iov = pieces
    while into.available():
        at = into.taken
        count = 0
        while at < into.ready and count < WRITE_BLOCKS:
            pieces[count].iov_base = into.blocks.at(at, &room)
            if room > into.ready - at:
                room = <size_t>(into.ready - at)
            pieces[count].iov_len = room
            at += room
            count += 1
        message.msg_iovlen = <size_t>count
        size = sendmsg(descriptor, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
        if size < 0:
            if errno == EINTR:
                continue
            error[0] = errno
            break
        into.skip(<size_t>size)
        taken += <uint64_t>size
    return taken
