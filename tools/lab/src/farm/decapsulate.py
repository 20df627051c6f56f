"""A backend's end of tunnels: takes packets out of IPIP (without further arguments) or out of GUE (to a UDP port), and gives
them to the host as if they came in on a TUN device. Arguments: the device, the UDP port."""
import fcntl
import socket
import struct
import sys

IFF_TUN_WITHOUT_INFORMATION = 0x1001
TUNSETIFF = 0x400454CA

device = open("/dev/net/tun", "r+b", buffering=0)
fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH14x", sys.argv[1].encode(), IFF_TUN_WITHOUT_INFORMATION))
if len(sys.argv) > 2:
    # Of IPv4 as well.
    wire = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    wire.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    wire.bind(("::", int(sys.argv[2])))
    header = 0
else:
    wire = socket.socket(socket.AF_INET, socket.SOCK_RAW, 4)
    header = 20
wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
print("ready", flush=True)
while True:
    packet = wire.recv(65535)
    device.write(packet[header:])
