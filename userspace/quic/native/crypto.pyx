# distutils: libraries = crypto
"""Read RFC 9001 §5 and §6.6, and OpenSSL's EVP_EncryptInit(3).

A cipher context is keyed once and then only given nonces. Deriving keys happens a few times a connection, so that part
is Python. What fails in OpenSSL is taken off its error queue: Python's ssl module may use the same library. A key that
has sealed as many packets as it may refuses to seal more; a packet that is not authentic is left as garbage.
"""

from libc.limits cimport INT_MAX
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

import struct

from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from ..errors import LocalError

cdef extern from "openssl/crypto.h" nogil:
    void OPENSSL_cleanse(void* at, size_t size)

cdef extern from "openssl/err.h" nogil:
    void ERR_clear_error()

cdef extern from "openssl/params.h" nogil:
    ctypedef struct OSSL_PARAM:
        pass
    OSSL_PARAM OSSL_PARAM_construct_octet_string(const char* name, void* at, size_t size)
    OSSL_PARAM OSSL_PARAM_construct_end()

cdef extern from "openssl/core_names.h" nogil:
    const char* OSSL_CIPHER_PARAM_AEAD_TAG

cdef extern from "openssl/evp.h" nogil:
    ctypedef struct EVP_CIPHER:
        pass
    ctypedef struct EVP_CIPHER_CTX:
        pass
    ctypedef struct ENGINE:
        pass
    EVP_CIPHER* EVP_CIPHER_fetch(void* library, const char* name, const char* properties)
    EVP_CIPHER_CTX* EVP_CIPHER_CTX_new()
    void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX* context)
    int EVP_CIPHER_CTX_get_params(EVP_CIPHER_CTX* context, OSSL_PARAM* params)
    int EVP_CIPHER_CTX_set_params(EVP_CIPHER_CTX* context, const OSSL_PARAM* params)
    int EVP_CIPHER_CTX_set_padding(EVP_CIPHER_CTX* context, int padding)
    int EVP_CipherInit_ex(
        EVP_CIPHER_CTX* context,
        const EVP_CIPHER* cipher,
        ENGINE* engine,
        const uint8_t* key,
        const uint8_t* iv,
        int encrypts,
    )
    int EVP_EncryptInit_ex(
        EVP_CIPHER_CTX* context, const EVP_CIPHER* cipher, ENGINE* engine, const uint8_t* key, const uint8_t* iv
    )
    int EVP_DecryptInit_ex(
        EVP_CIPHER_CTX* context, const EVP_CIPHER* cipher, ENGINE* engine, const uint8_t* key, const uint8_t* iv
    )
    int EVP_EncryptUpdate(EVP_CIPHER_CTX* context, uint8_t* out, int* written, const uint8_t* data, int size)
    int EVP_DecryptUpdate(EVP_CIPHER_CTX* context, uint8_t* out, int* written, const uint8_t* data, int size)
    int EVP_EncryptFinal_ex(EVP_CIPHER_CTX* context, uint8_t* out, int* written)
    int EVP_DecryptFinal_ex(EVP_CIPHER_CTX* context, uint8_t* out, int* written)

cdef enum:
    NONCE = 12
    AES_128_GCM = 0x1301
    AES_256_GCM = 0x1302
    CHACHA20_POLY1305 = 0x1303
    VERSION_1 = 0x00000001
    VERSION_2 = 0x6b3343cf

cdef EVP_CIPHER* _packet_ciphers[3]
cdef EVP_CIPHER* _header_ciphers[3]
# Fetched at first use and kept: a fetch takes longer than a packet.
_PACKET_CIPHERS = (b"AES-128-GCM", b"AES-256-GCM", b"ChaCha20-Poly1305")
_HEADER_CIPHERS = (b"AES-128-ECB", b"AES-256-ECB", b"ChaCha20")
_KEY_SIZES = (16, 32, 32)


