"""An ESP peer made of scapy: seals and opens packets, also such as no honest peer sends.

Standard input has a request a line, standard output its answer, both JSON. Packets are IP packets in hexadecimal.

  {"do": "seal", "sa": SA, "packet": HEX, "sequence": N, ...}  ->  {"packets": [HEX, ...]}
      what is wrong on purpose: "spi": N in place of the SA's, "padding": HEX (with "pad_length": N, if it is to lie),
      "next": N as next header, "high": N as the high half of the sequence number that is authenticated,
      "keep": N bytes of ESP only, "flip": the bit of ESP to invert (from the end, if negative);
      "fragment": BYTES cuts the outer packet into IP fragments
  {"do": "open", "sa": SA, "packet": HEX, "high": N}  ->  {"packet": HEX} or {"error": TEXT}
  {"do": "answer"}  ->  {}

  SA: {"algorithm", "key", "spi", "esn", "tunnel": bool, "source", "destination", "ports": [SOURCE, DESTINATION] or null}
"""

import itertools
import json
import struct
import sys

from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, fragment6
from scapy.layers.ipsec import ESP, SecurityAssociation, _ESPPlain, split_for_transport
from scapy.packet import Raw, raw

# Of each algorithm: scapy's names, and the bytes of the cipher's key with its salt.
ALGORITHMS = {
    "aes128gcm16": ("AES-GCM", None, 20),
    "aes256gcm16": ("AES-GCM", None, 36),
    "chacha20poly1305": ("CHACHA20-POLY1305", None, 36),
    "aes128-sha256": ("AES-CBC", "SHA2-256-128", 16),
    "aes256-sha384": ("AES-CBC", "SHA2-384-192", 32),
    "aes256-sha512": ("AES-CBC", "SHA2-512-256", 32),
}
ESP_PROTOCOL = 50
FRAGMENT_PROTOCOL = 44

# Of outer packets, so that no two are taken for fragments of one.
identifications = itertools.cycle(range(1, 65536))


def ip(packet):
    """Bytes as an IP packet."""
    return IPv6(packet) if packet[0] >> 4 == 6 else IP(packet)


def header(sa):
    """The outer header of tunnel mode."""
    kind = IPv6 if ":" in sa["source"] else IP
    return kind(src=sa["source"], dst=sa["destination"])


def association(sa):
    """An SA as scapy has it."""
    cipher, mac, key_bytes = ALGORITHMS[sa["algorithm"]]
    key = bytes.fromhex(sa["key"])
    ports = sa.get("ports")
    return SecurityAssociation(
        ESP,
        spi=sa["spi"],
        crypt_algo=cipher,
        crypt_key=key[:key_bytes],
        auth_algo=mac,
        auth_key=key[key_bytes:] or None,
        tunnel_header=header(sa) if sa["tunnel"] else None,
        nat_t_header=UDP(sport=ports[0], dport=ports[1]) if ports else None,
    )


def icv(known, esp, sa, high):
    """The ICV of an authentication algorithm, with the high half of the sequence number behind (RFC 4303 2.2.1)."""
    mac = known.auth_algo.new_mac(known.auth_key)
    mac.update(raw(esp))
    if sa["esn"]:
        mac.update(struct.pack("!L", high))
    return mac.finalize()[: known.auth_algo.icv_size]


def seal(request):
    sa = request["sa"]
    known = association(sa)
    packet = ip(bytes.fromhex(request["packet"]))
    if sa["tunnel"]:
        outer, payload = header(sa), raw(packet)
        following = 41 if packet.version == 6 else 4
    else:
        outer, following, payload = split_for_transport(packet, ESP_PROTOCOL)
    sequence = request["sequence"]
    high = request.get("high", sequence >> 32)
    plain = _ESPPlain(
        spi=request.get("spi", sa["spi"]), seq=sequence & 0xFFFFFFFF, iv=known.crypt_algo.generate_iv()
    )
    plain.data = payload
    plain.nh = request.get("next", following)
    if "padding" in request:
        plain.padding = bytes.fromhex(request["padding"])
        plain.padlen = request.get("pad_length", len(plain.padding))
    else:
        plain = known.crypt_algo.pad(plain)
    esp = known.crypt_algo.encrypt(known, plain, known.crypt_key, esn_en=sa["esn"], esn=high)
    if known.auth_algo.mac:
        esp.data += icv(known, esp, sa, high)
    text = bytearray(raw(esp))
    if "flip" in request:
        bit = request["flip"] % (8 * len(text))
        text[bit // 8] ^= 1 << bit % 8
    text = bytes(text[: request.get("keep", len(text))])
    ports = sa.get("ports")
    if ports:
        text = raw(UDP(sport=ports[0], dport=ports[1], len=8 + len(text), chksum=0)) + text
    protocol = 17 if ports else ESP_PROTOCOL
    if outer.version == 6:
        outer.nh, outer.plen = protocol, len(text)
        whole = raw(outer) + text
    else:
        outer.proto, outer.len, outer.chksum = protocol, 20 + len(text), None
        outer.id = next(identifications)
        whole = raw(outer / Raw(text))
    return {"packets": [piece.hex() for piece in cut(whole, request.get("fragment"))]}


def cut(packet, size):
    """The IP fragments of a packet; of IPv6, `size` is that of a whole fragment."""
    if size is None:
        return [packet]
    if packet[0] >> 4 == 4:
        return [raw(piece) for piece in fragment(IP(packet), size)]
    head = IPv6(packet[:40])
    place = IPv6ExtHdrFragment(id=next(identifications), nh=head.nh)
    head.nh = FRAGMENT_PROTOCOL
    return [raw(piece) for piece in fragment6(head / place / Raw(packet[40:]), size)]


def open_(request):
    sa = request["sa"]
    known = association(sa)
    packet = ip(bytes.fromhex(request["packet"]))
    high = request.get("high", 0)
    if sa.get("ports"):
        # scapy knows ESP in UDP at port 4500 alone.
        text = raw(packet[UDP].payload)
        packet[UDP].underlayer.remove_payload()
        setattr(packet, "nh" if packet.version == 6 else "proto", ESP_PROTOCOL)
        packet = packet / ESP(text)
    esp = packet[ESP]
    if known.auth_algo.mac and sa["esn"]:
        # scapy leaves the high half out.
        size = known.auth_algo.icv_size
        shown, esp.data = esp.data[-size:], esp.data[:-size]
        if icv(known, esp, sa, high) != shown:
            raise ValueError("the ICV is wrong")
        esp.data += shown
        opened = known.decrypt(packet, verify=False)
    else:
        opened = known.decrypt(packet, esn_en=sa["esn"], esn=high)
    return {"packet": raw(opened).hex()}


def main():
    verbs = {"seal": seal, "open": open_, "answer": lambda _: {}}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = verbs[request["do"]](request)
        except Exception as error:  # Whatever it is, the test is to show it.
            answer = {"error": "%s: %s" % (type(error).__name__, error)}
        print(json.dumps(answer), flush=True)


main()
