"""Pods of one host: each address answers on ports 80 and 81 over TCP, UDP and SCTP, and asks others.

Arguments: addresses. For each line of standard input, a list of [protocol, source, destination, port, is expected], one
line of output: which were answered. What is expected is waited for; what is not, for a second after the last of those.

SCTP is said by hand, as a kernel need not have it: an INIT is answered by an INIT ACK (RFC 9260 section 5.1).
"""

import json
import select
import socket
import struct
import sys
import threading
import time

SCTP = 132
INIT, INIT_ACK = 1, 2


def chunk(source_port, destination_port, kind):
    body = struct.pack("!IIHHI", 1, 65536, 1, 1, 1)
    return struct.pack("!HHII", source_port, destination_port, 0, 0) + struct.pack("!BBH", kind, 0, 20) + body


def accept(listener):
    while True:
        listener.accept()[0].close()


def echo(endpoint):
    while True:
        data, peer = endpoint.recvfrom(2048)
        endpoint.sendto(data, peer)


def associate(raw):
    while True:
        packet, (peer, _) = raw.recvfrom(2048)
        packet = packet[(packet[0] & 15) * 4 :]
        if len(packet) > 12 and packet[12] == INIT:
            source, destination = struct.unpack("!HH", packet[:4])
            if destination in (80, 81):
                raw.sendto(chunk(destination, source, INIT_ACK), (peer, 0))


def serve(addresses):
    def run(target, *arguments):
        threading.Thread(target=target, args=arguments, daemon=True).start()

    for address in addresses:
        for port in (80, 81):
            run(accept, socket.create_server((address, port), backlog=64))
            endpoint = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            endpoint.bind((address, port))
            run(echo, endpoint)
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, SCTP)
        raw.bind((address, 0))
        run(associate, raw)


class Probe:
    def __init__(self, number, protocol, source, destination, port, expected):
        self.protocol, self.to, self.expected = protocol, (destination, port), expected
        self.own_port, self.answered = 20000 + number, False
        kinds = {
            "TCP": (socket.SOCK_STREAM, 0, select.POLLOUT),
            "UDP": (socket.SOCK_DGRAM, 0, select.POLLIN),
            "SCTP": (socket.SOCK_RAW, SCTP, select.POLLIN),
        }
        kind, number, self.events = kinds[protocol]
        self.socket = socket.socket(socket.AF_INET, kind, number)
        self.socket.setblocking(False)
        self.socket.bind((source, 0))
        if protocol == "SCTP":
            self.socket.connect((destination, 0))
        else:
            self.socket.connect_ex(self.to)

    def ask(self):
        try:
            if self.protocol == "UDP":
                self.socket.send(b"?")
            elif self.protocol == "SCTP":
                self.socket.send(chunk(self.own_port, self.to[1], INIT))
        except OSError:
            pass

    def look(self):
        try:
            if self.protocol == "TCP":
                self.answered = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
                return
            packet = self.socket.recv(2048)
            if self.protocol == "UDP":
                self.answered = packet == b"?"
                return
            packet = packet[(packet[0] & 15) * 4 :]
            wanted = struct.pack("!HH", self.to[1], self.own_port)
            self.answered |= packet[:4] == wanted and packet[12] == INIT_ACK
        except OSError:
            pass


def ask(wanted):
    probes = [Probe(number, *words) for number, words in enumerate(wanted)]
    poll = select.poll()
    by_file = {probe.socket.fileno(): probe for probe in probes}
    for probe in probes:
        poll.register(probe.socket, probe.events)
    begun = time.monotonic()
    asked, complete = 0.0, None
    while time.monotonic() < begun + 20:
        now = time.monotonic()
        if now > asked + 0.25:
            asked = now
            for probe in probes:
                if not probe.answered:
                    probe.ask()
        for file, _ in poll.poll(50):
            probe = by_file[file]
            probe.look()
            if probe.answered or probe.protocol == "TCP":
                poll.unregister(file)
        if complete is None and all(probe.answered for probe in probes if probe.expected):
            complete = time.monotonic()
        if complete is not None and time.monotonic() > complete + 1:
            break
    for probe in probes:
        probe.socket.close()
    return [probe.answered for probe in probes]


serve(sys.argv[1:])
print("ready", flush=True)
for line in sys.stdin:
    print(json.dumps(ask(json.loads(line))), flush=True)