cdef class PacketKey:
    def __cinit__(self):
        self._context = NULL

    def __dealloc__(self):
        EVP_CIPHER_CTX_free(<EVP_CIPHER_CTX*>self._context)
        OPENSSL_cleanse(self._iv, NONCE)

    cdef int seal(
        self, uint8_t* packet, size_t header, size_t size, uint64_t number, uint32_t path_id
    ) noexcept:
        cdef EVP_CIPHER_CTX* context = <EVP_CIPHER_CTX*>self._context
        cdef uint8_t nonce[NONCE]
        cdef OSSL_PARAM tag[2]
        cdef int written
        if (
            context is NULL
            or not self._encrypts
            or header > INT_MAX
            or size > INT_MAX
            or self.sealed >= self.confidentiality_limit
        ):
            return -1
        _make_nonce(nonce, self._iv, number, path_id)
        _tag_at(packet + header + size, tag)
        if (
            EVP_EncryptInit_ex(context, NULL, NULL, NULL, nonce) == 1
            and (header == 0 or EVP_EncryptUpdate(context, NULL, &written, packet, <int>header) == 1)
            and (size == 0 or EVP_EncryptUpdate(context, packet + header, &written, packet + header, <int>size) == 1)
            and EVP_EncryptFinal_ex(context, packet + header + size, &written) == 1
            and EVP_CIPHER_CTX_get_params(context, tag) == 1
        ):
            self.sealed += 1
            return 0
        ERR_clear_error()
        return -1

    cdef int open(
        self, uint8_t* packet, size_t header, size_t size, uint64_t number, uint32_t path_id
    ) noexcept:
        cdef EVP_CIPHER_CTX* context = <EVP_CIPHER_CTX*>self._context
        cdef uint8_t nonce[NONCE]
        cdef OSSL_PARAM tag[2]
        cdef uint8_t rest[TAG]      # of a block that a stream cipher never has
        cdef int written
        if context is NULL or self._encrypts or header > INT_MAX or size > INT_MAX or size < TAG:
            return -1
        size -= TAG
        _make_nonce(nonce, self._iv, number, path_id)
        _tag_at(packet + header + size, tag)
        if (
            EVP_DecryptInit_ex(context, NULL, NULL, NULL, nonce) == 1
            and EVP_CIPHER_CTX_set_params(context, tag) == 1
            and (header == 0 or EVP_DecryptUpdate(context, NULL, &written, packet, <int>header) == 1)
            and (size == 0 or EVP_DecryptUpdate(context, packet + header, &written, packet + header, <int>size) == 1)
            and EVP_DecryptFinal_ex(context, rest, &written) == 1
        ):
            return <int>size
        ERR_clear_error()
        return -1

    def protected(self, bytes header, bytes payload, uint64_t number, uint32_t path_id=0):
        """``seal`` for tests and tools: header as it is, then the protected payload. Raises LocalError."""
        cdef bytearray packet = bytearray(header + payload + bytes(TAG))
        if self.seal(packet, <size_t>len(header), <size_t>len(payload), number, path_id) != 0:
            raise LocalError("the key does not seal")
        return bytes(packet)

    def unprotected(self, bytes header, bytes payload, uint64_t number, uint32_t path_id=0):
        """``open`` for tests and tools: the plaintext of a payload with its tag, None when it is not authentic."""
        cdef bytearray packet = bytearray(header + payload)
        cdef int size = self.open(packet, <size_t>len(header), <size_t>len(payload), number, path_id)
        if size < 0:
            return None
        return bytes(packet)[len(header) : len(header) + size]

    def use_up(self, uint64_t packets):
        """Count packets as sealed, for tests of what happens at the limit."""
        self.sealed += packets


cdef class HeaderKey:
    def __cinit__(self):
        self._context = NULL

    def __dealloc__(self):
        EVP_CIPHER_CTX_free(<EVP_CIPHER_CTX*>self._context)

    cdef int mask(self, const uint8_t* sample, uint8_t* mask) noexcept:
        cdef EVP_CIPHER_CTX* context = <EVP_CIPHER_CTX*>self._context
        cdef uint8_t block[SAMPLE]
        cdef int written
        if context is NULL:
            return -1
        if self._chacha:
            # The sample is counter and nonce (RFC 9001 §5.4.4), in the order in which OpenSSL's IV has them.
            memcpy(block, b"\0\0\0\0\0", 5)
            if (
                EVP_EncryptInit_ex(context, NULL, NULL, NULL, sample) == 1
                and EVP_EncryptUpdate(context, mask, &written, block, 5) == 1
            ):
                return 0
        elif EVP_EncryptUpdate(context, block, &written, sample, SAMPLE) == 1:
            memcpy(mask, block, 5)
            return 0
        ERR_clear_error()
        return -1

    def mask_of(self, bytes sample):
        """``mask`` for tests and tools. sample: 16 octets. Raises LocalError."""
        cdef uint8_t mask[5]
        if len(sample) != SAMPLE or self.mask(sample, mask) != 0:
            raise LocalError("the sample cannot be masked")
        return mask[:5]


