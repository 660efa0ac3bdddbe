"""Packet protection (RFC 9001 §5, RFC 9369 §3.3) with OpenSSL's EVP interface: no Python object a packet."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    TAG = 16        # octets that sealing adds
    SAMPLE = 16     # octets of ciphertext that header protection looks at


cdef class PacketKey:
    """One direction's AEAD key of one key phase."""
    cdef void* _context     # EVP_CIPHER_CTX with the key set
    cdef uint8_t _iv[12]
    cdef int _encrypts
    cdef readonly bytes secret      # from which the next phase's is derived
    cdef readonly int suite         # TLS code, 0x1301 to 0x1303
    cdef readonly uint64_t sealed   # packets protected under this key
    cdef readonly uint64_t confidentiality_limit   # RFC 9001 §6.6
    cdef readonly uint64_t integrity_limit

    # Protect in place: packet[0:header] is the unprotected header, then size octets of plaintext and room for TAG.
    # path_id: of the space of the packet number (draft-ietf-quic-multipath §2.4). 0, or -1 when OpenSSL refuses.
    cdef int seal(self, uint8_t* packet, size_t header, size_t size, uint64_t number, uint32_t path_id) noexcept
    # Unprotect in place: packet[0:header] with header protection removed, then size octets with the tag.
    # Octets of plaintext, or -1 when it is not authentic.
    cdef int open(self, uint8_t* packet, size_t header, size_t size, uint64_t number, uint32_t path_id) noexcept


cdef class HeaderKey:
    """One direction's header protection key, the same in all key phases (RFC 9001 §5.4)."""
    cdef void* _context
    cdef int _chacha

    # mask: 5 octets for the first octet and up to four of packet number. 0, or -1.
    cdef int mask(self, const uint8_t* sample, uint8_t* mask) noexcept


cpdef PacketKey packet_key(int suite, bytes secret, int version, bint encrypts)
cpdef HeaderKey header_key(int suite, bytes secret, int version)
cpdef PacketKey next_packet_key(PacketKey key, int version)     # the next phase's (RFC 9001 §6.1)
