"""Asks echo servers at these addresses and holds what comes back against what was sent: datagrams at port 7002, one of LONG
bytes, and so many bytes over a TCP connection at port 7001, both ways at once.

LONG is more than any path here takes in one piece: the first such datagram may be lost while the sender learns that.

  traffic.py BYTES LONG ADDRESS...
"""

import hashlib
import os
import socket
import sys
import threading

DATAGRAM_BYTES = [1, 64, 500, 1300]
LIMIT_SECONDS = 30


def datagrams(address, long):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as own:
        own.settimeout(LIMIT_SECONDS)
        own.connect((address, 7002))
        for length in DATAGRAM_BYTES:
            sent = os.urandom(length)
            own.send(sent)
            if own.recv(65535) != sent:
                sys.exit(f"a datagram of {length} bytes came back from {address} as another")
        own.settimeout(2)
        for _ in range(10):
            try:
                own.send(sent := os.urandom(long))
                if own.recv(65535) == sent:
                    return
            except OSError:
                # Nothing came, or a router tells that it is too long.
                pass
        sys.exit(f"a datagram of {long} bytes does not come back from {address}")


def stream(address, length):
    with socket.create_connection((address, 7001), LIMIT_SECONDS) as own:
        sent = os.urandom(length)

        def send():
            own.sendall(sent)
            own.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        came, digest = 0, hashlib.sha256()
        while part := own.recv(65536):
            came += len(part)
            digest.update(part)
        sender.join()
        if digest.digest() != hashlib.sha256(sent).digest():
            sys.exit(f"of {length} bytes {came} came back from {address}, or others")


def main():
    length, long = int(sys.argv[1]), int(sys.argv[2])
    for address in sys.argv[3:]:
        datagrams(address, long)
        if length:
            stream(address, length)


main()
