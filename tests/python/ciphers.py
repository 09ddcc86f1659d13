"""What a network key does to packets, by libsodium and OpenSSL: it shares nothing with kadepy; what
to do with sealed packets is left to the tests."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)

import wire


class Sealed(wire.Clear):
    """`nonce 24 | ciphertext | tag 16`."""

    NONCE = slice(0, 24)
    OVERHEAD = 40

    def __init__(self, key: bytes) -> None:
        self.key = hkdf(key, b"kadepy/1 seal")

    def seal(self, packet: bytes, first: bytes = b"") -> bytes:
        """A datagram; its nonce begins with `first`."""
        nonce = first + secrets.token_bytes(24 - len(first))
        return nonce + crypto_aead_xchacha20poly1305_ietf_encrypt(packet, None, nonce, self.key)

    def open(self, datagram: bytes) -> bytes:
        nonce, rest = datagram[:24], datagram[24:]
        return crypto_aead_xchacha20poly1305_ietf_decrypt(rest, None, nonce, self.key)


class V01(wire.Clear):
    """`header 33 | nonce 12 | body and trailer`."""

    NONCE = slice(33, 45)
    OVERHEAD = 12

    def __init__(self, key: bytes) -> None:
        self.key = key

    def seal(self, packet: bytes) -> bytes:
        nonce = secrets.token_bytes(12)
        return packet[:33] + nonce + self._apply(nonce, packet[33:])

    def open(self, datagram: bytes) -> bytes:
        assert len(datagram) >= 45, f"no nonce: {datagram.hex(' ')}"
        return datagram[:33] + self._apply(datagram[33:45], datagram[45:])

    def _apply(self, nonce: bytes, data: bytes) -> bytes:
        # OpenSSL's nonce begins with the counter of the first block.
        first_block = (1).to_bytes(4, "little")
        return Cipher(ChaCha20(self.key, first_block + nonce), None).encryptor().update(data)


def hkdf(key: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 without salt, 32 bytes."""
    extracted = hmac.digest(bytes(32), key, hashlib.sha256)
    return hmac.digest(extracted, info + b"\x01", hashlib.sha256)