cpdef PacketKey packet_key(int suite, bytes secret, int version, bint encrypts):
    """suite: TLS code. secret: a traffic secret of it. version: of QUIC. Raises LocalError when they do not fit."""
    cdef PacketKey key = PacketKey.__new__(PacketKey)
    cdef bytes iv
    _check(suite, secret, version)
    key._context = _context(_cipher(_packet_ciphers, suite, _PACKET_CIPHERS), suite, secret, version, b"key", encrypts)
    iv = _expand(suite, secret, version, b"iv", NONCE)
    memcpy(key._iv, <const uint8_t*>iv, NONCE)
    key._encrypts = encrypts
    key.secret = secret
    key.suite = suite
    # For datagrams of any size. ChaCha20-Poly1305 has no confidentiality limit but the number of packet numbers.
    key.confidentiality_limit = <uint64_t>1 << (62 if suite == CHACHA20_POLY1305 else 23)
    key.integrity_limit = <uint64_t>1 << (36 if suite == CHACHA20_POLY1305 else 52)
    return key


cpdef HeaderKey header_key(int suite, bytes secret, int version):
    """Arguments as for ``packet_key``; secret: of the first key phase."""
    cdef HeaderKey key = HeaderKey.__new__(HeaderKey)
    _check(suite, secret, version)
    key._context = _context(_cipher(_header_ciphers, suite, _HEADER_CIPHERS), suite, secret, version, b"hp", True)
    EVP_CIPHER_CTX_set_padding(<EVP_CIPHER_CTX*>key._context, 0)
    key._chacha = suite == CHACHA20_POLY1305
    return key


cpdef PacketKey next_packet_key(PacketKey key, int version):
    """The key that follows in the same direction."""
    if key.secret is None:
        raise LocalError("a packet key without a secret")
    _check(key.suite, key.secret, version)
    return packet_key(
        key.suite, _expand(key.suite, key.secret, version, b"ku", len(key.secret)), version, key._encrypts != 0
    )


cdef inline void _make_nonce(uint8_t* nonce, const uint8_t* iv, uint64_t number, uint32_t path_id) noexcept:
    # RFC 9001 §5.3: the packet number in network order, against the right end of the IV. Before it, the path ID.
    cdef int i
    memcpy(nonce, iv, NONCE)
    for i in range(4):
        nonce[3 - i] ^= <uint8_t>(path_id >> (8 * i) & 0xff)
    for i in range(8):
        nonce[NONCE - 1 - i] ^= <uint8_t>(number >> (8 * i) & 0xff)


cdef inline void _tag_at(uint8_t* at, OSSL_PARAM* params) noexcept:
    # What EVP_CIPHER_CTX_ctrl does, without 14 ns of its own.
    params[0] = OSSL_PARAM_construct_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG, at, TAG)
    params[1] = OSSL_PARAM_construct_end()


cdef int _check(int suite, bytes secret, int version) except -1:
    if suite not in (AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305):
        raise LocalError(f"no packet protection for cipher suite {suite:#06x}")
    if version not in (VERSION_1, VERSION_2):
        raise LocalError(f"no packet protection for QUIC version {version:#010x}")
    if secret is None or len(secret) != (48 if suite == AES_256_GCM else 32):
        raise LocalError("the secret is not as long as the cipher suite's hash")
    return 0


cdef EVP_CIPHER* _cipher(EVP_CIPHER** fetched, int suite, tuple names) except NULL:
    cdef int i = suite - AES_128_GCM
    cdef bytes name = names[i]
    if fetched[i] is NULL:
        fetched[i] = EVP_CIPHER_fetch(NULL, name, NULL)
        if fetched[i] is NULL:
            ERR_clear_error()
            raise LocalError(f"the system's libcrypto does not offer {name.decode()}")
    return fetched[i]


cdef EVP_CIPHER_CTX* _context(
    const EVP_CIPHER* cipher, int suite, bytes secret, int version, bytes label, bint encrypts
) except NULL:
    # A context keyed with what the label derives from the secret.
    cdef EVP_CIPHER_CTX* context = EVP_CIPHER_CTX_new()
    cdef bytes key
    if context is NULL:
        raise MemoryError
    try:
        key = _expand(suite, secret, version, label, _KEY_SIZES[suite - AES_128_GCM])
        if EVP_CipherInit_ex(context, cipher, NULL, key, NULL, encrypts) != 1:
            ERR_clear_error()
            raise LocalError("the system's libcrypto refuses a key")
    except BaseException:
        EVP_CIPHER_CTX_free(context)
        raise
    return context


cdef bytes _expand(int suite, bytes secret, int version, bytes label, int size):
    # HKDF-Expand-Label without a context (RFC 8446 §7.1).
    cdef bytes full = (b"tls13 quicv2 " if version == VERSION_2 else b"tls13 quic ") + label
    cdef object algorithm = SHA384() if suite == AES_256_GCM else SHA256()
    return HKDFExpand(algorithm, size, struct.pack("!HB", size, len(full)) + full + b"\0").derive(secret)
