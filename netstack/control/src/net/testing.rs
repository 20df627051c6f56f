//! A client for tests: smoltcp on the other side of the wire, and HTTP just as far as tests need it.

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};
use std::collections::VecDeque;
use std::net::IpAddr;

/// A host with TCP.
pub(crate) struct Client {
    interface: Interface,
    wire: ClientWire,
    sockets: SocketSet<'static>,
    next_port: u16,
}

struct ClientWire {
    medium: Medium,
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
}

impl Client {
    /// A host with these addresses, that sends to everywhere through `gateway`. With a MAC address it speaks Ethernet, without
    /// one IP.
    pub fn new(mac: Option<[u8; 6]>, addresses: &[&str], gateway: &str) -> Self {
        let (medium, hardware) = match mac {
            Some(mac) => (Medium::Ethernet, HardwareAddress::Ethernet(EthernetAddress(mac))),
            None => (Medium::Ip, HardwareAddress::Ip),
        };
        let mut wire = ClientWire { medium, received: VecDeque::new(), sent: VecDeque::new() };
        let mut interface = Interface::new(Config::new(hardware), &mut wire, Instant::ZERO);
        interface.update_ip_addrs(|list| {
            for address in addresses {
                list.push(address.parse::<IpCidr>().unwrap()).unwrap();
            }
        });
        match gateway.parse().unwrap() {
            IpAddr::V4(gateway) => drop(interface.routes_mut().add_default_ipv4_route(gateway)),
            IpAddr::V6(gateway) => drop(interface.routes_mut().add_default_ipv6_route(gateway)),
        }
        Self { interface, wire, sockets: SocketSet::new(Vec::new()), next_port: 50_000 }
    }

    pub fn connect(&mut self, node: IpAddr, port: u16) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; 256 << 10]);
        let handle = self.sockets.add(Socket::new(buffer(), buffer()));
        self.next_port += 1;
        let context = self.interface.context();
        let socket = self.sockets.get_mut::<Socket<'_>>(handle);
        socket.set_nagle_enabled(false);
        socket.connect(context, (IpAddress::from(node), port), self.next_port).unwrap();
        handle
    }

    /// Has the host take packets to every address, and send those of IPv6 through this gateway.
    pub fn take_all_addresses(&mut self, gateway6: &str) {
        self.interface.set_any_ip(true);
        let _ = self.interface.routes_mut().add_default_ipv4_route(std::net::Ipv4Addr::LOCALHOST).unwrap();
        let _ = self.interface.routes_mut().add_default_ipv6_route(gateway6.parse().unwrap()).unwrap();
    }

    /// A socket that listens on a port.
    pub fn listen(&mut self, port: u16) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; 8 << 10]);
        let handle = self.sockets.add(Socket::new(buffer(), buffer()));
        self.socket(handle).listen(port).unwrap();
        handle
    }

    /// Has a socket that listened, and whose connection is over, listen again.
    pub fn listen_again(&mut self, handle: SocketHandle) {
        let socket = self.socket(handle);
        let port = socket.listen_endpoint().port;
        if socket.state() == State::TimeWait {
            socket.abort();
        } else if socket.remote_endpoint().is_none() {
            socket.listen(port).unwrap();
        }
    }

    pub fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub fn state(&mut self, handle: SocketHandle) -> State {
        self.socket(handle).state()
    }

    /// Sends as much of `data` as fits now; how much.
    pub fn send(&mut self, handle: SocketHandle, data: &[u8]) -> usize {
        let socket = self.socket(handle);
        if socket.may_send() { socket.send_slice(data).unwrap() } else { 0 }
    }

    /// Everything that has arrived.
    pub fn receive(&mut self, handle: SocketHandle) -> Vec<u8> {
        let socket = self.socket(handle);
        let mut out = vec![0; socket.recv_queue()];
        let n = socket.recv_slice(&mut out).unwrap_or(0);
        out.truncate(n);
        out
    }

    pub fn poll(&mut self, now_ns: u64) {
        let _ = self.interface.poll(
            Instant::from_micros(now_ns as i64 / 1000),
            &mut self.wire,
            &mut self.sockets,
        );
    }

    /// What this host has sent.
    pub fn take_sent(&mut self) -> Vec<Vec<u8>> {
        self.wire.sent.drain(..).collect()
    }

    /// What arrives at this host.
    pub fn give(&mut self, packet: Vec<u8>) {
        self.wire.received.push_back(packet);
    }
}

impl Device for ClientWire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sent<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sent<'_>)> {
        Some((Received(self.received.pop_front()?), Sent(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sent<'_>> {
        (self.sent.len() < 64).then_some(Sent(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = self.medium;
        capabilities.max_transmission_unit = if self.medium == Medium::Ip { 1500 } else { 1514 };
        capabilities
    }
}

pub(crate) struct Received(Vec<u8>);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, handle: F) -> R {
        handle(&self.0)
    }
}

pub(crate) struct Sent<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::TxToken for Sent<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut packet = vec![0; length];
        let result = fill(&mut packet);
        self.0.push_back(packet);
        result
    }
}
